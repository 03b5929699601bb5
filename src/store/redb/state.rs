//! What is readable: the current state of every key, and the newest events.
//!
//! Keys lie in shards by their first element (the kind, for the API server), so that the tree of
//! one kind does not grow with another. A key's current state is the event that wrote it, shared
//! with the window and with the watchers.
//!
//! **Invariant:** `window` ends at `revision` and has no gaps; whoever holds the lock does so for
//! microseconds: the disk is never waited for under it, and lists only clone pointers.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::row::Record;
use crate::store::{Event, EventKind, Revision, StoreError};

type Shard = BTreeMap<Arc<str>, Arc<Event>>;

/// Up to and with the first `/`, or all of it. No shard's name is the start of another's, so the
/// order of shards is the order of keys.
pub fn shard_of(key: &str) -> &str {
    key.find('/').map_or(key, |at| &key[..=at])
}

/// The current state and the newest events.
#[derive(Debug, Default)]
pub struct State {
    shards: BTreeMap<Box<str>, Shard>,
    window: Window,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub floor: Revision,
}

/// How much the window holds.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimit {
    pub events: usize,
    pub bytes: usize,
}

#[derive(Debug, Default)]
struct Window {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Window {
    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.encoded_len();
        }
    }
}

impl State {
    /// Takes in a record. Revisions only grow; a gap (rows that compaction has removed) empties
    /// the window.
    pub fn apply(&mut self, record: Record, limit: WindowLimit) {
        let event = &record.event;
        let key = &event.entry.key;
        let shard = shard_of(key);
        if event.kind == EventKind::Deleted {
            if let Some(keys) = self.shards.get_mut(shard) {
                keys.remove(key);
            }
        } else {
            match self.shards.get_mut(shard) {
                Some(keys) => drop(keys.insert(key.clone(), event.clone())),
                None => {
                    let keys = Shard::from([(key.clone(), event.clone())]);
                    self.shards.insert(shard.into(), keys);
                }
            }
        }
        if event.revision != self.revision + 1 {
            self.window = Window::default();
        }
        self.revision = event.revision;
        self.window.bytes += record.encoded_len();
        self.window.records.push_back(record);
        while self.window.records.len() > limit.events || self.window.bytes > limit.bytes {
            self.window.pop();
        }
    }

    /// Counts on from `revision`, whose rows compaction has removed.
    pub fn skip_to(&mut self, revision: Revision) {
        self.revision = revision;
        self.window = Window::default();
    }

    /// Raises the floor, and drops what lies below it from the window.
    pub fn raise_floor(&mut self, floor: Revision) {
        self.floor = self.floor.max(floor);
        while self.window.records.front().is_some_and(|r| r.event.revision < self.floor) {
            self.window.pop();
        }
    }

    /// The current state of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<Event>> {
        self.shards.get(shard_of(key))?.get(key)
    }

    /// The keys that start with `prefix`, after `after`, in order.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Event>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        // A prefix with a `/` names one shard; one without may start the names of several.
        let shard = shard_of(prefix);
        let shards = self.shards.range::<str, _>((Bound::Included(shard), Bound::Unbounded));
        shards
            .take_while(move |(name, _)| name.starts_with(shard))
            .flat_map(move |(_, keys)| {
                keys.range::<str, _>((from, Bound::Unbounded))
                    .take_while(move |(key, _)| key.starts_with(prefix))
            })
            .map(|(_, event)| event)
    }

    /// How many keys start with `prefix`.
    pub fn count(&self, prefix: &str) -> u64 {
        match self.shards.get(prefix) {
            Some(keys) if prefix.ends_with('/') => keys.len() as u64,
            _ => self.range(prefix, None).count() as u64,
        }
    }

    /// Whether `asked` can be read.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`].
    pub fn check(&self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.floor {
            return Err(StoreError::Compacted { asked, oldest: self.floor });
        }
        if asked > self.revision {
            return Err(StoreError::Future { asked, newest: self.revision });
        }
        Ok(())
    }

    /// The records after `after`, or `None` where the window does not reach back so far.
    pub fn since(&self, after: Revision) -> Option<impl Iterator<Item = &Record>> {
        let behind = usize::try_from(self.revision.checked_sub(after)?).ok()?;
        let start = self.window.records.len().checked_sub(behind)?;
        Some(self.window.records.range(start..))
    }

    /// The record of `revision`, where the window holds it.
    pub fn record(&self, revision: Revision) -> Option<&Record> {
        self.since(revision.checked_sub(1)?)?.next()
    }

    /// How many bytes the window holds.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{Entry, Value};

    const LIMIT: WindowLimit = WindowLimit { events: 3, bytes: 1 << 20 };

    fn put(state: &mut State, key: &str) {
        let revision = state.revision + 1;
        let value = Value::from(Bytes::from_static(b"x"));
        let entry = Entry { key: key.into(), value, created: revision, modified: revision };
        let event = Event { revision, kind: EventKind::Created, entry, previous_attrs: None };
        let record = Record { event: Arc::new(event), previous: 0, expires_ms: 0 };
        state.apply(record, LIMIT);
    }

    fn keys(state: &State, prefix: &str, after: Option<&str>) -> Vec<String> {
        state.range(prefix, after).map(|e| e.entry.key.to_string()).collect()
    }

    #[test]
    fn keys_are_listed_in_order_across_shards() {
        let mut state = State::default();
        for key in ["a/1", "a-b/1", "a", "a/0", "ab/1", "b/1"] {
            put(&mut state, key);
        }
        assert_eq!(keys(&state, "", None), ["a", "a-b/1", "a/0", "a/1", "ab/1", "b/1"]);
        assert_eq!(keys(&state, "a", Some("a/0")), ["a/1", "ab/1"]);
        assert_eq!(keys(&state, "a/", None), ["a/0", "a/1"]);
        assert_eq!(keys(&state, "a/1", None), ["a/1"]);
        assert_eq!(state.count("a/"), 2);
        assert_eq!(state.count("a"), 5);
    }

    #[test]
    fn the_window_forgets_its_oldest_events() {
        let mut state = State::default();
        for key in ["a/1", "a/2", "a/3", "a/4"] {
            put(&mut state, key);
        }
        assert!(state.since(0).is_none());
        let since = |after| state.since(after).map(|r| r.count());
        assert_eq!((since(1), since(3), since(4), since(5)), (Some(3), Some(1), Some(0), None));
        assert!(state.record(1).is_none());
        assert_eq!(state.record(2).map(|r| r.event.revision), Some(2));
    }
}
