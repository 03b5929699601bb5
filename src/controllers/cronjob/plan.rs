//! What to do for a CronJob (Kubernetes' `pkg/controller/cronjob`).
//!
//! **Invariant:** a scheduled time is started at most once, and never one that is later than the
//! deadline allows.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::api::cron::Schedule;
use crate::client::events::EventType;
use crate::client::meta::{Key, time, timestamp};
use crate::controllers::job::plan::{has, is_finished};
use crate::controllers::view::Templated;

/// From so many missed starts on, people are told.
const MISSED_MAX: i64 = 100;
/// How long after its time a Job is started, so that the time has really come.
const SLACK: Duration = Duration::from_millis(100);

/// What was observed.
pub struct Observed<'a> {
    /// Its template is not looked at.
    pub cron: &'a CronJob,
    /// The Jobs that it controls.
    pub jobs: &'a [Arc<Templated<Job>>],
    /// The uids of Jobs in `status.active` that the server no longer has.
    pub gone: &'a [String],
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Jobs to delete, before any is started: name and uid.
    pub delete: Vec<(String, String)>,
    /// The time to start a Job for.
    pub start: Option<Timestamp>,
    /// The status, without the Job that is started.
    pub status: CronJobStatus,
    pub told: Vec<Told>,
    pub again_in: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.told.push(Told { kind, reason, message });
    }
}

/// The zone of a CronJob, `None` when it is not known.
pub fn zone(cron: &CronJob) -> Option<TimeZone> {
    match cron.spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZone::get(name).ok(),
    }
}

/// The name of the Job for a time.
pub fn job_name(cron: &CronJob, at: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", at.as_second().div_euclid(60))
}

/// What to do for the CronJob.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let cron = observed.cron;
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    look_at_jobs(observed, &mut plan);
    clean_up(observed, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() || cron.spec.suspend == Some(true) {
        return plan;
    }
    let Some(zone) = zone(cron) else {
        let name = cron.spec.time_zone.as_deref().unwrap_or_default();
        let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
        plan.tell(EventType::Warning, "UnknownTimeZone", message);
        return plan;
    };
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", cron.spec.schedule);
            plan.tell(EventType::Warning, "UnparseableSchedule", message);
            return plan;
        }
    };
    let next = schedule.next(now, &zone);
    plan.again_in = next.map(|next| Duration::try_from(next - now).unwrap_or_default() + SLACK);
    let due = due(cron, &schedule, &zone, now, &mut plan);
    if let Some(at) = due {
        start(observed, at, now, &mut plan);
    }
    plan
}

fn reference(job: &Job) -> ObjectReference {
    crate::client::meta::reference(job)
}

/// Brings `status.active` and `lastSuccessfulTime` up to what became of the Jobs.
fn look_at_jobs(observed: &Observed<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in observed.jobs {
        let (job, uid) = (&job.object, job.object.metadata.uid.as_ref());
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let is_known = active.iter().any(|other| other.uid.as_ref() == uid);
        if is_known && is_finished(job) {
            active.retain(|other| other.uid.as_ref() != uid);
            let complete = job.status.as_ref().is_some_and(|status| has(status, "Complete"));
            let condition = if complete { "Complete" } else { "Failed" };
            let message = format!("Saw completed job: {name}, condition: {condition}");
            plan.tell(EventType::Normal, "SawCompletedJob", message);
        } else if !is_known && !is_finished(job) {
            // Its start was written, the status was not.
            active.push(reference(job));
        }
        let done = job.status.as_ref().filter(|status| has(status, "Complete"));
        let done = done.and_then(|status| status.completion_time.clone());
        if done > plan.status.last_successful_time {
            plan.status.last_successful_time = done;
        }
    }
    for uid in observed.gone {
        let Some(at) = active.iter().position(|other| other.uid.as_ref() == Some(uid)) else {
            continue;
        };
        let name = active.remove(at).name.unwrap_or_default();
        plan.tell(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
    }
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// Deletes the oldest finished Jobs beyond what may be kept.
fn clean_up(observed: &Observed<'_>, plan: &mut Plan) {
    let spec = &observed.cron.spec;
    for (condition, limit) in [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let ended = |job: &&Arc<Templated<Job>>| {
            job.object.metadata.deletion_timestamp.is_none()
                && job.object.status.as_ref().is_some_and(|status| has(status, condition))
        };
        let mut jobs: Vec<_> = observed.jobs.iter().filter(ended).collect();
        jobs.sort_by_key(|job| {
            let start = job.object.status.as_ref().and_then(|status| status.start_time.clone());
            (start, job.object.metadata.name.clone())
        });
        let surplus = jobs.len().saturating_sub(limit);
        for job in jobs.into_iter().take(surplus) {
            let meta = &job.object.metadata;
            let (name, uid) = (meta.name.clone(), meta.uid.clone());
            plan.delete.push((name.unwrap_or_default(), uid.unwrap_or_default()));
        }
    }
}

/// The newest time that has come since the last start, if any.
fn due(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let created = cron.metadata.creation_timestamp.as_ref().map(timestamp);
    let last = plan.status.last_schedule_time.as_ref().map(timestamp);
    let mut earliest = last.or(created).unwrap_or(now);
    let deadline = cron.spec.starting_deadline_seconds;
    if let Some(deadline) = deadline {
        let from = now.as_second().saturating_sub(deadline);
        earliest = earliest.max(Timestamp::from_second(from).unwrap_or(Timestamp::MIN));
    }
    let first = schedule.next(earliest, zone).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Some(first);
    };
    // Counting from the first two times: after a long pause there may be millions.
    let between = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / between + 1;
    let near = first.as_second() + (missed - 2) * between;
    let mut newest = first;
    let mut from = Timestamp::from_second(near).unwrap_or(first).max(first);
    while let Some(at) = schedule.next(from, zone).filter(|at| *at <= now) {
        (newest, from) = (at, at);
    }
    if missed > MISSED_MAX {
        let message = "too many missed start times. Set or decrease \
                       .spec.startingDeadlineSeconds or check clock skew";
        plan.tell(EventType::Warning, "TooManyMissedTimes", message.to_owned());
    }
    Some(newest)
}

/// Decides whether the time that has come is started.
fn start(observed: &Observed<'_>, at: Timestamp, now: Timestamp, plan: &mut Plan) {
    let cron = observed.cron;
    let deadline = cron.spec.starting_deadline_seconds;
    if deadline.is_some_and(|deadline| at.as_second().saturating_add(deadline) < now.as_second()) {
        let message = format!("Missed scheduled time to start a job: {at}");
        plan.tell(EventType::Warning, "MissSchedule", message);
        return;
    }
    let name = job_name(cron, at);
    let active = plan.status.active.clone().unwrap_or_default();
    let started = active.iter().any(|job| job.name.as_ref() == Some(&name))
        || observed.jobs.iter().any(|job| job.object.metadata.name.as_ref() == Some(&name))
        || plan.status.last_schedule_time == Some(time(at));
    if started {
        return;
    }
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            plan.tell(EventType::Normal, "JobAlreadyActive", message.to_owned());
            return;
        }
        Some("Replace") => {
            for job in active {
                plan.delete.push((job.name.unwrap_or_default(), job.uid.unwrap_or_default()));
            }
            plan.status.active = None;
        }
        _ => {}
    }
    plan.start = Some(at);
}

/// The status once the Job for `at` was started.
pub fn started(mut status: CronJobStatus, at: Timestamp, job: ObjectReference) -> CronJobStatus {
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|other| other.uid == job.uid) {
        active.push(job);
    }
    status.last_schedule_time = Some(time(at));
    status
}

/// The key of a Job of this CronJob.
pub fn key_of(cron: &CronJob, job: &str) -> Key {
    Key::new(cron.metadata.namespace.clone().unwrap_or_default(), job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::view;
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    /// Every ten minutes since midnight, last started at 00:10.
    fn cron(spec: Value) -> CronJob {
        let mut cron = json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "cron",
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {},
                "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
                "failedJobsHistoryLimit": 1},
            "status": {"lastScheduleTime": "2026-01-01T00:10:00Z"}});
        for (name, value) in spec.as_object().expect("a map") {
            cron["spec"][name] = value.clone();
        }
        serde_json::from_value(cron).expect("a CronJob")
    }

    fn job(name: &str, start: &str, condition: &str) -> Arc<Templated<Job>> {
        let conditions = match condition {
            "" => json!([]),
            kind => json!([{"type": kind, "status": "True"}]),
        };
        let done = (condition == "Complete").then_some(start);
        let job = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "status": {"conditions": conditions, "startTime": start, "completionTime": done}}));
        Arc::new(view::job(job.expect("a Job")).expect("a projection"))
    }

    fn planned(cron: &CronJob, jobs: &[Arc<Templated<Job>>], now: &str) -> Plan {
        plan(&Observed { cron, jobs, gone: &[] }, at(now))
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.told.iter().map(|told| told.reason).collect()
    }

    #[test]
    fn a_job_is_started_when_its_time_has_come_and_not_twice() {
        let mut cron = cron(json!({}));
        let early = planned(&cron, &[], "2026-01-01T00:19:00Z");
        assert_eq!((early.start, early.again_in), (None, Some(Duration::from_millis(60_100))));
        let due = planned(&cron, &[], "2026-01-01T00:20:01Z");
        assert_eq!(due.start, Some(at("2026-01-01T00:20:00Z")));
        let name = job_name(&cron, at("2026-01-01T00:20:00Z"));
        assert_eq!(name, "tick-29453780");
        let there = [job(&name, "2026-01-01T00:20:00Z", "")];
        let again = planned(&cron, &there, "2026-01-01T00:20:02Z");
        assert_eq!(again.start, None);
        assert_eq!(again.status.active.as_ref().map(Vec::len), Some(1));
        let about = ObjectReference { uid: Some(name), ..ObjectReference::default() };
        cron.status = Some(started(due.status, at("2026-01-01T00:20:00Z"), about));
        assert_eq!(planned(&cron, &[], "2026-01-01T00:20:03Z").start, None);
    }

    #[test]
    fn of_many_missed_times_the_newest_is_started() {
        let some = planned(&cron(json!({})), &[], "2026-01-01T01:05:00Z");
        assert_eq!(some.start, Some(at("2026-01-01T01:00:00Z")));
        assert!(reasons(&some).is_empty());
        let many = planned(&cron(json!({})), &[], "2026-03-01T01:05:00Z");
        assert_eq!(many.start, Some(at("2026-03-01T01:00:00Z")));
        assert_eq!(reasons(&many), ["TooManyMissedTimes"]);
        // A deadline bounds how far back is looked.
        let bounded = cron(json!({"startingDeadlineSeconds": 600}));
        assert!(reasons(&planned(&bounded, &[], "2026-03-01T01:05:00Z")).is_empty());
        let odd = cron(json!({"schedule": "30 6-16/4 * * 1-5"}));
        let monday = planned(&odd, &[], "2026-01-05T09:00:00Z");
        assert_eq!(monday.start, Some(at("2026-01-05T06:30:00Z")));
    }

    #[test]
    fn a_time_beyond_its_deadline_is_not_started() {
        let strict = cron(json!({"startingDeadlineSeconds": 30}));
        assert_eq!(planned(&strict, &[], "2026-01-01T00:20:31Z").start, None);
        assert!(planned(&strict, &[], "2026-01-01T00:20:29Z").start.is_some());
    }

    #[test]
    fn the_concurrency_policy_says_what_becomes_of_a_running_job() {
        let running = [job("tick-1", "2026-01-01T00:10:00Z", "")];
        let cases = [("Allow", true, 0), ("Forbid", false, 0), ("Replace", true, 1)];
        for (policy, starts, deleted) in cases {
            let cron = cron(json!({"concurrencyPolicy": policy}));
            let plan = planned(&cron, &running, "2026-01-01T00:20:01Z");
            assert_eq!((plan.start.is_some(), plan.delete.len()), (starts, deleted), "{policy}");
        }
    }

    #[test]
    fn ended_jobs_leave_the_active_ones_and_the_oldest_go() {
        let mut cron = cron(json!({"suspend": true}));
        let jobs = [
            job("a", "2026-01-01T00:00:00Z", "Complete"),
            job("b", "2026-01-01T00:10:00Z", "Complete"),
            job("c", "2026-01-01T00:05:00Z", "Failed"),
        ];
        let active = |name: &str| ObjectReference {
            uid: Some(name.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        cron.status.get_or_insert_default().active = Some(vec![active("b"), active("lost")]);
        let gone = ["lost".to_owned()];
        let observed = Observed { cron: &cron, jobs: &jobs, gone: &gone };
        let plan = plan(&observed, at("2026-01-01T00:30:00Z"));
        assert_eq!(plan.delete, [("a".to_owned(), "a".to_owned())]);
        assert_eq!(plan.status.active, None);
        assert_eq!(plan.status.last_successful_time, Some(time(at("2026-01-01T00:10:00Z"))));
        assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
        assert_eq!(plan.start, None, "it is suspended");
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let unknown = cron(json!({"timeZone": "Mars/Olympus"}));
        assert_eq!(reasons(&planned(&unknown, &[], "2026-01-01T00:20:01Z")), ["UnknownTimeZone"]);
        let broken = cron(json!({"schedule": "x"}));
        let plan = planned(&broken, &[], "2026-01-01T00:20:01Z");
        assert_eq!(reasons(&plan), ["UnparseableSchedule"]);
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let berlin = cron(json!({"schedule": "0 9 * * *", "timeZone": "Europe/Berlin"}));
        let plan = planned(&berlin, &[], "2026-01-01T08:00:01Z");
        assert_eq!(plan.start, Some(at("2026-01-01T08:00:00Z")));
    }
}
