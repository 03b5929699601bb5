//! The embedded engine: a log in redb, the current state in memory.
//!
//! ```text
//! write ─▶ writer (one thread) ─▶ disk (one sync a group) ─▶ state ─▶ feed ─▶ watchers
//! get, list, watch ─▶ state; what lies before the window ─▶ history ─▶ disk
//! ```
//!
//! Reads never wait for the disk, unless they ask for the past beyond the window. Opening reads
//! the log once, and brings back the revision counter, the state, the window and the expiries, so
//! that watches resume across a restart.
//!
//! **Invariant:** the state is a prefix of the log: it holds every row up to `revision`, all of
//! them durable, and none after it.

mod disk;
mod feed;
mod history;
mod row;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot};

pub use disk::OpenError;
pub use storage::{FileStorage, Storage};

use super::{Entry, EventKind, Page, Range, Revision, Store, StoreError, WatchStream, Write};
use crate::base::clock::{SharedClock, SystemClock};
use disk::{Disk, Floor, damaged};
use feed::Feed;
use history::with_previous;
use row::Record;
use state::{State, WindowLimit};
use writer::{Inbox, Request, Writer};

/// How the engine is set up.
#[derive(Clone)]
pub struct RedbConfig {
    /// What keys expire by, and revisions are compacted by.
    pub clock: SharedClock,
    /// How long revisions can be read.
    pub retention: Duration,
    /// At most so many of the newest events are kept in memory…
    pub window_events: usize,
    /// …and at most so many bytes of them.
    pub window_bytes: usize,
    /// How many events a watcher may be behind before it is ended.
    pub watcher_buffer: usize,
    /// How many writes may wait.
    pub queue: usize,
    /// The database's page cache, in bytes.
    pub cache_bytes: usize,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            retention: Duration::from_secs(300),
            window_events: 50_000,
            window_bytes: 16 << 20,
            watcher_buffer: 8192,
            queue: 4096,
            cache_bytes: 8 << 20,
        }
    }
}

/// What readers and the writer share.
struct Shared {
    state: RwLock<State>,
    feed: Arc<Feed>,
    disk: Disk,
    inbox: Inbox,
    clock: SharedClock,
    retention: Duration,
    window: WindowLimit,
}

/// The embedded engine.
pub struct RedbStore {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the store in the directory `dir`, which is created (0700) where it is missing.
///
/// # Errors
/// [`OpenError`] when it is in use, cannot be read, is damaged or was written by a newer version.
pub fn open(dir: &Path, config: RedbConfig) -> Result<Arc<RedbStore>, OpenError> {
    open_storage(Box::new(FileStorage::new(dir)), config)
}

/// Opens the store in any [`Storage`].
///
/// # Errors
/// As [`open`].
pub fn open_storage(
    storage: Box<dyn Storage>,
    config: RedbConfig,
) -> Result<Arc<RedbStore>, OpenError> {
    let path = storage.name();
    let disk = Disk::open(storage, config.cache_bytes)?;
    let window = WindowLimit { events: config.window_events, bytes: config.window_bytes };
    let corrupt =
        |error: StoreError| OpenError::Corrupt { path: path.clone(), what: error.to_string() };
    let (state, floor, expiry) = load(&disk, window).map_err(corrupt)?;
    tracing::info!(path, revision = state.revision, floor = floor.floor, "opened the store");
    let shared = Arc::new(Shared {
        state: RwLock::new(state),
        feed: Feed::new(config.watcher_buffer),
        disk,
        inbox: Inbox::default(),
        clock: config.clock,
        retention: config.retention,
        window,
    });
    let writer = Writer::new(shared.clone(), floor, expiry);
    let thread = std::thread::Builder::new().name("store-writer".to_owned());
    let thread = thread
        .spawn(move || writer.run())
        .map_err(|source| OpenError::Unreadable { path: path.clone(), source })?;
    let room = Arc::new(Semaphore::new(config.queue));
    Ok(Arc::new(RedbStore { shared, room, writer: Mutex::new(Some(thread)) }))
}

/// When keys expire: (milliseconds since 1970, revision that set it, key).
type Expiry = BTreeSet<(u64, Revision, Arc<str>)>;

/// Reads the log into memory.
fn load(disk: &Disk, window: WindowLimit) -> Result<(State, Floor, Expiry), StoreError> {
    let snapshot = disk.snapshot()?;
    let floor = snapshot.floor;
    let mut state = State::default();
    let mut expiry = Expiry::new();
    snapshot.scan(0, |revision, row| {
        let mut record = Record::decode(revision, row).map_err(damaged)?;
        if revision > floor.floor + 1 && revision != state.revision + 1 {
            return Err(StoreError::Engine(format!("revision {} is missing", state.revision + 1)));
        }
        if record.event.kind != EventKind::Created {
            let before = state.get(&record.event.entry.key).cloned();
            let before = before.map(|event| Record { event, previous: 0, expires_ms: 0 });
            record.event = with_previous(&record, before.as_ref());
        }
        if record.expires_ms != 0 {
            expiry.insert((record.expires_ms, revision, record.event.entry.key.clone()));
        }
        state.apply(record, window);
        Ok(true)
    })?;
    expiry.retain(|(_, revision, key)| state.get(key).is_some_and(|e| e.revision == *revision));
    if state.revision < floor.floor {
        state.skip_to(floor.floor);
    }
    state.raise_floor(floor.floor);
    Ok((state, floor, expiry))
}

impl RedbStore {
    /// Does what is queued, then closes the file. Later writes answer [`StoreError::Closed`].
    pub async fn close(&self) {
        let thread = self.stop();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        self.shared.inbox.close();
        self.writer.lock().take()
    }

    /// Expires and compacts as the clock says now, without waiting for the next second.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn turn(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.shared.inbox.push(Request::Turn { answer })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// How many watchers there are, and how many bytes the event window holds.
    pub fn load(&self) -> (usize, usize) {
        (self.shared.feed.watchers(), self.shared.state.read().window_bytes())
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let room = self.room.clone().acquire_owned().await;
        let permit = room.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.shared.inbox.push(Request::Write { write, answer, permit })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let event = self.shared.state.read().get(key).cloned();
        Ok(event.map(|event| event.entry.clone()))
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        {
            let state = self.shared.state.read();
            let revision = range.revision.unwrap_or(state.revision);
            state.check(revision)?;
            if revision == state.revision {
                let (events, revision, remaining) = history::list_now(&state, &range);
                drop(state);
                return Ok(history::page_of(&events, revision, remaining));
            }
        }
        let shared = self.shared.clone();
        let revision = range.revision.expect("the newest revision was served above");
        let listed = move || history::list_then(&shared, &range, revision);
        tokio::task::spawn_blocking(listed).await.map_err(|_| StoreError::Closed)?
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        Ok(self.shared.state.read().count(prefix))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        history::watch(&self.shared, prefix, after)
    }

    fn revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    fn progress(&self, prefix: &str) {
        self.shared.feed.progress(prefix);
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.shared.inbox.push(Request::Compact { before, answer })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}
