//! The one writer: takes what is queued, judges it, commits it with one sync, publishes it.
//!
//! ```text
//! queue ─▶ judge (against the state, then against the group) ─▶ commit ─▶ publish ─▶ answer ─▶ dispatch
//!                    │ refused                                     │ failed: every write of the group
//!                    ▼                                             ▼ is answered with the error
//!                  answer                                        close, open anew before the next
//! ```
//!
//! While a group is being synced the next one queues, so groups grow with the load. Expired keys
//! are deleted, and rows that nobody can read are removed, as part of the groups.
//!
//! **Invariant:** nothing is readable or acknowledged before its commit has returned; an answer
//! that rests on another write of the group waits for the commit as well.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shared;
use super::disk::Floor;
use super::history::with_previous;
use super::row::Record;
use crate::store::{Entry, Event, EventKind, Expect, Revision, StoreError, Write};

/// At most so many requests, and bytes, a group.
const GROUP_WRITES: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;
/// At most so many expired keys a group.
const GROUP_EXPIRED: usize = 256;
/// At most so many rows are swept with a group.
const SWEEP: u64 = 1024;
/// A commit of its own is made for sweeping once so many revisions wait for it.
const SWEEP_BACKLOG: u64 = 8192;
/// How often the writer looks at the clock when nothing is asked of it.
const IDLE: Duration = Duration::from_secs(1);
/// After a failed commit, how long until the database is opened anew.
const RETRY: Duration = Duration::from_secs(1);
/// How often a commit also saves what makes opening after a crash fast (it costs a second sync).
const QUICK_REPAIR: Duration = Duration::from_secs(30);
/// How far apart the marks are by which revisions are dated.
const MARK: Duration = Duration::from_secs(5);

pub type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub enum Request {
    Write {
        write: Write,
        answer: Answer<Entry>,
        permit: OwnedSemaphorePermit,
    },
    Compact {
        before: Revision,
        answer: Answer<()>,
    },
    /// Look at the clock now.
    Turn {
        answer: Answer<()>,
    },
}

/// The queue in front of the writer. It is bounded by the permits that writes carry.
#[derive(Default)]
pub struct Inbox {
    queue: Mutex<(VecDeque<Request>, bool)>,
    arrived: Condvar,
}

impl Inbox {
    /// Queues a request.
    ///
    /// # Errors
    /// [`StoreError::Closed`] after [`Self::close`].
    pub fn push(&self, request: Request) -> Result<(), StoreError> {
        let mut queue = self.queue.lock();
        if queue.1 {
            return Err(StoreError::Closed);
        }
        queue.0.push_back(request);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes no more requests; those that are queued are still done.
    pub fn close(&self) {
        self.queue.lock().1 = true;
        self.arrived.notify_one();
    }

    /// The next group; empty after `IDLE` without a request. `None`: closed and done.
    fn take(&self) -> Option<Vec<Request>> {
        let mut queue = self.queue.lock();
        if queue.0.is_empty() && !queue.1 {
            self.arrived.wait_for(&mut queue, IDLE);
        }
        if queue.0.is_empty() && queue.1 {
            return None;
        }
        let (mut bytes, mut count) = (0, 0);
        for request in queue.0.iter().take(GROUP_WRITES) {
            bytes += match request {
                Request::Write { write: Write::Put { value, .. }, .. } => value.bytes.len(),
                _ => 0,
            };
            if bytes > GROUP_BYTES && count > 0 {
                break;
            }
            count += 1;
        }
        Some(queue.0.drain(..count).collect())
    }
}

/// The writer's own state.
pub struct Writer {
    shared: Arc<Shared>,
    floor: Floor,
    /// When keys expire: (milliseconds since 1970, revision that set it, key).
    expiry: BTreeSet<(u64, Revision, Arc<str>)>,
    /// Which revision was the newest at which monotonic time.
    marks: VecDeque<(Duration, Revision)>,
    /// The newest revision that has outlived the retention.
    aged: Revision,
    failed: Option<(Duration, StoreError)>,
    repaired: Duration,
}

/// What a group has come to.
#[derive(Default)]
struct Group {
    records: Vec<Record>,
    /// The newest state of the keys written in the group; `None`: deleted.
    newest: HashMap<Arc<str>, Option<Arc<Event>>>,
    answers: Vec<(Answer<Entry>, Result<Entry, StoreError>)>,
    compactions: Vec<Answer<()>>,
    turns: Vec<Answer<()>>,
    floor: Revision,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Writer {
    /// A writer over an opened store, whose keys expire as `expiry` says.
    pub fn new(
        shared: Arc<Shared>,
        floor: Floor,
        expiry: BTreeSet<(u64, Revision, Arc<str>)>,
    ) -> Self {
        let repaired = shared.clock.monotonic();
        let marks = VecDeque::new();
        Self { shared, floor, expiry, marks, aged: 0, failed: None, repaired }
    }

    /// Serves the inbox until it is closed.
    pub fn run(mut self) {
        while let Some(requests) = self.shared.inbox.take() {
            self.serve(requests);
        }
        self.shared.feed.close();
        self.shared.disk.close();
    }

    fn serve(&mut self, requests: Vec<Request>) {
        let mut group = Group { floor: self.floor.floor, ..Group::default() };
        if let Err(error) = self.recover() {
            refuse(requests, &error);
            return;
        }
        self.age();
        group.floor = group.floor.max(self.aged);
        let due = self.expire(&mut group);
        for request in requests {
            self.judge_request(request, &mut group);
        }
        let to = self.sweep_target(&group);
        if group.records.is_empty() && to == self.floor {
            self.expiry.extend(due);
            group.answer();
            return;
        }
        match self.commit(&group, to) {
            Ok(()) => self.publish(group, to),
            Err(error) => {
                tracing::error!(%error, writes = group.records.len(), "a commit failed");
                self.expiry.extend(due);
                self.failed = Some((self.shared.clock.monotonic(), error.clone()));
                group.fail(&error);
            }
        }
    }

    fn commit(&mut self, group: &Group, to: Floor) -> Result<(), StoreError> {
        let now = self.shared.clock.monotonic();
        let repair = now.saturating_sub(self.repaired) >= QUICK_REPAIR;
        if repair {
            self.repaired = now;
        }
        self.shared.disk.commit(&group.records, self.floor, to, repair)
    }

    /// Opens the database anew after a failure, and takes in what has become durable after all.
    fn recover(&mut self) -> Result<(), StoreError> {
        let Some((at, error)) = &self.failed else { return Ok(()) };
        if self.shared.clock.monotonic().saturating_sub(*at) < RETRY {
            return Err(error.clone());
        }
        let recovered = self.reopen();
        match recovered {
            Ok(()) => {
                tracing::info!("the store is open again");
                self.failed = None;
            }
            Err(error) => {
                self.failed = Some((self.shared.clock.monotonic(), error.clone()));
                return Err(error);
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.shared.disk.is_closed() {
            self.shared.disk.reopen().map_err(|error| StoreError::Engine(error.to_string()))?;
        }
        let known = self.shared.state.read().revision;
        let snapshot = self.shared.disk.snapshot()?;
        let mut late = Vec::new();
        snapshot.scan(known + 1, |revision, row| {
            let record = Record::decode(revision, row).map_err(super::disk::damaged)?;
            let before = match record.previous {
                0 => None,
                previous => snapshot.record(previous)?,
            };
            let event = with_previous(&record, before.as_ref());
            late.push(Record { event, ..record });
            Ok(true)
        })?;
        let to = snapshot.floor;
        drop(snapshot);
        let group = Group { records: late, ..Group::default() };
        self.publish(group, to);
        Ok(())
    }

    /// Dates the newest revision, and finds the newest that has outlived the retention.
    fn age(&mut self) {
        let now = self.shared.clock.monotonic();
        let newest = self.shared.state.read().revision;
        let last = self.marks.back();
        if last.is_none_or(|(at, rev)| now.saturating_sub(*at) >= MARK && *rev != newest) {
            self.marks.push_back((now, newest));
        }
        while let Some((at, revision)) = self.marks.front().copied() {
            if now.saturating_sub(at) <= self.shared.retention {
                break;
            }
            self.aged = revision;
            self.marks.pop_front();
        }
    }

    /// Puts the deletion of expired keys into the group. Answers what to put back if it fails.
    fn expire(&mut self, group: &mut Group) -> Vec<(u64, Revision, Arc<str>)> {
        let now = self.now_ms();
        let mut due = Vec::new();
        while due.len() < GROUP_EXPIRED && self.expiry.first().is_some_and(|(at, ..)| *at <= now) {
            due.extend(self.expiry.pop_first());
        }
        due.retain(|(_, revision, key)| {
            let state = self.shared.state.read();
            let Some(event) = state.get(key).filter(|e| e.revision == *revision) else {
                return false;
            };
            let write = Write::Delete {
                key: key.clone(),
                value: event.entry.value.clone(),
                expect: Expect::Modified(*revision),
            };
            drop(state);
            self.judge(write, group).is_ok()
        });
        due
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.shared.clock.now().as_millisecond()).unwrap_or(0)
    }

    fn judge_request(&self, request: Request, group: &mut Group) {
        match request {
            Request::Write { write, answer, permit } => {
                // A refusal that rests on what is durable need not wait for the commit.
                let (Write::Put { key, .. } | Write::Delete { key, .. }) = &write;
                let rests_on_group = group.newest.contains_key(key);
                let judged = self.judge(write, group);
                if judged.is_err() && !rests_on_group {
                    let _ = answer.send(judged);
                    return;
                }
                group.answers.push((answer, judged));
                group.permits.push(permit);
            }
            Request::Compact { before, answer } => {
                let newest = self.shared.state.read().revision;
                if before > newest {
                    let _ = answer.send(Err(StoreError::Future { asked: before, newest }));
                } else {
                    group.floor = group.floor.max(before);
                    group.compactions.push(answer);
                }
            }
            Request::Turn { answer } => group.turns.push(answer),
        }
    }

    fn judge(&self, write: Write, group: &mut Group) -> Result<Entry, StoreError> {
        let (key, value, expect, put, ttl) = match write {
            Write::Put { key, value, expect, ttl } => (key, value, expect, true, ttl),
            Write::Delete { key, value, expect } => (key, value, expect, false, None),
        };
        let (old, newest) = {
            let state = self.shared.state.read();
            let old = match group.newest.get(&key) {
                Some(newest) => newest.clone(),
                None => state.get(&key).cloned(),
            };
            (old, state.revision)
        };
        let holds = match (expect, &old) {
            (Expect::Absent, old) => old.is_none() && put,
            (Expect::Modified(revision), Some(old)) => old.revision == revision,
            (Expect::Modified(_), None) => false,
        };
        if !holds {
            return Err(StoreError::Conflict(old.map(|old| old.entry.clone())));
        }
        let revision = newest + group.records.len() as u64 + 1;
        let kind = match (put, &old) {
            (false, _) => EventKind::Deleted,
            (true, None) => EventKind::Created,
            (true, Some(_)) => EventKind::Modified,
        };
        let created = old.as_ref().map_or(revision, |old| old.entry.created);
        let entry = Entry { key: key.clone(), value, created, modified: revision };
        let previous_attrs = old.as_ref().map(|old| old.entry.value.attrs.clone());
        let event = Arc::new(Event { revision, kind, entry: entry.clone(), previous_attrs });
        group.newest.insert(key, put.then(|| event.clone()));
        group.records.push(Record {
            event,
            previous: old.map_or(0, |old| old.revision),
            expires_ms: ttl.map_or(0, |ttl| self.now_ms() + ttl.as_millis() as u64),
        });
        Ok(entry)
    }

    /// How far compaction goes with this group.
    fn sweep_target(&self, group: &Group) -> Floor {
        let asked = !group.compactions.is_empty() && group.floor > self.floor.floor;
        let backlog = group.floor - self.floor.swept;
        let due = asked || backlog >= SWEEP_BACKLOG || (!group.records.is_empty() && backlog > 0);
        if !due {
            // The floor rises in memory all the same once there is something to commit it with;
            // until then older revisions are just kept longer.
            return self.floor;
        }
        let swept = (self.floor.swept + SWEEP).min(group.floor);
        Floor { floor: group.floor, swept }
    }

    /// Makes a committed group readable, answers it, tells the watchers.
    fn publish(&mut self, mut group: Group, to: Floor) {
        let records = std::mem::take(&mut group.records);
        let events: Vec<Arc<Event>> = records.iter().map(|r| r.event.clone()).collect();
        for record in records.iter().filter(|r| r.expires_ms != 0) {
            let event = &record.event;
            self.expiry.insert((record.expires_ms, event.revision, event.entry.key.clone()));
        }
        self.floor = to;
        {
            let mut state = self.shared.state.write();
            for record in records {
                state.apply(record, self.shared.window);
            }
            state.raise_floor(to.floor);
        }
        group.answer();
        self.shared.feed.dispatch(&events);
    }
}

impl Group {
    fn answer(self) {
        drop(self.permits);
        for (answer, result) in self.answers {
            // A client that has gone away does not want to know.
            let _ = answer.send(result);
        }
        for answer in self.compactions.into_iter().chain(self.turns) {
            let _ = answer.send(Ok(()));
        }
    }

    fn fail(self, error: &StoreError) {
        for (answer, _) in self.answers {
            let _ = answer.send(Err(error.clone()));
        }
        for answer in self.compactions.into_iter().chain(self.turns) {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

fn refuse(requests: Vec<Request>, error: &StoreError) {
    for request in requests {
        match request {
            Request::Write { answer, .. } => drop(answer.send(Err(error.clone()))),
            Request::Compact { answer, .. } | Request::Turn { answer } => {
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}
