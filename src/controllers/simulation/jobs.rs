//! A Job and its pods under a seed.
//!
//! Checked at every write: a pod is counted once, as what it was, and only after its finalizer is
//! gone; never more pods are active than the Job still needs. And once the faults stop: the Job
//! ends, with exactly as many successes as it wanted.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::base::rng::Rng;
use crate::client::meta::Key;
use crate::controllers::expectations::{Expectations, Written};
use crate::controllers::job::backoff::Failures;
use crate::controllers::job::indexes::Indexes;
use crate::controllers::job::plan::{
    NewPod, Observed, has, is_finished, is_indexed, plan, spec_of,
};
use crate::controllers::job::status::{Done, record, settle};
use crate::controllers::view::{JobPod, Phase, Pod};

const OWNER: &str = "job";

/// The controller's process, which may crash.
#[derive(Default)]
struct Controller {
    job: Option<Arc<Job>>,
    pods: BTreeMap<String, Arc<Pod>>,
    late_jobs: VecDeque<Arc<Job>>,
    late_pods: VecDeque<(String, Option<Arc<Pod>>)>,
    expectations: Expectations,
    written: Written,
    failures: Failures,
}

struct World {
    rng: Rng,
    second: i64,
    version: u64,
    job: Arc<Job>,
    pods: BTreeMap<String, Arc<Pod>>,
    controller: Controller,
    /// How many more writes the controller does before it crashes.
    fuel: u32,
    counted: HashSet<String>,
    /// What pods were when their finalizer went.
    released: HashMap<String, Phase>,
    faults: bool,
    log: Vec<String>,
}

/// The controller's process ended in the middle of what it did.
struct Crashed;

fn tracked(pod: &Pod) -> bool {
    pod.job.as_ref().is_some_and(|job| job.tracked)
}

fn uids(status: &JobStatus) -> (Vec<String>, Vec<String>) {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default())
}

fn removal(uid: &str) -> String {
    format!("finalizer of {uid}")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let completions = 1 + rng.below(8);
        let mut spec = json!({"completions": completions, "parallelism": 1 + rng.below(5),
            "backoffLimit": 100_000, "template": {},
            "selector": {"matchLabels": {"job": "sum"}}});
        if rng.below(3) > 0 {
            spec["completionMode"] = json!("Indexed");
            if rng.below(2) == 0 {
                spec["backoffLimitPerIndex"] = json!(rng.below(3));
            }
        }
        if rng.below(3) == 0 {
            spec["podReplacementPolicy"] = json!("Failed");
        }
        let job: Job = serde_json::from_value(json!({"spec": spec, "metadata":
            {"name": "sum", "namespace": "default", "uid": OWNER, "resourceVersion": "1"}}))
        .expect("a Job");
        let mut world = Self {
            rng,
            second: 1000,
            version: 1,
            job: Arc::new(job),
            pods: BTreeMap::new(),
            controller: Controller::default(),
            fuel: u32::MAX,
            counted: HashSet::new(),
            released: HashMap::new(),
            faults: true,
            log: Vec::new(),
        };
        world.controller.late_jobs.push_back(world.job.clone());
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.second).expect("a timestamp")
    }

    /// A write that never shows is given up after a while.
    fn clock(&self) -> Duration {
        Duration::from_secs(self.second.unsigned_abs())
    }

    fn put_job(&mut self, change: impl FnOnce(&mut Job)) {
        let mut job = (*self.job).clone();
        change(&mut job);
        self.version += 1;
        job.metadata.resource_version = Some(self.version.to_string());
        self.job = Arc::new(job);
        self.controller.late_jobs.push_back(self.job.clone());
    }

    fn put_pod(&mut self, name: &str, pod: Option<Pod>) {
        // What is over, or never ran, goes as soon as nothing holds it.
        let gone = |pod: &Pod| {
            pod.deleting.is_some()
                && !tracked(pod)
                && (pod.is_terminal() || pod.phase == Phase::Pending)
        };
        let pod = pod.filter(|pod| !gone(pod)).map(Arc::new);
        match &pod {
            Some(pod) => self.pods.insert(name.to_owned(), pod.clone()),
            None => self.pods.remove(name),
        };
        self.controller.late_pods.push_back((name.to_owned(), pod));
    }

    fn delete(&mut self, name: &str) {
        if let Some(pod) = self.pods.get(name).filter(|pod| pod.deleting.is_none()) {
            let pod = Pod { deleting: Some(self.now()), ..(**pod).clone() };
            self.put_pod(name, Some(pod));
        }
    }

    /// One write of the controller, after which it may be gone.
    fn write(&mut self) -> Result<(), Crashed> {
        self.fuel = self.fuel.saturating_sub(1);
        if self.fuel == 0 { Err(Crashed) } else { Ok(()) }
    }

    fn crash(&mut self) {
        self.log.push("crash".to_owned());
        self.fuel = u32::MAX;
        self.controller = Controller {
            job: Some(self.job.clone()),
            pods: self.pods.clone(),
            ..Controller::default()
        };
    }

    fn see_pod(&mut self, name: &str, pod: Option<Arc<Pod>>) {
        let controller = &mut self.controller;
        let old = match &pod {
            Some(pod) => controller.pods.insert(name.to_owned(), pod.clone()),
            None => controller.pods.remove(name),
        };
        let expectations = &controller.expectations;
        if pod.is_some() {
            expectations.created(OWNER, name);
        }
        let uid = pod.as_ref().or(old.as_ref()).map(|pod| pod.uid.clone()).unwrap_or_default();
        if pod.as_ref().is_none_or(|pod| pod.deleting.is_some()) {
            expectations.deleted(OWNER, &uid);
        }
        if pod.as_ref().is_none_or(|pod| !tracked(pod)) {
            expectations.deleted(OWNER, &removal(&uid));
        }
    }

    fn deliver_job(&mut self) {
        if let Some(job) = self.controller.late_jobs.pop_front() {
            self.controller.job = Some(job);
        }
    }

    fn deliver_pod(&mut self) {
        if let Some((name, pod)) = self.controller.late_pods.pop_front() {
            self.see_pod(&name, pod);
        }
    }

    /// The watch of pods breaks: they are listed anew.
    fn relist(&mut self) {
        self.controller.late_pods.clear();
        let known: Vec<String> = self.controller.pods.keys().cloned().collect();
        let is_gone = |name: &String| !self.pods.contains_key(name);
        let gone: Vec<String> = known.into_iter().filter(is_gone).collect();
        for name in gone {
            self.see_pod(&name, None);
        }
        for (name, pod) in self.pods.clone() {
            self.see_pod(&name, Some(pod));
        }
    }

    /// Writes a status as the server would take it. `Ok(false)`: someone else was first.
    fn put_status(&mut self, version: &str, status: JobStatus) -> Result<bool, Crashed> {
        if self.job.metadata.resource_version.as_deref() != Some(version) {
            return Ok(false);
        }
        self.check_counts(&status);
        self.put_job(|job| job.status = Some(status));
        self.controller.written.note(OWNER, self.job.metadata.resource_version.as_deref());
        self.write().map(|()| true)
    }

    fn check_counts(&mut self, new: &JobStatus) {
        let old = self.job.status.clone().unwrap_or_default();
        let indexed = is_indexed(spec_of(&self.job));
        let ((old_ok, old_bad), (new_ok, new_bad)) = (uids(&old), uids(new));
        for uid in new_ok.iter().filter(|uid| !old_ok.contains(uid)) {
            assert_eq!(self.phase(uid), Some(Phase::Succeeded), "{uid}{}", self.story());
        }
        let mut failed = 0;
        for (before, after) in [(&old_ok, &new_ok), (&old_bad, &new_bad)] {
            for uid in before.iter().filter(|uid| !after.contains(uid)) {
                assert!(self.released.contains_key(uid), "{uid} is counted early{}", self.story());
                assert!(self.counted.insert(uid.clone()), "{uid} twice{}", self.story());
                failed += i32::from(old_bad.contains(uid));
            }
        }
        assert_eq!(new.failed.unwrap_or(0), old.failed.unwrap_or(0) + failed, "{}", self.story());
        let known = old_ok.len() + old_bad.len();
        let counted = known
            - new_ok
                .iter()
                .chain(&new_bad)
                .filter(|uid| old_ok.contains(uid) || old_bad.contains(uid))
                .count();
        if indexed {
            let text = new.completed_indexes.as_deref().unwrap_or_default();
            let done = Indexes::parse(text, i32::MAX);
            assert_eq!(new.succeeded.unwrap_or(0), done.total(), "{}", self.story());
        } else {
            let all =
                |status: &JobStatus| status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
            let counted = i32::try_from(counted).expect("few pods");
            assert_eq!(all(new), all(&old) + counted, "{}", self.story());
        }
    }

    /// What a pod is, or was when it went.
    fn phase(&self, uid: &str) -> Option<Phase> {
        let live = self.pods.get(uid).map(|pod| pod.phase);
        live.or_else(|| self.released.get(uid).copied())
    }

    fn reconcile(&mut self) -> Result<(), Crashed> {
        let Some(job) = self.controller.job.clone() else { return Ok(()) };
        let behind = self.controller.written.is_ahead(&job.metadata)
            || !self.controller.expectations.satisfied(OWNER, self.clock());
        if is_finished(&job) || behind {
            return Ok(());
        }
        let pods: Vec<Arc<Pod>> = self.controller.pods.values().cloned().collect();
        let failures = self.controller.failures;
        let plan = plan(&Observed { job: &job, pods: &pods, failures }, self.now());
        let mut done = Done::default();
        for pod in &plan.delete {
            self.controller.expectations.deleting(OWNER, &pod.uid, self.clock());
            if self.pods.contains_key(&pod.uid) {
                self.delete(&pod.uid);
            } else {
                self.controller.expectations.deleted(OWNER, &pod.uid);
            }
            done.deleted += 1;
            self.write()?;
        }
        for new in &plan.create {
            self.create(new);
            done.created += 1;
            self.write()?;
        }
        let recorded = record(&job, &plan, done, self.now());
        let mut version = job.metadata.resource_version.clone().unwrap_or_default();
        let mut last = job.status.clone().unwrap_or_default();
        let mut left: HashSet<String> =
            plan.own.iter().filter(|pod| tracked(pod)).map(|pod| pod.uid.clone()).collect();
        if !recorded.counted.is_empty() {
            if recorded.status != last {
                if !self.put_status(&version, recorded.status.clone())? {
                    return Ok(());
                }
                version = self.version.to_string();
                last = recorded.status.clone();
            }
            for pod in &recorded.counted {
                self.controller.expectations.deleting(OWNER, &removal(&pod.uid), self.clock());
                self.release(&pod.uid);
                left.remove(&pod.uid);
                self.write()?;
            }
        }
        self.controller.failures = plan.failures;
        let status = settle(&recorded, &left, self.now());
        if status != last {
            self.put_status(&version, status)?;
        }
        Ok(())
    }

    fn create(&mut self, new: &NewPod) {
        let name = format!("p-{}", self.rng.suffix(8));
        self.log.push(format!("create {name} {new:?}"));
        self.controller.expectations.creating(OWNER, &name, self.clock());
        let (failures, ignored) = new.failures.unwrap_or_default();
        let told =
            JobPod { tracked: true, index: new.index, failures, ignored, ..JobPod::default() };
        let pod = Pod {
            key: Key::new("default", name.clone()),
            uid: name.clone(),
            labels: [("job".to_owned(), "sum".to_owned())].into(),
            controller: Some(OwnerReference { uid: OWNER.to_owned(), ..OwnerReference::default() }),
            created: Some(self.now()),
            job: Some(Box::new(told)),
            ..Pod::default()
        };
        self.put_pod(&name, Some(pod));
        self.check_active(new.index);
    }

    /// Never more pods are active than there is left to do, nor two for one index.
    fn check_active(&self, index: Option<i32>) {
        let spec = spec_of(&self.job);
        let active: Vec<&Arc<Pod>> = self.pods.values().filter(|pod| pod.is_active()).collect();
        let same = active.iter().filter(|pod| pod.job.as_ref().is_some_and(|j| j.index == index));
        if index.is_some() {
            assert_eq!(same.count(), 1, "two pods for {index:?}{}", self.story());
            return;
        }
        let status = self.job.status.clone().unwrap_or_default();
        let done =
            status.succeeded.unwrap_or(0) + i32::try_from(uids(&status).0.len()).unwrap_or(0);
        let left = usize::try_from(spec.completions.unwrap_or(0) - done).unwrap_or(0);
        assert!(active.len() <= left, "{} active, {left} left{}", active.len(), self.story());
    }

    fn release(&mut self, uid: &str) {
        let Some(pod) = self.pods.get(uid).filter(|pod| tracked(pod)).cloned() else { return };
        self.released.insert(uid.to_owned(), pod.phase);
        let mut pod = (*pod).clone();
        pod.job.as_mut().expect("it is tracked").tracked = false;
        self.put_pod(uid, Some(pod));
    }

    /// A pod starts, or ends.
    fn kubelet(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
        let pod = (*self.pods[&name]).clone();
        let phase = match pod.phase {
            Phase::Pending if pod.deleting.is_none() => Phase::Running,
            // The pod collector's, or the node's that never started it.
            Phase::Pending => Phase::Failed,
            Phase::Running if self.rng.below(10) < 7 => Phase::Succeeded,
            Phase::Running => Phase::Failed,
            _ => return,
        };
        self.log.push(format!("{name} {phase:?}"));
        let mut pod = Pod { phase, ready: Some(self.now()), ..pod };
        if pod.is_terminal() {
            pod.ready = None;
            let now = self.now();
            pod.job.as_mut().expect("a pod of a Job").finished = Some(now);
        }
        self.put_pod(&name, Some(pod));
    }

    fn user(&mut self) {
        match self.rng.below(4) {
            0 => {
                let parallelism = self.rng.below(6) as i32;
                self.put_job(|job| {
                    job.spec.get_or_insert_default().parallelism = Some(parallelism);
                });
            }
            1 => self.put_job(|job| {
                let spec = job.spec.get_or_insert_default();
                spec.suspend = Some(spec.suspend != Some(true));
            }),
            _ => {
                let names: Vec<String> = self.pods.keys().cloned().collect();
                if !names.is_empty() {
                    let name = names[self.rng.below(names.len() as u64) as usize].clone();
                    self.log.push(format!("user deletes {name}"));
                    self.delete(&name);
                }
            }
        }
    }

    fn step(&mut self) {
        self.second += 3;
        match self.rng.below(if self.faults { 100 } else { 88 }) {
            0..15 => self.deliver_job(),
            15..45 => self.deliver_pod(),
            45..65 => {
                if self.faults && self.rng.below(4) == 0 {
                    self.fuel = 1 + self.rng.below(6) as u32;
                }
                if self.reconcile().is_err() {
                    self.crash();
                }
                self.fuel = u32::MAX;
            }
            65..88 => self.kubelet(),
            88..92 => self.relist(),
            92..94 => self.crash(),
            _ => self.user(),
        }
    }

    fn story(&self) -> String {
        let newest = &self.log[self.log.len().saturating_sub(12)..];
        format!("; before that:\n{}", newest.join("\n"))
    }

    fn settle(&mut self) {
        self.faults = false;
        self.put_job(|job| {
            let spec = job.spec.get_or_insert_default();
            (spec.suspend, spec.parallelism) = (Some(false), Some(3));
        });
        for _ in 0..60_000 {
            if is_finished(&self.job) {
                return self.check_end();
            }
            self.step();
        }
        panic!("it does not end: {:?}{}", self.job.status, self.story());
    }

    fn check_end(&self) {
        let (status, spec) = (self.job.status.clone().unwrap_or_default(), spec_of(&self.job));
        let wanted = spec.completions.unwrap_or(0);
        let failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), wanted);
        if has(&status, "Complete") {
            assert_eq!(status.succeeded, Some(wanted), "{}", self.story());
            assert!(failed.is_empty(), "{}", self.story());
        } else {
            let all = status.succeeded.unwrap_or(0) + failed.total();
            assert_eq!(all, wanted, "{}", self.story());
        }
        assert_eq!(uids(&status), (vec![], vec![]), "all are counted{}", self.story());
        assert_eq!(status.active, None, "{}", self.story());
        assert!(!self.pods.values().any(|pod| tracked(pod)), "all are let go{}", self.story());
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..400 {
        if is_finished(&world.job) {
            return world.check_end();
        }
        world.step();
    }
    world.settle();
}

/// Seeds that once failed.
const COMMITTED: [u64; 0] = [];

#[test]
fn a_jobs_count_is_exact_whatever_is_late_or_lost() {
    super::over_seeds(&COMMITTED, 400, simulate);
}
