//! The status of a PodDisruptionBudget (Kubernetes' `pkg/controller/disruption`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::client::meta::{time, timestamp};
use crate::controllers::deployment::size::scaled;
use crate::controllers::view::Pod;

/// How long an eviction may take to show.
const EVICTION: i64 = 120;

/// What was observed.
pub struct Observed<'a> {
    pub budget: &'a PodDisruptionBudget,
    /// The pods that it covers.
    pub pods: &'a [Arc<Pod>],
    /// How many pods the controllers of these pods want, or why that is not known.
    pub scale: Result<i32, String>,
}

/// The status, and when to look again.
pub struct Plan {
    pub status: PodDisruptionBudgetStatus,
    pub again_in: Option<Duration>,
}

/// Whether the budget is counted in what controllers want, not in the pods that are there.
pub fn wants_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What the budget's status must say.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let budget = observed.budget;
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let expected = if wants_scale(&spec) {
        observed.scale.clone()
    } else {
        Ok(i32::try_from(observed.pods.len()).unwrap_or(i32::MAX))
    };
    let expected = match expected {
        Ok(expected) => expected,
        Err(why) => return Plan { status: failed(budget, old, &why, now), again_in: None },
    };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => expected - scaled(Some(most), expected, true),
        (None, Some(least)) => scaled(Some(least), expected, true),
        (None, None) => 0,
    };
    let desired = desired.max(0);
    let (disrupted, again_in) = disrupted(observed.pods, &old, now);
    let healthy = observed.pods.iter().filter(|pod| {
        pod.ready.is_some() && pod.deleting.is_none() && !disrupted.contains_key(&pod.key.name)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (is, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut status = PodDisruptionBudgetStatus {
        conditions: old.conditions,
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
    };
    set_condition(budget, &mut status, is, reason, "", now);
    Plan { status, again_in }
}

/// Nothing may be evicted while it is not known what is wanted.
fn failed(
    budget: &PodDisruptionBudget,
    mut status: PodDisruptionBudgetStatus,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    status.disruptions_allowed = Some(0);
    status.observed_generation = budget.metadata.generation;
    set_condition(budget, &mut status, "False", "SyncFailed", why, now);
    status
}

type Disrupted = BTreeMap<String, k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>;

/// The evictions that do not show yet, and when the first of them is given up.
fn disrupted(
    pods: &[Arc<Pod>],
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
) -> (Disrupted, Option<Duration>) {
    let mut disrupted = old.disrupted_pods.clone().unwrap_or_default();
    let mut first = None;
    disrupted.retain(|name, since| {
        let left = timestamp(since).as_second() + EVICTION - now.as_second();
        let waits =
            left > 0 && pods.iter().any(|pod| pod.key.name == *name && pod.deleting.is_none());
        if waits {
            first = Some(first.map_or(left, |first: i64| first.min(left)));
        }
        waits
    });
    (disrupted, first.and_then(|left| u64::try_from(left).ok()).map(Duration::from_secs))
}

fn set_condition(
    budget: &PodDisruptionBudget,
    status: &mut PodDisruptionBudgetStatus,
    is: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    const KIND: &str = "DisruptionAllowed";
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == KIND);
    let old = old.map(|at| conditions.remove(at));
    let since = old.filter(|old| old.status == is).map(|old| old.last_transition_time);
    conditions.push(Condition {
        type_: KIND.to_owned(),
        status: is.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| time(now)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::Key;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 2},
            "spec": spec, "status": status}))
        .expect("a budget")
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize| Pod {
            key: Key::new("default", format!("p{n}")),
            ready: Some(at(1)).filter(|_| n < ready),
            ..Pod::default()
        };
        (0..ready + unready).map(|n| Arc::new(pod(n))).collect()
    }

    fn none() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0,
            "expectedPods": 0})
    }

    fn planned(spec: Value, pods: &[Arc<Pod>], scale: Result<i32, String>) -> Plan {
        plan(&Observed { budget: &budget(spec, none()), pods, scale }, at(100))
    }

    #[test]
    fn what_may_be_evicted_is_what_is_healthy_beyond_what_is_needed() {
        let cases = [
            (json!({"minAvailable": 2}), pods(3, 0), (1, 2, 3)),
            (json!({"minAvailable": 2}), pods(2, 1), (0, 2, 3)),
            (json!({"minAvailable": "50%"}), pods(3, 0), (1, 2, 3)),
            (json!({"minAvailable": "50%"}), pods(4, 1), (1, 3, 5)),
            (json!({"maxUnavailable": 1}), pods(3, 0), (1, 2, 3)),
            (json!({"maxUnavailable": "30%"}), pods(4, 0), (2, 2, 4)),
            (json!({"maxUnavailable": 0}), pods(3, 0), (0, 3, 3)),
            (json!({"minAvailable": 0}), pods(0, 0), (0, 0, 0)),
        ];
        for (spec, pods, expected) in cases {
            let scale = Ok(i32::try_from(pods.len()).expect("few pods"));
            let status = planned(spec.clone(), &pods, scale).status;
            let (allowed, desired, pods) = expected;
            assert_eq!(status.disruptions_allowed, Some(allowed), "{spec}");
            assert_eq!(status.desired_healthy, Some(desired), "{spec}");
            assert_eq!(status.expected_pods, Some(pods), "{spec}");
            assert_eq!(status.observed_generation, Some(2));
        }
    }

    #[test]
    fn what_controllers_want_counts_and_not_what_is_there() {
        let status = planned(json!({"maxUnavailable": 1}), &pods(3, 0), Ok(5)).status;
        assert_eq!((status.disruptions_allowed, status.desired_healthy), (Some(0), Some(4)));
        let status = planned(json!({"maxUnavailable": 1}), &pods(3, 0), Err("x".into())).status;
        let condition = &status.conditions.as_ref().expect("conditions")[0];
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "x"));
    }

    #[test]
    fn an_eviction_that_does_not_show_yet_counts_for_two_minutes() {
        let mut status = none();
        status["disruptedPods"] = json!({"p0": "1970-01-01T00:01:00Z",
            "gone": "1970-01-01T00:01:00Z"});
        let budget = budget(json!({"minAvailable": 1}), status);
        let pods = pods(3, 0);
        let look = |second| {
            let plan = plan(&Observed { budget: &budget, pods: &pods, scale: Ok(3) }, at(second));
            let waiting = plan.status.disrupted_pods.map_or(0, |pods| pods.len());
            (plan.status.current_healthy, waiting, plan.again_in)
        };
        assert_eq!(look(100), (Some(2), 1, Some(Duration::from_secs(80))));
        assert_eq!(look(180), (Some(3), 0, None));
    }

    #[test]
    fn the_condition_keeps_its_time_until_it_turns() {
        let spec = json!({"minAvailable": 2});
        let first = planned(spec.clone(), &pods(3, 0), Ok(3)).status;
        let mut budget = budget(spec, none());
        budget.status = Some(first.clone());
        let look = |pods: &[Arc<Pod>]| {
            plan(&Observed { budget: &budget, pods, scale: Ok(3) }, at(200)).status
        };
        assert_eq!(look(&pods(3, 0)), first);
        let turned = look(&pods(2, 1)).conditions.expect("conditions");
        assert_eq!(turned[0].reason, "InsufficientPods");
        assert_eq!(turned[0].last_transition_time, time(at(200)));
    }
}
