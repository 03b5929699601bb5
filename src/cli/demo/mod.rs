//! `coracle demo`: a whole cluster on this machine, for people to look at and for `--once` to
//! check.
//!
//! ```text
//! demo ─┬─ server    (this executable, its own process)
//!       ├─ agent …   (the same; each with a data directory and a loopback address of its own)
//!       └─ manifests/demo applied ─▶ the view of `top`, lines, or checks
//! ```
//!
//! **Invariant:** when the demo ends, however it ends, its processes end; when it can still act,
//! its directory goes too. What it cannot remove the next demo does ([`scratch`]).

mod addresses;
mod checks;
mod cluster;
mod manifests;
mod process;
mod progress;
mod scratch;
pub(super) mod signals;
mod start;

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;

use self::cluster::Cluster;
use self::progress::{Progress, say};
use self::scratch::Scratch;
use super::top;
use crate::base::shutdown::Shutdown;

/// A whole cluster on this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many workers to start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub workers: u8,
    /// Check every promise of the demo with real requests, print a line for each, and end
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo until it is quit, or through its checks.
///
/// # Errors
/// The cluster does not come up, or one of its processes ends.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    if args.once && args.workers < 2 {
        eprintln!(
            "error: --once kills a worker and watches its pods move: give it --workers 2 or more"
        );
        return Ok(ExitCode::from(2));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(demo(&args));
    runtime.shutdown_background();
    ended
}

async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    signals::on_signal(shutdown.clone())?;
    let temporary = std::env::temp_dir();
    scratch::sweep(&temporary);
    let objects = manifests::objects()?;
    let addresses = addresses::claim(usize::from(args.workers), &manifests::node_ports(&objects))?;
    let scratch = Scratch::create(&temporary)?;
    let dir = scratch.path().to_owned();
    let mut progress = Progress::new(top::has_terminal());
    progress.begin("the server starts");
    let started = tokio::select! {
        started = Cluster::start(scratch, addresses) => started?,
        () = shutdown.cancelled() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let cluster = Arc::new(started);
    progress.done(&format!("the server is up at {}", cluster.url()));
    let ended = tokio::select! {
        ended = with_cluster(args, &cluster, &objects, progress, &shutdown) => ended,
        () = interrupted(args, &shutdown) => Ok(ExitCode::from(INTERRUPTED)),
    };
    shutdown.cancel();
    let ids = cluster.ids();
    cluster.stop().await;
    drop(cluster);
    if args.once {
        let nothing_left = checks::nothing_left(&ids, &dir);
        return Ok(if nothing_left { ended? } else { ExitCode::FAILURE });
    }
    ended
}

/// As a shell tells of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// With a view, a signal is the ordinary way to end; the checks are broken off by it.
async fn interrupted(args: &DemoArgs, shutdown: &Shutdown) {
    match args.once {
        true => shutdown.cancelled().await,
        false => std::future::pending().await,
    }
}

async fn with_cluster(
    args: &DemoArgs,
    cluster: &Arc<Cluster>,
    objects: &[Value],
    mut progress: Progress,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let client = top::client(Some(&cluster.kubeconfig())).await?;
    let came_up = async {
        start::workers(cluster, &client, &mut progress).await?;
        start::apply(&client, objects, &mut progress).await?;
        start::pods(cluster, &client, start::pods_asked(objects), &mut progress).await
    };
    tokio::select! {
        came_up = came_up => came_up?,
        () = shutdown.cancelled() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    drop(progress);
    if args.once {
        return checks::run(cluster, client).await;
    }
    let invitation = invitation(cluster, objects);
    say(&invitation.join("\n"));
    let workers = Arc::clone(cluster) as Arc<dyn top::Workers>;
    let hint = format!("export KUBECONFIG={}", cluster.kubeconfig().display());
    let shown = top::show(client, Some(workers), &hint, shutdown).await;
    say("taking the cluster down");
    shown.map(|()| ExitCode::SUCCESS)
}

/// How to reach what runs.
fn invitation(cluster: &Cluster, objects: &[Value]) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        "  kubectl works with this cluster as with any other:".to_owned(),
        format!("    export KUBECONFIG={}", cluster.kubeconfig().display()),
        "    kubectl get pods -o wide".to_owned(),
        String::new(),
        "  Services, at every worker:".to_owned(),
    ];
    for port in manifests::node_ports(objects) {
        for (_, address) in cluster.addresses() {
            let scheme = match (port.udp, port.service.as_str()) {
                (true, _) => "udp",
                (false, "counter-tcp") => "tcp",
                (false, _) => "http",
            };
            lines.push(format!("    {scheme}://{address}:{:<6} {}", port.port, port.service));
        }
    }
    lines.push(String::new());
    lines
}
