//! Pods that wait for a node.
//!
//! ```text
//!            add                    pop
//! (new) ───────────▶ active ──────────────────▶ taken ──bound, or gone──▶ (left)
//!                      ▲  ▲                       │
//!                      │  └──backoff is over── backing off ◀──error──┤
//!                      │                          ▲                  │
//!      an event helps, │   an event helps, before │                  │ unschedulable
//!      backoff is over └────────── waiting ───────┘ ◀────────────────┘
//! ```
//!
//! The active ones come out by priority, then in the order in which they became active. A waiting
//! one is tried again when something happens that may turn one of the plugins that refused it, or
//! after five minutes all the same. Those that wait for the same are asked for together.
//!
//! **Invariant:** a pod is in one place; `active`, `timed` and `groups` list exactly the pods whose
//! place says so. Times are monotonic and handed in.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::config::{Configuration, Plugins};
use super::pod::Pod;

/// How long a pod waits for an event that helps before it is tried all the same.
const WAIT_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active {
        order: u64,
    },
    Taken,
    /// Until the time.
    BackingOff(Duration),
    /// For an event that turns one of the plugins; until the time at most.
    Waiting(Plugins, Duration),
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    /// Not to be tried before this.
    backoff: Duration,
    place: Place,
}

type Order = (Reverse<i32>, u64, Arc<str>);
/// What pods wait for that wait for the same: the addresses of the [`Ask`](super::pod::Ask) and
/// the [`Labels`](super::pod::Labels) that they share, and who refused.
type Waits = (usize, usize, Plugins);

/// The queue.
#[derive(Debug)]
pub struct Queue {
    backoff_first: Duration,
    backoff_max: Duration,
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Order>,
    timed: BTreeSet<(Duration, Arc<str>)>,
    /// Each of the pods keeps alive what the key has the addresses of.
    groups: HashMap<Waits, BTreeSet<Arc<str>>>,
    /// Counts what became active, for its order.
    sequence: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(config: &Configuration) -> Self {
        Self {
            backoff_first: config.backoff_first,
            backoff_max: config.backoff_max,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            timed: BTreeSet::new(),
            groups: HashMap::new(),
            sequence: 0,
        }
    }

    /// Adds a pod, or takes in its change: one that asks for something else is tried at once.
    pub fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            let entry = Entry { pod, attempts: 0, backoff: Duration::ZERO, place: Place::Taken };
            self.entries.insert(uid.clone(), entry);
            self.activate(&uid);
            return;
        };
        let same = entry.pod.ask == pod.ask && entry.pod.labels == pod.labels;
        match entry.place {
            Place::Taken => entry.pod = pod,
            // What it shares is part of its place.
            Place::Active { .. } | Place::Waiting(..) if !same => {
                self.leave_place(&uid);
                self.entry(&uid).pod = pod;
                self.activate(&uid);
            }
            _ => entry.pod = pod,
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, uid: &str) {
        self.leave_place(uid);
        self.entries.remove(uid);
    }

    /// The next pod to decide for.
    pub fn pop(&mut self) -> Option<Arc<Pod>> {
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entry(&uid);
        entry.place = Place::Taken;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// Takes a pod that is not its turn yet.
    pub fn take(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let free = |entry: &Entry| !matches!(entry.place, Place::Taken);
        self.entries.get(uid).filter(|entry| free(entry))?;
        self.leave_place(uid);
        let entry = self.entry(uid);
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// Whether the pod is here and nobody decides for it.
    pub fn has_free(&self, uid: &str) -> bool {
        self.entries.get(uid).is_some_and(|entry| !matches!(entry.place, Place::Taken))
    }

    /// No node takes the pod: it waits for an event that turns one of `plugins`.
    pub fn unschedulable(&mut self, uid: &str, plugins: Plugins, now: Duration) {
        let until = now + WAIT_MAX;
        self.back_off(uid, now, |_| (Place::Waiting(plugins, until), until));
        let Some(entry) = self.entries.get(uid) else { return };
        let (waits, uid) = (waits_for(&entry.pod, plugins), entry.pod.uid.clone());
        self.groups.entry(waits).or_default().insert(uid);
    }

    /// Something else failed: it is tried again after its backoff.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        self.back_off(uid, now, |until| (Place::BackingOff(until), until));
    }

    fn back_off(
        &mut self,
        uid: &str,
        now: Duration,
        place: impl FnOnce(Duration) -> (Place, Duration),
    ) {
        let (first, max) = (self.backoff_first, self.backoff_max);
        self.leave_place(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(10);
        entry.backoff = now + first.saturating_mul(1 << doublings).min(max);
        let (place, until) = place(entry.backoff);
        entry.place = place;
        let uid = entry.pod.uid.clone();
        self.timed.insert((until, uid));
    }

    /// Something happened; `helps` tells whether a pod that these plugins refused has to be tried
    /// again for it.
    pub fn wake(&mut self, now: Duration, mut helps: impl FnMut(&Pod, Plugins) -> bool) {
        let mut woken: Vec<Arc<str>> = Vec::new();
        for ((_, _, plugins), group) in &self.groups {
            let sample = group.first().and_then(|uid| self.entries.get(uid));
            if sample.is_some_and(|entry| helps(&entry.pod, *plugins)) {
                woken.extend(group.iter().cloned());
            }
        }
        // In the order in which they were created, so that none is overtaken by its like.
        woken.sort_by_cached_key(|uid| {
            self.entries.get(uid).map(|entry| (entry.pod.created, entry.pod.key.clone()))
        });
        for uid in woken {
            let backoff = self.entry(&uid).backoff;
            if backoff <= now {
                self.activate(&uid);
            } else {
                self.leave_place(&uid);
                self.entry(&uid).place = Place::BackingOff(backoff);
                self.timed.insert((backoff, uid));
            }
        }
    }

    /// Activates what has backed off, or waited, for long enough.
    pub fn flush(&mut self, now: Duration) {
        while let Some((at, uid)) = self.timed.first().cloned() {
            if at > now {
                break;
            }
            self.activate(&uid);
        }
    }

    /// When [`Self::flush`] has something to do next.
    pub fn due(&self) -> Option<Duration> {
        self.timed.first().map(|(at, _)| *at)
    }

    /// Whether [`Self::pop`] has something.
    pub fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// Whether a pod waits for an event.
    pub fn has_waiting(&self) -> bool {
        !self.groups.is_empty()
    }

    fn entry(&mut self, uid: &str) -> &mut Entry {
        self.entries.get_mut(uid).expect("what has a place has an entry")
    }

    fn activate(&mut self, uid: &str) {
        self.leave_place(uid);
        self.sequence += 1;
        let order = self.sequence;
        let entry = self.entry(uid);
        entry.place = Place::Active { order };
        let place = (Reverse(entry.pod.priority), order, entry.pod.uid.clone());
        self.active.insert(place);
    }

    /// Takes the pod out of the list that its place is in; it counts as taken until it gets one.
    fn leave_place(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let (place, pod) = (std::mem::replace(&mut entry.place, Place::Taken), entry.pod.clone());
        match place {
            Place::Active { order } => {
                self.active.remove(&(Reverse(pod.priority), order, pod.uid.clone()));
            }
            Place::Taken => {}
            Place::BackingOff(until) => {
                self.timed.remove(&(until, pod.uid.clone()));
            }
            Place::Waiting(plugins, until) => {
                self.timed.remove(&(until, pod.uid.clone()));
                let waits = waits_for(&pod, plugins);
                if let Some(group) = self.groups.get_mut(&waits) {
                    group.remove(&pod.uid);
                    if group.is_empty() {
                        self.groups.remove(&waits);
                    }
                }
            }
        }
    }
}

fn waits_for(pod: &Pod, plugins: Plugins) -> Waits {
    (Arc::as_ptr(&pod.ask).addr(), Arc::as_ptr(&pod.labels).addr(), plugins)
}
