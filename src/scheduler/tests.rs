//! Tables with builders for the rules, and the life of pods in the queue.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use super::plan::{Unschedulable, decide};
use super::pod::Pod;
use super::snapshot::{Node, ServiceSelector, Snapshot};
use super::state::{State, Step};
use super::{Packing, Policy};

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
    });
    merge(&mut object, more);
    let object: v1::Node = serde_json::from_value(object).expect("a node");
    Arc::new(Node::of(object).expect("a node"))
}

fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut object, more);
    let object: v1::Pod = serde_json::from_value(object).expect("a pod");
    Arc::new(Pod::of(object).expect("a pod that has not ended"))
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

fn wants(cpu: &str, memory: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": memory});
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn extended(name: &str, count: &str) -> Value {
    let requests = json!({name: count});
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn cluster(nodes: impl IntoIterator<Item = Arc<Node>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    snapshot
}

fn choose(snapshot: &Snapshot, pod: &Pod) -> Result<String, Unschedulable> {
    decide(snapshot, pod, &Policy::default(), 0).map(|decision| decision.node.to_string())
}

fn refusal(node: Arc<Node>, pod: &Pod) -> String {
    match choose(&cluster([node]), pod) {
        Ok(node) => format!("goes to {node}"),
        Err(why) => why.to_string(),
    }
}

fn taint(effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": "dedicated", "value": "gpu", "effect": effect}]}})
}

fn affinity(operator: &str, values: Value) -> Value {
    let expression = json!({"key": "size", "operator": operator, "values": values});
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
    json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }}}})
}

#[test]
fn each_rule_refuses_in_kubernetes_words() {
    let sized = || json!({"metadata": {"labels": {"size": "10"}}});
    let tolerates = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let label = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let tainted = "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}.";
    let cases = [
        (json!({}), json!({}), "goes to n"),
        (
            json!({"spec": {"unschedulable": true}}),
            json!({}),
            "0/1 nodes are available: 1 node(s) were unschedulable.",
        ),
        (
            json!({"spec": {"unschedulable": true}}),
            tolerates(json!({"operator": "Exists"})),
            "goes to n",
        ),
        (
            json!({}),
            wants("3", "2Gi"),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
        ),
        (
            json!({"status": {"allocatable": {"pods": "0"}}}),
            json!({}),
            "0/1 nodes are available: 1 Too many pods.",
        ),
        (taint("NoSchedule"), json!({}), tainted),
        (taint("NoExecute"), json!({}), tainted),
        (taint("PreferNoSchedule"), json!({}), "goes to n"),
        (
            taint("NoSchedule"),
            tolerates(json!({"key": "dedicated", "operator": "Exists"})),
            "goes to n",
        ),
        (taint("NoSchedule"), tolerates(json!({"key": "dedicated", "value": "gpu"})), "goes to n"),
        (taint("NoSchedule"), tolerates(json!({"key": "dedicated", "value": "cpu"})), tainted),
        (
            taint("NoExecute"),
            tolerates(json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"})),
            tainted,
        ),
        (json!({}), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), label),
        (
            json!({"metadata": {"labels": {"disk": "ssd"}}}),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "goes to n",
        ),
        (
            json!({}),
            json!({"spec": {"nodeName": "other"}}),
            "0/1 nodes are available: 1 node(s) didn't match the requested node name.",
        ),
        (json!({}), wants("2", "1Gi"), "goes to n"),
        (
            json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
            extended("example.com/gpu", "2"),
            "0/1 nodes are available: 1 Insufficient example.com/gpu.",
        ),
        (sized(), affinity("In", json!(["10", "20"])), "goes to n"),
        (sized(), affinity("In", json!(["20"])), label),
        (sized(), affinity("NotIn", json!(["10"])), label),
        (json!({}), affinity("NotIn", json!(["10"])), "goes to n"),
        (sized(), affinity("Exists", json!([])), "goes to n"),
        (sized(), affinity("DoesNotExist", json!([])), label),
        (sized(), affinity("Gt", json!(["9"])), "goes to n"),
        (sized(), affinity("Gt", json!(["10"])), label),
        (sized(), affinity("Lt", json!(["11"])), "goes to n"),
        (sized(), affinity("Lt", json!(["x"])), label),
    ];
    for (has, asks, expected) in cases {
        let told = refusal(node("n", has.clone()), &pod("p", asks.clone()));
        assert_eq!(told, expected, "node {has} pod {asks}");
    }
}

#[test]
fn a_host_port_is_given_once_on_a_node() {
    let port = |ip: &str, number: u16, protocol: &str| {
        let port =
            json!({"containerPort": 1, "hostPort": number, "hostIP": ip, "protocol": protocol});
        json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}})
    };
    let mut snapshot = cluster([node("n", json!({}))]);
    snapshot.place(pod("first", port("10.0.0.1", 80, "TCP")), &"n".into());
    let refused =
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    for (asks, free) in [
        (port("10.0.0.1", 80, "TCP"), false),
        (port("0.0.0.0", 80, "TCP"), false),
        (port("", 80, "TCP"), false),
        (port("10.0.0.2", 80, "TCP"), true),
        (port("10.0.0.1", 80, "UDP"), true),
        (port("10.0.0.1", 81, "TCP"), true),
    ] {
        match choose(&snapshot, &pod("second", asks.clone())) {
            Ok(_) => assert!(free, "{asks}"),
            Err(why) => assert!(!free && why.to_string() == refused, "{asks}: {why}"),
        }
    }
}

#[test]
fn the_reasons_of_several_nodes_are_counted_and_sorted() {
    let nodes = [
        node("a", taint("NoSchedule")),
        node("b", json!({})),
        node("c", json!({"spec": {"unschedulable": true}})),
        node("d", json!({})),
    ];
    let why = choose(&cluster(nodes), &pod("p", wants("1", "3Gi"))).expect_err("too large");
    assert_eq!(
        why.to_string(),
        "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}, \
         1 node(s) were unschedulable, 2 Insufficient memory."
    );
    assert_eq!(why.refusals.len(), 4);
    let none = choose(&cluster([]), &pod("p", json!({}))).expect_err("no nodes");
    assert_eq!(none.to_string(), "no nodes available to schedule pods");
}

#[test]
fn packing_fills_and_spreading_evens_out() {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    snapshot.place(pod("there", wants("500m", "256Mi")), &"b".into());
    let next = pod("next", wants("500m", "256Mi"));
    for (packing, expected) in [(Packing::LeastAllocated, "a"), (Packing::MostAllocated, "b")] {
        let decision = decide(&snapshot, &next, &Policy { packing }, 0).expect("room");
        assert_eq!(&*decision.node, expected, "{packing:?}");
    }
}

#[test]
fn pods_of_one_owner_or_service_spread_over_nodes() {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]);
    let owned = json!({"metadata": {"ownerReferences": owner}});
    let served = json!({"metadata": {"labels": {"app": "web"}}});
    for like in [owned, served] {
        let mut snapshot =
            cluster([node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
        let selector = [("app".to_owned(), "web".to_owned())].into();
        let service = ServiceSelector { namespace: "default".to_owned(), selector };
        snapshot.set_service("default", "web", Some(service));
        let mut chosen = Vec::new();
        for name in ["1", "2", "3"] {
            let pod = pod(name, like.clone());
            let node = choose(&snapshot, &pod).expect("room");
            snapshot.assume(pod, &node.as_str().into());
            chosen.push(node);
        }
        chosen.sort();
        assert_eq!(chosen, ["a", "b", "c"], "{like}");
    }
}

#[test]
fn preferences_of_taints_and_affinity_decide_among_equals() {
    let labelled = json!({"metadata": {"labels": {"zone": "near"}}});
    let expression = json!({"key": "zone", "operator": "In", "values": ["near"]});
    let preferred = json!([{"weight": 10, "preference": {"matchExpressions": [expression]}}]);
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }}}});
    let nodes = [node("a", json!({})), node("b", labelled)];
    assert_eq!(choose(&cluster(nodes), &pod("p", prefers)).expect("room"), "b");
    let nodes = [node("a", taint("PreferNoSchedule")), node("b", json!({}))];
    assert_eq!(choose(&cluster(nodes), &pod("p", json!({}))).expect("room"), "b");
}

const SECOND: Duration = Duration::from_secs(1);

fn see(state: &mut State, pod: &Arc<Pod>, now: Duration) {
    state.pod(pod.key.clone(), Some(pod.clone()), now);
}

fn steps(state: &mut State, now: Duration) -> Vec<String> {
    std::iter::from_fn(|| state.next(now))
        .map(|step| match step {
            Step::Bind { pod, node } => format!("{} to {node}", pod.key.name),
            Step::Refuse { pod, why } => format!("{}: {why}", pod.key.name),
        })
        .collect()
}

fn scheduler(nodes: &[Arc<Node>]) -> State {
    let mut state = State::new("default-scheduler", Policy::default());
    for node in nodes {
        state.node(&node.name, Some(node.clone()), Duration::ZERO);
    }
    state
}

#[test]
fn pods_are_taken_by_priority_and_counted_before_they_are_bound() {
    let mut state = scheduler(&[node("n", json!({}))]);
    for (name, priority) in [("low", 0), ("high", 1000), ("low-2", 0)] {
        let mut asks = wants("900m", "1Mi");
        merge(&mut asks, json!({"spec": {"priority": priority}}));
        see(&mut state, &pod(name, asks), Duration::ZERO);
    }
    assert_eq!(
        steps(&mut state, Duration::ZERO),
        ["high to n", "low to n", "low-2: 0/1 nodes are available: 1 Insufficient cpu."]
    );
}

#[test]
fn a_refused_pod_waits_for_what_helps_and_for_its_backoff() {
    let mut state = scheduler(&[node("n", json!({}))]);
    let first = pod("first", wants("1500m", "1Mi"));
    see(&mut state, &first, Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO), ["first to n"]);
    let second = pod("second", wants("1500m", "1Mi"));
    see(&mut state, &second, Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO).len(), 1);
    // A change that cannot help, and time alone, do not bring it back.
    state.node("n", Some(node("n", json!({}))), SECOND);
    assert_eq!(steps(&mut state, 20 * SECOND), [""; 0]);
    // What helps within the backoff brings it back after it.
    state.pod(first.key.clone(), None, Duration::from_millis(500));
    assert_eq!(steps(&mut state, Duration::from_millis(500)), [""; 0]);
    assert_eq!(state.due(), Some(SECOND));
    assert_eq!(steps(&mut state, SECOND), ["second to n"]);
}

#[test]
fn a_pod_nothing_helps_is_tried_again_after_five_minutes() {
    let mut state = scheduler(&[node("n", json!({}))]);
    see(&mut state, &pod("large", wants("9", "1Mi")), Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO).len(), 1);
    assert_eq!(state.due(), Some(300 * SECOND));
    assert_eq!(steps(&mut state, 300 * SECOND).len(), 1);
}

#[test]
fn a_failed_binding_gives_the_room_back_and_is_tried_again() {
    let mut state = scheduler(&[node("n", json!({}))]);
    let first = pod("first", wants("1500m", "1Mi"));
    see(&mut state, &first, Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO), ["first to n"]);
    state.not_bound(&first, true, Duration::ZERO);
    let used = state.snapshot().node("n").expect("the node").used.cpu_milli;
    assert_eq!((used, state.due()), (0, Some(SECOND)));
    assert_eq!(steps(&mut state, SECOND), ["first to n"]);
    // Seen bound before the answer came: the late failure changes nothing.
    let bound = pod("first", json!({"spec": {"nodeName": "n", "containers": [{"name": "c"}]}}));
    see(&mut state, &bound, SECOND);
    state.not_bound(&first, true, SECOND);
    let used = state.snapshot().node("n").expect("the node").used.pods;
    assert_eq!((used, state.due()), (1, None));
}

#[test]
fn gated_foreign_and_deleted_pods_are_left_alone() {
    let mut state = scheduler(&[node("n", json!({}))]);
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for (name, asks) in [
        ("gated", json!({"spec": {"schedulingGates": [{"name": "g"}]}})),
        ("foreign", json!({"spec": {"schedulerName": "other"}})),
        ("deleted", deleted),
    ] {
        see(&mut state, &pod(name, asks), Duration::ZERO);
    }
    assert_eq!(steps(&mut state, Duration::ZERO), [""; 0]);
    see(&mut state, &pod("gated", json!({})), Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO), ["gated to n"]);
}

#[test]
fn pods_seen_before_their_node_count_once_it_comes() {
    let mut state = scheduler(&[]);
    let mut there = wants("1500m", "1Mi");
    merge(&mut there, json!({"spec": {"nodeName": "n"}}));
    see(&mut state, &pod("there", there), Duration::ZERO);
    see(&mut state, &pod("next", wants("1", "1Mi")), Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO), ["next: no nodes available to schedule pods"]);
    state.node("n", Some(node("n", json!({}))), 2 * SECOND);
    assert_eq!(
        steps(&mut state, 2 * SECOND),
        ["next: 0/1 nodes are available: 1 Insufficient cpu."]
    );
    // The node comes back after having been away: its pod still counts.
    state.node("n", None, 3 * SECOND);
    state.node("n", Some(node("n", json!({}))), 9 * SECOND);
    assert_eq!(steps(&mut state, 9 * SECOND).len(), 1);
    let used = state.snapshot().node("n").expect("the node").used.cpu_milli;
    assert_eq!(used, 1500);
}
