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
//! one is tried again when something happens that may turn one of the rules that refused it, or
//! after five minutes all the same.
//!
//! **Invariant:** a pod is in one place; `active` and `timed` list exactly the pods whose place
//! says so. Times are monotonic and handed in.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::filter::Rules;
use super::pod::Pod;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
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
    /// For an event that turns one of the rules; until the time at most.
    Waiting(Rules, Duration),
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

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Order>,
    timed: BTreeSet<(Duration, Arc<str>)>,
    /// Counts what became active, for its order.
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or takes in its change: one that asks for something else is tried at once.
    pub fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            let entry = Entry { pod, attempts: 0, backoff: Duration::ZERO, place: Place::Taken };
            self.entries.insert(uid.clone(), entry);
            self.activate(&uid);
            return;
        };
        let same = entry.pod.asks_the_same(&pod);
        let was_active = matches!(entry.place, Place::Active { .. });
        let waits = matches!(entry.place, Place::Waiting(..));
        if was_active && !same {
            // Its priority is part of its place.
            self.leave_place(&uid);
            self.entry(&uid).pod = pod;
            self.activate(&uid);
            return;
        }
        entry.pod = pod;
        if waits && !same {
            self.activate(&uid);
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

    /// No node takes the pod: it waits for an event that turns one of `rules`.
    pub fn unschedulable(&mut self, uid: &str, rules: Rules, now: Duration) {
        let until = now + WAIT_MAX;
        self.back_off(uid, now, |_| (Place::Waiting(rules, until), until));
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
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(10);
        entry.backoff = now + BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        let (place, until) = place(entry.backoff);
        entry.place = place;
        let uid = entry.pod.uid.clone();
        self.timed.insert((until, uid));
    }

    /// Something happened that may turn `rules`.
    pub fn wake(&mut self, rules: Rules, now: Duration) {
        if rules.is_empty() {
            return;
        }
        let woken: Vec<(Arc<str>, Duration)> = self
            .entries
            .iter()
            .filter_map(|(uid, entry)| match entry.place {
                Place::Waiting(refused, _) if refused.meets(rules) || refused.is_empty() => {
                    Some((uid.clone(), entry.backoff))
                }
                _ => None,
            })
            .collect();
        for (uid, backoff) in woken {
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
            Place::BackingOff(until) | Place::Waiting(_, until) => {
                self.timed.remove(&(until, pod.uid.clone()));
            }
        }
    }
}
