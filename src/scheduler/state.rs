//! The scheduler's mind: what it knows, who waits, and what it does next. No I/O, no clock.
//!
//! **Invariant:** a pod is in the queue, or counted in the snapshot, never both: it leaves the
//! queue's lists before it is assumed, and returns only once it is forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Policy;
use super::filter::{Rule, Rules};
use super::plan::{self, NodeName, Unschedulable};
use super::pod::Pod;
use super::queue::Queue;
use super::snapshot::{Node, ServiceSelector, Snapshot};
use crate::client::Key;

/// What is to be done about a pod.
#[derive(Debug)]
pub enum Step {
    /// Bind it; it is assumed on the node already.
    Bind { pod: Arc<Pod>, node: NodeName },
    /// Tell why it stays pending.
    Refuse { pod: Arc<Pod>, why: Unschedulable },
}

/// The scheduler without its loop.
pub struct State {
    name: String,
    policy: Policy,
    snapshot: Snapshot,
    queue: Queue,
    known: HashMap<Key, Arc<Pod>>,
    start: usize,
}

impl State {
    /// The scheduler of the pods whose `schedulerName` is `name`.
    pub fn new(name: &str, policy: Policy) -> Self {
        Self {
            name: name.to_owned(),
            policy,
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            known: HashMap::new(),
            start: 0,
        }
    }

    /// Takes in a pod as it is now; `None`: it is gone, or has ended.
    pub fn pod(&mut self, key: Key, pod: Option<Arc<Pod>>, now: Duration) {
        let old = match &pod {
            Some(pod) => self.known.insert(key, pod.clone()),
            None => self.known.remove(&key),
        };
        if let Some(old) = old.filter(|old| pod.as_ref().is_none_or(|pod| pod.uid != old.uid)) {
            self.gone(&old, now);
        }
        let Some(pod) = pod else { return };
        if let Some(node) = &pod.node {
            self.queue.remove(&pod.uid);
            self.snapshot.place(pod.clone(), node);
        } else if pod.gated || pod.deleting || pod.scheduler != self.name {
            self.queue.remove(&pod.uid);
        } else if !self.snapshot.is_assumed(&pod.uid) {
            self.queue.add(pod);
        }
    }

    fn gone(&mut self, pod: &Pod, now: Duration) {
        self.queue.remove(&pod.uid);
        if self.snapshot.remove(&pod.uid) {
            self.queue.wake(Rules::default().with(Rule::Resources).with(Rule::Ports), now);
        }
    }

    /// Takes in a node as it is now; `None`: it is gone.
    pub fn node(&mut self, name: &str, node: Option<Arc<Node>>, now: Duration) {
        let Some(node) = node else {
            self.snapshot.remove_node(name);
            return;
        };
        let rules = match self.snapshot.set_node(node.clone()) {
            None => Rules::ALL,
            Some(old) => changed(&old, &node),
        };
        self.queue.wake(rules, now);
    }

    /// Takes in a Service's selector; `None`: it is gone, or selects nothing.
    pub fn service(&mut self, key: &Key, selector: Option<ServiceSelector>) {
        self.snapshot.set_service(&key.namespace, &key.name, selector);
    }

    /// Decides for the next pod, if one is to be tried now.
    pub fn next(&mut self, now: Duration) -> Option<Step> {
        self.queue.flush(now);
        let pod = self.queue.pop()?;
        match plan::decide(&self.snapshot, &pod, &self.policy, self.start) {
            Ok(decision) => {
                self.start = (self.start + decision.examined) % self.snapshot.nodes().len();
                self.snapshot.assume(pod.clone(), &decision.node);
                Some(Step::Bind { pod, node: decision.node })
            }
            Err(why) => {
                self.queue.unschedulable(&pod.uid, why.rules(), now);
                Some(Step::Refuse { pod, why })
            }
        }
    }

    /// The API has taken the binding.
    pub fn bound(&mut self, pod: &Pod) {
        self.queue.remove(&pod.uid);
    }

    /// The API has refused the binding; `again`: it may take the next one.
    pub fn not_bound(&mut self, pod: &Pod, again: bool, now: Duration) {
        if !self.snapshot.is_assumed(&pod.uid) {
            return;
        }
        self.snapshot.forget(&pod.uid);
        if again {
            self.queue.failed(&pod.uid, now);
        } else {
            self.queue.remove(&pod.uid);
        }
        self.queue.wake(Rules::default().with(Rule::Resources).with(Rule::Ports), now);
    }

    /// When [`Self::next`] has something to do; `None`: not before something happens.
    pub fn due(&self) -> Option<Duration> {
        if self.queue.is_ready() { Some(Duration::ZERO) } else { self.queue.due() }
    }

    /// What is known of the cluster.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// Which refusals a change of a node may turn.
fn changed(old: &Node, new: &Node) -> Rules {
    let mut rules = Rules::default();
    if old.labels != new.labels {
        rules = rules.with(Rule::Affinity);
    }
    if old.taints != new.taints {
        rules = rules.with(Rule::Taints);
    }
    if old.unschedulable && !new.unschedulable {
        rules = rules.with(Rule::Unschedulable);
    }
    if old.allocatable != new.allocatable {
        rules = rules.with(Rule::Resources);
    }
    if !rules.is_empty() {
        // A node answers with its first refusal only: behind the rule that has changed another
        // one may have stood that was told for none.
        rules = Rules::ALL;
    }
    rules
}
