//! Ctrl-C, SIGTERM and a closed terminal all mean: end in order.

use tokio::signal::unix::{SignalKind, signal};

use crate::base::shutdown::Shutdown;

/// Cancels `shutdown` at the first of these signals.
///
/// # Errors
/// The signals cannot be caught.
pub fn on_signal(shutdown: Shutdown) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
