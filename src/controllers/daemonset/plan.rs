//! What to do for a DaemonSet (Kubernetes' `pkg/controller/daemon`).
//!
//! **Invariant:** an update makes at most `maxUnavailable` nodes unavailable, or puts a second pod
//! on at most `maxSurge` nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Node;

use super::nodes::{Fit, fit};
use super::template::tolerate;
use crate::controllers::deployment::size::scaled;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::selector;
use crate::controllers::view::{Phase, Pod};

/// The most pods that are created or deleted in one go.
pub const BURST: usize = 250;

/// What was observed.
pub struct Observed<'a> {
    /// Of its template only what chooses nodes is there.
    pub set: &'a DaemonSet,
    /// The pods that it controls, and those of its namespace that nobody controls.
    pub pods: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
    /// The hash of the newest revision.
    pub hash: &'a str,
    pub collisions: Option<i32>,
    /// How long a failed pod on that node must stay before it is replaced.
    pub wait: &'a dyn Fn(&str) -> Duration,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    /// The nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Those of `delete` that ended by themselves.
    pub ended: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    /// All pods that are its own.
    pub own: Vec<Arc<Pod>>,
    /// Look again after this time.
    pub again_in: Option<Duration>,
}

/// The node that a pod is on, or meant for.
pub fn node_of(pod: &Pod) -> &str {
    if pod.node.is_empty() { &pod.meant_for } else { &pod.node }
}

struct Look<'a> {
    observed: &'a Observed<'a>,
    now: Timestamp,
    /// Every node, with what it is to the set.
    fits: BTreeMap<&'a str, Fit>,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
}

impl Look<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels.get(REVISION_HASH).is_some_and(|hash| hash == self.observed.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.observed.set.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn desired(&self) -> i32 {
        size(self.fits.values().filter(|fit| **fit == Fit::Run).count())
    }

    fn pods(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// `(maxSurge, maxUnavailable)` in nodes; one of them at least is not 0.
    fn limits(&self) -> (usize, usize) {
        let strategy = self.observed.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let count = |said: Option<_>, or: i32| {
            let nodes = said.map_or(or, |said| scaled(Some(said), self.desired(), true));
            usize::try_from(nodes).unwrap_or(0)
        };
        let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

fn size(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// What to do for the set.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = claim(observed);
    let mut spec = observed.set.spec.template.spec.clone().unwrap_or_default();
    tolerate(&mut spec);
    let name = |node: &&'_ Arc<Node>| -> bool { node.metadata.name.is_some() };
    let fits = observed
        .nodes
        .iter()
        .filter(name)
        .map(|node| (node.metadata.name.as_deref().unwrap_or_default(), fit(&spec, node)));
    let mut look = Look { observed, now, fits: fits.collect(), by_node: BTreeMap::new() };
    for pod in &plan.own {
        look.by_node.entry(node_of(pod).to_owned()).or_default().push(pod.clone());
    }
    for pods in look.by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.phase != Phase::Running, pod.created, pod.key.clone()));
    }
    plan.status = status(&look);
    plan.again_in = next_available(&look, &plan.own);
    if observed.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    manage(&look, &mut plan);
    if plan.create.is_empty() && plan.delete.is_empty() && is_rolling(observed.set) {
        match look.limits() {
            (0, unavailable) => replace(&look, unavailable, &mut plan),
            (surge, _) => add_and_replace(&look, surge, &mut plan),
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

fn claim(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    for pod in observed.pods {
        let matches = selector::matches(&set.spec.selector, &pod.labels);
        match &pod.controller {
            Some(owner) if owner.uid != uid => {}
            Some(_) if matches => plan.own.push(pod.clone()),
            Some(_) if !deleting => plan.release.push(pod.clone()),
            None if matches && !deleting && pod.deleting.is_none() => {
                plan.adopt.push(pod.clone());
                plan.own.push(pod.clone());
            }
            _ => {}
        }
    }
    plan
}

fn status(look: &Look<'_>) -> DaemonSetStatus {
    let set = look.observed.set;
    let mut status = DaemonSetStatus {
        desired_number_scheduled: look.desired(),
        observed_generation: set.metadata.generation,
        collision_count: look.observed.collisions,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for (node, fit) in &look.fits {
        let Some(pod) = look.pods(node).first() else { continue };
        if *fit != Fit::Run {
            status.number_misscheduled += 1;
            continue;
        }
        status.current_number_scheduled += 1;
        if pod.ready.is_some() {
            status.number_ready += 1;
            available += i32::from(look.is_available(pod));
        }
        updated += i32::from(look.is_new(pod));
    }
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}

fn next_available(look: &Look<'_>, own: &[Arc<Pod>]) -> Option<Duration> {
    let least = i64::from(look.observed.set.spec.min_ready_seconds.unwrap_or(0));
    let ready = own.iter().filter_map(|pod| pod.ready);
    let left = ready.map(|since| since.as_second() + least - look.now.as_second());
    let left = left.filter(|left| *left > 0).min();
    left.and_then(|left| u64::try_from(left).ok()).map(Duration::from_secs)
}

/// A pod where one belongs and none is, none where none belongs, and no more than needed.
fn manage(look: &Look<'_>, plan: &mut Plan) {
    for (node, fit) in &look.fits {
        let pods = look.pods(node);
        match fit {
            Fit::No => plan.delete.extend(pods.iter().filter(|p| p.deleting.is_none()).cloned()),
            Fit::Run if pods.is_empty() => plan.create.push((*node).to_owned()),
            Fit::Run | Fit::Stay => prune(look, node, pods, plan),
        }
    }
    // Pods for nodes that are gone will never be bound; bound ones are the pod collector's.
    for (node, pods) in &look.by_node {
        if !look.fits.contains_key(node.as_str()) {
            let waiting = pods.iter().filter(|pod| pod.node.is_empty() && pod.deleting.is_none());
            plan.delete.extend(waiting.cloned());
        }
    }
}

/// Removes from a node the pods that ended, and those that are too many.
fn prune(look: &Look<'_>, node: &str, pods: &[Arc<Pod>], plan: &mut Plan) {
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods.iter().filter(|pod| pod.deleting.is_none()) {
        if !pod.is_terminal() {
            running.push(pod);
            continue;
        }
        let wait =
            if pod.phase == Phase::Failed { (look.observed.wait)(node) } else { Duration::ZERO };
        if wait.is_zero() {
            plan.ended.push(pod.clone());
            plan.delete.push(pod.clone());
        } else {
            plan.again_in = Some(plan.again_in.map_or(wait, |other| other.min(wait)));
        }
    }
    running.sort_by_key(|pod| (pod.created, pod.key.clone()));
    if running.len() <= 1 {
        return;
    }
    if look.limits().0 == 0 || !is_rolling(look.observed.set) {
        plan.delete.extend(running.into_iter().skip(1).cloned());
        return;
    }
    // While one surges: the oldest new pod beside the oldest old one, as long as that is ready.
    let (new, old): (Vec<&Arc<Pod>>, Vec<_>) =
        running.into_iter().partition(|pod| look.is_new(pod));
    plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (*pod).clone()));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (old.ready.is_none() || look.is_available(new))
    {
        plan.delete.push((*old).clone());
    }
}

/// The old and the new pod of a node; `Err` when there are several of one.
type OldAndNew<'a> = Result<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>), ()>;

fn old_and_new<'a>(look: &Look<'_>, pods: &'a [Arc<Pod>]) -> OldAndNew<'a> {
    let (mut old, mut new) = (None, None);
    for pod in pods.iter().filter(|pod| pod.deleting.is_none()) {
        let place = if look.is_new(pod) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return Err(());
        }
    }
    Ok((old, new))
}

/// Deletes old pods, so that new ones take their place.
fn replace(look: &Look<'_>, max_unavailable: usize, plan: &mut Plan) {
    let (mut unavailable, mut candidates) = (0, Vec::new());
    for (node, pods) in &look.by_node {
        if look.fits.get(node.as_str()).is_none_or(|fit| *fit == Fit::No) {
            continue;
        }
        match old_and_new(look, pods) {
            Ok((None, Some(new))) => unavailable += usize::from(!look.is_available(new)),
            Ok((Some(old), None)) if look.is_available(old) => candidates.push(old),
            Ok((Some(old), None)) => {
                // It is down already: replacing it costs nothing.
                plan.delete.push(old.clone());
                unavailable += 1;
            }
            _ => unavailable += 1,
        }
    }
    let missing = look
        .fits
        .iter()
        .filter(|(node, fit)| **fit == Fit::Run && look.pods(node).is_empty())
        .count();
    let room = max_unavailable.saturating_sub(unavailable + missing);
    plan.delete.extend(candidates.into_iter().take(room).cloned());
}

/// Puts new pods beside old ones, which go once the new ones are available.
fn add_and_replace(look: &Look<'_>, max_surge: usize, plan: &mut Plan) {
    let (mut surging, mut candidates) = (0, Vec::new());
    for (node, pods) in &look.by_node {
        if look.fits.get(node.as_str()) != Some(&Fit::Run) {
            continue;
        }
        match old_and_new(look, pods) {
            Err(()) => surging += 1,
            Ok((None, _)) => {}
            Ok((Some(old), None)) if look.is_available(old) => candidates.push(node.clone()),
            Ok((Some(_), None)) => plan.create.push(node.clone()),
            Ok((Some(old), Some(new))) if look.is_available(new) => plan.delete.push(old.clone()),
            Ok((Some(_), Some(_))) => surging += 1,
        }
    }
    plan.create.extend(candidates.into_iter().take(max_surge.saturating_sub(surging)));
}
