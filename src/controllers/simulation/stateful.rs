//! A StatefulSet and its pods under a seed.
//!
//! Checked at every write: a name is taken once; unless the policy is Parallel, a pod is created
//! only while all below it are there; an update takes down at most `maxUnavailable` pods that are
//! well. And once the faults stop: everything converges on the newest template, also after one
//! whose pods never become ready.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::base::rng::Rng;
use crate::client::meta::Key;
use crate::controllers::expectations::Expectations;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::statefulset::plan::{
    Action, Observed, Why, is_parallel, plan, replicas, revision_of, start,
};
use crate::controllers::view::{Phase, Pod};

const OWNER: &str = "set";
/// The template whose pods never become ready.
const BROKEN: &str = "t0";

#[derive(Default)]
struct View {
    set: Option<Arc<(StatefulSet, String)>>,
    pods: BTreeMap<String, Arc<Pod>>,
    late_sets: VecDeque<Arc<(StatefulSet, String)>>,
    late_pods: VecDeque<(String, Option<Arc<Pod>>)>,
    expectations: Expectations,
}

struct World {
    rng: Rng,
    second: i64,
    version: u64,
    /// The set and its template.
    set: Arc<(StatefulSet, String)>,
    pods: BTreeMap<String, Arc<Pod>>,
    view: View,
    /// Pods that were well when an update took them down, and that are not gone yet.
    taken_down: HashSet<String>,
    faults: bool,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let policy = if rng.below(2) == 0 { "OrderedReady" } else { "Parallel" };
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": OWNER,
                "resourceVersion": "1"},
            "spec": {"replicas": 1 + rng.below(5), "template": {}, "podManagementPolicy": policy,
                "ordinals": {"start": rng.below(2) * 3},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate":
                    {"partition": 0, "maxUnavailable": 1 + rng.below(2)}},
                "selector": {"matchLabels": {"app": "db"}}}}))
        .expect("a StatefulSet");
        let mut world = Self {
            rng,
            second: 1000,
            version: 1,
            set: Arc::new((set, "t1".to_owned())),
            pods: BTreeMap::new(),
            view: View::default(),
            taken_down: HashSet::new(),
            faults: true,
            log: Vec::new(),
        };
        world.view.late_sets.push_back(world.set.clone());
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.second).expect("a timestamp")
    }

    /// A write that never shows is given up after a while.
    fn clock(&self) -> Duration {
        Duration::from_secs(self.second.unsigned_abs())
    }

    fn put_set(&mut self, change: impl FnOnce(&mut StatefulSet, &mut String)) {
        let (mut set, mut template) = (*self.set).clone();
        change(&mut set, &mut template);
        self.version += 1;
        set.metadata.resource_version = Some(self.version.to_string());
        self.set = Arc::new((set, template));
        self.view.late_sets.push_back(self.set.clone());
    }

    fn put_pod(&mut self, name: &str, pod: Option<Pod>) {
        let pod = pod.map(Arc::new);
        match &pod {
            Some(pod) => self.pods.insert(name.to_owned(), pod.clone()),
            None => self.pods.remove(name),
        };
        self.view.late_pods.push_back((name.to_owned(), pod));
    }

    fn see_pod(&mut self, name: &str, pod: Option<Arc<Pod>>) {
        let old = match &pod {
            Some(pod) => self.view.pods.insert(name.to_owned(), pod.clone()),
            None => self.view.pods.remove(name),
        };
        if let Some(pod) = &pod {
            self.view.expectations.created(OWNER, name);
            if pod.deleting.is_some() {
                self.view.expectations.deleted(OWNER, &pod.uid);
            }
        }
        if let Some(old) = old.filter(|old| pod.as_ref().is_none_or(|pod| pod.uid != old.uid)) {
            self.view.expectations.deleted(OWNER, &old.uid);
        }
    }

    fn deliver_pod(&mut self) {
        if let Some((name, pod)) = self.view.late_pods.pop_front() {
            self.see_pod(&name, pod);
        }
    }

    fn relist(&mut self) {
        self.view.late_pods.clear();
        let known: Vec<String> = self.view.pods.keys().cloned().collect();
        let is_gone = |name: &String| !self.pods.contains_key(name);
        let gone: Vec<String> = known.into_iter().filter(is_gone).collect();
        for name in gone {
            self.see_pod(&name, None);
        }
        for (name, pod) in self.pods.clone() {
            self.see_pod(&name, Some(pod));
        }
    }

    fn crash(&mut self) {
        self.view =
            View { set: Some(self.set.clone()), pods: self.pods.clone(), ..View::default() };
    }

    fn reconcile(&mut self) {
        let Some(seen) = self.view.set.clone() else { return };
        if !self.view.expectations.satisfied(OWNER, self.clock()) {
            return;
        }
        let (set, update) = (&seen.0, &seen.1);
        let status = set.status.clone().unwrap_or_default();
        let current = status.current_revision.unwrap_or_else(|| update.clone());
        let pods: Vec<Arc<Pod>> = self.view.pods.values().cloned().collect();
        let observed = Observed { set, pods: &pods, current: &current, update, collisions: None };
        let plan = plan(&observed, self.now());
        let ordered = !is_parallel(set);
        let real = plan.actions.iter().filter(|a| !matches!(a, Action::Claims { .. })).count();
        assert!(!ordered || real <= 1 || self.is_update(&plan.actions), "{:?}", plan.actions);
        for action in plan.actions {
            self.act(set, action, ordered);
        }
        if self.set.0.metadata.resource_version == set.metadata.resource_version
            && self.set.0.status.as_ref() != Some(&plan.status)
        {
            self.put_set(|set, _| set.status = Some(plan.status));
        }
    }

    fn is_update(&self, actions: &[Action]) -> bool {
        actions.iter().all(|action| {
            matches!(action, Action::Delete { why: Why::Update, .. } | Action::Claims { .. })
        })
    }

    fn act(&mut self, set: &StatefulSet, action: Action, ordered: bool) {
        match action {
            Action::Claims { .. } => {}
            Action::Create { ordinal, revision } => {
                let name = format!("db-{ordinal}");
                self.view.expectations.creating(OWNER, &name, self.clock());
                if self.pods.contains_key(&name) {
                    self.view.expectations.created(OWNER, &name);
                    return;
                }
                self.log.push(format!("create {name} {revision}"));
                // What a user deleted meanwhile is not the controller's doing.
                let seen = |n: i32| self.view.pods.contains_key(&format!("db-{n}"));
                assert!(!ordered || (start(set)..ordinal).all(seen), "{name}{}", self.story());
                let pod = self.pod(&name, &revision);
                self.put_pod(&name, Some(pod));
            }
            Action::Delete { pod, why } => {
                let name = &pod.key.name;
                self.view.expectations.deleting(OWNER, &pod.uid, self.clock());
                let live = self.pods.get(name).filter(|live| live.uid == pod.uid).cloned();
                let Some(live) = live else {
                    self.view.expectations.deleted(OWNER, &pod.uid);
                    return;
                };
                self.log.push(format!("delete {name} {why:?} {}", revision_of(&live)));
                // What the controller could not know to be well does not count.
                let was_well = pod.ready.is_some() && live.ready.is_some();
                if why == Why::Update && was_well && live.deleting.is_none() {
                    self.taken_down.insert(live.uid.clone());
                    let most = set.spec.update_strategy.as_ref().and_then(|s| {
                        serde_json::to_value(s).ok()?["rollingUpdate"]["maxUnavailable"].as_u64()
                    });
                    let most = usize::try_from(most.unwrap_or(1)).expect("small");
                    assert!(self.taken_down.len() <= most, "too many go{}", self.story());
                }
                let deleting = live.deleting.or(Some(self.now()));
                let name = name.clone();
                self.put_pod(&name, Some(Pod { deleting, ..(*live).clone() }));
            }
        }
    }

    fn pod(&mut self, name: &str, revision: &str) -> Pod {
        Pod {
            key: Key::new("default", name),
            uid: format!("{name}-{}", self.rng.suffix(6)),
            labels: [
                ("app".to_owned(), "db".to_owned()),
                (REVISION_HASH.to_owned(), revision.to_owned()),
            ]
            .into(),
            controller: Some(OwnerReference { uid: OWNER.to_owned(), ..OwnerReference::default() }),
            created: Some(self.now()),
            ..Pod::default()
        }
    }

    fn kubelet(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
        let pod = (*self.pods[&name]).clone();
        let status = self.set.0.status.clone().unwrap_or_default();
        let stuck =
            revision_of(&pod) == BROKEN && status.current_revision.as_deref() == Some(BROKEN);
        if !self.faults && stuck && pod.deleting.is_none() {
            // What never worked is nobody's earlier state: as in Kubernetes, people delete it.
            self.put_pod(&name, Some(Pod { deleting: Some(self.now()), ..pod }));
        } else if pod.deleting.is_some() {
            self.taken_down.remove(&pod.uid);
            self.put_pod(&name, None);
        } else if self.faults && pod.phase == Phase::Running && self.rng.below(12) == 0 {
            self.put_pod(&name, Some(Pod { phase: Phase::Failed, ready: None, ..pod }));
        } else if !pod.is_terminal() && pod.ready.is_none() {
            let ready = Some(self.now()).filter(|_| revision_of(&pod) != BROKEN);
            self.put_pod(&name, Some(Pod { phase: Phase::Running, ready, ..pod }));
        }
    }

    fn user(&mut self) {
        let (choice, template) = (self.rng.below(5), format!("t{}", self.rng.below(4)));
        let wanted = self.rng.below(6) as i32;
        self.log.push(format!("user {choice} {template} {wanted}"));
        match choice {
            0 | 1 => self.put_set(|_, current| *current = template),
            2 => self.put_set(|set, _| set.spec.replicas = Some(wanted)),
            _ => {
                let names: Vec<String> = self.pods.keys().cloned().collect();
                if !names.is_empty() {
                    let name = names[self.rng.below(names.len() as u64) as usize].clone();
                    let pod = (*self.pods[&name]).clone();
                    let deleting = pod.deleting.or(Some(self.now()));
                    self.put_pod(&name, Some(Pod { deleting, ..pod }));
                }
            }
        }
    }

    fn step(&mut self) {
        self.second += 1;
        match self.rng.below(if self.faults { 100 } else { 88 }) {
            0..15 => {
                if let Some(set) = self.view.late_sets.pop_front() {
                    self.view.set = Some(set);
                }
            }
            15..45 => self.deliver_pod(),
            45..65 => self.reconcile(),
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

    fn is_settled(&self) -> bool {
        let (set, template) = (&self.set.0, &self.set.1);
        let wanted = start(set)..start(set) + replicas(set);
        let well = |n: i32| {
            self.pods.get(&format!("db-{n}")).is_some_and(|pod| {
                pod.ready.is_some() && pod.deleting.is_none() && revision_of(pod) == template
            })
        };
        let status = set.status.clone().unwrap_or_default();
        self.pods.len() == wanted.len()
            && wanted.clone().all(well)
            && status.ready_replicas.unwrap_or(0) == replicas(set)
            && status.current_revision.as_ref() == Some(template)
            && status.update_revision.as_ref() == Some(template)
    }

    /// Without faults, everything must come to rest, on a template that works.
    fn settle(&mut self) {
        self.faults = false;
        if self.set.1 == BROKEN {
            self.put_set(|_, template| *template = "t1".to_owned());
        }
        for _ in 0..40_000 {
            if self.is_settled() {
                self.faults = true;
                return;
            }
            self.step();
        }
        let pods: Vec<String> =
            self.pods.values().map(|p| format!("{} {}", p.key.name, revision_of(p))).collect();
        panic!("it does not settle: {pods:?} for {}{}", self.set.1, self.story());
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    world.settle();
    for _ in 0..3 {
        for _ in 0..400 {
            world.step();
        }
        world.settle();
    }
}

/// Seeds that once failed.
const COMMITTED: [u64; 0] = [];

#[test]
fn ordinals_stay_single_and_updates_keep_their_bounds_whatever_is_late_or_lost() {
    super::over_seeds(&COMMITTED, 200, simulate);
}
