//! The past: lists at an older revision, and events that have left the window.
//!
//! A list at revision R is the current state with every change after R undone: the first change of
//! a key after R tells which revision it had then (its row is kept as long as R can be read). So
//! the past costs what changed since, and nothing is kept in memory for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;

use super::Shared;
use super::disk::{damaged, key_of};
use super::row::Record;
use super::state::State;
use crate::store::{
    Entry, Event, EventKind, Notice, Page, Range, Revision, StoreError, WatchStream,
};

/// How many events of a backlog are read from disk at a time.
const CHUNK: usize = 512;

/// For every key that changed after a revision, the revision of the value that it had then; 0:
/// none.
type Undone = BTreeMap<Arc<str>, Revision>;

/// An entry of a list before its value is fetched.
enum Slot {
    /// Unchanged since.
    Now(Arc<Event>),
    /// Written at this revision, which may lie on disk.
    Then(Revision),
}

/// A page of the newest state.
pub fn list_now(state: &State, range: &Range) -> (Vec<Arc<Event>>, Revision, u64) {
    let mut keys = state.range(&range.prefix, range.after.as_deref());
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let events: Vec<Arc<Event>> = keys.by_ref().take(limit).cloned().collect();
    let remaining = if events.len() < limit {
        0
    } else if range.after.is_none() {
        state.count(&range.prefix) - events.len() as u64
    } else {
        keys.count() as u64
    };
    (events, state.revision, remaining)
}

/// Assembles the page from what was cloned under the lock.
pub fn page_of(events: &[Arc<Event>], revision: Revision, remaining: u64) -> Page {
    let entries = events.iter().map(|event| event.entry.clone()).collect();
    Page { entries, revision, more: remaining > 0, remaining }
}

/// A page of the state at `revision`, which is older than the newest. Waits for the disk where it
/// has to.
///
/// # Errors
/// [`StoreError::Compacted`], or what the disk says.
pub fn list_then(shared: &Shared, range: &Range, revision: Revision) -> Result<Page, StoreError> {
    let mut undone = Undone::new();
    let mut reached = revision;
    let (slots, remaining) = loop {
        {
            let state = shared.state.read();
            state.check(revision)?;
            if let Some(records) = state.since(reached.min(state.revision)) {
                undo(&mut undone, records, &range.prefix);
                break plan(&state, range, &undone);
            }
        }
        reached = undo_from_disk(shared, &mut undone, &range.prefix, reached)?;
    };
    let entries = fetch(shared, slots, revision)?;
    Ok(Page { entries, revision, more: remaining > 0, remaining })
}

fn undo<'a>(undone: &mut Undone, records: impl Iterator<Item = &'a Record>, prefix: &str) {
    for record in records.filter(|r| r.event.entry.key.starts_with(prefix)) {
        undone.entry(record.event.entry.key.clone()).or_insert(record.previous);
    }
}

fn undo_from_disk(
    shared: &Shared,
    undone: &mut Undone,
    prefix: &str,
    after: Revision,
) -> Result<Revision, StoreError> {
    let mut reached = after;
    shared.disk.snapshot()?.scan(after + 1, |revision, row| {
        reached = revision;
        if key_of(revision, row)?.starts_with(prefix) {
            let record = Record::decode(revision, row).map_err(damaged)?;
            undone.entry(record.event.entry.key.clone()).or_insert(record.previous);
        }
        Ok(true)
    })?;
    Ok(reached)
}

/// Merges the current keys with the undone ones, in key order.
fn plan(state: &State, range: &Range, undone: &Undone) -> (Vec<Slot>, u64) {
    let after = range.after.as_deref();
    let mut now = state.range(&range.prefix, after).peekable();
    let mut then =
        undone.iter().filter(|(key, _)| after.is_none_or(|after| ***key > *after)).peekable();
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let (mut slots, mut remaining) = (Vec::new(), 0);
    loop {
        let slot = match (now.peek(), then.peek()) {
            (None, None) => break,
            (Some(event), None) => Some(Slot::Now((*event).clone())),
            (Some(event), Some((key, _))) if event.entry.key < **key => {
                Some(Slot::Now((*event).clone()))
            }
            (event, Some((key, previous))) => {
                if event.is_some_and(|event| event.entry.key == **key) {
                    now.next();
                }
                (**previous != 0).then_some(Slot::Then(**previous))
            }
        };
        match &slot {
            Some(Slot::Now(_)) => drop(now.next()),
            _ => drop(then.next()),
        }
        match slot {
            Some(slot) if slots.len() < limit => slots.push(slot),
            Some(_) => remaining += 1,
            None => {}
        }
    }
    (slots, remaining)
}

/// The entries of the slots, from the window or from disk.
fn fetch(shared: &Shared, slots: Vec<Slot>, asked: Revision) -> Result<Vec<Entry>, StoreError> {
    let mut snapshot = None;
    let mut entries = Vec::with_capacity(slots.len());
    for slot in slots {
        let revision = match slot {
            Slot::Now(event) => {
                entries.push(event.entry.clone());
                continue;
            }
            Slot::Then(revision) => revision,
        };
        let in_window = shared.state.read().record(revision).cloned();
        let record = match in_window {
            Some(record) => Some(record),
            None => {
                if snapshot.is_none() {
                    snapshot = Some(shared.disk.snapshot()?);
                }
                snapshot.as_ref().expect("it was just taken").record(revision)?
            }
        };
        match record {
            Some(record) => entries.push(record.event.entry.clone()),
            None => {
                // Compaction has passed meanwhile; anything else is a damaged log.
                shared.state.read().check(asked)?;
                return Err(StoreError::Engine(format!(
                    "the row of revision {revision} is missing"
                )));
            }
        }
    }
    Ok(entries)
}

/// Where a watch that starts before the window is.
struct Replay {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    after: Revision,
}

enum Stage {
    Disk(Replay, VecDeque<Notice>),
    Live(WatchStream),
    Ended,
}

/// A watch: from the window where it reaches back far enough, else first from disk.
///
/// # Errors
/// [`StoreError::Compacted`], [`StoreError::Future`], [`StoreError::Closed`].
pub fn watch(
    shared: &Arc<Shared>,
    prefix: &str,
    after: Revision,
) -> Result<WatchStream, StoreError> {
    if let Some(live) = subscribe(shared, prefix, after)? {
        return Ok(live);
    }
    let replay = Replay { shared: shared.clone(), prefix: prefix.into(), after };
    let stages = stream::unfold(Stage::Disk(replay, VecDeque::new()), next_stage);
    Ok(stages.boxed())
}

async fn next_stage(stage: Stage) -> Option<(Result<Notice, StoreError>, Stage)> {
    let mut stage = stage;
    loop {
        stage = match stage {
            Stage::Ended => return None,
            Stage::Live(mut live) => {
                let notice = live.next().await?;
                return Some((notice, Stage::Live(live)));
            }
            Stage::Disk(replay, mut ready) => {
                if let Some(notice) = ready.pop_front() {
                    return Some((Ok(notice), Stage::Disk(replay, ready)));
                }
                let turned = tokio::task::spawn_blocking(move || replay.turn()).await;
                match turned.unwrap_or_else(|_| Err(StoreError::Closed)) {
                    Ok(stage) => stage,
                    Err(error) => return Some((Err(error), Stage::Ended)),
                }
            }
        };
    }
}

impl Replay {
    fn turn(mut self) -> Result<Stage, StoreError> {
        if let Some(live) = subscribe(&self.shared, &self.prefix, self.after)? {
            // Whoever asked for progress while the disk was read has not been heard.
            self.shared.feed.progress(&self.prefix);
            return Ok(Stage::Live(live));
        }
        let events = self.read_chunk()?;
        Ok(Stage::Disk(self, events))
    }

    fn read_chunk(&mut self) -> Result<VecDeque<Notice>, StoreError> {
        // What is on disk may not be acknowledged yet.
        let published = self.shared.state.read().revision;
        let snapshot = self.shared.disk.snapshot()?;
        let mut events = VecDeque::new();
        let mut reached = self.after;
        snapshot.scan(self.after + 1, |revision, row| {
            if revision > published || events.len() >= CHUNK {
                return Ok(false);
            }
            reached = revision;
            if key_of(revision, row)?.starts_with(&*self.prefix) {
                let record = Record::decode(revision, row).map_err(damaged)?;
                let before = match record.previous {
                    0 => None,
                    previous => snapshot.record(previous)?,
                };
                events.push_back(Notice::Event(with_previous(&record, before.as_ref())));
            }
            Ok(true)
        })?;
        // Rows below a floor that has moved may be gone: what was read then has gaps.
        self.shared.state.read().check(self.after)?;
        self.after = reached;
        Ok(events)
    }
}

/// The event with the attributes that the key had before.
pub fn with_previous(record: &Record, before: Option<&Record>) -> Arc<Event> {
    let mut event = (*record.event).clone();
    event.previous_attrs = before.map(|r| r.event.entry.value.attrs.clone());
    debug_assert!(event.kind != EventKind::Created || event.previous_attrs.is_none());
    Arc::new(event)
}

/// A live watch with its backlog from the window; `None` where the window starts too late.
fn subscribe(
    shared: &Arc<Shared>,
    prefix: &str,
    after: Revision,
) -> Result<Option<WatchStream>, StoreError> {
    let mut reaches = true;
    let live = shared.feed.register(prefix, || {
        let state = shared.state.read();
        state.check(after)?;
        let Some(records) = state.since(after) else {
            reaches = false;
            return Err(StoreError::Closed);
        };
        let matching = records.filter(|r| r.event.entry.key.starts_with(prefix));
        let backlog = matching.map(|r| Notice::Event(r.event.clone())).collect();
        Ok((backlog, state.revision))
    });
    match live {
        Ok(live) => Ok(Some(live.boxed())),
        Err(_) if !reaches => Ok(None),
        Err(error) => Err(error),
    }
}
