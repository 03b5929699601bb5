//! Tables over [`super::plan`] and [`super::status`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::backoff::Failures;
use super::plan::{End, Observed, Plan, has, plan};
use super::status::{Done, record, settle};
use crate::client::meta::{Key, time};
use crate::controllers::view::{JobPod, Phase, Pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a timestamp")
}

fn job(spec: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "sum", "namespace": "default", "uid": "job", "generation": 1},
        "spec": {"parallelism": 2, "completions": 4, "backoffLimit": 6, "template": {"spec":
            {"restartPolicy": "Never", "containers": []}},
            "selector": {"matchLabels": {"job": "sum"}}},
        "status": {"startTime": "1970-01-01T00:00:00Z"}});
    for (name, value) in spec.as_object().expect("a map") {
        job["spec"][name] = value.clone();
    }
    serde_json::from_value(job).expect("a Job")
}

fn pod(name: &str, phase: Phase) -> Pod {
    Pod {
        key: Key::new("default", name),
        uid: name.to_owned(),
        labels: [("job".to_owned(), "sum".to_owned())].into(),
        controller: Some(OwnerReference { uid: "job".to_owned(), ..OwnerReference::default() }),
        created: Some(at(0)),
        phase,
        job: Some(Box::new(JobPod {
            tracked: true,
            finished: Some(at(50)).filter(|_| phase > Phase::Running),
            ..JobPod::default()
        })),
        ..Pod::default()
    }
}

fn indexed(name: &str, index: i32, failures: i32, phase: Phase) -> Pod {
    let mut pod = pod(name, phase);
    let told = pod.job.as_mut().expect("a pod of a Job");
    (told.index, told.failures) = (Some(index), failures);
    pod
}

fn planned(job: &Job, pods: &[Pod], second: i64) -> Plan {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    plan(&Observed { job, pods: &pods, failures: Failures::default() }, at(second))
}

/// One whole reconcile in which every write succeeds.
fn reconciled(job: &Job, pods: &[Pod], second: i64) -> JobStatus {
    let plan = planned(job, pods, second);
    let done = Done { created: plan.create.len(), deleted: plan.delete.len() };
    let recorded = record(job, &plan, done, at(second));
    let counted: HashSet<_> = recorded.counted.iter().map(|pod| &pod.uid).collect();
    let tracked = pods.iter().filter(|pod| pod.job.as_ref().is_some_and(|job| job.tracked));
    let left = tracked.map(|pod| pod.uid.clone()).filter(|uid| !counted.contains(uid)).collect();
    settle(&recorded, &left, at(second))
}

fn sizes(plan: &Plan) -> (usize, usize) {
    (plan.create.len(), plan.delete.len())
}

fn reason(plan: &Plan) -> &str {
    plan.over.as_ref().map_or("", |over| over.reason.as_str())
}

#[test]
fn as_many_pods_run_as_parallelism_and_completions_want() {
    use Phase::{Running, Succeeded};
    let two = [pod("a", Running), pod("b", Running)];
    let nearly = [pod("a", Succeeded), pod("b", Succeeded), pod("c", Succeeded)];
    let cases = [
        ("nothing yet", json!({}), &[][..], (2, 0)),
        ("one runs", json!({}), &two[..1], (1, 0)),
        ("all run", json!({}), &two[..], (0, 0)),
        ("one is left to do", json!({}), &nearly[..], (1, 0)),
        ("fewer wanted", json!({"parallelism": 1}), &two[..], (0, 1)),
        ("none wanted", json!({"parallelism": 0}), &two[..], (0, 2)),
        ("suspended", json!({"suspend": true}), &two[..], (0, 2)),
        ("a queue", json!({"completions": null}), &two[..1], (1, 0)),
        ("a queue that is empty", json!({"completions": null}), &nearly[..1], (0, 0)),
    ];
    for (why, spec, pods, expected) in cases {
        assert_eq!(sizes(&planned(&job(spec), pods, 60)), expected, "{why}");
    }
}

#[test]
fn a_job_is_complete_when_enough_pods_succeeded_and_all_are_counted() {
    let job = job(json!({"completions": 2}));
    let pods = [pod("a", Phase::Succeeded), pod("b", Phase::Succeeded)];
    let status = reconciled(&job, &pods, 60);
    assert_eq!(status.succeeded, Some(2));
    assert!(has(&status, "SuccessCriteriaMet") && has(&status, "Complete"));
    assert_eq!(status.completion_time, Some(time(at(60))));
    assert_eq!(status.uncounted_terminated_pods.expect("a list").succeeded, None);
}

#[test]
fn a_pod_is_counted_once_however_far_the_counting_got() {
    let mut job = job(json!({}));
    let ended = pod("a", Phase::Succeeded);
    let plan = planned(&job, std::slice::from_ref(&ended), 60);
    let recorded = record(&job, &plan, Done::default(), at(60));
    let noted = |status: &JobStatus| {
        let all = status.uncounted_terminated_pods.clone().unwrap_or_default();
        all.succeeded.unwrap_or_default()
    };
    assert_eq!(noted(&recorded.status), ["a"]);
    // The process ends here; the next one finds the pod still there.
    job.status = Some(recorded.status);
    let status = reconciled(&job, std::slice::from_ref(&ended), 61);
    assert_eq!((status.succeeded, noted(&status).len()), (Some(1), 0));
    // Or without its finalizer, or gone.
    assert_eq!(reconciled(&job, &[], 61).succeeded, Some(1));
    let mut free = ended;
    free.job.as_mut().expect("a pod of a Job").tracked = false;
    assert_eq!(reconciled(&job, &[free], 61).succeeded, Some(1));
}

#[test]
fn a_pod_noted_as_failed_does_not_complete_its_index_afterwards() {
    let mut job = job(json!({"completionMode": "Indexed", "completions": 1}));
    let leaving = Pod { deleting: Some(at(40)), ..indexed("a", 0, 0, Phase::Running) };
    let plan = planned(&job, std::slice::from_ref(&leaving), 60);
    job.status = Some(record(&job, &plan, Done::default(), at(60)).status);
    let late = Pod { phase: Phase::Succeeded, ..leaving };
    let plan = planned(&job, std::slice::from_ref(&late), 61);
    assert_eq!(plan.over, None);
    let status = reconciled(&job, &[late], 61);
    assert_eq!((status.succeeded, status.failed), (None, Some(1)));
}

#[test]
fn failures_count_until_the_limit_and_then_everything_ends() {
    let job = job(json!({"backoffLimit": 1}));
    let failed = |n: usize| (0..n).map(|i| pod(&format!("f{i}"), Phase::Failed));
    let one: Vec<Pod> = failed(1).collect();
    let wait = planned(&job, &one, 52);
    assert_eq!((sizes(&wait), wait.again_in), ((0, 0), Some(Duration::from_secs(8))));
    assert_eq!(sizes(&planned(&job, &one, 60)), (2, 0));
    let mut two: Vec<Pod> = failed(2).collect();
    two.push(pod("r", Phase::Running));
    let over = planned(&job, &two, 60);
    assert_eq!((reason(&over), sizes(&over)), ("BackoffLimitExceeded", (0, 1)));
    let status = reconciled(&job, &two, 60);
    // The running one is on its way out: until it is gone the Job has not ended.
    assert!(has(&status, "FailureTarget") && !has(&status, "Failed"));
    assert_eq!((status.failed, status.terminating), (Some(3), Some(1)));
    let mut after = job;
    after.status = Some(status);
    let status = reconciled(&after, &[], 70);
    assert!(has(&status, "Failed"));
    assert_eq!(status.failed, Some(3));
}

#[test]
fn a_pod_that_could_not_be_deleted_keeps_the_job_open() {
    let job = job(json!({"activeDeadlineSeconds": 30}));
    let pods = [pod("r", Phase::Running)];
    assert_eq!(planned(&job, &pods, 10).again_in, Some(Duration::from_secs(20)));
    let plan = planned(&job, &pods, 30);
    assert_eq!(reason(&plan), "DeadlineExceeded");
    assert_eq!(record(&job, &plan, Done::default(), at(30)).over, None);
}

#[test]
fn pods_that_restart_in_place_count_their_restarts() {
    let template = json!({"spec": {"restartPolicy": "OnFailure", "containers": []}});
    let job = job(json!({"backoffLimit": 3, "template": template}));
    let mut pod = pod("a", Phase::Running);
    pod.job.as_mut().expect("a pod of a Job").restarts = 2;
    assert_eq!(reason(&planned(&job, std::slice::from_ref(&pod), 60)), "");
    pod.job.as_mut().expect("a pod of a Job").restarts = 3;
    assert_eq!(reason(&planned(&job, &[pod], 60)), "BackoffLimitExceeded");
}

#[test]
fn indexes_are_filled_from_below_and_doubles_go() {
    let job = job(json!({"completionMode": "Indexed", "parallelism": 3}));
    let pods = [indexed("a", 0, 0, Phase::Succeeded), indexed("b", 2, 0, Phase::Running)];
    let plan = planned(&job, &pods, 60);
    let made: Vec<_> = plan.create.iter().map(|new| new.index).collect();
    assert_eq!(made, [Some(1), Some(3)]);
    let status = reconciled(&job, &pods, 60);
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(1), Some("0")));
    let doubled = [
        indexed("a", 0, 0, Phase::Running),
        indexed("b", 0, 0, Phase::Pending),
        indexed("c", 9, 0, Phase::Running),
    ];
    let plan = planned(&job, &doubled, 60);
    let gone: Vec<_> = plan.delete.iter().map(|pod| pod.uid.as_str()).collect();
    assert_eq!(gone, ["c", "b"]);
}

#[test]
fn an_index_fails_alone_and_the_others_go_on() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "backoffLimitPerIndex": 1, "backoffLimit": 2_147_483_647});
    let mut job = job(spec);
    let first = indexed("a", 0, 0, Phase::Failed);
    let other = indexed("b", 1, 0, Phase::Running);
    let waits = planned(&job, &[first.clone(), other.clone()], 55);
    assert_eq!((sizes(&waits), waits.again_in), ((0, 0), Some(Duration::from_secs(5))));
    // Its pod stays uncounted until another one carries its failures on.
    assert_eq!(reconciled(&job, &[first.clone(), other.clone()], 55).failed, None);
    let again = planned(&job, &[first.clone(), other.clone()], 60);
    assert_eq!(again.create[0].failures, Some((1, 0)));
    let second = indexed("c", 0, 1, Phase::Failed);
    let status = reconciled(&job, &[first.clone(), second.clone(), other], 80);
    assert_eq!(status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(status.failed, Some(2));
    let done = indexed("b", 1, 0, Phase::Succeeded);
    job.status = Some(status);
    let mut counted = [first, second];
    for pod in &mut counted {
        pod.job.as_mut().expect("a pod of a Job").tracked = false;
    }
    let [first, second] = counted;
    let over = planned(&job, &[first, second, done], 90);
    assert_eq!(
        (reason(&over), over.over.as_ref().map(|o| o.end)),
        ("FailedIndexes", Some(End::Failed))
    );
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 0, "backoffLimit": 2_147_483_647});
    let plan = planned(&job(spec), &[indexed("a", 0, 0, Phase::Failed)], 60);
    assert_eq!(reason(&plan), "MaxFailedIndexesExceeded");
}

#[test]
fn the_failure_policy_ends_the_job_or_leaves_the_count_alone() {
    let policy = |action: &str| {
        json!({"podFailurePolicy": {"rules": [{"action": action,
            "onExitCodes": {"operator": "In", "values": [42]}}]}})
    };
    let mut failed = pod("a", Phase::Failed);
    failed.job.as_mut().expect("a pod of a Job").exits = vec![("main".to_owned(), 42)];
    let over = planned(&job(policy("FailJob")), std::slice::from_ref(&failed), 60);
    assert_eq!(reason(&over), "PodFailurePolicy");
    let status = reconciled(&job(policy("Ignore")), std::slice::from_ref(&failed), 70);
    assert_eq!(status.failed, None);
    let status = reconciled(&job(policy("Count")), &[failed], 70);
    assert_eq!(status.failed, Some(1));
}

#[test]
fn a_success_policy_ends_the_job_early_and_stops_what_still_runs() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 4,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let pods = [indexed("a", 0, 0, Phase::Succeeded), indexed("b", 1, 0, Phase::Running)];
    let plan = planned(&job(spec.clone()), &pods, 60);
    assert_eq!((reason(&plan), sizes(&plan)), ("SuccessPolicy", (0, 1)));
    let status = reconciled(&job(spec), &pods, 60);
    assert!(has(&status, "SuccessCriteriaMet") && !has(&status, "Complete"));
}

#[test]
fn with_the_policy_failed_a_pod_is_replaced_only_once_it_has_ended() {
    let leaving = Pod { deleting: Some(at(55)), ..pod("a", Phase::Running) };
    let pods = [leaving, pod("b", Phase::Running)];
    let plan = planned(&job(json!({"podReplacementPolicy": "Failed"})), &pods, 60);
    assert_eq!((sizes(&plan), plan.terminating), ((0, 0), 1));
    // By default it counts as failed at once, and its replacement only waits out the backoff.
    let plan = planned(&job(json!({})), &pods, 60);
    assert_eq!(plan.again_in, Some(Duration::from_secs(5)));
    let status = reconciled(&job(json!({})), &pods, 60);
    assert_eq!((status.failed, status.terminating), (Some(1), Some(1)));
}

#[test]
fn suspending_and_resuming_shows_and_the_clock_begins_anew() {
    let mut suspended = job(json!({"suspend": true}));
    let status = reconciled(&suspended, &[], 60);
    assert!(has(&status, "Suspended"));
    suspended.status = Some(status);
    suspended.spec.get_or_insert_default().suspend = Some(false);
    let status = reconciled(&suspended, &[], 70);
    assert!(!has(&status, "Suspended"));
    assert_eq!((status.start_time, status.active), (Some(time(at(70))), Some(2)));
}

#[test]
fn a_job_that_is_deleted_lets_all_its_pods_go() {
    let mut job = job(json!({}));
    job.metadata.deletion_timestamp = Some(time(at(60)));
    let plan = planned(&job, &[pod("a", Phase::Running)], 60);
    assert_eq!(sizes(&plan), (0, 0));
    assert_eq!(record(&job, &plan, Done::default(), at(60)).counted.len(), 1);
}
