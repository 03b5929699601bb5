//! The status of a Deployment and its conditions, so that `kubectl rollout status` and `kubectl
//! wait` work (`pkg/controller/deployment/progress.go`, `sync.go`).
//!
//! `Progressing` goes through:
//! ```text
//!   NewReplicaSetCreated | FoundNewReplicaSet ─▶ ReplicaSetUpdated ─▶ NewReplicaSetAvailable
//!                                                    │ no progress for progressDeadlineSeconds
//!                                                    ▼
//!                                             ProgressDeadlineExceeded (status False)
//! ```

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::size::{asked, available, max_unavailable, replicas};
use crate::client::meta::{time, timestamp};

/// The new set has all pods available.
pub const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";

/// A condition as of `now`.
pub fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

/// The `Progressing` condition.
pub fn progressing(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    find(status, PROGRESSING)
}

/// Puts a condition in the place of the one of its type, unless that says the same already; the
/// time of the last transition stays where only the reason changed.
pub fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let kind = new.type_.clone().unwrap_or_default();
    if let Some(old) = find(status, &kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove_condition(status, &kind);
    status.conditions.get_or_insert_default().push(new);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// The deadline in seconds, where there is one.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// The counts over `sets` and the `Available` condition.
pub fn counted(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| sets.iter().map(|set| count(set)).sum::<i32>();
    let reported = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let all_available = sum(&available);
    let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(&|set| reported(set).replicas)),
        updated_replicas: nonzero(new.map_or(0, |set| reported(set).replicas)),
        ready_replicas: nonzero(sum(&|set| reported(set).ready_replicas.unwrap_or(0))),
        available_replicas: nonzero(all_available),
        unavailable_replicas: nonzero((sum(&asked) - all_available).max(0)),
        terminating_replicas: Some(sum(&|set| reported(set).terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let available = if all_available >= replicas(deployment) - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.".to_owned();
        condition("Available", "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        condition("Available", "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, available);
    status
}

/// Whether all pods are new and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let stale = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    new.updated_replicas > old.updated_replicas
        || stale(new) < stale(&old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(condition)) = (deadline(deployment), progressing(status)) else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|since| {
            timestamp(since).as_second() + i64::from(seconds) < now.as_second()
        }),
    }
}

/// The status during a rollout: the counts, and how it goes on.
pub fn rollout(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    base: &DeploymentStatus,
    now: Timestamp,
) -> DeploymentStatus {
    let mut with_base = deployment.clone();
    with_base.status.get_or_insert_default().conditions = base.conditions.clone();
    with_base.status.get_or_insert_default().collision_count = base.collision_count;
    let mut status = counted(&with_base, sets, new, now);
    if deadline(deployment).is_none() {
        remove_condition(&mut status, PROGRESSING);
    }
    let current = progressing(&status).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_AVAILABLE));
    if deadline(deployment).is_some() && !was_complete {
        let subject = match new {
            Some(set) => {
                format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default())
            }
            None => {
                let name = deployment.metadata.name.as_deref().unwrap_or_default();
                format!("Deployment \"{name}\"")
            }
        };
        if is_complete(deployment, &status) {
            let message = format!("{subject} has successfully progressed.");
            let done = condition(PROGRESSING, "True", NEW_AVAILABLE, message, now);
            set_condition(&mut status, done);
        } else if has_progressed(deployment, &status) {
            let message = format!("{subject} is progressing.");
            let mut moving = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            // The update time is what the deadline counts from, so it moves with every step.
            if let Some(current) = &current {
                if current.status.as_deref() == Some("True") {
                    moving.last_transition_time = current.last_transition_time.clone();
                }
                remove_condition(&mut status, PROGRESSING);
            }
            set_condition(&mut status, moving);
        } else if has_timed_out(deployment, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            let late = condition(PROGRESSING, "False", TIMED_OUT, message, now);
            set_condition(&mut status, late);
        }
    }
    match failure_of(sets, new, now) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove_condition(&mut status, FAILURE),
    }
    status
}

/// What the new set, else an old one, says of pods that it cannot make.
fn failure_of(
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<DeploymentCondition> {
    let mut candidates = new.into_iter().chain(sets.iter().copied());
    let found = candidates.find_map(|set| {
        let status = set.status.as_ref()?;
        status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(FAILURE)).cloned()
    })?;
    Some(DeploymentCondition {
        type_: Some(FAILURE.to_owned()),
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_transition_time: found.last_transition_time,
        last_update_time: Some(time(now)),
    })
}

/// The condition for a Deployment that was paused or resumed, where it must change.
pub fn paused(deployment: &Deployment, now: Timestamp) -> Option<DeploymentCondition> {
    deadline(deployment)?;
    let status = deployment.status.clone().unwrap_or_default();
    let reason = progressing(&status).and_then(|c| c.reason.clone()).unwrap_or_default();
    let is_paused = deployment.spec.paused == Some(true);
    match (is_paused, reason.as_str()) {
        (_, TIMED_OUT) | (true, "DeploymentPaused") => None,
        (true, _) => {
            let message = "Deployment is paused".to_owned();
            Some(condition(PROGRESSING, "Unknown", "DeploymentPaused", message, now))
        }
        (false, "DeploymentPaused") => {
            let message = "Deployment is resumed".to_owned();
            Some(condition(PROGRESSING, "Unknown", "DeploymentResumed", message, now))
        }
        (false, _) => None,
    }
}

/// In how many seconds a rollout that does not move would miss its deadline.
pub fn check_again_in(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<u64> {
    let (seconds, condition) = (deadline(deployment)?, progressing(status)?);
    let reason = condition.reason.as_deref().unwrap_or_default();
    if is_complete(deployment, status) || reason == TIMED_OUT || reason == NEW_AVAILABLE {
        return None;
    }
    let since = condition.last_update_time.as_ref().map_or(now, timestamp);
    let left = since.as_second() + i64::from(seconds) - now.as_second();
    Some(u64::try_from(left).unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn deployment(replicas: i32) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": replicas, "selector": {}, "template": {},
                "progressDeadlineSeconds": 60,
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}}))
        .expect("a Deployment")
    }

    fn set(asked: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "web-1"},
            "spec": {"replicas": asked, "selector": {}},
            "status": {"replicas": asked, "readyReplicas": available,
                "availableReplicas": available}}))
        .expect("a ReplicaSet")
    }

    fn reason(status: &DeploymentStatus) -> (&str, &str) {
        let condition = progressing(status).expect("a Progressing condition");
        (
            condition.status.as_deref().unwrap_or_default(),
            condition.reason.as_deref().unwrap_or_default(),
        )
    }

    #[test]
    fn a_rollout_progresses_completes_and_stays_complete() {
        let mut deployment = deployment(3);
        let new = set(3, 1);
        let status = rollout(&deployment, &[&new], Some(&new), &Default::default(), at(100));
        assert_eq!(reason(&status), ("True", "ReplicaSetUpdated"));
        assert_eq!(status.unavailable_replicas, Some(2));
        let available = find(&status, "Available").expect("it is told");
        assert_eq!(available.status.as_deref(), Some("False"));
        deployment.status = Some(status);
        let new = set(3, 3);
        let base = deployment.status.clone().unwrap_or_default();
        let status = rollout(&deployment, &[&new], Some(&new), &base, at(110));
        assert_eq!(reason(&status), ("True", NEW_AVAILABLE));
        let told = progressing(&status).and_then(|c| c.message.clone());
        assert_eq!(told.as_deref(), Some("ReplicaSet \"web-1\" has successfully progressed."));
        assert_eq!(check_again_in(&deployment, &status, at(110)), None);
        deployment.status = Some(status.clone());
        let lost = set(3, 2);
        let later = rollout(&deployment, &[&lost], Some(&lost), &status, at(500));
        assert_eq!(reason(&later), ("True", NEW_AVAILABLE), "a lost pod is no rollout");
    }

    #[test]
    fn a_rollout_that_does_not_move_misses_its_deadline() {
        let mut deployment = deployment(3);
        let new = set(3, 1);
        let status = rollout(&deployment, &[&new], Some(&new), &Default::default(), at(100));
        assert_eq!(check_again_in(&deployment, &status, at(120)), Some(41));
        deployment.status = Some(status.clone());
        let still = rollout(&deployment, &[&new], Some(&new), &status, at(160));
        assert_eq!(reason(&still), ("True", "ReplicaSetUpdated"));
        let late = rollout(&deployment, &[&new], Some(&new), &status, at(161));
        assert_eq!(reason(&late), ("False", TIMED_OUT));
        deployment.status = Some(late.clone());
        let new = set(3, 2);
        let moved = rollout(&deployment, &[&new], Some(&new), &late, at(170));
        assert_eq!(reason(&moved), ("True", "ReplicaSetUpdated"), "progress ends it");
    }

    #[test]
    fn what_the_replica_set_cannot_make_is_told() {
        let deployment = deployment(3);
        let mut new = set(3, 0);
        new.status.get_or_insert_default().conditions =
            Some(vec![k8s_openapi::api::apps::v1::ReplicaSetCondition {
                type_: Some(FAILURE.to_owned()),
                status: Some("True".to_owned()),
                reason: Some("FailedCreate".to_owned()),
                message: Some("quota".to_owned()),
                last_transition_time: None,
            }]);
        let status = rollout(&deployment, &[&new], Some(&new), &Default::default(), at(1));
        let failure = find(&status, FAILURE).expect("it is told");
        assert_eq!(failure.message.as_deref(), Some("quota"));
    }
}
