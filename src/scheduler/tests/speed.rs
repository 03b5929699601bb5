//! How long a decision takes, by the number of nodes.

use std::time::Instant;

use super::*;

/// Seconds for one decision of `pods`, with so many nodes.
fn decision(nodes: usize, pods: usize) -> f64 {
    let mut state = State::new(Configuration::default());
    for at in 0..nodes {
        let zone = labelled(json!({"topology.kubernetes.io/zone": format!("z{}", at % 3)}));
        let room =
            json!({"status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"}}});
        let node = node(&format!("n{at}"), with(zone, room));
        state.node(&node.name.clone(), Some(node), Duration::ZERO);
    }
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "rs", "controller": true}]);
    let asks = with(wants("100m", "64Mi"), json!({"metadata": {"ownerReferences": owner}}));
    let all: Vec<_> = (0..=pods).map(|at| pod(&format!("p{at}"), asks.clone())).collect();
    for pod in &all {
        see(&mut state, pod, Duration::ZERO);
    }
    // The first one makes the index.
    assert!(matches!(state.next(Duration::ZERO), Some(Step::Bind { .. })));
    let start = Instant::now();
    for _ in 0..pods {
        assert!(matches!(state.next(Duration::ZERO), Some(Step::Bind { .. })));
    }
    start.elapsed().as_secs_f64() / pods as f64
}

#[test]
fn a_decision_takes_no_longer_than_the_logarithm_of_the_nodes() {
    let curve: Vec<(usize, f64)> =
        [100, 1000, 5000].iter().map(|nodes| (*nodes, decision(*nodes, 500))).collect();
    for (nodes, seconds) in &curve {
        println!("{nodes:>6} nodes: {:.1} µs a decision", seconds * 1e6);
    }
    let (few, many) = (curve[0].1, curve[2].1);
    // The logarithm grows by 1.9; on a busy machine times are what they are, but fifty times as
    // many nodes must not cost ten times as much.
    assert!(many < few * 10.0, "{curve:?}");
}
