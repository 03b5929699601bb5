//! The writing end of a container's log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{OpenFiles, Segment, segments};
use crate::base::clock::SharedClock;
use crate::node::config::LogSettings;
use crate::runtime::{LogSink, Stdio};

/// The log of one run of one container. Bytes come in as the guest writes them; lines go out, one
/// CRI record each. The file is opened at the first line, so that a silent container costs none.
pub struct LogFile {
    dir: PathBuf,
    run: u32,
    settings: LogSettings,
    clock: SharedClock,
    open: Arc<OpenFiles>,
    state: Mutex<State>,
    /// Counts writes; the sender is dropped, as it were, by `finished`.
    progress: watch::Sender<Progress>,
    me: std::sync::Weak<LogFile>,
}

/// How far a log has come, for those who follow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub writes: u64,
    pub finished: bool,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    /// The newest segment, 0 before the first.
    segment: u32,
    bytes: u64,
    /// The unfinished line of stdout and of stderr.
    partial: [Vec<u8>; 2],
    failed: bool,
}

impl LogFile {
    pub(super) fn new(
        dir: PathBuf,
        run: u32,
        settings: LogSettings,
        clock: SharedClock,
        open: Arc<OpenFiles>,
    ) -> Arc<Self> {
        let segment = segments(&dir).iter().filter(|s| s.run == run).map(|s| s.number).max();
        Arc::new_cyclic(|me| Self {
            dir,
            run,
            settings,
            clock,
            open,
            state: Mutex::new(State { segment: segment.unwrap_or(0), ..State::default() }),
            progress: watch::Sender::new(Progress::default()),
            me: me.clone(),
        })
    }

    pub fn run(&self) -> u32 {
        self.run
    }

    /// Tells of every write, and of the end.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether anybody follows it now.
    pub(super) fn is_followed(&self) -> bool {
        self.progress.receiver_count() > 0
    }

    /// Whether the container has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.progress.borrow().finished
    }

    /// Somebody else has written to it.
    pub(super) fn grown(&self) {
        self.progress.send_modify(|p| p.writes += 1);
    }

    /// The container has ended: what is left of its last lines is written.
    pub fn finish(&self) {
        let mut state = self.state.lock();
        for (stream, name) in [(0, "stdout"), (1, "stderr")] {
            let rest = std::mem::take(&mut state.partial[stream]);
            if !rest.is_empty() {
                let mut out = Vec::new();
                self.record(&mut out, name, 'P', &rest);
                self.append(&mut state, &out);
            }
        }
        state.file = None;
        drop(state);
        self.progress.send_modify(|p| p.finished = true);
    }

    /// Closes the file until the next write; not one that is being written to, whose lock may be
    /// held by somebody who waits for ours.
    pub(super) fn close_handle(&self) {
        if let Some(mut state) = self.state.try_lock() {
            state.file = None;
        }
    }

    fn record(&self, out: &mut Vec<u8>, stream: &str, tag: char, line: &[u8]) {
        let at = self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ");
        // Writing into a Vec cannot fail.
        let _ = write!(out, "{at} {stream} {tag} ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }

    fn append(&self, state: &mut State, records: &[u8]) {
        if state.segment == 0 || state.bytes >= self.settings.file_bytes_max {
            self.rotate(state);
        }
        let written = self.handle(state).and_then(|file| file.write_all(records));
        match written {
            Ok(()) => {
                state.bytes += records.len() as u64;
                state.failed = false;
            }
            // A full disk must not end the container; it is said once, not for every line.
            Err(error) if !state.failed => {
                state.failed = true;
                tracing::warn!(dir = %self.dir.display(), %error, "cannot write a container's log");
            }
            Err(_) => {}
        }
    }

    fn handle<'a>(&self, state: &'a mut State) -> std::io::Result<&'a mut File> {
        if state.file.is_none() {
            let path = Segment { run: self.run, number: state.segment }.path(&self.dir);
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            state.bytes = file.metadata()?.len();
            state.file = Some(file);
            self.open.opened(self.me.clone());
        }
        Ok(state.file.as_mut().expect("opened above"))
    }

    fn rotate(&self, state: &mut State) {
        state.file = None;
        state.segment += 1;
        state.bytes = 0;
        let kept = u32::try_from(self.settings.files_max.max(1)).unwrap_or(u32::MAX);
        for old in segments(&self.dir) {
            let expired = old.run == self.run && old.number + kept <= state.segment;
            if expired && let Err(error) = std::fs::remove_file(old.path(&self.dir)) {
                tracing::debug!(%error, "an old log segment was already gone");
            }
        }
    }
}

impl LogSink for LogFile {
    fn write(&self, stream: Stdio, bytes: &[u8]) {
        let (index, name) = match stream {
            Stdio::Stdout => (0, "stdout"),
            Stdio::Stderr => (1, "stderr"),
        };
        let max = self.settings.line_bytes_max;
        let mut state = self.state.lock();
        let mut line = std::mem::take(&mut state.partial[index]);
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let mut rest = text;
            while line.len() + rest.len() > max {
                let (now, later) = rest.split_at(max - line.len());
                line.extend_from_slice(now);
                self.record(&mut out, name, 'P', &line);
                line.clear();
                rest = later;
            }
            line.extend_from_slice(rest);
            if whole {
                self.record(&mut out, name, 'F', &line);
                line.clear();
            }
            if out.len() as u64 >= self.settings.file_bytes_max.min(1 << 20) {
                self.append(&mut state, &out);
                out.clear();
            }
        }
        state.partial[index] = line;
        if !out.is_empty() {
            self.append(&mut state, &out);
        }
        drop(state);
        self.progress.send_modify(|p| p.writes += 1);
    }
}
