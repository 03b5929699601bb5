//! The index of a class says what asking every node says.

use proptest::prelude::*;

use super::super::classes::{Answer, Classes, fits};
use super::super::{filter, score};
use super::*;

/// The scores of all nodes that could take the pod, by name.
fn scores(snapshot: &Snapshot, pod: &Pod, profile: &Profile) -> Vec<(String, i64)> {
    let mut prepared = filter::prepare(pod, snapshot, profile).expect("nothing stops it");
    let feasible: Vec<_> =
        snapshot.nodes().iter().filter(|info| prepared.admits(info, &mut |_| {})).collect();
    let sums = score::total(pod, &feasible, snapshot, profile);
    feasible.iter().zip(sums).map(|(info, sum)| (info.node.name.to_string(), sum)).collect()
}

#[derive(Debug, Clone)]
enum Act {
    Node { name: u8, zone: u8, soft: bool, cpu: u8, big: bool },
    NodeGone(u8),
    Decide { class: u8 },
    PodGone(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let node = (0..6u8, 0..3u8, any::<bool>(), 1..5u8, any::<bool>());
    prop_oneof![
        2 => node.prop_map(|(name, zone, soft, cpu, big)| Act::Node { name, zone, soft, cpu, big }),
        1 => (0..6u8).prop_map(Act::NodeGone),
        6 => (0..4u8).prop_map(|class| Act::Decide { class }),
        2 => any::<usize>().prop_map(Act::PodGone),
    ]
}

fn a_node(name: u8, zone: u8, soft: bool, cpu: u8, big: bool) -> Arc<Node> {
    let mut labels = json!({"size": if big { "big" } else { "small" }});
    if zone > 0 {
        labels["topology.kubernetes.io/zone"] = json!(format!("z{zone}"));
    }
    let taints =
        if soft { json!([{"key": "soft", "effect": "PreferNoSchedule"}]) } else { json!([]) };
    let allocatable = json!({"cpu": cpu.to_string(), "memory": "1Gi", "pods": "6"});
    let more = json!({
        "metadata": {"labels": labels}, "spec": {"taints": taints},
        "status": {"allocatable": allocatable},
    });
    node(&format!("n{name}"), more)
}

fn a_pod(at: usize, class: u8) -> Arc<Pod> {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
        "uid": format!("rs-{class}"), "controller": true}]);
    let mut more = wants(["100m", "700m", "1500m", "0"][usize::from(class)], "30Mi");
    match class {
        0 | 1 => merge(&mut more, json!({"metadata": {"ownerReferences": owner}})),
        2 => {
            let expression = json!({"key": "size", "operator": "In", "values": ["big"]});
            let preferred =
                json!([{"weight": 10, "preference": {"matchExpressions": [expression]}}]);
            merge(
                &mut more,
                json!({"spec": {"affinity": {"nodeAffinity":
                {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}}),
            );
        }
        _ => merge(&mut more, labelled(json!({"app": "served"}))),
    }
    pod(&format!("p{at}"), more)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_class_finds_a_node_exactly_when_there_is_one_and_none_is_better(
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let profile = Profile::default();
        let mut snapshot = Snapshot::default();
        let selector = [("app".to_owned(), "served".to_owned())].into();
        let service = ServiceSelector { namespace: "default".to_owned(), selector };
        snapshot.set_service("default", "s", Some(service));
        let mut classes = Classes::default();
        let mut there: Vec<Arc<Pod>> = Vec::new();
        for (at, act) in acts.into_iter().enumerate() {
            match act {
                Act::Node { name, zone, soft, cpu, big } => {
                    snapshot.set_node(a_node(name, zone, soft, cpu, big));
                }
                Act::NodeGone(name) => snapshot.remove_node(&format!("n{name}")),
                Act::PodGone(which) if !there.is_empty() => {
                    let gone = there.swap_remove(which % there.len());
                    snapshot.remove(&gone.uid);
                }
                Act::PodGone(_) => {}
                Act::Decide { class } => {
                    let pod = a_pod(at, class);
                    prop_assert!(fits(&pod, &snapshot, &profile));
                    let scores = scores(&snapshot, &pod, &profile);
                    let best = scores.iter().map(|(_, score)| *score).max();
                    match classes.decide(&pod, &snapshot, &profile) {
                        Answer::Nowhere(_) => prop_assert_eq!(best, None),
                        Answer::Node(node) => {
                            let own = scores.iter().find(|(name, _)| **name == *node);
                            prop_assert_eq!(own.map(|(_, score)| *score), best, "{:?}", scores);
                            snapshot.assume(pod.clone(), &node);
                            there.push(pod);
                        }
                    }
                }
            }
        }
    }
}
