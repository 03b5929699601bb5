//! Keys to work on.
//!
//! A key is handed out to one worker at a time; added while it is being worked on, it comes once
//! more afterwards; added many times while it waits, it comes once. Keys that failed come back
//! later and later. After work on a key it can be held back for a while, so that a costly key that
//! changes all the time cannot take all the time there is.
//!
//! ```text
//!   add ──▶ ready ──next──▶ taken ──done──▶ (gone, or ready again if added meanwhile)
//!            ▲                 │
//!   add_after│retry            ▼ hold
//!           delayed ◀──────────┘
//! ```
//!
//! **Invariant:** a key is at most once in `ready`, and never handed out while taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::backoff::Backoff;
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;

/// How many held keys are remembered before those that are over are swept out.
const HELD_MAX: usize = 4096;

/// What a reconcile says when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Come back after this time in any case.
    pub again_in: Option<Duration>,
    /// Do not come back before this time, whatever changes.
    pub hold: Duration,
}

impl Outcome {
    /// Nothing more to do until something changes.
    pub fn done() -> Self {
        Self::default()
    }

    /// Come back after `delay`.
    pub fn again_in(delay: Duration) -> Self {
        Self { again_in: Some(delay), hold: Duration::ZERO }
    }

    /// The same, held back by `hold`.
    #[must_use]
    pub fn holding(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
}

struct Inner<K> {
    ready: VecDeque<K>,
    /// Every key in `ready`.
    queued: HashSet<K>,
    taken: HashSet<K>,
    /// Added while taken.
    again: HashSet<K>,
    /// When a delayed key falls due; the heap may hold older entries, which are skipped.
    due: HashMap<K, Instant>,
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    slots: BTreeMap<u64, K>,
    next_slot: u64,
    held: HashMap<K, Instant>,
    failures: HashMap<K, Backoff>,
    rng: Rng,
}

/// A queue of keys; clones share it.
pub struct WorkQueue<K> {
    inner: Arc<Mutex<Inner<K>>>,
    wake: Arc<Notify>,
    first: Duration,
    max: Duration,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            wake: self.wake.clone(),
            first: self.first,
            max: self.max,
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> WorkQueue<K> {
    /// A queue whose failed keys come back after 5 ms at first and 1000 s at most, as in
    /// Kubernetes.
    pub fn new(seed: u64) -> Self {
        Self::with_backoff(seed, Duration::from_millis(5), Duration::from_secs(1000))
    }

    /// A queue whose failed keys come back after `first`, doubling up to `max`.
    pub fn with_backoff(seed: u64, first: Duration, max: Duration) -> Self {
        let inner = Inner {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            taken: HashSet::new(),
            again: HashSet::new(),
            due: HashMap::new(),
            heap: BinaryHeap::new(),
            slots: BTreeMap::new(),
            next_slot: 0,
            held: HashMap::new(),
            failures: HashMap::new(),
            rng: Rng::seeded(seed),
        };
        Self { inner: Arc::new(Mutex::new(inner)), wake: Arc::new(Notify::new()), first, max }
    }

    /// Asks for work on `key`.
    pub fn add(&self, key: K) {
        self.inner.lock().add(key, Instant::now());
        self.wake.notify_one();
    }

    /// Asks for work on `key` after `delay`; an earlier wish stands.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.inner.lock().delay(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Asks for work on `key` after its backoff, and counts a failure. Returns the delay.
    pub fn retry(&self, key: K) -> Duration {
        let mut inner = self.inner.lock();
        let mut backoff =
            inner.failures.remove(&key).unwrap_or_else(|| Backoff::new(self.first, self.max));
        let delay = backoff.next_delay(&mut inner.rng);
        inner.failures.insert(key.clone(), backoff);
        inner.delay(key, Instant::now() + delay);
        drop(inner);
        self.wake.notify_one();
        delay
    }

    /// Forgets the failures of `key`.
    pub fn forget(&self, key: &K) {
        self.inner.lock().failures.remove(key);
    }

    /// The next key; it must be given back with [`Self::done`].
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let wait = {
                let mut inner = self.inner.lock();
                let now = Instant::now();
                inner.promote(now);
                if let Some(key) = inner.take() {
                    if !inner.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                inner.heap.peek().map(|Reverse((at, _))| *at)
            };
            match wait {
                None => woken.await,
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Gives `key` back; it will not be handed out again before `hold` has passed.
    pub fn done(&self, key: &K, hold: Duration) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.taken.remove(key);
        inner.held.remove(key);
        if !hold.is_zero() {
            inner.held.insert(key.clone(), now + hold);
        }
        if inner.again.remove(key) {
            inner.add(key.clone(), now);
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// How many keys wait, due and delayed ones.
    pub fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.ready.len() + inner.due.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs `reconcile` on the keys with `workers` tasks until `shutdown`; a failed one is logged
    /// and retried.
    pub async fn run<F, Fut, E>(
        &self,
        name: &'static str,
        workers: usize,
        shutdown: Shutdown,
        reconcile: F,
    ) where
        F: Fn(K) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<Outcome, E>> + Send,
        E: std::fmt::Display + Send,
        K: std::fmt::Display + Sync,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers {
            let (queue, reconcile, shutdown) = (self.clone(), reconcile.clone(), shutdown.clone());
            tasks.spawn(async move {
                loop {
                    let key = tokio::select! {
                        () = shutdown.cancelled() => return,
                        key = queue.next() => key,
                    };
                    queue.work(name, key, reconcile.clone()).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn work<F, Fut, E>(&self, name: &'static str, key: K, reconcile: F)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Result<Outcome, E>>,
        E: std::fmt::Display,
        K: std::fmt::Display,
    {
        match reconcile(key.clone()).await {
            Ok(outcome) => {
                self.forget(&key);
                self.done(&key, outcome.hold);
                if let Some(delay) = outcome.again_in {
                    self.add_after(key, delay);
                }
            }
            Err(error) => {
                self.done(&key, Duration::ZERO);
                let delay = self.retry(key.clone());
                tracing::info!(controller = name, %key, %error, delay_ms = delay.as_millis() as u64,
                    "reconcile failed and will be retried");
            }
        }
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn add(&mut self, key: K, now: Instant) {
        if self.taken.contains(&key) {
            self.again.insert(key);
            return;
        }
        match self.held.get(&key).copied() {
            Some(until) if until > now => return self.delay(key, until),
            Some(_) => {
                self.held.remove(&key);
            }
            None => {}
        }
        self.due.remove(&key);
        if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: K, at: Instant) {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        self.due.insert(key.clone(), at);
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(slot, key);
        self.heap.push(Reverse((at, slot)));
    }

    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, slot))) = self.heap.peek().copied() {
            if at > now {
                break;
            }
            self.heap.pop();
            let key = self.slots.remove(&slot).expect("a slot lives as long as its heap entry");
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
        if self.held.len() >= HELD_MAX {
            self.held.retain(|_, until| *until > now);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.taken.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(queue.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_work_comes_once_more_afterwards() {
        let queue = queue();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        queue.add("a");
        assert!(queue.next().now_or_never().is_none(), "one worker at a time");
        queue.done(&key, Duration::ZERO);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a", Duration::ZERO);
        assert!(queue.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_keys_come_later_and_later() {
        let queue = queue();
        let delays: Vec<u128> = (0..4).map(|_| queue.retry("a").as_millis()).collect();
        assert!(delays.windows(2).all(|pair| pair[0] < pair[1]), "{delays:?}");
        queue.forget(&"a");
        assert!(queue.retry("a") <= Duration::from_millis(6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_stands() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a", Duration::ZERO);
        let more = tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
        assert!(more.is_err(), "the later wishes are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_key_waits_although_it_was_added() {
        let queue = queue();
        queue.add("a");
        let key = queue.next().await;
        queue.done(&key, Duration::from_secs(3));
        let start = Instant::now();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 3);
    }
}
