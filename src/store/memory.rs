//! The store as a model: plain collections under one lock, nothing durable, nothing clever. The
//! other engine is checked against it, and tests of what stands above the store run on it.
//!
//! **Invariant:** `log` holds every event from the floor on, in revision order without gaps, and
//! `versions` every version that a list at a revision from the floor on can meet.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Entry, Event, EventKind, Expect, Notice, Page, Range, Revision, Store, StoreError, Value,
    WatchStream, Write,
};
use crate::base::clock::{SharedClock, SystemClock};

/// How long revisions are kept.
const RETENTION: Duration = Duration::from_secs(300);
/// How often a watcher that hears nothing looks for keys that expired.
const TURN: Duration = Duration::from_secs(1);

/// The in-memory engine. Clones share one store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    model: Mutex<Model>,
    changed: watch::Sender<()>,
    clock: SharedClock,
}

/// A version of a key from a revision on; `None`: it had no value.
type Version = (Revision, Option<Entry>);

struct Model {
    revision: Revision,
    floor: Revision,
    versions: BTreeMap<Arc<str>, Vec<Version>>,
    log: VecDeque<Arc<Event>>,
    /// When keys expire: (monotonic time, key, revision that set it).
    expiry: Vec<(Duration, Arc<str>, Revision)>,
    /// Which revision was the newest at which monotonic time.
    marks: VecDeque<(Duration, Revision)>,
    asked: Vec<(String, Weak<AtomicBool>)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// An empty store whose keys expire, and whose revisions are compacted, by `clock`.
    pub fn with_clock(clock: SharedClock) -> Self {
        let model = Model {
            revision: 0,
            floor: 0,
            versions: BTreeMap::new(),
            log: VecDeque::new(),
            expiry: Vec::new(),
            marks: VecDeque::new(),
            asked: Vec::new(),
        };
        let shared = Shared { model: Mutex::new(model), changed: watch::Sender::new(()), clock };
        Self { shared: Arc::new(shared) }
    }

    /// Deletes what has expired and compacts what is too old, as the clock says now.
    pub fn turn(&self) {
        let now = self.shared.clock.monotonic();
        let expired = self.shared.model.lock().turn(now);
        if expired {
            self.shared.changed.send_replace(());
        }
    }
}

impl Model {
    fn turn(&mut self, now: Duration) -> bool {
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.expiry).into_iter().partition(|(at, ..)| *at <= now);
        self.expiry = later;
        due.sort_by_key(|(at, _, revision)| (*at, *revision));
        let mut expired = false;
        for (_, key, revision) in due {
            let Some(entry) = self.current(&key).filter(|e| e.modified == revision) else {
                continue;
            };
            let value = entry.value.clone();
            let write = Write::Delete { key, value, expect: Expect::Modified(revision) };
            expired |= self.write(write, now).is_ok();
        }
        if self.marks.back().is_none_or(|(_, revision)| *revision != self.revision) {
            self.marks.push_back((now, self.revision));
        }
        while let Some((at, revision)) = self.marks.front().copied() {
            if now.saturating_sub(at) <= RETENTION {
                break;
            }
            self.marks.pop_front();
            self.compact(revision);
        }
        expired
    }

    fn current(&self, key: &str) -> Option<&Entry> {
        self.versions.get(key)?.last()?.1.as_ref()
    }

    fn at(versions: &[Version], revision: Revision) -> Option<&Entry> {
        versions.iter().rev().find(|(from, _)| *from <= revision)?.1.as_ref()
    }

    fn write(&mut self, write: Write, now: Duration) -> Result<Entry, StoreError> {
        let (key, value, expect, put, ttl) = match write {
            Write::Put { key, value, expect, ttl } => (key, value, expect, true, ttl),
            Write::Delete { key, value, expect } => (key, value, expect, false, None),
        };
        let old = self.current(&key).cloned();
        let holds = match expect {
            Expect::Absent => old.is_none() && put,
            Expect::Modified(revision) => old.as_ref().is_some_and(|e| e.modified == revision),
        };
        if !holds {
            return Err(StoreError::Conflict(old));
        }
        self.revision += 1;
        let revision = self.revision;
        let created = old.as_ref().map_or(revision, |e| e.created);
        let kind = match (put, &old) {
            (false, _) => EventKind::Deleted,
            (true, None) => EventKind::Created,
            (true, Some(_)) => EventKind::Modified,
        };
        let entry = Entry { key: key.clone(), value, created, modified: revision };
        let now_there = put.then(|| entry.clone());
        self.versions.entry(key.clone()).or_default().push((revision, now_there));
        if let Some(ttl) = ttl {
            self.expiry.push((now + ttl, key, revision));
        }
        let previous_attrs: Option<Bytes> = old.map(|e| e.value.attrs);
        self.log.push_back(Arc::new(Event {
            revision,
            kind,
            entry: entry.clone(),
            previous_attrs,
        }));
        Ok(entry)
    }

    fn check(&self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.floor {
            return Err(StoreError::Compacted { asked, oldest: self.floor });
        }
        if asked > self.revision {
            return Err(StoreError::Future { asked, newest: self.revision });
        }
        Ok(())
    }

    fn compact(&mut self, before: Revision) {
        if before <= self.floor {
            return;
        }
        self.floor = before;
        self.log.retain(|event| event.revision >= before);
        self.versions.retain(|_, versions| {
            let newest_below = versions.iter().rposition(|(from, _)| *from <= before).unwrap_or(0);
            versions.drain(..newest_below);
            !matches!(versions.as_slice(), [(from, None)] if *from <= before)
        });
    }

    fn list(&self, range: &Range) -> Result<Page, StoreError> {
        let revision = range.revision.unwrap_or(self.revision);
        self.check(revision)?;
        let from = match &range.after {
            Some(after) if **after >= *range.prefix => Bound::Excluded(&**after),
            _ => Bound::Included(&*range.prefix),
        };
        let all: Vec<&Entry> = self
            .versions
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&*range.prefix))
            .filter_map(|(_, versions)| Self::at(versions, revision))
            .collect();
        let taken = if range.limit == 0 { all.len() } else { range.limit.min(all.len()) };
        Ok(Page {
            entries: all[..taken].iter().map(|e| (*e).clone()).collect(),
            revision,
            more: taken < all.len(),
            remaining: (all.len() - taken) as u64,
        })
    }
}

/// Where one watcher is in the log.
struct Cursor {
    store: MemoryStore,
    prefix: String,
    at: Revision,
    ready: VecDeque<Notice>,
    asked: Arc<AtomicBool>,
    changed: watch::Receiver<()>,
    ended: bool,
}

impl Cursor {
    /// Moves what happened since into `ready`.
    fn collect(&mut self) -> Result<(), StoreError> {
        self.store.turn();
        let model = self.store.shared.model.lock();
        if self.at < model.floor {
            return Err(StoreError::Compacted { asked: self.at, oldest: model.floor });
        }
        let new = model.log.iter().filter(|e| e.revision > self.at);
        let matching = new.filter(|e| e.entry.key.starts_with(&self.prefix));
        self.ready.extend(matching.map(|e| Notice::Event(e.clone())));
        self.at = model.revision;
        if self.asked.swap(false, Ordering::AcqRel) {
            self.ready.push_back(Notice::Progress(self.at));
        }
        Ok(())
    }

    async fn next(mut self) -> Option<(Result<Notice, StoreError>, Self)> {
        loop {
            if let Some(notice) = self.ready.pop_front() {
                return Some((Ok(notice), self));
            }
            if self.ended {
                return None;
            }
            self.changed.borrow_and_update();
            if let Err(error) = self.collect() {
                self.ended = true;
                return Some((Err(error), self));
            }
            if self.ready.is_empty() {
                // Silence is a turn of its own: it may be a key's time to expire.
                let _ = tokio::time::timeout(TURN, self.changed.changed()).await;
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        self.turn();
        let entry = self.shared.model.lock().write(write, self.shared.clock.monotonic())?;
        self.shared.changed.send_replace(());
        Ok(entry)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.turn();
        Ok(self.shared.model.lock().current(key).cloned())
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        self.turn();
        self.shared.model.lock().list(&range)
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        let range = Range { prefix: prefix.into(), after: None, limit: 1, revision: None };
        let page = self.list(range).await?;
        Ok(page.entries.len() as u64 + page.remaining)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let asked = Arc::new(AtomicBool::new(false));
        let mut model = self.shared.model.lock();
        model.check(after)?;
        model.asked.retain(|(_, flag)| flag.strong_count() > 0);
        model.asked.push((prefix.to_owned(), Arc::downgrade(&asked)));
        drop(model);
        let cursor = Cursor {
            store: self.clone(),
            prefix: prefix.to_owned(),
            at: after,
            ready: VecDeque::new(),
            asked,
            changed: self.shared.changed.subscribe(),
            ended: false,
        };
        Ok(futures::stream::unfold(cursor, Cursor::next).boxed())
    }

    fn revision(&self) -> Revision {
        self.shared.model.lock().revision
    }

    fn progress(&self, prefix: &str) {
        for (watched, flag) in &self.shared.model.lock().asked {
            if let (true, Some(flag)) = (watched.starts_with(prefix), flag.upgrade()) {
                flag.store(true, Ordering::Release);
            }
        }
        self.shared.changed.send_replace(());
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let mut model = self.shared.model.lock();
        if before > model.revision {
            return Err(StoreError::Future { asked: before, newest: model.revision });
        }
        model.compact(before);
        drop(model);
        self.shared.changed.send_replace(());
        Ok(())
    }
}

/// A value without attributes, for tests of what stands above.
impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, attrs: Bytes::new() }
    }
}
