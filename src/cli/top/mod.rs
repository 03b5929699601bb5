//! `coracle top`: the live terminal view of any cluster, which the demo shows of its own.
//!
//! ```text
//! informers, counters ─ feed ─▶ facts ─ model ─▶ Picture ┐
//!                                    keys ─▶ screen ─────┴─▶ view (cells) or plain (lines)
//! ```
//!
//! `facts`, `model`, `rates`, `screen`, `plain` and `view` are pure; `feed` and `run` talk.

pub mod facts;
mod feed;
mod model;
mod plain;
mod rates;
mod run;
#[cfg(test)]
mod samples;
mod screen;
mod symbols;
mod view;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use self::feed::Feed;
use crate::base::shutdown::Shutdown;

/// Workers that this process started itself, and may kill.
pub trait Workers: Send + Sync + 'static {
    /// Kills the worker of a node with SIGKILL.
    fn kill<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    /// Starts the worker of a node again.
    ///
    /// # Errors
    /// It runs, or is none of ours.
    fn restart(&self, node: &str) -> anyhow::Result<()>;
    /// Tells of workers that have ended since the last call without being asked to.
    ///
    /// # Errors
    /// What the cluster cannot go on without has ended.
    fn ended(&self) -> anyhow::Result<Vec<String>>;
}

/// Shows the cluster until it is told to stop.
///
/// # Errors
/// There is no cluster to show, or no way to show it.
pub fn top(kubeconfig: Option<&Path>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::new();
        super::demo::signals::on_signal(shutdown.clone())?;
        let client = client(kubeconfig).await?;
        client.apiserver_version().await.context("the cluster does not answer")?;
        show(client, None, "", &shutdown).await
    });
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// Shows the cluster in the terminal, or as lines where there is none. `hint` stands below the
/// title.
///
/// # Errors
/// As [`top`].
pub async fn show(
    client: Client,
    workers: Option<Arc<dyn Workers>>,
    hint: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let feed = Feed::start(&client, shutdown);
    tokio::select! {
        () = feed.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    if has_terminal() {
        run::live(client, &feed, workers, hint, shutdown).await
    } else {
        run::lines(&feed, workers, shutdown).await
    }
}

/// Whether there is someone to draw for, and to take keys from.
pub fn has_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !dumb
}

/// A client as the kubeconfig says.
///
/// # Errors
/// It cannot be read, or does not lead anywhere.
pub async fn client(path: Option<&Path>) -> anyhow::Result<Client> {
    // Refused only where someone has installed one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = match path {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer()
            .await
            .context("no cluster: give --kubeconfig FILE, or set KUBECONFIG")?,
    };
    Ok(Client::try_from(config)?)
}
