//! Tables over [`super::plan`].

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::plan::{Action, Observed, Plan, ordinal, plan};
use crate::client::meta::{Key, time};
use crate::controllers::history::REVISION_HASH;
use crate::controllers::view::{Phase, Pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a timestamp")
}

fn set(spec: Value) -> StatefulSet {
    let mut set = json!({"metadata": {"name": "db", "namespace": "default", "uid": "set"},
        "spec": {"replicas": 3, "serviceName": "db", "template": {},
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "selector": {"matchLabels": {"app": "db"}}}});
    for (name, value) in spec.as_object().expect("a map") {
        set["spec"][name] = value.clone();
    }
    serde_json::from_value(set).expect("a StatefulSet")
}

/// A running, Ready pod of revision `old`.
fn pod(ordinal: i32) -> Pod {
    Pod {
        key: Key::new("default", format!("db-{ordinal}")),
        uid: format!("u{ordinal}"),
        labels: [("app".to_owned(), "db".to_owned()), (REVISION_HASH.to_owned(), "old".to_owned())]
            .into(),
        controller: Some(OwnerReference { uid: "set".to_owned(), ..OwnerReference::default() }),
        phase: Phase::Running,
        ready: Some(at(10)),
        ..Pod::default()
    }
}

fn new(ordinal: i32) -> Pod {
    let mut pod = pod(ordinal);
    pod.labels.insert(REVISION_HASH.to_owned(), "new".to_owned());
    pod
}

fn unready(pod: Pod) -> Pod {
    Pod { ready: None, ..pod }
}

fn ended(pod: Pod) -> Pod {
    Pod { phase: Phase::Failed, ..unready(pod) }
}

fn leaving(pod: Pod) -> Pod {
    Pod { deleting: Some(at(90)), ..pod }
}

fn planned(set: &StatefulSet, pods: Vec<Pod>, update: &str) -> Plan {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let observed = Observed { set, pods: &pods, current: "old", update, collisions: None };
    plan(&observed, at(100))
}

/// `+2@new` for a creation, `-2` for a deletion.
fn told(plan: &Plan) -> String {
    let one = |action: &Action| match action {
        Action::Create { ordinal, revision } => Some(format!("+{ordinal}@{revision}")),
        Action::Delete { pod, .. } => Some(pod.key.name.replace("db", "")),
        Action::Claims { .. } => None,
    };
    plan.actions.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn only_plain_names_of_the_set_have_an_ordinal() {
    let cases = [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db-+1", None),
        ("db--1", None),
        ("db-x", None),
        ("dbx-1", None),
        ("db-a-1", None),
    ];
    for (name, expected) in cases {
        assert_eq!(ordinal("db", name), expected, "{name}");
    }
}

#[test]
fn pods_come_one_after_the_other_and_go_in_reverse() {
    let three = set(json!({}));
    let one = set(json!({"replicas": 1}));
    let pending = Pod { phase: Phase::Pending, ..unready(pod(0)) };
    let cases = [
        ("none yet", &three, vec![], "+0@old"),
        ("the first is not ready", &three, vec![pending], ""),
        ("the first is ready", &three, vec![pod(0)], "+1@old"),
        ("a gap", &three, vec![pod(0), pod(2)], "+1@old"),
        ("all there", &three, vec![pod(0), pod(1), pod(2)], ""),
        ("fewer wanted", &one, vec![pod(0), pod(1), pod(2)], "-2"),
        ("one leaves", &one, vec![pod(0), pod(1), leaving(pod(2))], ""),
        ("the next is not well", &one, vec![pod(0), unready(pod(1))], "-1"),
        ("one below is not well", &one, vec![pod(0), unready(pod(1)), pod(2)], "-2"),
        ("two have ended", &one, vec![pod(0), ended(pod(1)), ended(pod(2))], "-2"),
        ("a kept one is not well", &one, vec![unready(pod(0)), pod(1)], ""),
        ("one failed", &three, vec![pod(0), Pod { phase: Phase::Failed, ..pod(1) }], "-1"),
    ];
    for (why, set, pods, expected) in cases {
        assert_eq!(told(&planned(set, pods, "old")), expected, "{why}");
    }
}

#[test]
fn parallel_pods_wait_for_nobody() {
    let set = set(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(told(&planned(&set, vec![unready(pod(1))], "old")), "+0@old +2@old");
    let pods = vec![pod(0), pod(1), pod(2), unready(pod(3)), pod(4)];
    assert_eq!(told(&planned(&set, pods, "old")), "-4 -3");
}

#[test]
fn ordinals_may_start_elsewhere() {
    let set = set(json!({"ordinals": {"start": 5}, "replicas": 2}));
    assert_eq!(told(&planned(&set, vec![], "old")), "+5@old");
    assert_eq!(told(&planned(&set, vec![pod(0), pod(5), pod(6)], "old")), "-0");
}

#[test]
fn an_update_goes_from_above_one_by_one_down_to_the_partition() {
    let all = || vec![pod(0), pod(1), pod(2)];
    let partition = |n: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
    let cases = [
        ("first", json!({}), all(), "-2"),
        ("it leaves", json!({}), vec![pod(0), pod(1), leaving(pod(2))], ""),
        ("it is gone", json!({}), vec![pod(0), pod(1)], "+2@new"),
        ("its successor starts", json!({}), vec![pod(0), pod(1), unready(new(2))], ""),
        ("its successor is ready", json!({}), vec![pod(0), pod(1), new(2)], "-1"),
        ("all new", json!({}), vec![new(0), new(1), new(2)], ""),
        ("above the partition", partition(2), all(), "-2"),
        ("down to the partition", partition(2), vec![pod(0), pod(1), new(2)], ""),
        ("below it the old one comes back", partition(2), vec![pod(0), new(2)], "+1@old"),
        ("by hand", json!({"updateStrategy": {"type": "OnDelete"}}), all(), ""),
        (
            "by hand, deleted",
            json!({"updateStrategy": {"type": "OnDelete"}}),
            vec![pod(0), pod(1)],
            "+2@new",
        ),
    ];
    for (why, spec, pods, expected) in cases {
        assert_eq!(told(&planned(&set(spec), pods, "new")), expected, "{why}");
    }
}

#[test]
fn several_pods_may_be_unavailable_at_a_time() {
    let set = set(json!({"replicas": 5, "podManagementPolicy": "Parallel", "updateStrategy":
        {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": "40%"}}}));
    let pods = || (0..5).map(pod).collect::<Vec<_>>();
    assert_eq!(told(&planned(&set, pods(), "new")), "-4 -3");
    let mut one_down = pods();
    one_down[4] = unready(new(4));
    assert_eq!(told(&planned(&set, one_down, "new")), "-3");
    let mut old_one_down = pods();
    old_one_down[2] = unready(pod(2));
    assert_eq!(told(&planned(&set, old_one_down, "new")), "-4");
}

#[test]
fn a_broken_rollout_can_be_rolled_back_and_forward() {
    let set = set(json!({}));
    let broken = || {
        let mut pod = unready(pod(2));
        pod.labels.insert(REVISION_HASH.to_owned(), "broken".to_owned());
        pod
    };
    assert_eq!(told(&planned(&set, vec![pod(0), pod(1), broken()], "old")), "-2");
    assert_eq!(told(&planned(&set, vec![pod(0), pod(1), broken()], "new")), "-2");
    assert_eq!(told(&planned(&set, vec![pod(0), pod(1), broken()], "broken")), "");
}

#[test]
fn a_pod_must_be_ready_long_enough() {
    let set = set(json!({"minReadySeconds": 60}));
    let fresh = Pod { ready: Some(at(70)), ..pod(0) };
    let plan = planned(&set, vec![fresh], "old");
    assert_eq!((told(&plan).as_str(), plan.again_in), ("", Some(30)));
    assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(1), Some(0)));
}

#[test]
fn the_status_counts_and_the_new_revision_becomes_the_current_one() {
    let set = set(json!({}));
    let status = planned(&set, vec![pod(0), pod(1), unready(new(2))], "new").status;
    assert_eq!((status.replicas, status.ready_replicas), (3, Some(2)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    let status = planned(&set, vec![new(0), new(1), new(2)], "new").status;
    assert_eq!(status.current_revision.as_deref(), Some("new"));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
}

#[test]
fn a_set_that_is_being_deleted_does_nothing_and_strangers_are_let_go() {
    let mut set = set(json!({}));
    let stranger = Pod { key: Key::new("default", "other-1"), ..pod(1) };
    let orphan = Pod { controller: None, ..pod(0) };
    let plan = planned(&set, vec![stranger.clone(), orphan.clone()], "old");
    assert_eq!((plan.adopt.len(), plan.release.len()), (1, 1));
    set.metadata.deletion_timestamp = Some(time(at(1)));
    let plan = planned(&set, vec![stranger, orphan], "old");
    assert_eq!((plan.adopt.len(), plan.release.len(), plan.actions.len()), (0, 0, 0));
}
