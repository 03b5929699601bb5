//! Which pod is next, and what wakes those that found no node.
//!
//! ```text
//!  add ──▶ active ──pop──▶ (being decided) ──▶ bound, gone
//!            ▲                   │ failed
//!            │ due               ▼
//!          backoff ◀── wake ── waiting
//! ```
//!
//! Pure: time comes in as a [`Duration`] since a start. The oldest of the highest priority goes
//! first. A pod that no node would take waits until something changes that one of the rules that
//! refused it looks at (Kubernetes' queueing hints), or five minutes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::filter::Rule;
use super::model::Pod;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const WAITING_MAX: Duration = Duration::from_secs(300);

/// What happened in the cluster that may let a waiting pod run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// A node came, or changed in what scheduling looks at.
    NodeChanged,
    /// A pod went, and what it claimed is free.
    PodGone,
}

impl Hint {
    fn may_help(self, rules: &BTreeSet<Rule>) -> bool {
        match self {
            Self::NodeChanged => true,
            Self::PodGone => {
                rules.is_empty()
                    || rules.contains(&Rule::Resources)
                    || rules.contains(&Rule::HostPorts)
            }
        }
    }
}

type Order = (Reverse<i32>, String, u64);

#[derive(Debug)]
enum Place {
    Active(Order),
    Backoff(Duration, u64),
    /// Since when, and what refused it.
    Waiting(Duration, BTreeSet<Rule>),
    /// Handed out; not to be handed out again before it is put back.
    Taken,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    place: Place,
    attempts: u32,
    last_tried: Duration,
}

/// The queue; every pod in it by uid.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Order, String>,
    backoff: BTreeMap<(Duration, u64), String>,
    sequence: u64,
}

impl Queue {
    /// Takes a new pod, or the changed state of one that is here. A change wakes it.
    pub fn add(&mut self, pod: Arc<Pod>, now: Duration) {
        let uid = pod.uid.clone();
        match self.entries.get_mut(&uid) {
            Some(entry) => {
                entry.pod = pod;
                if matches!(entry.place, Place::Waiting(..)) {
                    self.wake(&uid, now);
                }
            }
            None => {
                let (place, attempts) = (Place::Taken, 0);
                self.entries.insert(
                    uid.clone(),
                    Entry { pod, place, attempts, last_tried: Duration::ZERO },
                );
                self.activate(&uid);
            }
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to decide, if one is due.
    pub fn pop(&mut self, now: Duration) -> Option<Arc<Pod>> {
        self.promote(now);
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid).expect("active pods have entries");
        entry.place = Place::Taken;
        entry.attempts += 1;
        entry.last_tried = now;
        Some(entry.pod.clone())
    }

    /// Puts back a pod that found no node; `rules` refused it.
    pub fn unschedulable(&mut self, uid: &str, rules: BTreeSet<Rule>, now: Duration) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Waiting(now, rules);
        }
    }

    /// Puts back a pod whose binding failed: it is tried again after its backoff.
    pub fn retry(&mut self, uid: &str, now: Duration) {
        self.wake(uid, now);
    }

    /// Wakes the waiting pods that `hint` may help.
    pub fn hint(&mut self, hint: Hint, now: Duration) {
        let helped = |entry: &Entry| match &entry.place {
            Place::Waiting(_, rules) => hint.may_help(rules),
            _ => false,
        };
        self.wake_all(helped, now);
    }

    /// When the queue has something to do by itself; `None`: only when something changes.
    pub fn due(&self, now: Duration) -> Option<Duration> {
        if !self.active.is_empty() {
            return Some(now);
        }
        let backoff = self.backoff.keys().next().map(|(at, _)| *at);
        let waiting = self.entries.values().filter_map(|e| match e.place {
            Place::Waiting(since, _) => Some(since + WAITING_MAX),
            _ => None,
        });
        waiting.chain(backoff).min()
    }

    /// How many pods are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn promote(&mut self, now: Duration) {
        while let Some((&(at, sequence), _)) = self.backoff.first_key_value() {
            if at > now {
                break;
            }
            let uid = self.backoff.remove(&(at, sequence)).expect("found above");
            self.activate(&uid);
        }
        let tired = |entry: &Entry| match &entry.place {
            Place::Waiting(since, _) => *since + WAITING_MAX <= now,
            _ => false,
        };
        if self.entries.values().any(tired) {
            self.wake_all(tired, now);
        }
    }

    fn wake_all(&mut self, which: impl Fn(&Entry) -> bool, now: Duration) {
        let woken: Vec<String> =
            self.entries.iter().filter(|(_, e)| which(e)).map(|(uid, _)| uid.clone()).collect();
        woken.iter().for_each(|uid| self.wake(uid, now));
    }

    /// To `backoff` where its last try is too fresh, else to `active`.
    fn wake(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(8);
        let delay = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        let at = entry.last_tried + delay;
        if entry.attempts == 0 || at <= now {
            return self.activate(uid);
        }
        self.sequence += 1;
        entry.place = Place::Backoff(at, self.sequence);
        self.backoff.insert((at, self.sequence), uid.to_owned());
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        self.sequence += 1;
        let order = (Reverse(entry.pod.priority), entry.pod.created.clone(), self.sequence);
        entry.place = Place::Active(order.clone());
        self.active.insert(order, uid.to_owned());
    }

    fn leave(&mut self, uid: &str) {
        match self.entries.get(uid).map(|e| &e.place) {
            Some(Place::Active(order)) => {
                self.active.remove(order);
            }
            Some(Place::Backoff(at, sequence)) => {
                self.backoff.remove(&(*at, *sequence));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, created: &str) -> Arc<Pod> {
        let (uid, created) = (uid.to_owned(), created.to_owned());
        Arc::new(Pod { uid, priority, created, ..Pod::default() })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn popped(queue: &mut Queue, seconds: u64) -> Option<String> {
        queue.pop(at(seconds)).map(|p| p.uid.clone())
    }

    #[test]
    fn the_oldest_of_the_highest_priority_goes_first() {
        let mut queue = Queue::default();
        queue.add(pod("young", 0, "2"), at(0));
        queue.add(pod("old", 0, "1"), at(0));
        queue.add(pod("important", 9, "3"), at(0));
        let order: Vec<_> = (0..4).map(|_| popped(&mut queue, 0)).collect();
        assert_eq!(
            order,
            [Some("important".into()), Some("old".into()), Some("young".into()), None]
        );
    }

    #[test]
    fn a_refused_pod_wakes_only_for_what_may_help() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, ""), at(0));
        queue.pop(at(0));
        queue.unschedulable("a", BTreeSet::from([Rule::Taints]), at(0));
        queue.hint(Hint::PodGone, at(5));
        assert_eq!(popped(&mut queue, 5), None, "a freed place does not lift a taint");
        queue.hint(Hint::NodeChanged, at(6));
        assert_eq!(popped(&mut queue, 6), Some("a".into()));
    }

    #[test]
    fn a_pod_that_fails_again_and_again_is_tried_more_and_more_rarely() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, ""), at(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let tried = now;
            while popped(&mut queue, now).is_none() {
                now += 1;
            }
            waits.push(now - tried);
            queue.retry("a", at(now));
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 10]);
    }

    #[test]
    fn a_removed_pod_never_comes_back() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, ""), at(0));
        queue.remove("a");
        assert_eq!(popped(&mut queue, 0), None);
        queue.add(pod("b", 0, ""), at(0));
        queue.pop(at(0));
        queue.retry("b", at(0));
        queue.remove("b");
        assert_eq!((popped(&mut queue, 99), queue.due(at(99))), (None, None));
    }

    #[test]
    fn a_waiting_pod_is_tried_again_after_five_minutes_in_any_case() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, ""), at(0));
        queue.pop(at(0));
        queue.unschedulable("a", BTreeSet::from([Rule::Taints]), at(0));
        assert_eq!(queue.due(at(1)), Some(at(300)));
        assert_eq!(popped(&mut queue, 300), Some("a".into()));
    }
}
