//! What a long-running process needs around its components: tracing, a runtime, signals.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::base::shutdown::Shutdown;

/// Starts tracing to standard error; `CORACLE_LOG` says how much (`info`, `coracle::net=debug`, …).
pub fn start_tracing() {
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
}

/// Runs a future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the threads of the program cannot be started")?;
    let result = runtime.block_on(future);
    // What still blocks (a read of standard input, a lookup) must not hold the process up.
    runtime.shutdown_background();
    result
}

/// Ends on SIGINT and SIGTERM; a second signal ends the process at once.
pub fn stop_on_signals(shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut wait = async || {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        };
        wait().await;
        tracing::info!("stopping; a second signal ends the process at once");
        shutdown.cancel();
        let code = wait().await;
        std::process::exit(code);
    });
    Ok(())
}

/// Ends when standard input does: the process that started this one holds the other end of a pipe,
/// which the kernel closes however that process dies.
pub fn stop_at_stdin_eof(shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.cancel();
    });
}
