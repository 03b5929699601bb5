//! `coracle agent`.

use crate::node::AgentArgs;

/// The arguments of `coracle agent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// End when standard input ends, as it does when the process that holds its other end dies
    #[arg(long, hide = true)]
    pub stop_at_stdin_eof: bool,
}
