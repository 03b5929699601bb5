//! The actions of one reconcile of a Deployment (`pkg/controller/deployment`).
//!
//! One step at a time: after a ReplicaSet was written, the next step waits until the informer shows
//! it, so that every step is computed from sizes that hold. Compare-and-swap on each ReplicaSet
//! keeps a stale view from doing harm.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::history::{self, REVISION};
use super::size::{self, asked, available};
use super::status;
use crate::controllers::view::Templated;

/// What was observed.
pub struct Observed<'a> {
    pub deployment: &'a Templated<Deployment>,
    /// The ReplicaSets that it controls.
    pub sets: Vec<Arc<Templated<ReplicaSet>>>,
    /// How many pods of each set (by uid) still run; asked for `Recreate` only.
    pub running: &'a dyn Fn(&str) -> usize,
}

/// A thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the ReplicaSet of the Deployment's template.
    Create { replicas: i32, revision: i64, annotations: BTreeMap<String, String> },
    /// Change a ReplicaSet: its size, annotations, minReadySeconds; what is `None` stays.
    Change {
        name: String,
        resource_version: String,
        from: i32,
        to: Option<i32>,
        annotations: BTreeMap<String, String>,
        min_ready_seconds: Option<i32>,
    },
    /// Delete a ReplicaSet that the history has no room for.
    Forget { name: String, uid: String, resource_version: String },
    /// Write the Deployment's revision annotation.
    SetRevision(i64),
}

/// What to do, in order, and the status afterwards.
#[derive(Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: DeploymentStatus,
    /// Look again after so many seconds.
    pub again_in: Option<u64>,
}

struct Planner<'a> {
    deployment: &'a Deployment,
    sets: Vec<Arc<Templated<ReplicaSet>>>,
    new: Option<usize>,
    running: &'a dyn Fn(&str) -> usize,
    now: Timestamp,
    actions: Vec<Action>,
    /// Conditions that change besides those of the rollout.
    base: DeploymentStatus,
}

/// What to do for the Deployment.
pub fn plan(mut observed: Observed<'_>, now: Timestamp) -> Plan {
    history::by_age(&mut observed.sets);
    let deployment = &observed.deployment.object;
    let mut planner = Planner {
        deployment,
        new: history::newest(&observed.deployment.digest, &observed.sets),
        sets: observed.sets,
        running: observed.running,
        now,
        actions: Vec::new(),
        base: deployment.status.clone().unwrap_or_default(),
    };
    planner.run()
}

impl Planner<'_> {
    fn run(&mut self) -> Plan {
        let paused = self.deployment.spec.paused == Some(true);
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.counted();
        }
        if let Some(condition) = status::paused(self.deployment, self.now) {
            status::set_condition(&mut self.base, condition);
        }
        if paused || self.was_scaled() {
            if !self.annotate_new() {
                self.scale();
            }
            if paused && self.actions.is_empty() {
                self.forget();
            }
            return self.counted();
        }
        if size::is_recreate(self.deployment) {
            self.recreate()
        } else {
            self.roll()
        }
        self.rolled()
    }

    fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|index| &self.sets[index].object)
    }

    fn old_sets(&self) -> Vec<&ReplicaSet> {
        let sets = self.sets.iter().enumerate();
        sets.filter(|(index, _)| Some(*index) != self.new).map(|(_, set)| &set.object).collect()
    }

    fn all_sets(&self) -> Vec<&ReplicaSet> {
        self.sets.iter().map(|set| &set.object).collect()
    }

    /// Whether an active set was last scaled for another number of replicas.
    fn was_scaled(&self) -> bool {
        let wanted = size::replicas(self.deployment).to_string();
        self.all_sets().into_iter().filter(|set| asked(set) > 0).any(|set| {
            let desired = set.metadata.annotations.as_ref().and_then(|all| all.get(size::DESIRED));
            desired.is_some_and(|desired| *desired != wanted)
        })
    }

    /// Brings the annotations of the newest set, and the Deployment's revision, up to date.
    /// Returns whether the set must be written first.
    fn annotate_new(&mut self) -> bool {
        let Some(new) = self.new_set().cloned() else { return false };
        let revision = history::highest(self.old_sets().into_iter()) + 1;
        let annotations = history::updated_annotations(self.deployment, &new, revision);
        let wanted = self.deployment.spec.min_ready_seconds.unwrap_or(0);
        let has = new.spec.min_ready_seconds.unwrap_or(0);
        if !annotations.is_empty() || wanted != has {
            let min_ready_seconds = (wanted != has).then_some(wanted);
            self.change(&new, None, annotations, min_ready_seconds);
            return true;
        }
        let revision = history::revision(new.metadata.annotations.as_ref());
        self.set_revision(revision);
        if status::deadline(self.deployment).is_some() && status::progressing(&self.base).is_none()
        {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            let found = status::condition(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                format!("Found new replica set \"{name}\""),
                self.now,
            );
            status::set_condition(&mut self.base, found);
        }
        false
    }

    fn set_revision(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.as_ref();
        let told = annotations.and_then(|all| all.get(REVISION));
        if told != Some(&revision.to_string()) {
            self.actions.push(Action::SetRevision(revision));
        }
    }

    fn change(
        &mut self,
        set: &ReplicaSet,
        to: Option<i32>,
        annotations: BTreeMap<String, String>,
        min_ready_seconds: Option<i32>,
    ) {
        self.actions.push(Action::Change {
            name: set.metadata.name.clone().unwrap_or_default(),
            resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
            from: asked(set),
            to,
            annotations,
            min_ready_seconds,
        });
    }

    /// Scales a set, and notes on it for how many replicas that was.
    fn resize(&mut self, set: &ReplicaSet, to: i32) {
        if asked(set) != to || history::sizes_differ(self.deployment, set) {
            let to = (asked(set) != to).then_some(to);
            self.change(set, to, history::sizes(self.deployment).into(), None);
        }
    }

    fn create_new(&mut self, replicas: i32) {
        let revision = history::highest(self.all_sets().into_iter()) + 1;
        let annotations = history::annotations_of_new(self.deployment, revision);
        self.actions.push(Action::Create { replicas, revision, annotations });
    }

    /// Scaling without rolling: of a paused Deployment, or when its replicas changed.
    fn scale(&mut self) {
        let wanted = size::replicas(self.deployment);
        let all: Vec<ReplicaSet> = self.all_sets().into_iter().cloned().collect();
        let active: Vec<&ReplicaSet> = all.iter().filter(|set| asked(set) > 0).collect();
        if active.len() <= 1 {
            let latest = || self.new_set().cloned().or_else(|| all.last().cloned());
            if let Some(set) = active.first().map(|set| (*set).clone()).or_else(latest) {
                self.resize(&set, wanted);
            }
            return;
        }
        let saturated = self.new_set().is_some_and(|set| {
            let annotations = set.metadata.annotations.as_ref();
            asked(set) == wanted
                && available(set) == wanted
                && annotations.and_then(|all| all.get(size::DESIRED)) == Some(&wanted.to_string())
        });
        if saturated {
            let old: Vec<ReplicaSet> = self.old_sets().into_iter().cloned().collect();
            for set in old.iter().filter(|set| asked(set) > 0) {
                self.resize(set, 0);
            }
        } else if !size::is_recreate(self.deployment) {
            for (set, to) in size::proportional(self.deployment, &active) {
                self.resize(set, to);
            }
        }
    }

    fn roll(&mut self) {
        if self.new.is_none() {
            let all: i32 = self.all_sets().into_iter().map(asked).sum();
            self.create_new(size::new_size(self.deployment, all, 0));
            return;
        }
        if self.annotate_new() {
            return;
        }
        let new = self.new_set().cloned().expect("there is a new set");
        let all: i32 = self.all_sets().into_iter().map(asked).sum();
        let to = size::new_size(self.deployment, all, asked(&new));
        if to != asked(&new) {
            return self.resize(&new, to);
        }
        let old: Vec<ReplicaSet> = self.old_sets().into_iter().cloned().collect();
        let old: Vec<&ReplicaSet> = old.iter().collect();
        let sizes = size::shrink_old(self.deployment, &new, &old);
        let moves = !sizes.is_empty();
        for (set, to) in sizes {
            self.resize(set, to);
        }
        if !moves {
            self.forget_when_complete();
        }
    }

    fn recreate(&mut self) {
        let old: Vec<ReplicaSet> = self.old_sets().into_iter().cloned().collect();
        let active: Vec<&ReplicaSet> = old.iter().filter(|set| asked(set) > 0).collect();
        if !active.is_empty() {
            if !self.annotate_new() {
                active.into_iter().for_each(|set| self.resize(set, 0));
            }
            return;
        }
        let runs = old
            .iter()
            .any(|set| set.metadata.uid.as_deref().is_some_and(|uid| (self.running)(uid) > 0));
        if runs {
            return;
        }
        if self.new.is_none() {
            return self.create_new(size::replicas(self.deployment));
        }
        if self.annotate_new() {
            return;
        }
        let new = self.new_set().cloned().expect("there is a new set");
        if asked(&new) == size::replicas(self.deployment) {
            self.forget_when_complete();
        } else {
            self.resize(&new, size::replicas(self.deployment));
        }
    }

    fn forget_when_complete(&mut self) {
        let sets = self.all_sets();
        let counted = status::counted(self.deployment, &sets, self.new_set(), self.now);
        if status::is_complete(self.deployment, &counted) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let old: Vec<ReplicaSet> = self.old_sets().into_iter().cloned().collect();
        let old: Vec<&ReplicaSet> = old.iter().collect();
        for set in history::forgotten(self.deployment, &old) {
            self.actions.push(Action::Forget {
                name: set.metadata.name.clone().unwrap_or_default(),
                uid: set.metadata.uid.clone().unwrap_or_default(),
                resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
            });
        }
    }

    fn counted(&mut self) -> Plan {
        let mut with_base = self.deployment.clone();
        with_base.status = Some(self.base.clone());
        let status = status::counted(&with_base, &self.all_sets(), self.new_set(), self.now);
        Plan { actions: std::mem::take(&mut self.actions), status, again_in: None }
    }

    fn rolled(&mut self) -> Plan {
        let status = status::rollout(
            self.deployment,
            &self.all_sets(),
            self.new_set(),
            &self.base,
            self.now,
        );
        let again_in = status::check_again_in(self.deployment, &status, self.now);
        Plan { actions: std::mem::take(&mut self.actions), status, again_in }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn deployment(spec: Value) -> Templated<Deployment> {
        let mut whole = json!({"replicas": 3, "selector": {}, "template": {},
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
        for (name, value) in spec.as_object().expect("fields") {
            whole[name] = value.clone();
        }
        let object = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": whole}))
        .expect("a Deployment");
        Templated { object, digest: "new".to_owned() }
    }

    /// A set of the template `digest` with all its annotations in order.
    fn set(digest: &str, revision: i64, asked: i32, available: i32) -> Arc<Templated<ReplicaSet>> {
        let object = serde_json::from_value(json!({
            "metadata": {"name": format!("web-{digest}"), "uid": digest, "generation": 1,
                "resourceVersion": "7", "creationTimestamp": format!("2026-01-01T00:00:0{revision}Z"),
                "annotations": {REVISION: revision.to_string(), size::DESIRED: "3",
                    size::MAX: "4"}},
            "spec": {"replicas": asked, "selector": {}},
            "status": {"replicas": asked, "readyReplicas": available,
                "availableReplicas": available, "observedGeneration": 1}}))
        .expect("a ReplicaSet");
        Arc::new(Templated { object, digest: digest.to_owned() })
    }

    fn planned(
        deployment: &Templated<Deployment>,
        sets: Vec<Arc<Templated<ReplicaSet>>>,
        running: usize,
    ) -> Plan {
        let running = |_: &str| running;
        plan(Observed { deployment, sets, running: &running }, at(1000))
    }

    /// The actions as `name from->to`, `create n`, `forget name`, `revision n`.
    fn told(plan: &Plan) -> Vec<String> {
        let one = |action: &Action| match action {
            Action::Create { replicas, revision, .. } => format!("create {replicas} r{revision}"),
            Action::Change { name, from, to: Some(to), .. } => format!("{name} {from}->{to}"),
            Action::Change { name, .. } => format!("{name} notes"),
            Action::Forget { name, .. } => format!("forget {name}"),
            Action::SetRevision(revision) => format!("revision {revision}"),
        };
        plan.actions.iter().map(one).collect()
    }

    #[test]
    fn a_rollout_goes_step_by_step() {
        let deployment = deployment(json!({}));
        type Case = (&'static str, Vec<Arc<Templated<ReplicaSet>>>, &'static [&'static str]);
        let cases: Vec<Case> = vec![
            ("first", vec![], &["create 3 r1"]),
            ("changed", vec![set("old", 1, 3, 3)], &["create 1 r2"]),
            ("waits", vec![set("old", 1, 3, 3), set("new", 2, 1, 0)], &["revision 2"]),
            (
                "down",
                vec![set("old", 1, 3, 3), set("new", 2, 1, 1)],
                &["revision 2", "web-old 3->2"],
            ),
            ("up", vec![set("old", 1, 2, 2), set("new", 2, 1, 1)], &["revision 2", "web-new 1->2"]),
            ("over", vec![set("old", 1, 0, 0), set("new", 2, 3, 3)], &["revision 2"]),
            ("back", vec![set("new", 1, 0, 0), set("other", 2, 3, 3)], &["web-new notes"]),
        ];
        for (why, sets, expected) in cases {
            assert_eq!(told(&planned(&deployment, sets, 0)), expected, "{why}");
        }
    }

    #[test]
    fn a_paused_deployment_scales_but_does_not_roll() {
        let deployment = deployment(json!({"paused": true, "replicas": 5}));
        let plan = planned(&deployment, vec![set("old", 1, 3, 3)], 0);
        assert_eq!(told(&plan), ["web-old 3->5"]);
        let condition = status::progressing(&plan.status).expect("it is told");
        assert_eq!(condition.reason.as_deref(), Some("DeploymentPaused"));
    }

    #[test]
    fn scaling_during_a_rollout_keeps_the_shares() {
        let deployment = deployment(json!({"replicas": 6}));
        let plan = planned(&deployment, vec![set("old", 1, 2, 2), set("new", 2, 2, 2)], 0);
        let told = told(&plan);
        assert_eq!(told, ["revision 2", "web-new 2->4", "web-old 2->3"]);
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let deployment = deployment(json!({"strategy": {"type": "Recreate"}}));
        let plan = planned(&deployment, vec![set("old", 1, 3, 3)], 3);
        assert_eq!(told(&plan), ["web-old 3->0"]);
        let plan = planned(&deployment, vec![set("old", 1, 0, 0)], 1);
        assert!(plan.actions.is_empty());
        let plan = planned(&deployment, vec![set("old", 1, 0, 0)], 0);
        assert_eq!(told(&plan), ["create 3 r2"]);
    }

    #[test]
    fn revisions_beyond_the_limit_are_forgotten_once_complete() {
        let deployment = deployment(json!({"revisionHistoryLimit": 1}));
        let sets = vec![set("a", 1, 0, 0), set("b", 2, 0, 0), set("new", 3, 3, 3)];
        assert_eq!(told(&planned(&deployment, sets.clone(), 0)), ["revision 3", "forget web-a"]);
        let mut rolling = sets;
        rolling[2] = set("new", 3, 3, 2);
        assert_eq!(told(&planned(&deployment, rolling, 0)), ["revision 3"]);
    }

    #[test]
    fn a_deployment_that_is_being_deleted_only_reports() {
        let mut deployment = deployment(json!({}));
        deployment.object.metadata.deletion_timestamp = Some(crate::client::meta::time(at(1)));
        let plan = planned(&deployment, vec![set("old", 1, 3, 3)], 0);
        assert!(plan.actions.is_empty());
        assert_eq!(plan.status.replicas, Some(3));
    }
}
