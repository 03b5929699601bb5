//! What to do for a StatefulSet (Kubernetes' `pkg/controller/statefulset`).
//!
//! **Invariant:** unless the policy is Parallel, at most one pod is created or deleted by a plan,
//! and only while all pods below it are available; an update makes at most `maxUnavailable` pods
//! unavailable.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use crate::controllers::deployment::size::scaled;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::selector;
use crate::controllers::view::{Phase, Pod};

/// The most pods that are created or deleted in one go.
const BURST: usize = 500;

/// What was observed.
pub struct Observed<'a> {
    /// Its template is not looked at.
    pub set: &'a StatefulSet,
    /// The pods that it controls, and those of its namespace that nobody controls.
    pub pods: &'a [Arc<Pod>],
    /// The revision that pods have from before.
    pub current: &'a str,
    /// The revision of the template.
    pub update: &'a str,
    pub collisions: Option<i32>,
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has ended, and the next one takes its name.
    Failed,
    Succeeded,
    /// Fewer are wanted.
    Scaled,
    /// It has an old revision.
    Update,
}

/// What to do to one pod.
#[derive(Debug, Clone)]
pub enum Action {
    /// Create the pod of that ordinal at that revision, its claims first.
    Create {
        ordinal: i32,
        revision: String,
    },
    Delete {
        pod: Arc<Pod>,
        why: Why,
    },
    /// Make the claims that a pending pod still waits for.
    Claims {
        ordinal: i32,
    },
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub actions: Vec<Action>,
    pub status: StatefulSetStatus,
    /// All pods that are its own, by ordinal.
    pub pods: BTreeMap<i32, Arc<Pod>>,
    /// Look again after so many seconds.
    pub again_in: Option<u64>,
}

/// The ordinal in a pod's name, if the name is one of the set's.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let number = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = number == "0" || !number.starts_with(['0', '+', '-']);
    number.parse().ok().filter(|_| plain)
}

/// The number of replicas that the set asks for.
pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// Whether pods come and go all at once.
pub fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() == Some("Parallel")
}

fn is_on_delete(set: &StatefulSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}

fn partition(set: &StatefulSet) -> i32 {
    let strategy = set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
}

fn max_unavailable(set: &StatefulSet) -> usize {
    let strategy = set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let said = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let pods = said.map_or(1, |said| scaled(Some(said), replicas(set), false));
    usize::try_from(pods).unwrap_or(1).max(1)
}

/// The revision of a pod.
pub fn revision_of(pod: &Pod) -> &str {
    pod.labels.get(REVISION_HASH).map_or("", String::as_str)
}

fn is_ready(pod: &Pod) -> bool {
    pod.phase == Phase::Running && pod.ready.is_some()
}

struct Look<'a> {
    observed: &'a Observed<'a>,
    now: Timestamp,
    /// The ordinals that are wanted.
    wanted: std::ops::Range<i32>,
    parallel: bool,
}

impl Look<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        let least = self.observed.set.spec.min_ready_seconds.unwrap_or(0);
        is_ready(pod) && pod.is_available(least, self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        pod.deleting.is_none() && self.is_available(pod)
    }

    /// The revision that a pod of this ordinal is created with.
    fn revision(&self, ordinal: i32) -> &str {
        let set = self.observed.set;
        let kept = !is_on_delete(set) && ordinal < self.wanted.start + partition(set);
        if kept { self.observed.current } else { self.observed.update }
    }

    /// Whether the pod is of a rollout that was given up, and stands in the way of the next: it is
    /// not ready and neither what was before nor what is wanted.
    fn is_abandoned(&self, ordinal: i32, pod: &Pod) -> bool {
        let (set, revision) = (self.observed.set, revision_of(pod));
        !is_on_delete(set)
            && !is_ready(pod)
            && ordinal >= self.wanted.start + partition(set)
            && revision != self.observed.update
            && revision != self.observed.current
    }
}

/// What to do for the set.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let set = observed.set;
    let first = start(set);
    let look = Look {
        observed,
        now,
        wanted: first..first.saturating_add(replicas(set)),
        parallel: is_parallel(set),
    };
    let mut plan = claim(observed);
    plan.status = status(&look, &plan);
    plan.again_in = next_available(&look, &plan);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let fits = fill(&look, &mut plan);
    if fits && condemn(&look, &mut plan) {
        update(&look, &mut plan);
    }
    plan
}

fn claim(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let (uid, name) = (
        set.metadata.uid.as_deref().unwrap_or_default(),
        set.metadata.name.as_deref().unwrap_or_default(),
    );
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    for pod in observed.pods {
        let ordinal = ordinal(name, &pod.key.name);
        let matches = selector::matches(&set.spec.selector, &pod.labels);
        match (&pod.controller, ordinal.filter(|_| matches)) {
            (Some(owner), _) if owner.uid != uid => {}
            (Some(_), Some(ordinal)) => {
                plan.pods.insert(ordinal, pod.clone());
            }
            (Some(_), None) if !deleting => plan.release.push(pod.clone()),
            (None, Some(ordinal)) if !deleting && pod.deleting.is_none() => {
                plan.adopt.push(pod.clone());
                plan.pods.insert(ordinal, pod.clone());
            }
            _ => {}
        }
    }
    plan
}

fn size(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn status(look: &Look<'_>, plan: &Plan) -> StatefulSetStatus {
    let (observed, set) = (look.observed, look.observed.set);
    let old = set.status.clone().unwrap_or_default();
    let count =
        |which: &dyn Fn(&Pod) -> bool| size(plan.pods.values().filter(|p| which(p)).count());
    let at = |pod: &Pod, revision: &str| pod.deleting.is_none() && revision_of(pod) == revision;
    let mut status = StatefulSetStatus {
        replicas: size(plan.pods.len()),
        ready_replicas: Some(count(&is_ready)).filter(|n| *n != 0),
        available_replicas: Some(count(&|pod| look.is_available(pod))),
        current_replicas: Some(count(&|pod| at(pod, observed.current))).filter(|n| *n != 0),
        updated_replicas: Some(count(&|pod| at(pod, observed.update))).filter(|n| *n != 0),
        current_revision: Some(observed.current.to_owned()),
        update_revision: Some(observed.update.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: observed.collisions.or(Some(0)),
        conditions: old.conditions,
    };
    let wanted = replicas(set);
    let all = |n: Option<i32>| n.unwrap_or(0) == wanted;
    if !is_on_delete(set)
        && all(status.updated_replicas)
        && all(status.ready_replicas)
        && status.replicas == wanted
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

/// When a pod that is Ready becomes available, in seconds from now.
fn next_available(look: &Look<'_>, plan: &Plan) -> Option<u64> {
    let least = i64::from(look.observed.set.spec.min_ready_seconds.unwrap_or(0));
    let ready = plan.pods.values().filter_map(|pod| pod.ready);
    let left = ready.map(|since| since.as_second() + least - look.now.as_second());
    left.filter(|left| *left > 0).min().and_then(|left| u64::try_from(left).ok())
}

/// Sees to the wanted ordinals, from below. Answers whether all of them let the rest go on.
fn fill(look: &Look<'_>, plan: &mut Plan) -> bool {
    let Plan { pods, actions, .. } = plan;
    for ordinal in look.wanted.clone() {
        if actions.len() >= BURST {
            return false;
        }
        let Some(pod) = pods.get(&ordinal) else {
            let revision = look.revision(ordinal).to_owned();
            actions.push(Action::Create { ordinal, revision });
            if look.parallel {
                continue;
            }
            return false;
        };
        if pod.is_terminal() {
            let why = if pod.phase == Phase::Failed { Why::Failed } else { Why::Succeeded };
            if pod.deleting.is_none() {
                actions.push(Action::Delete { pod: pod.clone(), why });
            }
            if look.parallel {
                continue;
            }
            return false;
        }
        if pod.deleting.is_none() && look.is_abandoned(ordinal, pod) {
            actions.push(Action::Delete { pod: pod.clone(), why: Why::Update });
            if look.parallel {
                continue;
            }
            return false;
        }
        if pod.phase == Phase::Pending && pod.deleting.is_none() {
            actions.push(Action::Claims { ordinal });
        }
        if !look.parallel && !look.is_healthy(pod) {
            return false;
        }
    }
    true
}

/// Gives up the ordinals that are not wanted, from above. Answers whether none is left.
fn condemn(look: &Look<'_>, plan: &mut Plan) -> bool {
    let Plan { pods, actions, .. } = plan;
    let lowest_unhealthy = pods.iter().find(|(_, pod)| !look.is_healthy(pod)).map(|(n, _)| *n);
    let mut none = true;
    for (ordinal, pod) in pods.iter().rev().filter(|(n, _)| !look.wanted.contains(n)) {
        none = false;
        if pod.deleting.is_none() {
            // Others must be well before one more goes, unless it is this one that is not. One that
            // has ended will never be: waiting for it would be for ever.
            let may_go = look.parallel
                || pod.is_terminal()
                || look.is_available(pod)
                || lowest_unhealthy.is_none_or(|lowest| lowest == *ordinal);
            if may_go && actions.len() < BURST {
                actions.push(Action::Delete { pod: pod.clone(), why: Why::Scaled });
            }
        }
        if !look.parallel {
            return false;
        }
    }
    none
}

/// Replaces pods of other revisions, from above, down to the partition.
fn update(look: &Look<'_>, plan: &mut Plan) {
    let set = look.observed.set;
    let going: HashSet<&str> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { pod, .. } => Some(pod.uid.as_str()),
            _ => None,
        })
        .collect();
    if is_on_delete(set) || plan.actions.iter().any(|a| matches!(a, Action::Create { .. })) {
        return;
    }
    let is_well = |pod: &Pod| look.is_healthy(pod) && !going.contains(pod.uid.as_str());
    let wanted = || look.wanted.clone().rev().filter_map(|ordinal| plan.pods.get(&ordinal));
    let unavailable = look.wanted.len() - wanted().filter(|pod| is_well(pod)).count();
    let mut budget = max_unavailable(set).saturating_sub(unavailable);
    let lowest = look.wanted.start + partition(set);
    let mut deletes = Vec::new();
    for ordinal in look.wanted.clone().rev().filter(|ordinal| *ordinal >= lowest) {
        let Some(pod) = plan.pods.get(&ordinal) else { continue };
        let leaves = pod.deleting.is_some() || going.contains(pod.uid.as_str());
        if leaves || revision_of(pod) == look.observed.update {
            continue;
        }
        // One that is down already costs nothing more.
        if is_well(pod) {
            if budget == 0 {
                break;
            }
            budget -= 1;
        }
        deletes.push(Action::Delete { pod: pod.clone(), why: Why::Update });
    }
    plan.actions.extend(deletes);
}
