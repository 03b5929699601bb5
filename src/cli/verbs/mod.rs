//! The everyday verbs, for users who have no kubectl: they work against any Kubernetes API server.
//!
//! | module | verb |
//! |---|---|
//! | [`apply`] | makes the cluster be as manifests say |
//! | [`get`], [`describe`] | show objects |
//! | [`delete`] | takes objects away, and waits until they are gone |
//! | [`logs`] | what containers printed |
//! | [`exec`], [`cp`], [`port_forward`] | reach into a pod |
//! | [`scale`], [`rollout`] | change workloads |
//! | [`wait`] | waits until objects are in a state |
//! | [`why`] | tells why a pod is not scheduled |
//!
//! What they share: [`target`] reads `KIND NAME` and `KIND/NAME`, [`follow`] watches, [`pod`] finds
//! the pod and container that is meant.
//!
//! **Invariant:** no verb knows a kind by its type: the server tells what it serves and how it is
//! shown.

pub mod apply;
pub mod cp;
pub mod delete;
pub mod describe;
pub mod exec;
pub mod follow;
pub mod get;
pub mod logs;
pub mod pod;
pub mod port_forward;
pub mod rollout;
pub mod scale;
pub mod target;
pub mod wait;
pub mod why;

use std::process::ExitCode;

use clap::Subcommand;

use super::connect::{self, ConnectionArgs};
use super::failure::Failure;
use super::images;
use super::out::Out;

/// A verb and what it was asked.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Make the cluster be as the manifests in files, folders or the input say
    Apply(apply::ApplyArgs),
    /// Show objects: a table, or YAML, JSON, names, a JSONPath
    Get(get::GetArgs),
    /// Show everything about objects, and their events
    Describe(describe::DescribeArgs),
    /// Delete objects and wait until they are gone
    Delete(delete::DeleteArgs),
    /// Print what the containers of a pod printed
    Logs(logs::LogsArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// Copy files and directories to or from a container
    Cp(cp::CpArgs),
    /// Reach ports of a pod through ports of this machine
    PortForward(port_forward::PortForwardArgs),
    /// Change how many replicas a workload has
    Scale(scale::ScaleArgs),
    /// Follow, look back at, undo, restart, pause or resume the rollout of a workload
    Rollout(rollout::RolloutArgs),
    /// Wait until objects are in a state
    Wait(wait::WaitArgs),
    /// Tell, node by node, what keeps a pod from being scheduled, and what would admit it
    Why(why::WhyArgs),
    /// Push a wasm file or an image into the cluster's registry
    Push(images::PushArgs),
    /// Show, export, import and remove images of the cluster's registry
    Images(images::ImagesArgs),
}

/// Runs a verb on the process's own output. Answers the exit code: 0, 1 failed, 2 bad usage;
/// failures are told in words here.
///
/// # Errors
/// Not even the error output can be written.
pub async fn run(verb: Verb, connection: ConnectionArgs) -> anyhow::Result<ExitCode> {
    let mut out = Out::of_process();
    Ok(ExitCode::from(run_on(verb, &connection, &mut out).await))
}

/// As [`run`], on any output.
pub async fn run_on(verb: Verb, connection: &ConnectionArgs, out: &mut Out) -> u8 {
    let ended = match run_verb(verb, connection, out).await {
        Ok(()) => out.flush(),
        Err(failure) => {
            // What was printed before the failure is still worth reading.
            out.flush().and(Err(failure))
        }
    };
    match ended {
        Ok(()) => u8::from(out.failed()),
        Err(Failure::OutputClosed) => 0,
        Err(failure) => {
            let told = out.note(failure.to_string());
            if told.is_err() { 1 } else { failure.exit_code() }
        }
    }
}

async fn run_verb(verb: Verb, args: &ConnectionArgs, out: &mut Out) -> Result<(), Failure> {
    let connection = connect::connect(args).await?;
    let given = args.namespace.is_some();
    match verb {
        Verb::Apply(args) => apply::run(&args, &connection, given, out).await,
        Verb::Get(args) => get::run(&args, &connection, out).await,
        Verb::Describe(args) => describe::run(&args, &connection, out).await,
        Verb::Delete(args) => delete::run(&args, &connection, given, out).await,
        Verb::Logs(args) => logs::run(&args, &connection, out).await,
        Verb::Exec(args) => exec::run(&args, &connection, out).await,
        Verb::Cp(args) => cp::run(&args, &connection, out).await,
        Verb::PortForward(args) => port_forward::run(&args, &connection, out).await,
        Verb::Scale(args) => scale::run(&args, &connection, out).await,
        Verb::Rollout(args) => rollout::run(&args, &connection, out).await,
        Verb::Wait(args) => wait::run(&args, &connection, out).await,
        Verb::Why(args) => why::run(&args, &connection, out).await,
        Verb::Push(args) => images::push::run(&args, &connection, out).await,
        Verb::Images(args) => images::run(&args, &connection, out).await,
    }
}
