//! A Deployment, its ReplicaSets and their pods under a seed: a small model of the API server
//! (objects in maps, compare-and-swap), controllers that see it late, lose events and crash, a
//! kubelet that starts and ends pods when it likes, a user who changes things meanwhile.
//!
//! Checked after every step:
//! - the sizes of the ReplicaSets never add up to more than `replicas + maxSurge`;
//! - never fewer pods are available than `replicas − maxUnavailable`;
//! - no ReplicaSet ever has more pods than it asked for at some time.
//!
//! And once the faults stop: everything converges on the newest template.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::base::rng::Rng;
use crate::client::meta::{Key, time};
use crate::controllers::deployment::plan::{self as rollout, Action};
use crate::controllers::deployment::{size, status};
use crate::controllers::expectations::Expectations;
use crate::controllers::replicaset::plan as sets;
use crate::controllers::view::{Phase, Pod, Templated};

#[derive(Clone)]
enum Event {
    Deployment(Arc<Templated<Deployment>>),
    Set(String, Option<Arc<Templated<ReplicaSet>>>),
    Pod(String, Option<Arc<Pod>>),
}

/// What one controller believes, and what it has not heard yet.
#[derive(Default)]
struct View {
    deployment: Option<Arc<Templated<Deployment>>>,
    sets: BTreeMap<String, Arc<Templated<ReplicaSet>>>,
    pods: BTreeMap<String, Arc<Pod>>,
    late: VecDeque<Event>,
}

struct World {
    rng: Rng,
    second: i64,
    version: u64,
    deployment: Arc<Templated<Deployment>>,
    sets: BTreeMap<String, Arc<Templated<ReplicaSet>>>,
    pods: BTreeMap<String, Arc<Pod>>,
    /// The Deployment controller's view and the ReplicaSet controller's.
    views: [View; 2],
    expectations: Expectations,
    /// The most that a set ever asked for.
    asked_most: HashMap<String, i32>,
    total_max: i32,
    available_min: i32,
    log: Vec<String>,
}

const WANTED: [i32; 5] = [1, 3, 4, 10, 0];

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let surge = rng.below(4);
        let unavailable = if surge == 0 { 1 + rng.below(2) } else { rng.below(3) };
        let strategy = if rng.below(5) == 0 {
            json!({"type": "Recreate"})
        } else {
            json!({"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
        };
        let replicas = WANTED[rng.below(4) as usize];
        let object: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1,
                "resourceVersion": "1"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {}, "strategy": strategy, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2}}))
        .expect("a Deployment");
        let mut world = Self {
            rng,
            second: 1000,
            version: 1,
            deployment: Arc::new(Templated { object, digest: "t1".to_owned() }),
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            views: Default::default(),
            expectations: Expectations::default(),
            asked_most: HashMap::new(),
            total_max: 0,
            available_min: 0,
            log: Vec::new(),
        };
        world.total_max = world.most();
        world.tell(&Event::Deployment(world.deployment.clone()));
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.second).expect("a timestamp")
    }

    fn most(&self) -> i32 {
        size::replicas(&self.deployment.object) + size::max_surge(&self.deployment.object)
    }

    fn least(&self) -> i32 {
        if size::is_recreate(&self.deployment.object) {
            return 0;
        }
        size::replicas(&self.deployment.object) - size::max_unavailable(&self.deployment.object)
    }

    fn tell(&mut self, event: &Event) {
        for view in &mut self.views {
            view.late.push_back(event.clone());
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn put_deployment(&mut self, change: impl FnOnce(&mut Templated<Deployment>)) {
        let mut new = (*self.deployment).clone();
        change(&mut new);
        new.object.metadata.resource_version = Some(self.next_version());
        self.deployment = Arc::new(new);
        self.tell(&Event::Deployment(self.deployment.clone()));
    }

    fn put_set(&mut self, name: &str, mut set: Templated<ReplicaSet>) {
        set.object.metadata.resource_version = Some(self.next_version());
        let most = self.asked_most.entry(name.to_owned()).or_default();
        *most = (*most).max(size::asked(&set.object));
        let set = Arc::new(set);
        self.sets.insert(name.to_owned(), set.clone());
        self.tell(&Event::Set(name.to_owned(), Some(set)));
    }

    fn put_pod(&mut self, name: &str, pod: Option<Pod>) {
        let pod = pod.map(Arc::new);
        match &pod {
            Some(pod) => self.pods.insert(name.to_owned(), pod.clone()),
            None => self.pods.remove(name),
        };
        self.tell(&Event::Pod(name.to_owned(), pod));
    }

    /// One late event reaches one controller, or is lost until it lists again.
    fn deliver(&mut self, view: usize) -> bool {
        let Some(event) = self.views[view].late.pop_front() else { return false };
        match event {
            Event::Deployment(new) => self.views[view].deployment = Some(new),
            Event::Set(name, set) => self.see_set(view, &name, set),
            Event::Pod(name, pod) => self.see_pod(view, &name, pod),
        }
        true
    }

    fn see_set(&mut self, view: usize, name: &str, set: Option<Arc<Templated<ReplicaSet>>>) {
        let is_there = set.is_some();
        let old = match set {
            Some(set) => self.views[view].sets.insert(name.to_owned(), set),
            None => self.views[view].sets.remove(name),
        };
        if view == 0 {
            if is_there {
                self.expectations.created("d", name);
            }
            if let Some(old) = old {
                self.expectations.deleted("d", &version(name, &old.object));
            }
        }
    }

    fn see_pod(&mut self, view: usize, name: &str, pod: Option<Arc<Pod>>) {
        let old = match &pod {
            Some(pod) => self.views[view].pods.insert(name.to_owned(), pod.clone()),
            None => self.views[view].pods.remove(name),
        };
        if view == 1 {
            if let Some(pod) = pod.as_ref() {
                self.expectations.created(&owner(pod), name);
                if pod.deleting.is_some() {
                    self.expectations.deleted(&owner(pod), &pod.uid);
                }
            } else if let Some(old) = old {
                self.expectations.deleted(&owner(&old), &old.uid);
            }
        }
    }

    /// The watch breaks: what was not delivered is lost, and everything is listed anew.
    fn relist(&mut self, view: usize) {
        self.views[view].late.clear();
        self.views[view].deployment = Some(self.deployment.clone());
        let sets = &self.views[view].sets;
        let gone: Vec<String> =
            sets.keys().filter(|name| !self.sets.contains_key(*name)).cloned().collect();
        for name in gone {
            self.see_set(view, &name, None);
        }
        for (name, set) in self.sets.clone() {
            self.see_set(view, &name, Some(set));
        }
        let gone: Vec<String> =
            self.views[view].pods.keys().filter(|n| !self.pods.contains_key(*n)).cloned().collect();
        for name in gone {
            self.see_pod(view, &name, None);
        }
        for (name, pod) in self.pods.clone() {
            self.see_pod(view, &name, Some(pod));
        }
    }

    /// The controllers start anew.
    fn crash(&mut self) {
        self.expectations = Expectations::default();
        self.views = Default::default();
        self.relist(0);
        self.relist(1);
    }

    fn reconcile_deployment(&mut self) {
        let Some(deployment) = self.views[0].deployment.clone() else { return };
        if !self.expectations.satisfied("d", Duration::ZERO) {
            return;
        }
        let sets: Vec<_> = self.views[0].sets.values().cloned().collect();
        let pods = self.views[0].pods.clone();
        let running =
            |uid: &str| pods.values().filter(|pod| owner(pod) == uid && !pod.is_terminal()).count();
        let observed = rollout::Observed { deployment: &deployment, sets, running: &running };
        let plan = rollout::plan(observed, self.now());
        for action in plan.actions {
            if !self.act(&deployment, action) {
                return;
            }
        }
        if self.deployment.object.status.as_ref() != Some(&plan.status) {
            self.put_deployment(|d| d.object.status = Some(plan.status));
        }
    }

    /// Whether the server took the write.
    fn act(&mut self, deployment: &Templated<Deployment>, action: Action) -> bool {
        self.log.push(format!("{action:?}"));
        match action {
            Action::Create { replicas, annotations, .. } => {
                let name = format!("web-{}", deployment.digest);
                // The run reads the Deployment first: a template that changed meanwhile is not made.
                if self.deployment.digest != deployment.digest || self.sets.contains_key(&name) {
                    return false;
                }
                let mut object: ReplicaSet = serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": "default", "uid": name,
                        "generation": 1},
                    "spec": {"replicas": replicas,
                        "selector": {"matchLabels": {"hash": deployment.digest}}}}))
                .expect("a ReplicaSet");
                object.metadata.annotations = Some(annotations);
                object.metadata.creation_timestamp = Some(time(self.now()));
                self.expectations.creating("d", &name, Duration::ZERO);
                self.put_set(&name, Templated { object, digest: deployment.digest.clone() });
            }
            Action::Change {
                name, resource_version, to, annotations, min_ready_seconds, ..
            } => {
                let Some(set) = self.sets.get(&name) else { return false };
                if set.object.metadata.resource_version.as_ref() != Some(&resource_version) {
                    return false;
                }
                let mut set = (**set).clone();
                set.object.metadata.annotations.get_or_insert_default().extend(annotations);
                if to.is_some() || min_ready_seconds.is_some() {
                    *set.object.metadata.generation.get_or_insert(0) += 1;
                }
                set.object.spec.replicas = to.or(set.object.spec.replicas);
                let version = version(&name, &self.sets[&name].object);
                self.expectations.deleting("d", &version, Duration::ZERO);
                self.put_set(&name, set);
            }
            Action::Forget { name, resource_version, .. } => {
                let Some(set) = self.sets.get(&name) else { return true };
                if set.object.metadata.resource_version.as_ref() != Some(&resource_version) {
                    return false;
                }
                assert_eq!(size::asked(&set.object), 0, "a set with pods was forgotten");
                self.sets.remove(&name);
                self.tell(&Event::Set(name, None));
            }
            Action::SetRevision(revision) => self.put_deployment(|d| {
                let annotations = d.object.metadata.annotations.get_or_insert_default();
                annotations.insert(
                    crate::controllers::deployment::history::REVISION.to_owned(),
                    revision.to_string(),
                );
            }),
        }
        true
    }

    fn reconcile_set(&mut self, name: &str) {
        let Some(set) = self.views[1].sets.get(name).cloned() else { return };
        let uid = set.object.metadata.uid.clone().expect("a uid");
        let pods: Vec<Arc<Pod>> = self.views[1].pods.values().cloned().collect();
        let plan = self.plan_set(&set.object, &uid, &pods);
        if self.expectations.satisfied(&uid, Duration::ZERO) {
            for _ in 0..plan.create {
                let pod_name = format!("{name}-{}", self.rng.suffix(8));
                self.expectations.creating(&uid, &pod_name, Duration::ZERO);
                let pod = new_pod(&set, &pod_name, self.now());
                self.put_pod(&pod_name, Some(pod));
            }
            for victim in &plan.delete {
                self.expectations.deleting(&uid, &victim.uid, Duration::ZERO);
                match self.pods.get(&victim.key.name).cloned() {
                    Some(pod) if pod.uid == victim.uid => {
                        let deleting = Some(self.now());
                        self.put_pod(&victim.key.name, Some(Pod { deleting, ..(*pod).clone() }));
                    }
                    _ => self.expectations.deleted(&uid, &victim.uid),
                }
            }
        }
        let plan = self.plan_set(&set.object, &uid, &pods);
        let status = sets::status(&set.object, &plan, None, true, self.now());
        let current = self.sets.get(name).cloned();
        if let Some(current) = current.filter(|current| {
            current.object.metadata.resource_version == set.object.metadata.resource_version
        }) && current.object.status.as_ref() != Some(&status)
        {
            let mut new = (*current).clone();
            new.object.status = Some(status);
            self.put_set(name, new);
        }
    }

    fn plan_set(&self, set: &ReplicaSet, uid: &str, pods: &[Arc<Pod>]) -> sets::Plan {
        let related = HashMap::new();
        let leaving = |pod: &str| self.expectations.is_deleting(uid, pod);
        let observed = sets::Observed { set, pods, related: &related, leaving: &leaving };
        sets::plan(&observed, self.now())
    }

    /// A pod starts, becomes Ready or, when it is being deleted, goes.
    fn kubelet(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
        let pod = (*self.pods[&name]).clone();
        if pod.deleting.is_some() {
            self.put_pod(&name, None);
        } else if pod.ready.is_none() {
            let ready = Some(self.now());
            let pod = Pod { ready, phase: Phase::Running, node: "one".to_owned(), ..pod };
            self.put_pod(&name, Some(pod));
        }
    }

    fn user(&mut self) {
        let choice = self.rng.below(4);
        let template = format!("t{}", 1 + self.rng.below(4));
        let replicas = WANTED[self.rng.below(5) as usize];
        self.log.push(format!("user {choice} {template} {replicas}"));
        self.put_deployment(|deployment| {
            match choice {
                0 | 1 => deployment.digest = template,
                2 => deployment.object.spec.replicas = Some(replicas),
                _ => {
                    let paused = deployment.object.spec.paused == Some(true);
                    deployment.object.spec.paused = Some(!paused);
                }
            }
            *deployment.object.metadata.generation.get_or_insert(0) += 1;
        });
        self.total_max = self.total_max.max(self.most());
        self.available_min = self.available_min.min(self.least());
    }

    fn step(&mut self, faults: bool) {
        self.second += 1;
        match self.rng.below(if faults { 100 } else { 90 }) {
            0..20 => {
                self.deliver(0);
            }
            20..45 => {
                self.deliver(1);
            }
            45..55 => self.reconcile_deployment(),
            55..70 => {
                let names: Vec<String> = self.sets.keys().cloned().collect();
                if !names.is_empty() {
                    let name = names[self.rng.below(names.len() as u64) as usize].clone();
                    self.reconcile_set(&name);
                }
            }
            70..90 => self.kubelet(),
            90..93 => self.relist(0),
            93..96 => self.relist(1),
            96..97 => self.crash(),
            _ => self.user(),
        }
    }

    /// The newest writes, for who replays a seed.
    fn story(&self) -> String {
        let newest = &self.log[self.log.len().saturating_sub(12)..];
        format!("; before that:\n{}", newest.join("\n"))
    }

    fn check(&self) {
        let total: i32 = self.sets.values().map(|set| size::asked(&set.object)).sum();
        assert!(
            total <= self.total_max,
            "{total} asked for, {} allowed{}",
            self.total_max,
            self.story()
        );
        let available = self
            .pods
            .values()
            .filter(|pod| pod.is_active() && pod.is_available(0, self.now()))
            .count();
        let available = i32::try_from(available).expect("few pods");
        assert!(
            available >= self.available_min,
            "{available} available, {} needed{}",
            self.available_min,
            self.story()
        );
        for (name, most) in &self.asked_most {
            let active = self.pods.values().filter(|p| owner(p) == *name && p.is_active()).count();
            assert!(active <= usize::try_from(*most).unwrap_or(0), "{name} has {active} pods");
        }
    }

    fn is_settled(&self) -> bool {
        let object = &self.deployment.object;
        let done = object.status.as_ref().is_some_and(|s| status::is_complete(object, s));
        let wanted = size::replicas(object);
        let newest = self
            .sets
            .values()
            .any(|set| set.digest == self.deployment.digest && size::asked(&set.object) == wanted);
        done && newest && self.pods.len() == usize::try_from(wanted).unwrap_or(0)
    }

    /// Without faults, everything must come to rest. From then on the bounds are exact.
    fn settle(&mut self) {
        if self.deployment.object.spec.paused == Some(true) {
            self.put_deployment(|deployment| {
                deployment.object.spec.paused = None;
                *deployment.object.metadata.generation.get_or_insert(0) += 1;
            });
        }
        for _ in 0..40_000 {
            if self.is_settled() {
                while self.deliver(0) || self.deliver(1) {}
                self.total_max = self.most();
                self.available_min = self.least();
                for (name, most) in &mut self.asked_most {
                    *most = self.sets.get(name).map_or(0, |set| size::asked(&set.object));
                }
                return;
            }
            self.step(false);
            self.check();
        }
        let sets: Vec<String> = self
            .sets
            .values()
            .map(|s| format!("{} {}", s.digest, size::asked(&s.object)))
            .collect();
        panic!("it does not settle: {sets:?}, {} pods", self.pods.len());
    }
}

fn version(name: &str, set: &ReplicaSet) -> String {
    format!("{name}@{}", set.metadata.resource_version.as_deref().unwrap_or_default())
}

fn owner(pod: &Pod) -> String {
    pod.controller.as_ref().map(|owner| owner.uid.clone()).unwrap_or_default()
}

fn new_pod(set: &Templated<ReplicaSet>, name: &str, now: Timestamp) -> Pod {
    Pod {
        key: Key::new("default", name),
        uid: name.to_owned(),
        labels: [("hash".to_owned(), set.digest.clone())].into(),
        controller: Some(OwnerReference {
            uid: set.object.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        }),
        created: Some(now),
        ..Pod::default()
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    world.settle();
    for _ in 0..3 {
        for _ in 0..400 {
            world.step(true);
            world.check();
        }
        world.settle();
    }
}

/// Seeds that once failed.
const COMMITTED: [u64; 0] = [];

#[test]
fn rollouts_keep_their_bounds_and_converge_whatever_is_late_or_lost() {
    super::over_seeds(&COMMITTED, 150, simulate);
}
