//! One container as the agent holds it: started, or found again after a restart.
//!
//! ```text
//! DIR/config.json  DIR/rootfs/   the bundle; rootfs is overlayfs over the image's layers
//! DIR/upper/ DIR/work/           what the container has written
//! DIR/started.json DIR/exit.json DIR/monitor.sock     the monitor's
//! ```
//! **Invariant:** dropping the handle does nothing to the container: it is ended only by
//! [`Container::terminate`] and [`Container::kill`].

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio as Channel;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::cgroup::Groups;
use super::monitor::{self, Job, Started, Told};
use super::spec::{ContainerSpec, Ended};
use super::{Tools, sandbox, sys, wire};
use crate::runtime::spec::{Exit, ExitReason, Stats};

/// How long a start may take: the image's layers may come from a slow disk.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const KILLED: i32 = 137;

/// See the module.
pub struct Container {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) tools: Tools,
    /// None where it had ended before it was looked at.
    pid: Option<OwnedFd>,
    groups: Option<Groups>,
    stop_signal: Signal,
    exit: watch::Sender<Option<Exit>>,
}

impl Container {
    /// Starts a container whose bundle is in `dir`.
    pub(super) async fn start(
        dir: PathBuf,
        spec: &ContainerSpec,
        tools: &Tools,
    ) -> io::Result<Arc<Self>> {
        let job = Job {
            id: spec.id.clone(),
            runc: tools.runc.clone(),
            runc_root: tools.runc_root.clone(),
            dir: dir.clone(),
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            unified_cgroups: tools.unified_cgroups,
            log: spec.log.clone(),
        };
        let words = fs::File::create(dir.join("monitor.log"))?;
        let mut command = std::process::Command::new(&tools.program);
        command
            .arg(monitor::COMMAND)
            .stdin(Channel::piped())
            .stdout(Channel::piped())
            .stderr(words);
        sys::in_own_session(&mut command);
        let mut child = tokio::process::Command::from(command).spawn()?;
        let mut stdin = child.stdin.take().expect("it was piped");
        stdin.write_all(&serde_json::to_vec(&job)?).await?;
        drop(stdin);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was piped");
        let mut stdout = BufReader::new(stdout.take(64 << 10));
        let told = tokio::time::timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        let told = match told {
            Ok(read) => {
                read?;
                serde_json::from_str(&line).unwrap_or_else(|_| Told::Failed(last_words(&dir)))
            }
            Err(_) => {
                let _ = child.start_kill();
                Told::Failed(format!("it did not start within {START_TIMEOUT:?}"))
            }
        };
        // It outlives this process, but as long as both are here it must be waited for.
        tokio::spawn(async move { child.wait().await });
        match told {
            Told::Started(started) => {
                let signal = spec.stop_signal.as_deref();
                fs::write(dir.join("stop-signal"), signal.unwrap_or_default())?;
                Self::hold(spec.id.clone(), dir, tools, started).await
            }
            Told::Failed(why) => Err(io::Error::other(why)),
        }
    }

    /// Takes up a container that an earlier agent started; one that has ended meanwhile says so.
    /// None where nothing is known of it.
    pub(super) async fn recover(id: String, dir: PathBuf, tools: &Tools) -> Option<Arc<Self>> {
        let text = fs::read(dir.join("started.json")).ok()?;
        let started: Started = serde_json::from_slice(&text).ok()?;
        Self::hold(id, dir, tools, started).await.ok()
    }

    async fn hold(
        id: String,
        dir: PathBuf,
        tools: &Tools,
        started: Started,
    ) -> io::Result<Arc<Self>> {
        let groups =
            fs::read_to_string(format!("/proc/{}/cgroup", started.pid)).unwrap_or_default();
        let connected = connect(&dir).await;
        // A process that has ended already cannot be held; its monitor tells how it ended.
        let pid = monitor::pid(started.pid).filter(|_| connected.is_ok());
        let pid = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let signal = fs::read_to_string(dir.join("stop-signal")).unwrap_or_default();
        let container = Arc::new(Self {
            groups: Groups::of(&groups, tools.unified_cgroups),
            id,
            dir,
            tools: tools.clone(),
            pid,
            stop_signal: parse_signal(&signal),
            exit: watch::Sender::new(None),
        });
        let watching = Arc::clone(&container);
        tokio::spawn(async move { watching.until_end(connected.ok(), started).await });
        Ok(container)
    }

    /// Waits for the end and tells it.
    async fn until_end(self: Arc<Self>, monitor: Option<UnixStream>, started: Started) {
        if let Some(mut monitor) = monitor {
            // The monitor says one thing here, or breaks off: both mean that there is an end.
            let mut byte = [0u8; 1];
            if monitor.write_all(&wire::frame(wire::Kind::Watch, &[])).await.is_ok() {
                let _ = monitor.read(&mut byte).await;
            }
        }
        let exit = match read_end(&self.dir) {
            Some(ended) => told(&ended),
            None => self.abandoned(&started).await,
        };
        self.exit.send_replace(Some(exit));
    }

    /// The monitor is gone and has left no word: nobody knows how the container ended, or it runs
    /// without anybody who writes its log. Either way it is over.
    async fn abandoned(&self, started: &Started) -> Exit {
        let (tools, id, dir) = (self.tools.clone(), self.id.clone(), self.dir.clone());
        let _ = tokio::task::spawn_blocking(move || delete(&tools, &id, &dir)).await;
        Exit {
            code: KILLED,
            reason: ExitReason::Error,
            message: "the process that watched over the container is gone".to_owned(),
            started_at: started.at,
            finished_at: jiff::Timestamp::now(),
        }
    }

    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }

    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    fn signal(&self, signal: Signal) {
        if self.has_ended() {
            return;
        }
        let Some(pid) = &self.pid else { return };
        if let Err(error) = pidfd_send_signal(pid, signal) {
            tracing::debug!(id = self.id, %error, "a container was not signalled");
        }
    }

    /// Asks it to end, and ends it after `grace`.
    pub fn terminate(self: &Arc<Self>, grace: Duration) {
        self.signal(self.stop_signal);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let mut exit = this.exit();
            if tokio::time::timeout(grace, exit.wait_for(Option::is_some)).await.is_err() {
                this.kill();
            }
        });
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn stats(&self) -> Stats {
        self.groups.as_ref().map(Groups::stats).unwrap_or_default()
    }
}

/// Connects to the monitor of the container in `dir`; the way there may be longer than a socket's
/// address, so it leads through an open directory.
pub(super) async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let open = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", open.as_raw_fd(), wire::SOCKET)).await
}

fn read_end(dir: &Path) -> Option<Ended> {
    serde_json::from_slice(&fs::read(dir.join("exit.json")).ok()?).ok()
}

fn told(ended: &Ended) -> Exit {
    let reason = match (ended.oom, ended.code) {
        (true, _) => ExitReason::OomKilled,
        (false, 0) => ExitReason::Completed,
        (false, _) => ExitReason::Error,
    };
    Exit {
        code: ended.code,
        reason,
        message: String::new(),
        started_at: ended.started_at,
        finished_at: ended.finished_at,
    }
}

/// What a monitor wrote that broke before it could tell.
fn last_words(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("monitor.log")).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("its monitor broke without a word").to_owned()
}

/// Makes an end of whatever is left of a container.
pub(super) fn delete(tools: &Tools, id: &str, dir: &Path) {
    let _ = std::process::Command::new(&tools.runc)
        .arg("--root")
        .arg(&tools.runc_root)
        .args(["delete", "--force", id])
        .stdin(Channel::null())
        .stdout(Channel::null())
        .stderr(Channel::null())
        .status();
    sandbox::unmount_below(dir);
}

/// `SIGTERM`, `TERM` or `15`; what is none of these means SIGTERM.
fn parse_signal(text: &str) -> Signal {
    let name = text.trim().to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    match name {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "ABRT" => Signal::ABORT,
        "ALRM" => Signal::ALARM,
        "CONT" => Signal::CONT,
        number => number.parse().ok().and_then(Signal::from_named_raw).unwrap_or(Signal::TERM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_write_them() {
        for (text, signal) in [
            ("SIGQUIT", Signal::QUIT),
            ("quit", Signal::QUIT),
            ("9", Signal::KILL),
            ("", Signal::TERM),
            ("SIGNONSENSE", Signal::TERM),
        ] {
            assert_eq!(parse_signal(text), signal, "{text}");
        }
    }
}
