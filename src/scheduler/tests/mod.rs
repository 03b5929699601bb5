//! Tables with builders for the rules, and the life of pods in the queue.

mod affinity;
mod classes;
mod deschedule;
mod life;
mod model;
mod preempt;
mod rules;
mod speed;
mod spread;
mod storm;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::{Configuration, Packing, Profile};
use super::node::Node;
use super::plan::{Unschedulable, decide};
use super::pod::{Interner, Pod};
use super::seen;
use super::snapshot::{ServiceSelector, Snapshot};
use super::state::{State, Step};

thread_local! {
    /// One a test, as there is one a process.
    static INTERNER: Interner = Interner::default();
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
    });
    merge(&mut object, more);
    let object: seen::Node = serde_json::from_value(object).expect("a node");
    Arc::new(Node::of(object).expect("a node"))
}

fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut object, more);
    let object: seen::Pod = serde_json::from_value(object).expect("a pod");
    let pod = INTERNER.with(|interner| Pod::of(object, interner));
    Arc::new(pod.expect("a pod that has not ended"))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn with(mut first: Value, second: Value) -> Value {
    merge(&mut first, second);
    first
}

fn wants(cpu: &str, memory: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": memory});
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn labelled(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

fn cluster(nodes: impl IntoIterator<Item = Arc<Node>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    snapshot
}

fn choose(snapshot: &Snapshot, pod: &Pod) -> Result<String, Unschedulable> {
    choose_by(snapshot, pod, &Profile::default())
}

fn choose_by(snapshot: &Snapshot, pod: &Pod, profile: &Profile) -> Result<String, Unschedulable> {
    decide(snapshot, pod, profile, 0).map(|decision| decision.node.to_string())
}

fn told(snapshot: &Snapshot, pod: &Pod) -> String {
    match choose(snapshot, pod) {
        Ok(node) => format!("goes to {node}"),
        Err(why) => why.to_string(),
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn see(state: &mut State, pod: &Arc<Pod>, now: Duration) {
    state.pod(pod.key.clone(), Some(pod.clone()), now);
}

fn steps(state: &mut State, now: Duration) -> Vec<String> {
    std::iter::from_fn(|| state.next(now)).map(|step| word(&step)).collect()
}

fn word(step: &Step) -> String {
    match step {
        Step::Bind { pod, node, .. } => format!("{} to {node}", pod.key.name),
        Step::Refuse { pod, why, room: None, .. } => format!("{}: {why}", pod.key.name),
        Step::Refuse { pod, room: Some(room), .. } => {
            let victims: Vec<&str> = room.victims.iter().map(|v| v.key.name.as_str()).collect();
            format!("{} preempts {} on {}", pod.key.name, victims.join(" "), room.node)
        }
    }
}

fn scheduler(nodes: &[Arc<Node>]) -> State {
    let mut state = State::new(Configuration::default());
    for node in nodes {
        state.node(&node.name, Some(node.clone()), Duration::ZERO);
    }
    state
}
