//! The life of pods in the queue.

use super::*;

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
        [
            "high to n",
            "low to n",
            "low-2: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are \
             available: 1 No preemption victims found for incoming pod."
        ]
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
    state.not_bound(&first, "n", true, Duration::ZERO);
    let used = state.snapshot().node("n").expect("the node").used.cpu_milli;
    assert_eq!((used, state.due()), (0, Some(SECOND)));
    assert_eq!(steps(&mut state, SECOND), ["first to n"]);
    // Seen bound before the answer came: the late failure changes nothing.
    let bound = pod("first", json!({"spec": {"nodeName": "n", "containers": [{"name": "c"}]}}));
    see(&mut state, &bound, SECOND);
    state.not_bound(&first, "n", true, SECOND);
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
        ["next: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are \
             available: 1 No preemption victims found for incoming pod."]
    );
    // The node comes back after having been away: its pod still counts.
    state.node("n", None, 3 * SECOND);
    state.node("n", Some(node("n", json!({}))), 9 * SECOND);
    assert_eq!(steps(&mut state, 9 * SECOND).len(), 1);
    let used = state.snapshot().node("n").expect("the node").used.cpu_milli;
    assert_eq!(used, 1500);
}

#[test]
fn a_pod_wakes_only_for_what_may_help() {
    let tainted = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let mut state = scheduler(&[node("n", tainted.clone())]);
    see(&mut state, &pod("p", wants("1", "1Mi")), Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO).len(), 1);
    // A node that would not take it either; a pod elsewhere; another label of the node.
    let more = with(tainted.clone(), labelled(json!({"x": "y"})));
    state.node("m", Some(node("m", tainted)), 2 * SECOND);
    state.node("n", Some(node("n", more)), 2 * SECOND);
    see(&mut state, &pod("q", json!({"spec": {"nodeName": "m"}})), 2 * SECOND);
    assert_eq!(steps(&mut state, 20 * SECOND), [""; 0]);
    state.node("n", Some(node("n", json!({}))), 20 * SECOND);
    assert_eq!(steps(&mut state, 20 * SECOND), ["p to n"]);
}

#[test]
fn pods_that_wait_for_pods_wake_when_these_come() {
    let mut state = scheduler(&[node("n", json!({})), node("m", json!({}))]);
    let near = json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"});
    let asks = json!({"spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [near]}}}});
    see(&mut state, &pod("web", asks), Duration::ZERO);
    assert_eq!(
        steps(&mut state, Duration::ZERO),
        ["web: 0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: \
          0/2 nodes are available: 2 Preemption is not helpful for scheduling."]
    );
    see(&mut state, &pod("other", json!({"spec": {"nodeName": "n"}})), 2 * SECOND);
    assert_eq!(steps(&mut state, 2 * SECOND), [""; 0]);
    let db = with(labelled(json!({"app": "db"})), json!({"spec": {"nodeName": "m"}}));
    see(&mut state, &pod("db", db), 3 * SECOND);
    assert_eq!(steps(&mut state, 3 * SECOND), ["web to m"]);
}

#[test]
fn only_pods_of_a_profile_are_scheduled() {
    let text = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{schedulerName: packer}, {schedulerName: spreader}]
";
    let config = super::super::config::file::read(text).expect("a configuration");
    let mut state = State::new(config);
    state.node("n", Some(node("n", json!({}))), Duration::ZERO);
    for name in ["packer", "spreader", "default-scheduler"] {
        let asks = json!({"spec": {"schedulerName": name}});
        see(&mut state, &pod(name, asks), Duration::ZERO);
    }
    assert_eq!(steps(&mut state, Duration::ZERO), ["packer to n", "spreader to n"]);
}

fn member(min: &str, cpu: &str) -> Value {
    let labels = json!({
        "pod-group.scheduling.sigs.k8s.io/name": "train",
        "pod-group.scheduling.sigs.k8s.io/min-available": min,
    });
    with(labelled(labels), wants(cpu, "1Mi"))
}

#[test]
fn a_group_is_scheduled_whole_or_not_at_all() {
    let mut state = scheduler(&[node("n", json!({})), node("m", json!({}))]);
    see(&mut state, &pod("a", member("3", "900m")), Duration::ZERO);
    see(&mut state, &pod("b", member("3", "900m")), Duration::ZERO);
    let few = |name: &str| {
        format!(
            "{name}: 0/2 nodes are available: pre-filter pod {name} cannot find enough sibling \
             pods, current pods number: 2, minMember of group: 3."
        )
    };
    assert_eq!(steps(&mut state, Duration::ZERO), [few("a"), few("b")]);
    // The third one comes, but there is no room for it: nothing is held.
    see(&mut state, &pod("c", member("3", "1900m")), 20 * SECOND);
    let told = steps(&mut state, 20 * SECOND);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|line| line.contains(": 0/2 nodes are available: ")), "{told:?}");
    let used: i64 = state.snapshot().nodes().iter().map(|info| info.used.pods).sum();
    assert_eq!(used, 0);
    state.node("o", Some(node("o", json!({}))), 60 * SECOND);
    let mut told = steps(&mut state, 60 * SECOND);
    told.sort();
    let bound: Vec<&str> = told.iter().map(|line| &line[..5]).collect();
    assert_eq!(bound, ["a to ", "b to ", "c to "], "{told:?}");
}

#[test]
fn a_pod_group_object_says_how_many_there_must_be() {
    let mut state = scheduler(&[node("n", json!({}))]);
    let key = crate::client::Key::new("default", "g");
    state.group(key.clone(), Some(2), Duration::ZERO);
    let asks = labelled(json!({"scheduling.x-k8s.io/pod-group": "g"}));
    see(&mut state, &pod("a", asks.clone()), Duration::ZERO);
    assert_eq!(steps(&mut state, Duration::ZERO).len(), 1);
    state.group(key, Some(1), 2 * SECOND);
    assert_eq!(steps(&mut state, 2 * SECOND), ["a to n"]);
    see(&mut state, &pod("b", asks), 3 * SECOND);
    assert_eq!(steps(&mut state, 3 * SECOND), ["b to n"]);
}
