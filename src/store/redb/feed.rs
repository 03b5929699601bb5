//! The fan-out to watchers.
//!
//! Watchers lie in shards by the first element of their prefix, so an event costs the watchers of
//! its kind and no others. Every watcher has a bounded queue; a group of events is put into it
//! under one lock and wakes its task once. A watcher whose queue is full is ended.
//!
//! ```text
//! registered ──push──▶ queued ──poll──▶ told ──(queue full, or store closed)──▶ ended with an error
//! ```
//!
//! **Invariant:** a watcher registered at revision R gets every event after R once: it registers
//! under the lock that dispatching takes, and skips what is not after R.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::state::shard_of;
use crate::store::{Event, Notice, Revision, StoreError};

/// All watchers.
pub struct Feed {
    hub: Mutex<Hub>,
    buffer: usize,
}

#[derive(Default)]
struct Hub {
    dispatched: Revision,
    /// Watchers whose prefix names one shard, by its name.
    shards: HashMap<Box<str>, Vec<Arc<Watcher>>>,
    /// Watchers whose prefix has no `/`: they may see keys of several shards.
    broad: Vec<Arc<Watcher>>,
    closed: bool,
}

impl Hub {
    fn watchers(&mut self, prefix: &str) -> &mut Vec<Arc<Watcher>> {
        if !prefix.contains('/') {
            return &mut self.broad;
        }
        self.shards.entry(shard_of(prefix).into()).or_default()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.shards.values().flatten().chain(&self.broad)
    }
}

struct Watcher {
    prefix: Box<str>,
    after: Revision,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    notices: VecDeque<Notice>,
    end: Option<StoreError>,
    waker: Option<Waker>,
}

impl Watcher {
    /// Queues what of `events` is this watcher's. False: it has ended.
    fn push(&self, events: &[&Arc<Event>], buffer: usize) -> bool {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return false;
        }
        let before = queue.notices.len();
        for event in events {
            if event.revision <= self.after || !event.entry.key.starts_with(&*self.prefix) {
                continue;
            }
            if queue.notices.len() >= buffer {
                queue.end = Some(StoreError::TooSlow(buffer));
                break;
            }
            queue.notices.push_back(Notice::Event((*event).clone()));
        }
        let going_on = queue.end.is_none();
        let waker =
            if queue.notices.len() > before || !going_on { queue.waker.take() } else { None };
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        going_on
    }

    fn end(&self, error: StoreError) {
        let mut queue = self.queue.lock();
        queue.end.get_or_insert(error);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn progress(&self, revision: Revision) {
        let mut queue = self.queue.lock();
        // One progress at the end of the queue says all that several would.
        if let Some(Notice::Progress(last)) = queue.notices.back_mut() {
            *last = revision;
            return;
        }
        queue.notices.push_back(Notice::Progress(revision));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Feed {
    /// No watchers yet; each will have room for `buffer` notices.
    pub fn new(buffer: usize) -> Arc<Self> {
        Arc::new(Self { hub: Mutex::default(), buffer })
    }

    /// Registers a watcher. `backlog` answers, with nothing dispatched meanwhile, the events that
    /// it has missed and the revision that they go up to.
    ///
    /// # Errors
    /// What `backlog` answers, and [`StoreError::Closed`].
    pub fn register(
        self: &Arc<Self>,
        prefix: &str,
        backlog: impl FnOnce() -> Result<(VecDeque<Notice>, Revision), StoreError>,
    ) -> Result<Subscription, StoreError> {
        let mut hub = self.hub.lock();
        if hub.closed {
            return Err(StoreError::Closed);
        }
        let (backlog, after) = backlog()?;
        let watcher = Watcher { prefix: prefix.into(), after, queue: Mutex::default() };
        let watcher = Arc::new(watcher);
        hub.watchers(prefix).push(watcher.clone());
        Ok(Subscription { feed: self.clone(), watcher, backlog, ended: false })
    }

    /// Hands the events of a group, in order, to whom they concern.
    pub fn dispatch(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        let mut hub = self.hub.lock();
        hub.dispatched = last.revision;
        let mut by_shard: HashMap<&str, Vec<&Arc<Event>>> = HashMap::new();
        for event in events {
            let shard = shard_of(&event.entry.key);
            if hub.shards.contains_key(shard) {
                by_shard.entry(shard).or_default().push(event);
            }
        }
        for (shard, events) in by_shard {
            let watchers = hub.shards.get_mut(shard).expect("the shard was found above");
            watchers.retain(|watcher| watcher.push(&events, self.buffer));
        }
        if !hub.broad.is_empty() {
            let events: Vec<&Arc<Event>> = events.iter().collect();
            hub.broad.retain(|watcher| watcher.push(&events, self.buffer));
        }
    }

    /// Tells the watchers below `prefix` how far they have come.
    pub fn progress(&self, prefix: &str) {
        let hub = self.hub.lock();
        for watcher in hub.all().filter(|w| w.prefix.starts_with(prefix)) {
            watcher.progress(hub.dispatched.max(watcher.after));
        }
    }

    /// Ends all watchers.
    pub fn close(&self) {
        let mut hub = self.hub.lock();
        hub.closed = true;
        for watcher in hub.all() {
            watcher.end(StoreError::Closed);
        }
        hub.shards.clear();
        hub.broad.clear();
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.hub.lock().all().count()
    }
}

/// What one watcher receives.
pub struct Subscription {
    feed: Arc<Feed>,
    watcher: Arc<Watcher>,
    backlog: VecDeque<Notice>,
    ended: bool,
}

impl futures::Stream for Subscription {
    type Item = Result<Notice, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(notice) = self.backlog.pop_front() {
            return Poll::Ready(Some(Ok(notice)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let watcher = self.watcher.clone();
        let mut queue = watcher.queue.lock();
        if let Some(notice) = queue.notices.pop_front() {
            // Takes all that is queued at once: the dispatcher and this task meet once a group.
            self.backlog = std::mem::take(&mut queue.notices);
            return Poll::Ready(Some(Ok(notice)));
        }
        if let Some(error) = queue.end.clone() {
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            queue.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut hub = self.feed.hub.lock();
        hub.watchers(&self.watcher.prefix).retain(|w| !Arc::ptr_eq(w, &self.watcher));
        let shard = shard_of(&self.watcher.prefix);
        if hub.shards.get(shard).is_some_and(Vec::is_empty) {
            hub.shards.remove(shard);
        }
    }
}
