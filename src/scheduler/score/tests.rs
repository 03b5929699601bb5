//! Which node is ranked first.

use std::sync::Arc;

use super::*;
use crate::scheduler::model::{Node, Resources, Taint};
use crate::scheduler::snapshot::Snapshot;

fn resources(cpu_milli: i64) -> Resources {
    Resources { cpu_milli, memory_bytes: cpu_milli << 20, ..Resources::default() }
}

fn cluster(nodes: &[&str], pods: &[(&str, &str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in nodes {
        let node = Node {
            name: (*name).into(),
            allocatable: resources(4000),
            pods_max: 100,
            ..Node::default()
        };
        snapshot.set_node(Arc::new(node));
    }
    for (uid, node, owner) in pods {
        snapshot.set_pod(Arc::new(Pod {
            uid: (*uid).into(),
            node: (*node).into(),
            owner: (*owner).into(),
            requests: resources(500),
            ..Pod::default()
        }));
    }
    snapshot
}

fn first(snapshot: &Snapshot, pod: &Pod, scoring: Scoring) -> String {
    let nodes: Vec<&NodeInfo> = snapshot.nodes().collect();
    let scores = rank(&nodes, pod, scoring);
    let best = (0..nodes.len()).max_by_key(|i| scores[*i]).expect("some node");
    nodes[best].node.name.clone()
}

#[test]
fn spreading_takes_the_emptiest_and_packing_the_fullest() {
    let snapshot = cluster(&["a", "b"], &[("1", "a", "x")]);
    let pod = Pod { requests: resources(500), ..Pod::default() };
    assert_eq!(first(&snapshot, &pod, Scoring::Spread), "b");
    assert_eq!(first(&snapshot, &pod, Scoring::Pack), "a");
}

#[test]
fn copies_of_one_owner_are_spread_even_where_other_pods_fill_a_node() {
    let snapshot = cluster(&["a", "b"], &[("1", "a", "web"), ("2", "b", "x"), ("3", "b", "y")]);
    let pod = Pod { owner: "web".into(), requests: resources(500), ..Pod::default() };
    assert_eq!(first(&snapshot, &pod, Scoring::Spread), "b");
}

#[test]
fn a_soft_taint_is_avoided_where_another_node_is_as_good() {
    let mut snapshot = cluster(&["a", "b"], &[]);
    let taint = Taint { key: "k".into(), value: String::new(), effect: "PreferNoSchedule".into() };
    let tainted = Node { taints: vec![taint], ..(*snapshot.at(0).node).clone() };
    snapshot.set_node(Arc::new(tainted));
    assert_eq!(first(&snapshot, &Pod::default(), Scoring::Spread), "b");
}
