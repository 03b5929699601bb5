//! One signal that a component should end, handed down from whoever started it.

pub use tokio_util::sync::CancellationToken as Shutdown;
