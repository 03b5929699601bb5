//! What the descheduler moves, and what it leaves alone.

use super::super::deschedule::{Goal, Limits, plan};
use super::*;

fn owned(cpu: &str, more: Value) -> Value {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "rs", "controller": true}]);
    with(with(wants(cpu, "1Mi"), json!({"metadata": {"ownerReferences": owner}})), more)
}

fn moved(snapshot: &Snapshot, goal: Goal) -> Vec<String> {
    let moves = plan(snapshot, goal, Limits::default(), &Profile::default());
    moves.iter().map(|m| format!("{} from {}", m.pod.key.name, m.from)).collect()
}

#[test]
fn a_nearly_empty_node_is_emptied_if_all_of_it_fits_elsewhere() {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    snapshot.place(pod("busy", owned("1500m", json!({}))), &"a".into());
    snapshot.place(pod("idle", owned("200m", json!({}))), &"b".into());
    assert_eq!(moved(&snapshot, Goal::Pack), ["idle from b"]);
    // A pod that nobody makes anew holds its node.
    snapshot.place(pod("bare", wants("100m", "1Mi")), &"b".into());
    assert_eq!(moved(&snapshot, Goal::Pack), [""; 0]);
    snapshot.remove("uid-bare");
    // There is no room for it elsewhere.
    snapshot.place(pod("more", owned("400m", json!({}))), &"a".into());
    assert_eq!(moved(&snapshot, Goal::Pack), [""; 0]);
}

#[test]
fn a_full_node_gives_to_emptier_ones_until_it_is_not() {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    for (name, cpu, priority) in [("x", "1", 5), ("y", "400m", 1), ("z", "400m", 9)] {
        let more = json!({"spec": {"priority": priority}});
        snapshot.place(pod(name, owned(cpu, more)), &"a".into());
    }
    assert_eq!(moved(&snapshot, Goal::Spread), ["y from a"]);
    // Where the others are as full, nothing is gained.
    snapshot.place(pod("there", owned("1700m", json!({}))), &"b".into());
    assert_eq!(moved(&snapshot, Goal::Spread), [""; 0]);
}

#[test]
fn two_nodes_do_not_empty_into_each_other() {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    snapshot.place(pod("one", owned("100m", json!({}))), &"a".into());
    snapshot.place(pod("two", owned("200m", json!({}))), &"b".into());
    assert_eq!(moved(&snapshot, Goal::Pack), ["one from a"]);
}
