//! Logs that another process writes: the monitor of a container, which outlives the agent. It
//! writes as the agent would; the agent looks how long the file has grown while somebody follows.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LogFile, Logs, segments};
use crate::base::clock::SystemClock;
use crate::node::config::LogSettings;
use crate::runtime::oci::monitor::Log;

/// How often a log is looked at that somebody follows.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a monitor is told of its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    dir: PathBuf,
    run: u32,
    settings: LogSettings,
}

/// Opens the log in the process that writes it.
///
/// # Errors
/// What is no [`Order`].
pub fn open_outside(order: &serde_json::Value) -> io::Result<Log> {
    let order: Order = serde_json::from_value(order.clone())?;
    let clock = SystemClock::shared();
    let file = LogFile::new(order.dir, order.run, order.settings, clock, Arc::default());
    let ending = Arc::clone(&file);
    Ok(Log { sink: file, finish: Box::new(move || ending.finish()) })
}

impl Logs {
    /// What the monitor of run `run` is told.
    pub fn order(&self, namespace: &str, pod: &str, uid: &str, container: &str, run: u32) -> Order {
        let dir = self.pod_dir(namespace, pod, uid).join(container);
        Order { dir, run, settings: self.settings }
    }

    /// Tells those who follow `log` of what another process writes, until the container has ended.
    pub fn watch(&self, log: &Arc<LogFile>, order: &Order) {
        let (weak, dir, run) = (Arc::downgrade(log), order.dir.clone(), order.run);
        tokio::spawn(async move {
            let mut seen = (0, 0);
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(log) = weak.upgrade().filter(|log| !log.is_finished()) else { return };
                if !log.is_followed() {
                    continue;
                }
                let newest = segments(&dir).into_iter().rfind(|segment| segment.run == run);
                let Some(newest) = newest else { continue };
                let len = std::fs::metadata(newest.path(&dir)).map_or(0, |meta| meta.len());
                if (newest.number, len) != seen {
                    seen = (newest.number, len);
                    log.grown();
                }
            }
        });
    }
}
