//! What to do for a Job: which pods are its own, which to create and delete, whether it is over
//! (Kubernetes' `pkg/controller/job`, with the documented behaviour of 1.32 and later).
//!
//! **Invariant:** what is observed shows every earlier write of this controller.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};

use super::backoff::{self, Failures};
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use crate::client::meta::timestamp;
use crate::controllers::replicaset::plan::least_valuable;
use crate::controllers::selector;
use crate::controllers::view::{JobPod, Phase, Pod};

/// The most pods that are created or deleted in one go.
pub const BURST: usize = 500;

/// What was observed.
pub struct Observed<'a> {
    pub job: &'a Job,
    /// The pods that it controls, and those of its namespace that nobody controls.
    pub pods: &'a [Arc<Pod>],
    /// The failures since the last success, as far as they were counted before.
    pub failures: Failures,
}

/// How a Job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Complete,
    Failed,
}

/// That a Job is over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    pub end: End,
    pub reason: String,
    pub message: String,
}

/// A pod to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPod {
    pub index: Option<i32>,
    /// What its index failed before, counted and not counted; only where failures are per index.
    pub failures: Option<(i32, i32)>,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods that match and that nobody controls: take them.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods that it controls and that no longer match: let them go.
    pub release: Vec<Arc<Pod>>,
    /// Its own pods.
    pub own: Vec<Arc<Pod>>,
    /// Those of them that are active.
    pub active: Vec<Arc<Pod>>,
    pub terminating: usize,
    pub delete: Vec<Arc<Pod>>,
    pub create: Vec<NewPod>,
    /// It is over, provided that every pod of `delete` went.
    pub over: Option<Over>,
    /// Look again after this time.
    pub again_in: Option<Duration>,
    /// The failures since the last success, once what ended now is counted.
    pub failures: Failures,
    /// What succeeded before this reconcile, by index.
    pub before: Indexes,
    pub succeeded: Indexes,
    /// The indexes that failed for good, where failures are counted by index.
    pub failed: Option<Indexes>,
    /// Failed pods that stay uncounted until their index has a new pod, which takes over their
    /// count of failures.
    pub delayed: BTreeMap<i32, Arc<Pod>>,
}

/// The Job's spec; an empty one where there is none, which wants nothing.
pub fn spec_of(job: &Job) -> &JobSpec {
    static NOTHING: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NOTHING)
}

/// Whether pods have indexes.
pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether no pod may run.
pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// Whether the condition is True.
pub fn has(status: &JobStatus, condition: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == condition && c.status == "True")
}

/// Whether the Job is Complete or Failed: nothing more is done for it.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|s| has(s, "Complete") || has(s, "Failed"))
}

/// The facts about a pod that Jobs want; a pod without them tells nothing.
pub fn facts(pod: &Pod) -> JobPod {
    pod.job.as_deref().cloned().unwrap_or_default()
}

/// The pod's index, where it is one of the Job's.
pub fn index_of(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    let completions = spec.completions.unwrap_or(0);
    pod.job.as_ref()?.index.filter(|index| (0..completions).contains(index))
}

/// Whether the pod still waits to be counted.
pub fn is_countable(spec: &JobSpec, pod: &Pod) -> bool {
    pod.job.as_ref().is_some_and(|job| job.tracked)
        && (!is_indexed(spec) || index_of(spec, pod).is_some())
}

fn ended_at(pod: &Pod) -> Timestamp {
    let told = pod.job.as_ref().and_then(|job| job.finished);
    told.or(pod.deleting).or(pod.created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What to do for the Job.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let (job, spec) = (observed.job, spec_of(observed.job));
    let mut plan = claim(observed);
    let status = job.status.clone().unwrap_or_default();
    let counts = count(spec, &status, &plan.own);
    plan.failures = observed.failures.after(&counts.succeeded_at, &counts.failed_at);
    read_indexes(spec, &status, &mut plan);
    let succeeded = if is_indexed(spec) { plan.succeeded.total() } else { counts.succeeded };
    plan.over = over(job, &status, &plan, &counts, now).or_else(|| by_indexes(spec, &plan));
    if plan.over.is_some() {
        plan.delete = plan.active.clone();
        return plan;
    }
    plan.again_in = deadline(job, &status, now);
    if job.metadata.deletion_timestamp.is_none() {
        manage(spec, &mut plan, succeeded, now);
    }
    let left = plan.active.len() - plan.delete.len();
    let reached = match spec.completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0,
    };
    if reached && left == 0 && plan.create.is_empty() {
        plan.over = Some(Over {
            end: End::Complete,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        });
    }
    plan
}

fn claim(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let deleting = job.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let wanted = spec_of(job).selector.as_ref();
    for pod in observed.pods {
        let matches = wanted.is_some_and(|selector| selector::matches(selector, &pod.labels));
        match &pod.controller {
            Some(owner) if owner.uid != uid => {}
            Some(_) if matches => plan.own.push(pod.clone()),
            Some(_) if !deleting => plan.release.push(pod.clone()),
            // Of a Job that is going, every pod is let go in any case.
            Some(_) => plan.own.push(pod.clone()),
            None if matches && pod.is_active() && !deleting => {
                plan.adopt.push(pod.clone());
                plan.own.push(pod.clone());
            }
            None => {}
        }
    }
    plan.own.sort_by_key(|pod| facts(pod).index);
    plan.active = plan.own.iter().filter(|pod| pod.is_active()).cloned().collect();
    plan.terminating =
        plan.own.iter().filter(|pod| pod.deleting.is_some() && !pod.is_terminal()).count();
    plan
}

/// What ended, counted before or not.
struct Counts {
    succeeded: i32,
    failed: i32,
    succeeded_at: Vec<Timestamp>,
    failed_at: Vec<Timestamp>,
}

fn count(spec: &JobSpec, status: &JobStatus, own: &[Arc<Pod>]) -> Counts {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (succeeded, failed) =
        (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
    let known: HashSet<&String> = succeeded.iter().chain(&failed).collect();
    let size = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let mut counts = Counts {
        succeeded: status.succeeded.unwrap_or(0) + size(succeeded.len()),
        failed: status.failed.unwrap_or(0) + size(failed.len()),
        succeeded_at: Vec::new(),
        failed_at: Vec::new(),
    };
    for pod in own.iter().filter(|pod| is_countable(spec, pod) && !known.contains(&pod.uid)) {
        if pod.phase == Phase::Succeeded {
            counts.succeeded += 1;
            counts.succeeded_at.push(ended_at(pod));
        } else if policy::is_failed(spec, pod) {
            counts.failed_at.push(ended_at(pod));
            if policy::verdict(spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore {
                counts.failed += 1;
            }
        }
    }
    counts
}

fn read_indexes(spec: &JobSpec, status: &JobStatus, plan: &mut Plan) {
    if !is_indexed(spec) {
        return;
    }
    let completions = spec.completions.unwrap_or(0);
    let read =
        |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), completions);
    plan.before = read(&status.completed_indexes);
    plan.succeeded = plan.before.clone();
    let mut failed = read(&status.failed_indexes);
    // A pod that was counted as failed while it was being deleted stays so, however it ended.
    let noted = status.uncounted_terminated_pods.as_ref().and_then(|all| all.failed.as_ref());
    let was_failed = |pod: &Pod| noted.is_some_and(|uids| uids.contains(&pod.uid));
    for pod in plan.own.iter().filter(|pod| is_countable(spec, pod)) {
        let Some(index) = index_of(spec, pod) else { continue };
        if pod.phase == Phase::Succeeded {
            if !was_failed(pod) {
                plan.succeeded.insert(index);
            }
        } else if policy::index_is_failed(spec, pod) {
            failed.insert(index);
        }
    }
    if spec.backoff_limit_per_index.is_none() {
        return;
    }
    let active: HashSet<_> = plan.active.iter().filter_map(|pod| index_of(spec, pod)).collect();
    for pod in plan.own.iter().filter(|pod| is_countable(spec, pod)) {
        let Some(index) = index_of(spec, pod) else { continue };
        let settled = active.contains(&index) || plan.succeeded.has(index) || failed.has(index);
        if settled || !policy::is_failed(spec, pod) {
            continue;
        }
        let tries = |pod: &Pod| facts(pod).failures + facts(pod).ignored;
        let newest = plan.delayed.get(&index).is_none_or(|other| tries(other) <= tries(pod));
        if newest {
            plan.delayed.insert(index, pod.clone());
        }
    }
    plan.failed = Some(failed);
}

/// Whether the Job is over for a reason other than its indexes.
fn over(
    job: &Job,
    status: &JobStatus,
    plan: &Plan,
    counts: &Counts,
    now: Timestamp,
) -> Option<Over> {
    let spec = spec_of(job);
    let decided = status.conditions.iter().flatten().filter(|c| c.status == "True").find_map(|c| {
        let end = match c.type_.as_str() {
            "SuccessCriteriaMet" => End::Complete,
            "FailureTarget" => End::Failed,
            _ => return None,
        };
        let (reason, message) = (c.reason.clone(), c.message.clone());
        Some(Over { end, reason: reason.unwrap_or_default(), message: message.unwrap_or_default() })
    });
    let failed = |reason: &str, message: String| {
        Some(Over { end: End::Failed, reason: reason.to_owned(), message })
    };
    if decided.is_some() {
        return decided;
    }
    let told = plan.own.iter().filter(|pod| policy::is_failed(spec, pod)).find_map(|pod| {
        match policy::verdict(spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        }
    });
    if let Some(message) = told {
        return failed("PodFailurePolicy", message);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if counts.failed > limit || restarts_exceed(spec, &plan.own, limit) {
        let message = "Job has reached the specified backoff limit".to_owned();
        return failed("BackoffLimitExceeded", message);
    }
    if deadline_left(job, status, now).is_some_and(|left| left <= 0) {
        let message = "Job was active longer than specified deadline".to_owned();
        return failed("DeadlineExceeded", message);
    }
    None
}

/// Pods that restart in place fail without ever ending.
fn restarts_exceed(spec: &JobSpec, own: &[Arc<Pod>], limit: i32) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = own
        .iter()
        .filter(|pod| matches!(pod.phase, Phase::Pending | Phase::Running))
        .map(|pod| facts(pod).restarts)
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// The milliseconds that are left until the Job's deadline.
fn deadline_left(job: &Job, status: &JobStatus, now: Timestamp) -> Option<i64> {
    if is_suspended(spec_of(job)) {
        return None;
    }
    let seconds = spec_of(job).active_deadline_seconds?;
    let start = status.start_time.as_ref().map_or(now, timestamp);
    let end = start.as_millisecond().saturating_add(seconds.saturating_mul(1000));
    Some(end.saturating_sub(now.as_millisecond()))
}

fn deadline(job: &Job, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let left = deadline_left(job, status, now)?;
    u64::try_from(left).ok().map(Duration::from_millis)
}

/// Whether the Job is over for what became of its indexes.
fn by_indexes(spec: &JobSpec, plan: &Plan) -> Option<Over> {
    if !is_indexed(spec) {
        return None;
    }
    let completions = spec.completions.unwrap_or(0);
    if let Some(failed) = &plan.failed {
        let over = |reason: &str, message: &str| {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            Some(Over { end: End::Failed, reason, message })
        };
        if spec.max_failed_indexes.is_some_and(|most| failed.total() > most) {
            return over(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        if !failed.is_empty() && failed.total() + plan.succeeded.total() >= completions {
            return over("FailedIndexes", "Job has failed indexes");
        }
    }
    let policy = spec.success_policy.as_ref()?;
    let message = policy::success(policy, completions, &plan.succeeded)?;
    Some(Over { end: End::Complete, reason: "SuccessPolicy".to_owned(), message })
}

/// Which pods to create and delete.
fn manage(spec: &JobSpec, plan: &mut Plan, succeeded: i32, now: Timestamp) {
    let size = |n: i32| usize::try_from(n).unwrap_or(0);
    let active = plan.active.len();
    let parallelism = size(spec.parallelism.unwrap_or(1));
    let wanted = match spec.completions {
        _ if is_suspended(spec) => 0,
        None if succeeded > 0 => active,
        None => parallelism,
        Some(completions) => size(completions - succeeded).min(parallelism),
    };
    let surplus = active.saturating_sub(wanted);
    plan.delete = surplus_pods(spec, plan, surplus, now);
    if !plan.delete.is_empty() || is_suspended(spec) {
        plan.delete.truncate(BURST);
        return;
    }
    let waiting = if policy::replaces_only_failed(spec) { plan.terminating } else { 0 };
    let missing = wanted.saturating_sub(active + waiting).min(BURST);
    if missing == 0 {
        return;
    }
    if spec.backoff_limit_per_index.is_none() {
        let wait = plan.failures.wait(now);
        if !wait.is_zero() {
            plan.again_in = soonest(plan.again_in, wait);
            return;
        }
    }
    if is_indexed(spec) {
        create_indexes(spec, plan, missing, now);
    } else {
        plan.create = vec![NewPod::default(); missing];
    }
}

fn soonest(known: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(known.map_or(other, |known| known.min(other)))
}

/// The pods to give up: of an Indexed Job first those whose index is wrong or held by another.
fn surplus_pods(spec: &JobSpec, plan: &Plan, least: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let (mut going, mut left) = (Vec::new(), Vec::new());
    if is_indexed(spec) {
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in &plan.active {
            match index_of(spec, pod) {
                Some(index) => by_index.entry(index).or_default().push(pod.clone()),
                None => going.push(pod.clone()),
            }
        }
        for pods in by_index.into_values() {
            let twins = least_valuable(&pods, &HashMap::new(), pods.len() - 1, now);
            let is_twin = |pod: &Arc<Pod>| twins.iter().any(|twin| twin.uid == pod.uid);
            left.extend(pods.iter().filter(|pod| !is_twin(pod)).cloned());
            going.extend(twins);
        }
    } else {
        left = plan.active.clone();
    }
    let more = least.saturating_sub(going.len()).min(left.len());
    if more > 0 {
        going.extend(least_valuable(&left, &HashMap::new(), more, now));
    }
    going
}

/// The lowest indexes that nobody works on, each as soon as its backoff allows.
fn create_indexes(spec: &JobSpec, plan: &mut Plan, missing: usize, now: Timestamp) {
    let waits_for = |pod: &&Arc<Pod>| {
        pod.is_active()
            || (policy::replaces_only_failed(spec) && pod.deleting.is_some() && !pod.is_terminal())
    };
    let taken: HashSet<i32> =
        plan.own.iter().filter(waits_for).filter_map(|pod| index_of(spec, pod)).collect();
    let per_index = spec.backoff_limit_per_index.is_some();
    let free = (0..spec.completions.unwrap_or(0)).filter(|index| {
        !taken.contains(index)
            && !plan.succeeded.has(*index)
            && !plan.failed.as_ref().is_some_and(|failed| failed.has(*index))
    });
    let mut soonest_wait = None;
    for index in free.take(missing) {
        let last = plan.delayed.get(&index);
        let failures = last.map_or((0, 0), |pod| failures_with(spec, pod));
        let tries = u32::try_from(failures.0 + failures.1).unwrap_or(0);
        let wait = backoff::wait(tries, last.map(|pod| ended_at(pod)), now);
        if wait.is_zero() {
            let failures = per_index.then_some(failures);
            plan.create.push(NewPod { index: Some(index), failures });
        } else {
            soonest_wait = soonest(soonest_wait, wait);
        }
    }
    if let Some(wait) = soonest_wait {
        plan.again_in = soonest(plan.again_in, wait);
    }
}

/// What the index of the failed pod failed until now: counted, not counted.
fn failures_with(spec: &JobSpec, pod: &Pod) -> (i32, i32) {
    let before = facts(pod);
    match policy::verdict(spec.pod_failure_policy.as_ref(), pod) {
        Verdict::Ignore => (before.failures, before.ignored + 1),
        _ => (before.failures + 1, before.ignored),
    }
}
