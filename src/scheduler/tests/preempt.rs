//! Who makes room for whom.

use super::super::preempt::Budget;
use super::super::terms::selector;
use super::*;
use crate::client::Key;

fn ranked(cpu: &str, priority: i32, more: Value) -> Value {
    with(with(wants(cpu, "1Mi"), json!({"spec": {"priority": priority}})), more)
}

fn on(node: &str, cpu: &str, priority: i32, more: Value) -> Value {
    with(ranked(cpu, priority, more), json!({"spec": {"nodeName": node}}))
}

fn started(at: &str) -> Value {
    json!({"status": {"startTime": at}})
}

fn first_step(state: &mut State, pod: &Arc<Pod>) -> String {
    see(state, pod, SECOND);
    state.next(SECOND).map(|step| word(&step)).unwrap_or_default()
}

#[test]
fn the_fewest_and_least_important_pods_make_room() {
    let early = || started("2026-01-01T00:00:00Z");
    let late = || started("2026-01-02T00:00:00Z");
    let budget = || json!({"metadata": {"labels": {"app": "guarded"}}});
    // Pods as name, node, cpu, priority, and what else; whom a pod with cpu 1500m preempts.
    type There = (&'static str, &'static str, &'static str, i32, Value);
    let table: Vec<(Vec<There>, &str)> = vec![
        // One of two is enough: the one of lower priority.
        (
            vec![("x", "a", "1", 5, json!({})), ("y", "a", "1", 1, json!({}))],
            "high preempts x y on a",
        ),
        (
            vec![("x", "a", "1500m", 1, json!({})), ("y", "a", "400m", 5, json!({}))],
            "high preempts x on a",
        ),
        // A violated budget is worse than a higher priority.
        (vec![("x", "a", "2", 1, budget()), ("y", "b", "2", 5, json!({}))], "high preempts y on b"),
        // The lowest highest priority.
        (
            vec![("x", "a", "2", 5, json!({})), ("y", "b", "2", 4, json!({}))],
            "high preempts y on b",
        ),
        // The lowest sum, and then the fewest.
        (
            vec![
                ("x", "a", "1", 5, json!({})),
                ("x2", "a", "1", 4, json!({})),
                ("y", "b", "1", 5, json!({})),
                ("y2", "b", "1", 3, json!({})),
            ],
            "high preempts y y2 on b",
        ),
        (
            vec![
                ("x", "a", "1", 5, json!({})),
                ("x2", "a", "1", 5, json!({})),
                ("y", "b", "2", 5, json!({})),
            ],
            "high preempts y on b",
        ),
        // The one that ran for the shortest time.
        (vec![("x", "a", "2", 5, early()), ("y", "b", "2", 5, late())], "high preempts y on b"),
        // Nobody of the same priority.
        (
            vec![("x", "a", "2", 10, json!({})), ("y", "b", "2", 11, json!({}))],
            "high: 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are \
             available: 2 No preemption victims found for incoming pod.",
        ),
        // Even all of the lower ones are not enough.
        (
            vec![
                ("x", "a", "1", 5, json!({})),
                ("x2", "a", "1", 10, json!({})),
                ("y", "b", "2", 10, json!({})),
            ],
            "high: 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are \
             available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.",
        ),
    ];
    for (there, expected) in table {
        let mut nodes = vec![node("a", json!({}))];
        if there.iter().any(|(_, node, ..)| *node == "b") {
            nodes.push(node("b", json!({})));
        }
        let mut state = scheduler(&nodes);
        let selects = serde_json::from_value(json!({"matchLabels": {"app": "guarded"}}));
        let guard = Budget {
            namespace: "default".to_owned(),
            selector: selector(Some(&selects.expect("a selector"))),
            allowed: 0,
            disrupted: Default::default(),
        };
        state.budget(Key::new("default", "guard"), Some(guard));
        for (name, node, cpu, priority, more) in &there {
            let there = pod(name, on(node, cpu, *priority, more.clone()));
            see(&mut state, &there, Duration::ZERO);
        }
        let high = pod("high", ranked("1500m", 10, json!({})));
        assert_eq!(first_step(&mut state, &high), expected, "{there:?}");
    }
}

#[test]
fn a_pod_that_never_preempts_waits_its_turn() {
    let mut state = scheduler(&[node("a", json!({}))]);
    see(&mut state, &pod("x", on("a", "2", 1, json!({}))), Duration::ZERO);
    let polite = ranked("1", 10, json!({"spec": {"preemptionPolicy": "Never"}}));
    assert_eq!(
        first_step(&mut state, &pod("polite", polite)),
        "polite: 0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to \
         preemptionPolicy=Never."
    );
}

#[test]
fn preemption_is_not_tried_where_it_cannot_help() {
    let tainted = json!({"spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}});
    let mut state = scheduler(&[node("a", tainted), node("b", json!({}))]);
    see(&mut state, &pod("x", on("a", "2", 1, json!({}))), Duration::ZERO);
    let high = pod("high", ranked("3", 10, json!({})));
    assert_eq!(
        first_step(&mut state, &high),
        "high: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {t: }. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn room_that_is_being_made_is_kept_for_whom_it_is_made() {
    let mut state = scheduler(&[node("a", json!({}))]);
    let victim = pod("x", on("a", "2", 1, json!({})));
    see(&mut state, &victim, Duration::ZERO);
    let high = pod("high", ranked("2", 10, json!({})));
    assert_eq!(first_step(&mut state, &high), "high preempts x on a");
    // The victim goes; one of lower priority comes first, and is not let in.
    state.pod(victim.key.clone(), None, 2 * SECOND);
    see(&mut state, &pod("low", ranked("1", 5, json!({}))), 2 * SECOND);
    let told = steps(&mut state, 2 * SECOND);
    assert_eq!(told[0], "high to a", "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("low: 0/1 nodes are available: 1 Insufficient cpu."), "{told:?}");
}

#[test]
fn while_victims_go_no_others_are_taken() {
    let mut state = scheduler(&[node("a", json!({})), node("b", json!({}))]);
    let victim = pod("x", on("a", "2", 1, json!({})));
    see(&mut state, &victim, Duration::ZERO);
    see(&mut state, &pod("y", on("b", "2", 2, json!({}))), Duration::ZERO);
    let high = pod("high", ranked("2", 10, json!({})));
    assert_eq!(first_step(&mut state, &high), "high preempts x on a");
    // Something wakes it before the victim has gone.
    assert_eq!(
        steps(&mut state, 400 * SECOND),
        ["high: 0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to a \
          terminating pod on the nominated node."]
    );
    state.spared(&[victim]);
    assert_eq!(steps(&mut state, 900 * SECOND), ["high preempts x on a"]);
}

#[test]
fn one_that_matters_even_more_takes_the_room() {
    let mut state = scheduler(&[node("a", json!({}))]);
    let victim = pod("x", on("a", "2", 1, json!({})));
    see(&mut state, &victim, Duration::ZERO);
    let high = pod("high", ranked("2", 10, json!({})));
    assert_eq!(first_step(&mut state, &high), "high preempts x on a");
    let higher = pod("higher", ranked("2", 20, json!({})));
    see(&mut state, &higher, SECOND);
    let Some(Step::Refuse { room: Some(room), .. }) = state.next(SECOND) else {
        panic!("it makes room as well")
    };
    assert_eq!(room.displaced.iter().map(|p| p.key.name.as_str()).collect::<Vec<_>>(), ["high"]);
    state.pod(victim.key.clone(), None, 20 * SECOND);
    let told = steps(&mut state, 20 * SECOND);
    assert_eq!(told[0], "higher to a", "{told:?}");
}

#[test]
fn a_nomination_of_an_earlier_process_counts() {
    let mut state = scheduler(&[node("a", json!({}))]);
    let nominated = ranked("2", 10, json!({"status": {"nominatedNodeName": "a"}}));
    see(&mut state, &pod("low", ranked("1", 5, json!({}))), Duration::ZERO);
    see(&mut state, &pod("high", nominated), Duration::ZERO);
    let told = steps(&mut state, Duration::ZERO);
    assert_eq!(told[0], "high to a", "{told:?}");
}

#[test]
fn anti_affinity_is_a_reason_to_preempt() {
    let mut state = scheduler(&[node("a", json!({}))]);
    let there = on("a", "100m", 1, labelled(json!({"app": "web"})));
    see(&mut state, &pod("x", there), Duration::ZERO);
    see(&mut state, &pod("y", on("a", "100m", 1, json!({}))), Duration::ZERO);
    let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
    let far = json!({"spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let high = pod("high", ranked("100m", 10, far));
    assert_eq!(first_step(&mut state, &high), "high preempts x on a");
}
