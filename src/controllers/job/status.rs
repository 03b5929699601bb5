//! The status of a Job: its counters, which count every pod once, and its conditions.
//!
//! [`record`] gives what is written before finalizers are removed, [`settle`] what is written once
//! they are.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};

use super::plan::{End, Over, Plan, has, index_of, is_indexed, is_suspended, spec_of};
use super::policy::{self, Verdict};
use crate::client::events::EventType;
use crate::client::meta::time;
use crate::controllers::view::{Phase, Pod};

/// The most pods that are counted in one go.
pub const UNCOUNTED_MAX: usize = 500;

/// What became of a plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub created: usize,
    pub deleted: usize,
}

/// What to write before finalizers are removed.
#[derive(Debug)]
pub struct Recorded {
    pub status: JobStatus,
    /// The pods whose finalizer may go once `status` is written.
    pub counted: Vec<Arc<Pod>>,
    /// The Job is over, as far as its pods are concerned.
    pub over: Option<Over>,
    /// More pods wait to be counted.
    pub is_partial: bool,
}

fn size(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The status with what was done, and with the pods that ended since the last time.
pub fn record(job: &Job, plan: &Plan, done: Done, now: Timestamp) -> Recorded {
    let mut status = job.status.clone().unwrap_or_default();
    let all_gone = done.deleted == plan.delete.len();
    let over = plan.over.clone().filter(|_| all_gone);
    set_start(job, plan, &mut status, now);
    let active = plan.active.len() - done.deleted + done.created;
    let ready = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pod.ready.is_some()).count();
    // Which of several pods could not be deleted does not matter: all are looked at again.
    let ready = ready(&plan.active).saturating_sub(if all_gone { ready(&plan.delete) } else { 0 });
    status.active = Some(size(active)).filter(|n| *n != 0);
    status.ready = Some(size(ready.min(active)));
    status.terminating = Some(size(plan.terminating + done.deleted));
    let left: HashSet<&str> = tracked(plan).map(|pod| pod.uid.as_str()).collect();
    count_gone(&mut status, |uid| left.contains(uid));
    let (counted, is_partial) = count(job, plan, over.as_ref(), &mut status);
    if let Some(failed) = &plan.failed {
        status.failed_indexes = Some(failed.to_string());
    }
    if let Some(over) = &over {
        let interim = match over.end {
            End::Complete => "SuccessCriteriaMet",
            End::Failed => "FailureTarget",
        };
        set_condition(&mut status, interim, "True", &over.reason, &over.message, now);
    }
    Recorded { status, counted, over, is_partial }
}

fn tracked(plan: &Plan) -> impl Iterator<Item = &Arc<Pod>> {
    plan.own.iter().filter(|pod| pod.job.as_ref().is_some_and(|job| job.tracked))
}

/// When the Job began, and whether it is suspended.
fn set_start(job: &Job, plan: &Plan, status: &mut JobStatus, now: Timestamp) {
    let suspended = is_suspended(spec_of(job));
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(time(now));
    }
    if plan.over.is_some() || job.metadata.deletion_timestamp.is_some() {
        return;
    }
    if suspended {
        set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
    } else if has(status, "Suspended") {
        set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        status.start_time = Some(time(now));
    }
}

/// Notes which pods ended. Answers whose finalizer may go, and whether there are more.
fn count(
    job: &Job,
    plan: &Plan,
    over: Option<&Over>,
    status: &mut JobStatus,
) -> (Vec<Arc<Pod>>, bool) {
    let spec = spec_of(job);
    let indexed = is_indexed(spec);
    let failing = over.is_some_and(|over| over.end == End::Failed);
    let deleting = job.metadata.deletion_timestamp.is_some();
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let succeeded = uncounted.succeeded.get_or_insert_default();
    let failed = uncounted.failed.get_or_insert_default();
    let mut done = plan.before.clone();
    let mut counted = Vec::new();
    let mut is_partial = false;
    let mut new_indexes = 0;
    for pod in tracked(plan) {
        let is_failed = policy::is_failed(spec, pod);
        let ended = is_failed || pod.phase == Phase::Succeeded;
        let index = index_of(spec, pod);
        let waits = index.is_some_and(|i| plan.delayed.get(&i).is_some_and(|p| p.uid == pod.uid));
        if !(deleting || over.is_some() || (ended && !waits)) {
            continue;
        }
        if succeeded.len() + failed.len() + new_indexes >= UNCOUNTED_MAX {
            is_partial = true;
            break;
        }
        counted.push(pod.clone());
        let known = succeeded.contains(&pod.uid) || failed.contains(&pod.uid);
        if known || (indexed && index.is_none()) {
            continue;
        }
        if pod.phase == Phase::Succeeded {
            match index {
                Some(index) if indexed => {
                    new_indexes += usize::from(!done.has(index));
                    done.insert(index);
                }
                _ => succeeded.push(pod.uid.clone()),
            }
        } else if (is_failed || failing)
            && policy::verdict(spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore
        {
            failed.push(pod.uid.clone());
        }
    }
    status.uncounted_terminated_pods = Some(uncounted);
    if indexed {
        status.succeeded = Some(done.total()).filter(|n| *n != 0);
        status.completed_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
    }
    (counted, is_partial)
}

/// Counts the noted pods that are no longer `left` with a finalizer.
fn count_gone(status: &mut JobStatus, left: impl Fn(&str) -> bool) {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return };
    for (uids, counter) in [
        (&mut uncounted.succeeded, &mut status.succeeded),
        (&mut uncounted.failed, &mut status.failed),
    ] {
        let Some(uids) = uids else { continue };
        let before = uids.len();
        uids.retain(|uid| left(uid));
        let gone = before - uids.len();
        if gone > 0 {
            *counter = Some(counter.unwrap_or(0) + size(gone));
        }
    }
}

/// The status once the finalizers are removed; `left` are the uids of the pods that still have
/// theirs.
pub fn settle(recorded: &Recorded, left: &HashSet<String>, now: Timestamp) -> JobStatus {
    let mut status = recorded.status.clone();
    count_gone(&mut status, |uid| left.contains(uid));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    uncounted.succeeded = uncounted.succeeded.filter(|uids| !uids.is_empty());
    uncounted.failed = uncounted.failed.filter(|uids| !uids.is_empty());
    let all_counted = uncounted.succeeded.is_none() && uncounted.failed.is_none();
    status.uncounted_terminated_pods = Some(uncounted);
    let Some(over) = recorded.over.as_ref().filter(|_| all_counted && !recorded.is_partial) else {
        return status;
    };
    if status.terminating.unwrap_or(0) > 0 {
        return status;
    }
    let last = match over.end {
        End::Complete => "Complete",
        End::Failed => "Failed",
    };
    set_condition(&mut status, last, "True", &over.reason, &over.message, now);
    if over.end == End::Complete {
        status.completion_time = Some(time(now));
    }
    status
}

fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    is: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == kind && c.status == is) {
        return;
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: is.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    });
}

/// What people are told when the status becomes `new`.
pub fn told(old: &JobStatus, new: &JobStatus) -> Vec<(EventType, String, String)> {
    let mut events = Vec::new();
    let mut tell = |kind, reason: &str, message: &str| {
        events.push((kind, reason.to_owned(), message.to_owned()));
    };
    for condition in new.conditions.iter().flatten() {
        let was = has(old, &condition.type_);
        let is = condition.status == "True";
        match condition.type_.as_str() {
            "Complete" if is && !was => tell(EventType::Normal, "Completed", "Job completed"),
            "Failed" if is && !was => tell(
                EventType::Warning,
                condition.reason.as_deref().unwrap_or_default(),
                condition.message.as_deref().unwrap_or_default(),
            ),
            "Suspended" if is && !was => tell(EventType::Normal, "Suspended", "Job suspended"),
            "Suspended" if was && !is => tell(EventType::Normal, "Resumed", "Job resumed"),
            _ => {}
        }
    }
    events
}
