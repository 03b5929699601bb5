//! Topology spread constraints, with the examples of Kubernetes' documentation.

use super::*;

const SKEWED: &str = "node(s) didn't match pod topology spread constraints";

fn zoned(name: &str, zone: &str) -> Arc<Node> {
    node(name, labelled(json!({"zone": zone})))
}

fn spread(key: &str, max_skew: i32, more: Value) -> Value {
    let constraint = json!({
        "maxSkew": max_skew,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"foo": "bar"}},
    });
    let constraint = with(constraint, more);
    let labels = labelled(json!({"foo": "bar"}));
    with(labels, json!({"spec": {"topologySpreadConstraints": [constraint]}}))
}

/// Nodes 1 and 2 in zone A, 3 and 4 in zone B; pods on the nodes that are named.
fn documented(pods: &[&str]) -> Snapshot {
    let mut snapshot =
        cluster([zoned("1", "A"), zoned("2", "A"), zoned("3", "B"), zoned("4", "B")]);
    for (at, on) in pods.iter().enumerate() {
        let there = pod(&format!("there-{at}"), labelled(json!({"foo": "bar"})));
        snapshot.place(there, &(*on).into());
    }
    snapshot
}

fn open(snapshot: &Snapshot, asks: Value) -> String {
    let told = super::super::plan::explain(snapshot, &pod("p", asks), &Profile::default());
    let told = told.expect("no rule stops it everywhere").into_iter();
    told.filter(|(_, reasons)| reasons.is_empty()).map(|(node, _)| node.to_string()).collect()
}

#[test]
fn no_domain_gets_too_far_ahead() {
    let table = [
        (vec!["1", "2", "3"], spread("zone", 1, json!({})), "34"),
        (vec!["1", "2", "3"], spread("zone", 2, json!({})), "1234"),
        (vec!["1", "2", "3"], spread("kubernetes.io/hostname", 1, json!({})), "4"),
        (vec![], spread("zone", 1, json!({})), "1234"),
        (vec!["1", "2", "3"], spread("rack", 1, json!({})), ""),
        // Too few domains: the least counts as none.
        (vec!["1", "3"], spread("zone", 1, json!({"minDomains": 3})), ""),
        (vec!["1"], spread("zone", 1, json!({"minDomains": 3})), "34"),
        (vec!["1", "3"], spread("zone", 1, json!({"minDomains": 2})), "1234"),
    ];
    for (pods, asks, expected) in table {
        assert_eq!(open(&documented(&pods), asks.clone()), expected, "{pods:?} {asks}");
    }
    let why =
        told(&documented(&["1", "2", "3", "3", "4", "4"]), &pod("p", spread("rack", 1, json!({}))));
    assert_eq!(why, format!("0/4 nodes are available: 4 {SKEWED} (missing required label)."));
}

#[test]
fn two_constraints_must_both_hold() {
    let mut asks = spread("zone", 1, json!({}));
    let second = spread("kubernetes.io/hostname", 1, json!({}));
    let second = second["spec"]["topologySpreadConstraints"][0].clone();
    let constraints = &mut asks["spec"]["topologySpreadConstraints"];
    constraints.as_array_mut().expect("a list").push(second);
    assert_eq!(open(&documented(&["1", "2", "3"]), asks), "4");
}

#[test]
fn a_pod_that_does_not_count_itself_adds_nothing() {
    let mut asks = spread("zone", 1, json!({}));
    asks["metadata"]["labels"] = json!({});
    assert_eq!(open(&documented(&["1", "2", "3"]), asks), "1234");
}

#[test]
fn nodes_that_the_pod_cannot_use_count_only_if_that_is_wanted() {
    let mut snapshot = cluster([zoned("1", "A"), zoned("2", "B")]);
    let tainted = json!({"spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}});
    snapshot.set_node(node("3", with(labelled(json!({"zone": "C"})), tainted)));
    for (at, on) in ["1", "2"].iter().enumerate() {
        let there = pod(&format!("there-{at}"), labelled(json!({"foo": "bar"})));
        snapshot.place(there, &(*on).into());
    }
    // Zone C has none, and its node will not take the pod.
    assert_eq!(open(&snapshot, spread("zone", 1, json!({}))), "");
    assert_eq!(open(&snapshot, spread("zone", 1, json!({"nodeTaintsPolicy": "Honor"}))), "12");
    let selects = |policy: &str| {
        let expression = json!({"key": "zone", "operator": "NotIn", "values": ["B"]});
        let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
        with(
            spread("zone", 1, json!({"nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": policy})),
            json!({"spec": {"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": terms}}}}),
        )
    };
    snapshot.remove("uid-there-1");
    // Zone B has none now; it counts only for who ignores that the pod does not want it.
    assert_eq!(open(&snapshot, selects("Honor")), "1");
    assert_eq!(open(&snapshot, selects("Ignore")), "");
}

#[test]
fn pods_that_are_being_deleted_do_not_count() {
    let mut snapshot = documented(&["1"]);
    let leaving = json!({"metadata": {"labels": {"foo": "bar"},
        "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    snapshot.place(pod("there-0", leaving), &"1".into());
    assert_eq!(open(&snapshot, spread("zone", 1, json!({}))), "1234");
}

#[test]
fn keys_keep_revisions_apart() {
    let mut snapshot = cluster([zoned("1", "A"), zoned("2", "B")]);
    let old = labelled(json!({"foo": "bar", "hash": "old"}));
    snapshot.place(pod("old", old), &"1".into());
    let keyed = json!({"matchLabelKeys": ["hash"]});
    let asks = with(spread("zone", 1, keyed), labelled(json!({"hash": "new"})));
    assert_eq!(open(&snapshot, asks), "12");
}

#[test]
fn a_wish_for_a_spread_scores() {
    let anyway = json!({"whenUnsatisfiable": "ScheduleAnyway"});
    let snapshot = documented(&["1", "2", "3"]);
    let chosen = choose(&snapshot, &pod("p", spread("zone", 1, anyway.clone()))).expect("room");
    assert!(["3", "4"].contains(&chosen.as_str()), "{chosen}");
    let chosen = choose(&snapshot, &pod("p", spread("kubernetes.io/hostname", 1, anyway)));
    assert_eq!(chosen.expect("room"), "4");
}
