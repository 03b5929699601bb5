//! What to do about each node (`pkg/controller/nodelifecycle`): conditions, taints, and how fast
//! NoExecute taints may be given out.
//!
//! **Invariant:** taints that this controller does not own are left alone; when most of the nodes
//! are silent, more likely it is the network than the nodes, and evictions slow down or stop.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};

use crate::client::meta::time;
use crate::controllers::NodeLifecycleConfig;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Conditions that become NoSchedule taints: condition, status, taint.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether a node is well, by its Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// It says so itself.
    NotReady,
    /// It says nothing.
    Unknown,
}

/// What its Ready condition says.
pub fn health(node: &Node) -> Health {
    match ready(node).map(|condition| condition.status).as_deref() {
        Some("True") => Health::Ready,
        Some("False") => Health::NotReady,
        _ => Health::Unknown,
    }
}

fn conditions(node: &Node) -> Vec<NodeCondition> {
    node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
}

fn ready(node: &Node) -> Option<NodeCondition> {
    conditions(node).into_iter().find(|condition| condition.type_ == "Ready")
}

/// The conditions of a node that was silent for `silent`; nothing when they are to stay.
pub fn silenced(
    node: &Node,
    silent: Duration,
    config: &NodeLifecycleConfig,
    now: Timestamp,
) -> Option<Vec<NodeCondition>> {
    let reported = ready(node).is_some();
    let grace = if reported { config.grace_period } else { config.startup_grace_period };
    if silent < grace {
        return None;
    }
    let mut all = conditions(node);
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let (reason, message) = if all.iter().any(|condition| condition.type_ == kind) {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        } else {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        };
        let unknown = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: Some(time(now)),
        };
        match all.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                let heartbeat = condition.last_heartbeat_time.take();
                *condition = NodeCondition { last_heartbeat_time: heartbeat, ..unknown };
                changed = true;
            }
            None => {
                all.push(unknown);
                changed = true;
            }
        }
    }
    changed.then_some(all)
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: (effect == "NoExecute").then(|| time(now)),
    }
}

/// The taints that a node in this state should have; nothing when it has them already. A NoExecute
/// taint is only added where `may_evict` says so.
pub fn taints(node: &Node, may_evict: impl FnOnce() -> bool, now: Timestamp) -> Option<Vec<Taint>> {
    let have: Vec<Taint> =
        node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let health = health(node);
    let bad = match health {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unknown => Some(UNREACHABLE),
    };
    let mut schedule: Vec<&str> = bad.into_iter().collect();
    let conditions = conditions(node);
    for (kind, status, key) in CONDITION_TAINTS {
        if conditions.iter().any(|c| c.type_ == kind && c.status == status) {
            schedule.push(key);
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        schedule.push(UNSCHEDULABLE);
    }
    let owned_schedule = |key: &str| {
        key == NOT_READY
            || key == UNREACHABLE
            || key == UNSCHEDULABLE
            || CONDITION_TAINTS.iter().any(|(_, _, owned)| *owned == key)
    };
    let had_execute = |key: &str| have.iter().any(|t| t.key == key && t.effect == "NoExecute");
    let mut wanted: Vec<Taint> = have
        .iter()
        .filter(|taint| match taint.effect.as_str() {
            "NoSchedule" if owned_schedule(&taint.key) => schedule.contains(&taint.key.as_str()),
            "NoExecute" if taint.key == NOT_READY || taint.key == UNREACHABLE => {
                Some(taint.key.as_str()) == bad
            }
            _ => true,
        })
        .cloned()
        .collect();
    for key in schedule {
        if !wanted.iter().any(|t| t.key == key && t.effect == "NoSchedule") {
            wanted.push(taint(key, "NoSchedule", now));
        }
    }
    if let Some(key) = bad {
        // A node that was being evicted already stays so when only the reason changes.
        let swapped = had_execute(NOT_READY) || had_execute(UNREACHABLE);
        if !had_execute(key) && (swapped || may_evict()) {
            wanted.push(taint(key, "NoExecute", now));
        }
    }
    (wanted != have).then_some(wanted)
}

/// How many nodes a second may be tainted NoExecute, given how many there are and how many of them
/// are not ready.
pub fn rate(nodes: usize, unhealthy: usize, config: &NodeLifecycleConfig) -> f64 {
    if nodes == 0 {
        return config.eviction_rate;
    }
    if unhealthy == nodes {
        // Nothing could run elsewhere, and most likely it is this side that is cut off.
        return 0.0;
    }
    // Counts of nodes are small: they are exact as floating-point numbers.
    #[allow(clippy::cast_precision_loss)]
    let share = unhealthy as f64 / nodes as f64;
    let most = unhealthy > 2 && share >= config.unhealthy_threshold;
    match (most, nodes > config.large_cluster) {
        (false, _) => config.eviction_rate,
        (true, true) => config.secondary_eviction_rate,
        (true, false) => 0.0,
    }
}

/// A token bucket that holds one token.
#[derive(Debug, Clone)]
pub struct Limiter {
    tokens: f64,
    at: Duration,
}

impl Limiter {
    /// A bucket with its token.
    pub fn new(now: Duration) -> Self {
        Self { tokens: 1.0, at: now }
    }

    /// Takes the token, if it is there; `rate` is how many come in a second.
    pub fn take(&mut self, rate: f64, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * rate).min(1.0);
        if rate <= 0.0 || self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn node(ready: Option<&str>, taints: Value) -> Node {
        let conditions: Vec<Value> =
            ready.into_iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        serde_json::from_value(json!({"metadata": {"name": "one"}, "spec": {"taints": taints},
            "status": {"conditions": conditions}}))
        .expect("a Node")
    }

    fn told(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        let one = |t: Taint| format!("{}:{}", t.key.rsplit('/').next().unwrap_or(""), t.effect);
        taints.map(|taints| taints.into_iter().map(one).collect())
    }

    #[test]
    fn a_silent_node_becomes_unknown_after_its_grace() {
        let config = NodeLifecycleConfig::default();
        let node = node(Some("True"), json!([]));
        assert!(silenced(&node, Duration::from_secs(49), &config, at(0)).is_none());
        let conditions = silenced(&node, Duration::from_secs(50), &config, at(0)).expect("Unknown");
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let mut again = node;
        again.status.get_or_insert_default().conditions = Some(conditions);
        assert!(silenced(&again, Duration::from_secs(99), &config, at(0)).is_none());
    }

    #[test]
    fn taints_follow_health() {
        let foreign = json!([{"key": "gpu", "effect": "NoSchedule"}]);
        let silent = taints(&node(Some("Unknown"), foreign), || true, at(5));
        assert_eq!(
            told(silent.clone()),
            Some(vec![
                "gpu:NoSchedule".to_owned(),
                "unreachable:NoSchedule".to_owned(),
                "unreachable:NoExecute".to_owned()
            ])
        );
        let mut back = node(Some("True"), json!([]));
        back.spec.get_or_insert_default().taints = silent;
        assert_eq!(told(taints(&back, || true, at(9))), Some(vec!["gpu:NoSchedule".to_owned()]));
        assert_eq!(taints(&node(Some("True"), json!([])), || true, at(9)), None);
    }

    #[test]
    fn without_leave_to_evict_only_scheduling_stops() {
        let told = told(taints(&node(Some("False"), json!([])), || false, at(5)));
        assert_eq!(told, Some(vec!["not-ready:NoSchedule".to_owned()]));
    }

    #[test]
    fn a_cordoned_node_under_pressure_is_tainted() {
        let mut node = node(Some("True"), json!([]));
        node.spec.get_or_insert_default().unschedulable = Some(true);
        let conditions = &mut node.status.get_or_insert_default().conditions;
        conditions.get_or_insert_default().push(NodeCondition {
            type_: "DiskPressure".to_owned(),
            status: "True".to_owned(),
            ..NodeCondition::default()
        });
        assert_eq!(
            told(taints(&node, || true, at(5))),
            Some(vec![
                "disk-pressure:NoSchedule".to_owned(),
                "unschedulable:NoSchedule".to_owned()
            ])
        );
    }

    #[test]
    fn evictions_slow_down_when_most_nodes_are_silent() {
        let config = NodeLifecycleConfig::default();
        let cases = [
            ((2, 1), 0.1),
            ((1, 1), 0.0),
            ((2, 2), 0.0),
            ((10, 5), 0.1),
            ((10, 6), 0.0),
            ((100, 60), 0.01),
            ((100, 100), 0.0),
        ];
        for ((nodes, unhealthy), expected) in cases {
            let got = rate(nodes, unhealthy, &config);
            assert!((got - expected).abs() < 1e-9, "{unhealthy} of {nodes}: {got}");
        }
    }

    #[test]
    fn the_limiter_gives_one_at_once_and_then_at_its_rate() {
        let second = Duration::from_secs;
        let mut limiter = Limiter::new(second(0));
        assert!(limiter.take(0.1, second(0)));
        assert!(!limiter.take(0.1, second(9)));
        assert!(limiter.take(0.1, second(11)));
        assert!(!limiter.take(0.0, second(1000)));
    }
}
