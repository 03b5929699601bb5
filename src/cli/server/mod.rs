//! `coracle server`: the control plane in one process.

mod args;
mod encryption;
mod files;
mod images;
mod run;

pub use args::ServerArgs;
pub use run::run;
