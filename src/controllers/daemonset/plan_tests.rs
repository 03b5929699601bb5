//! Tables over [`super::plan`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use crate::client::meta::Key;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::view::{Phase, Pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a timestamp")
}

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "log", "namespace": "default", "uid": "set"},
        "spec": {"template": {"spec": {"containers": []}}, "updateStrategy": strategy,
            "selector": {"matchLabels": {"app": "log"}}}}))
    .expect("a DaemonSet")
}

fn rolling(surge: Value, unavailable: Value) -> DaemonSet {
    set(json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
}

/// A running, Ready pod of the old revision, on its node.
fn pod(name: &str, node: &str) -> Pod {
    Pod {
        key: Key::new("default", name),
        uid: name.to_owned(),
        labels: [
            ("app".to_owned(), "log".to_owned()),
            (REVISION_HASH.to_owned(), "old".to_owned()),
        ]
        .into(),
        controller: Some(OwnerReference { uid: "set".to_owned(), ..OwnerReference::default() }),
        created: Some(at(10)),
        node: node.to_owned(),
        phase: Phase::Running,
        ready: Some(at(10)),
        ..Pod::default()
    }
}

fn new(name: &str, node: &str) -> Pod {
    let mut pod = Pod { created: Some(at(20)), ..pod(name, node) };
    pod.labels.insert(REVISION_HASH.to_owned(), "new".to_owned());
    pod
}

fn unready(pod: Pod) -> Pod {
    Pod { ready: None, ..pod }
}

fn planned(set: &DaemonSet, nodes: &[(&str, &str)], pods: Vec<Pod>, hash: &str) -> Plan {
    let node = |(name, effect): &(&str, &str)| -> Arc<Node> {
        let taints = match *effect {
            "" => json!([]),
            effect => json!([{"key": "k", "effect": effect}]),
        };
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    };
    let nodes: Vec<_> = nodes.iter().map(node).collect();
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let observed = Observed {
        set,
        pods: &pods,
        nodes: &nodes,
        hash,
        collisions: None,
        wait: &|node| Duration::from_secs(if node == "b" { 7 } else { 0 }),
    };
    plan(&observed, at(100))
}

fn told(plan: &Plan) -> String {
    let created = plan.create.iter().map(|node| format!("+{node}"));
    let deleted = plan.delete.iter().map(|pod| format!("-{}", pod.key.name));
    created.chain(deleted).collect::<Vec<_>>().join(" ")
}

const THREE: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

#[test]
fn every_node_that_fits_has_one_pod() {
    let set = rolling(json!(0), json!(1));
    let tainted = [("a", "NoSchedule"), ("b", "NoExecute")];
    let failed = |name, node| Pod { phase: Phase::Failed, ready: None, ..pod(name, node) };
    let meant = Pod { node: String::new(), meant_for: "a".to_owned(), ..pod("1", "") };
    let lost = Pod { node: String::new(), meant_for: "gone".to_owned(), ..pod("1", "") };
    let young = Pod { created: Some(at(20)), ..pod("2", "a") };
    let cases = [
        ("none yet", &THREE[..], vec![], "+a +b +c"),
        ("one there", &THREE[..], vec![pod("1", "b")], "+a +c"),
        ("one meant for a node", &THREE[..1], vec![meant], ""),
        ("one meant for a node that is gone", &THREE[..1], vec![pod("0", "a"), lost], "-1"),
        ("none on a tainted node", &tainted[..], vec![], ""),
        ("one stays, one goes", &tainted[..], vec![pod("1", "a"), pod("2", "b")], "-2"),
        ("two on one node", &THREE[..1], vec![young, pod("1", "a")], "-2"),
        ("a failed one", &THREE[..1], vec![failed("1", "a")], "-1"),
        ("a failed one that must wait", &THREE[1..2], vec![failed("1", "b")], ""),
    ];
    for (why, nodes, pods, expected) in cases {
        assert_eq!(told(&planned(&set, nodes, pods, "old")), expected, "{why}");
    }
}

#[test]
fn an_update_makes_no_more_nodes_unavailable_than_it_may() {
    let all = || vec![pod("1", "a"), pod("2", "b"), pod("3", "c")];
    let one = rolling(json!(0), json!(1));
    let cases = [
        ("one at a time", &one, all(), "-1"),
        ("while it starts", &one, vec![unready(new("4", "a")), pod("2", "b"), pod("3", "c")], ""),
        ("once it is ready", &one, vec![new("4", "a"), pod("2", "b"), pod("3", "c")], "-2"),
        (
            "one is down already",
            &one,
            vec![pod("1", "a"), pod("2", "b"), unready(pod("3", "c"))],
            "-3",
        ),
        ("two thirds", &rolling(json!(0), json!("50%")), all(), "-1 -2"),
        ("by hand", &set(json!({"type": "OnDelete"})), all(), ""),
    ];
    for (why, set, pods, expected) in cases {
        assert_eq!(told(&planned(set, &THREE, pods, "new")), expected, "{why}");
    }
}

#[test]
fn with_surge_the_new_pod_is_ready_before_the_old_one_goes() {
    let set = rolling(json!(1), json!(0));
    let others = || vec![pod("2", "b"), pod("3", "c")];
    let with = |first: Vec<Pod>| [first, others()].concat();
    let cases = [
        ("one at a time", with(vec![pod("1", "a")]), "+a"),
        ("while it starts", with(vec![pod("1", "a"), unready(new("4", "a"))]), ""),
        ("once it is ready", with(vec![pod("1", "a"), new("4", "a")]), "-1"),
        ("the old one is down", with(vec![unready(pod("1", "a")), unready(new("4", "a"))]), "-1"),
        ("then the next", with(vec![new("4", "a")]), "+b"),
    ];
    for (why, pods, expected) in cases {
        assert_eq!(told(&planned(&set, &THREE, pods, "new")), expected, "{why}");
    }
}

#[test]
fn the_status_tells_where_pods_are_and_are_not() {
    let set = rolling(json!(0), json!(1));
    let nodes = [("a", ""), ("b", ""), ("c", ""), ("d", "NoSchedule")];
    let pods = vec![new("1", "a"), unready(pod("2", "b")), pod("4", "d")];
    let status = planned(&set, &nodes, pods, "new").status;
    assert_eq!(status.desired_number_scheduled, 3);
    assert_eq!(status.current_number_scheduled, 2);
    assert_eq!(status.number_misscheduled, 1);
    assert_eq!((status.number_ready, status.number_available), (1, Some(1)));
    assert_eq!((status.number_unavailable, status.updated_number_scheduled), (Some(2), Some(1)));
}
