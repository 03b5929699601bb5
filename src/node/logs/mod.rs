//! Container logs: CRI format, rotated, read back as the kubelet does.
//!
//! ```text
//! data_dir/pods/NAMESPACE_POD_UID/CONTAINER/RUN.SEGMENT.log
//! 2026-03-04T05:06:07.089000000Z stdout F a whole line
//! 2026-03-04T05:06:07.089000001Z stderr P the beginning of one that is too long
//! ```
//!
//! A run is one start of the container; its newest segment is the one written to. Nothing is ever
//! renamed: rotation opens the next segment and removes the oldest, so a reader that follows keeps
//! its place by number.
//!
//! **Invariant:** what a container has on disk is bounded by `files_max × file_bytes_max` for its
//! newest run and as much for the one before; older runs are removed when a new one starts.

mod outside;
pub mod read;
pub mod write;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::config::LogSettings;
use crate::base::clock::SharedClock;

pub use outside::open_outside;
pub use read::{LogOptions, LogReader};
pub use write::LogFile;

/// How many log files are held open at once; the others are opened again when written to.
const OPEN_MAX: usize = 256;

/// The containers' logs of one node.
pub struct Logs {
    root: PathBuf,
    settings: LogSettings,
    clock: SharedClock,
    /// The newest run of every container, by pod UID and container name.
    current: Mutex<HashMap<(String, String), Arc<LogFile>>>,
    open: Arc<OpenFiles>,
}

/// Which log files are open, the longest unused first.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<VecDeque<Weak<LogFile>>>);

impl OpenFiles {
    /// Notes that `file` was opened; whoever is one too many is closed.
    pub(super) fn opened(&self, file: Weak<LogFile>) {
        let oldest = {
            let mut open = self.0.lock();
            open.push_back(file);
            if open.len() > OPEN_MAX { open.pop_front() } else { None }
        };
        if let Some(file) = oldest.and_then(|weak| weak.upgrade()) {
            file.close_handle();
        }
    }
}

/// One segment on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub run: u32,
    pub number: u32,
}

impl Segment {
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.{:06}.log", self.run, self.number))
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".log")?.split('.');
        let run = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { run, number })
    }
}

/// All segments of a container, oldest first.
pub(super) fn segments(dir: &Path) -> Vec<Segment> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<Segment> =
        entries.filter_map(|e| Segment::parse(e.file_name().to_str()?)).collect();
    found.sort_unstable();
    found
}

impl Logs {
    /// The logs below `root`.
    pub fn new(root: PathBuf, settings: LogSettings, clock: SharedClock) -> Self {
        Self { root, settings, clock, current: Mutex::default(), open: Arc::default() }
    }

    /// Where the logs of one pod lie; also what `kubectl` users find on the node.
    pub fn pod_dir(&self, namespace: &str, pod: &str, uid: &str) -> PathBuf {
        self.root.join(format!("{namespace}_{pod}_{uid}"))
    }

    /// Begins the log of run `run` of a container and forgets all runs but the one before it.
    pub fn begin(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        container: &str,
        run: u32,
    ) -> io::Result<Arc<LogFile>> {
        let dir = self.pod_dir(namespace, pod, uid).join(container);
        fs::create_dir_all(&dir)?;
        let old = segments(&dir);
        let previous = old.iter().map(|s| s.run).filter(|r| *r < run).max();
        for segment in old.iter().filter(|s| Some(s.run) != previous && s.run != run) {
            fs::remove_file(segment.path(&dir))?;
        }
        let file =
            LogFile::new(dir, run, self.settings, self.clock.clone(), Arc::clone(&self.open));
        let key = (uid.to_owned(), container.to_owned());
        if let Some(before) = self.current.lock().insert(key, Arc::clone(&file)) {
            before.finish();
        }
        Ok(file)
    }

    /// The log that a container writes now, if this agent started it.
    pub fn current(&self, uid: &str, container: &str) -> Option<Arc<LogFile>> {
        self.current.lock().get(&(uid.to_owned(), container.to_owned())).cloned()
    }

    /// Forgets a pod and removes its logs.
    pub fn remove(&self, namespace: &str, pod: &str, uid: &str) -> io::Result<()> {
        self.current.lock().retain(|key, _| key.0 != uid);
        match fs::remove_dir_all(self.pod_dir(namespace, pod, uid)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The last lines of run `run`, as the termination message of a container that fell back to
    /// its log: at most 80 lines and 2048 bytes.
    pub fn tail(&self, namespace: &str, pod: &str, uid: &str, container: &str, run: u32) -> String {
        let dir = self.pod_dir(namespace, pod, uid).join(container);
        let options = LogOptions { tail: Some(80), run: Some(run), ..LogOptions::default() };
        let mut text = Vec::new();
        if let Ok(mut reader) = LogReader::open(dir, None, options) {
            while let Ok(Some(chunk)) = reader.read_some() {
                text.extend_from_slice(&chunk);
            }
        }
        let from = text.len().saturating_sub(2048);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}
