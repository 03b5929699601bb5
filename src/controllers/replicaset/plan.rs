//! What to do for a ReplicaSet: which pods are its own, how many to create, which to delete, and
//! what its status says (Kubernetes' `pkg/controller/replicaset`).
//!
//! **Invariant:** only active pods are counted; a pod controlled by another is never touched.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};

use crate::client::meta::time;
use crate::controllers::selector;
use crate::controllers::view::{POD_TEMPLATE_HASH, Pod};

/// The most pods that are created or deleted in one go (`BurstReplicas`).
pub const BURST: usize = 500;

/// What was observed.
pub struct Observed<'a> {
    pub set: &'a ReplicaSet,
    /// The pods that it controls, and those of its namespace that nobody controls.
    pub pods: &'a [Arc<Pod>],
    /// How many active pods of sets with the same owner each node has.
    pub related: &'a HashMap<String, usize>,
    /// Whether the pod of this uid was deleted by this controller, although it does not show yet.
    pub leaving: &'a dyn Fn(&str) -> bool,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods that match and that nobody controls: take them.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods that it controls and that no longer match: let them go.
    pub release: Vec<Arc<Pod>>,
    pub create: usize,
    /// The pods to delete, the least valuable first.
    pub delete: Vec<Arc<Pod>>,
    /// The active pods that are its own.
    pub active: Vec<Arc<Pod>>,
    /// Its own pods that are on their way out.
    pub terminating: usize,
}

/// The number of replicas that the set asks for.
pub fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn min_ready(set: &ReplicaSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// What to do for the set.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let set = observed.set;
    let mut plan = Plan::default();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let deleting = set.metadata.deletion_timestamp.is_some();
    let own = |plan: &mut Plan, pod: &Arc<Pod>| {
        if pod.is_active() && !(observed.leaving)(&pod.uid) {
            plan.active.push(pod.clone());
        } else if !pod.is_terminal() {
            plan.terminating += 1;
        }
    };
    for pod in observed.pods {
        let matches = selector::matches(&set.spec.selector, &pod.labels);
        match &pod.controller {
            Some(owner) if owner.uid != uid => {}
            Some(_) if matches => own(&mut plan, pod),
            Some(_) if !deleting => plan.release.push(pod.clone()),
            Some(_) => {}
            None if matches && pod.is_active() && !deleting => {
                plan.adopt.push(pod.clone());
                own(&mut plan, pod);
            }
            None => {}
        }
    }
    if deleting {
        return plan;
    }
    let wanted = usize::try_from(wanted(set)).unwrap_or(0);
    if plan.active.len() < wanted {
        plan.create = (wanted - plan.active.len()).min(BURST);
    } else if plan.active.len() > wanted {
        let surplus = (plan.active.len() - wanted).min(BURST);
        plan.delete = least_valuable(&plan.active, observed.related, surplus, now);
    }
    plan
}

/// The order in which Kubernetes gives pods up (`ActivePodsWithRanks`): not assigned, pending, not
/// ready, cheap, crowded on a node, ready for less time, restarted more, younger. Ages are compared
/// by their logarithm, so that which of two old pods goes is not decided by seconds.
pub fn least_valuable(
    pods: &[Arc<Pod>],
    related: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count == pods.len() {
        return pods.to_vec();
    }
    let magnitude = |since: Option<Timestamp>| {
        let nanos = since.map_or(0, |since| now.as_nanosecond() - since.as_nanosecond());
        if nanos > 0 { i64::from(nanos.ilog2()) } else { -1 }
    };
    let mut ranked: Vec<_> = pods
        .iter()
        .map(|pod| {
            let crowd = related.get(&pod.node).copied().unwrap_or_default();
            let rank = (
                !pod.node.is_empty(),
                pod.phase,
                pod.ready.is_some(),
                pod.deletion_cost,
                std::cmp::Reverse(crowd),
                pod.ready.map(|since| magnitude(Some(since))),
                std::cmp::Reverse(pod.restarts),
                magnitude(pod.created),
            );
            (rank, &pod.uid, pod)
        })
        .collect();
    ranked.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    ranked.into_iter().take(count).map(|(_, _, pod)| pod.clone()).collect()
}

/// Why pods could not be created or deleted, for the `ReplicaFailure` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    pub message: String,
}

/// What the status must say of the pods in `plan`.
///
/// `managed` is false while pods were not acted on: then what is known of failures stays.
pub fn status(
    set: &ReplicaSet,
    plan: &Plan,
    failure: Option<&Failure>,
    managed: bool,
    now: Timestamp,
) -> ReplicaSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let template_labels = set.metadata.labels.clone().unwrap_or_default();
    let hash = template_labels.get(POD_TEMPLATE_HASH);
    let labelled =
        |pod: &&Arc<Pod>| hash.is_none_or(|h| pod.labels.get(POD_TEMPLATE_HASH) == Some(h));
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let active = &plan.active;
    let available = |pod: &&Arc<Pod>| pod.is_available(min_ready(set), now);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let has = conditions.iter().any(|c| c.type_.as_deref() == Some("ReplicaFailure"));
    match failure {
        Some(failure) if !has => conditions.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".to_owned()),
            status: Some("True".to_owned()),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time(now)),
        }),
        None if managed => conditions.retain(|c| c.type_.as_deref() != Some("ReplicaFailure")),
        _ => {}
    }
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(labelled).count())),
        ready_replicas: Some(count(active.iter().filter(|pod| pod.ready.is_some()).count())),
        available_replicas: Some(count(active.iter().filter(available).count())),
        terminating_replicas: Some(count(plan.terminating)),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
    }
}

/// When a Ready pod that is not yet available will be, in seconds from `now`.
pub fn next_available(set: &ReplicaSet, plan: &Plan, now: Timestamp) -> Option<u64> {
    let min_ready = i64::from(min_ready(set));
    plan.active
        .iter()
        .filter_map(|pod| pod.ready)
        .map(|since| since.as_second() + min_ready - now.as_second())
        .filter(|left| *left > 0)
        .min()
        .and_then(|left| u64::try_from(left).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::Key;
    use crate::controllers::view::Phase;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}}}))
        .expect("a ReplicaSet")
    }

    /// A running, Ready pod of the set.
    fn pod(name: &str) -> Pod {
        Pod {
            key: Key::new("default", name),
            uid: name.to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            controller: Some(OwnerReference { uid: "rs".to_owned(), ..OwnerReference::default() }),
            created: Some(at(0)),
            node: "one".to_owned(),
            phase: Phase::Running,
            ready: Some(at(10)),
            ..Pod::default()
        }
    }

    fn planned(set: &ReplicaSet, pods: Vec<Pod>) -> Plan {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        plan(&Observed { set, pods: &pods, related: &HashMap::new(), leaving: &|_| false }, at(100))
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.key.name.as_str()).collect()
    }

    #[test]
    fn missing_pods_are_created_in_bursts() {
        assert_eq!(planned(&set(3), vec![pod("a")]).create, 2);
        assert_eq!(planned(&set(2000), vec![]).create, BURST);
        assert_eq!(planned(&set(1), vec![pod("a")]).create, 0);
    }

    #[test]
    fn pods_that_are_over_or_leaving_do_not_count() {
        let failed = Pod { phase: Phase::Failed, ..pod("a") };
        let leaving = Pod { deleting: Some(at(50)), ..pod("b") };
        let plan = planned(&set(2), vec![failed, leaving]);
        assert_eq!(plan.create, 2);
        assert_eq!(plan.terminating, 1);
    }

    #[test]
    fn orphans_that_match_are_adopted_and_own_pods_that_do_not_are_released() {
        let orphan = Pod { controller: None, ..pod("orphan") };
        let stranger = Pod { labels: Default::default(), ..pod("stranger") };
        let foreign = Pod {
            controller: Some(OwnerReference { uid: "x".to_owned(), ..OwnerReference::default() }),
            ..pod("foreign")
        };
        let plan = planned(&set(1), vec![orphan, stranger, foreign]);
        assert_eq!(names(&plan.adopt), ["orphan"]);
        assert_eq!(names(&plan.release), ["stranger"]);
        assert_eq!((plan.create, plan.delete.len()), (0, 0));
    }

    #[test]
    fn a_set_that_is_being_deleted_does_nothing() {
        let mut set = set(3);
        set.metadata.deletion_timestamp = Some(time(at(1)));
        let orphan = Pod { controller: None, ..pod("orphan") };
        let plan = planned(&set, vec![orphan]);
        assert_eq!((plan.create, plan.adopt.len(), plan.delete.len()), (0, 0, 0));
    }

    #[test]
    fn pods_are_given_up_in_kubernetes_order() {
        let cases: Vec<(&str, Pod)> = vec![
            ("not assigned", Pod { node: String::new(), ..pod("z") }),
            ("pending", Pod { phase: Phase::Pending, ..pod("z") }),
            ("not ready", Pod { ready: None, ..pod("z") }),
            ("cheap", Pod { deletion_cost: -1, ..pod("z") }),
            ("ready for less time", Pod { ready: Some(at(95)), ..pod("z") }),
            ("restarted", Pod { restarts: 4, ..pod("z") }),
            ("younger", Pod { created: Some(at(90)), ..pod("z") }),
        ];
        for (why, victim) in cases {
            let plan = planned(&set(2), vec![pod("a"), victim, pod("b")]);
            assert_eq!(names(&plan.delete), ["z"], "{why}");
        }
    }

    #[test]
    fn a_pod_on_the_more_crowded_node_goes_first() {
        let pods: Vec<_> = [pod("a"), Pod { node: "two".to_owned(), ..pod("z") }]
            .into_iter()
            .map(Arc::new)
            .collect();
        let related = HashMap::from([("one".to_owned(), 1), ("two".to_owned(), 5)]);
        let set = set(1);
        let plan = plan(
            &Observed { set: &set, pods: &pods, related: &related, leaving: &|_| false },
            at(100),
        );
        assert_eq!(names(&plan.delete), ["z"]);
    }

    #[test]
    fn the_status_counts_and_tells_failures_until_it_managed() {
        let mut set = set(3);
        set.spec.min_ready_seconds = Some(60);
        let plan = planned(
            &set,
            vec![
                pod("a"),
                Pod { ready: Some(at(80)), ..pod("b") },
                Pod { ready: None, ..pod("c") },
            ],
        );
        let failure = Failure { reason: "FailedCreate", message: "quota".to_owned() };
        let told = status(&set, &plan, Some(&failure), true, at(100));
        assert_eq!(told.replicas, 3);
        assert_eq!((told.ready_replicas, told.available_replicas), (Some(2), Some(1)));
        assert_eq!(told.observed_generation, Some(3));
        assert_eq!(told.conditions.as_ref().map(Vec::len), Some(1));
        assert_eq!(next_available(&set, &plan, at(100)), Some(40));
        set.status = Some(told);
        assert!(status(&set, &plan, None, false, at(101)).conditions.is_some());
        assert!(status(&set, &plan, None, true, at(101)).conditions.is_none());
    }
}
