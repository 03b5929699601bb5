//! The scheduler's mind: what it knows, who waits, and what it does next. No I/O, no clock.
//!
//! **Invariant:** a pod is in the queue, or counted in the snapshot, never both: it leaves the
//! queue's lists before it is assumed, and returns only once it is forgotten.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::classes::{self, Classes};
use super::config::{Configuration, Plugins, Profile};
use super::filter;
use super::gang::Gangs;
use super::hint::{self, Event};
use super::node::Node;
use super::plan::{self, NodeName, Unschedulable};
use super::pod::Pod;
use super::preempt::{self, Budget, Room};
use super::queue::Queue;
use super::snapshot::{ServiceSelector, Snapshot};
use super::volumes::{self, plan as volume_plan};
use crate::client::Key;

/// What is to be done about a pod.
#[derive(Debug)]
pub enum Step {
    /// Bind it, once its volumes are; it is assumed on the node already.
    Bind {
        pod: Arc<Pod>,
        node: NodeName,
        volumes: Vec<volume_plan::Step>,
        /// How long the volumes may take.
        timeout: Duration,
    },
    /// Tell why it stays pending; make room for it, where that helps.
    Refuse {
        pod: Arc<Pod>,
        why: Arc<Unschedulable>,
        room: Option<Room>,
        /// Room is no longer kept for it where it was.
        withdrawn: bool,
    },
}

/// The scheduler without its loop.
pub struct State {
    profiles: Vec<Arc<Profile>>,
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    classes: Classes,
    pub(super) gangs: Gangs,
    known: HashMap<Key, Arc<Pod>>,
    /// Nodes where room is kept, by the uid of the pod that it is kept for.
    nominations: HashMap<Arc<str>, NodeName>,
    /// Uids of pods that are made to go, and for which pod.
    doomed: HashMap<Arc<str>, Arc<str>>,
    /// Volumes that were promised to pods that are not bound yet.
    promised: HashMap<Arc<str>, Vec<volume_plan::Step>>,
    pub(super) ready: VecDeque<Step>,
    start: usize,
}

impl State {
    /// The scheduler of the pods whose `schedulerName` is that of a profile.
    pub fn new(config: Configuration) -> Self {
        Self {
            queue: Queue::new(&config),
            profiles: config.profiles.into_iter().map(Arc::new).collect(),
            snapshot: Snapshot::default(),
            classes: Classes::default(),
            gangs: Gangs::default(),
            known: HashMap::new(),
            nominations: HashMap::new(),
            doomed: HashMap::new(),
            promised: HashMap::new(),
            ready: VecDeque::new(),
            start: 0,
        }
    }

    fn profile(&self, scheduler: &str) -> Option<&Arc<Profile>> {
        self.profiles.iter().find(|profile| profile.name == scheduler)
    }

    /// Takes in a pod as it is now; `None`: it is gone, or has ended.
    pub fn pod(&mut self, key: Key, pod: Option<Arc<Pod>>, now: Duration) {
        let old = match &pod {
            Some(pod) => self.known.insert(key, pod.clone()),
            None => self.known.remove(&key),
        };
        let replaced = |old: &Arc<Pod>| pod.as_ref().is_none_or(|pod| pod.uid != old.uid);
        let gone = old.filter(replaced);
        if let Some(old) = &gone {
            self.gone(old, now);
        }
        let Some(mut pod) = pod else { return };
        self.gangs.see(&pod);
        if let Some(node) = pod.node.clone() {
            self.queue.remove(&pod.uid);
            self.withdraw(&pod.uid, now);
            self.place(pod, &node, now);
        } else if pod.gated || pod.deleting || self.profile(&pod.scheduler).is_none() {
            self.queue.remove(&pod.uid);
            self.withdraw(&pod.uid, now);
        } else if !self.snapshot.is_assumed(&pod.uid) {
            self.keep_nomination(&mut pod);
            self.queue.add(pod.clone());
            if let Some(member) = &pod.member {
                let group = Event::Group { namespace: &pod.namespace, group: &member.group };
                self.wake(group, now);
            }
        }
    }

    fn place(&mut self, pod: Arc<Pod>, node: &NodeName, now: Duration) {
        let was = self.snapshot.is_placed(&pod.uid) && !self.snapshot.is_assumed(&pod.uid);
        if self.snapshot.place(pod.clone(), node) && self.queue.has_waiting() {
            // One that changed may count for less than before, or for more.
            if was {
                self.wake(Event::PodGone { pod: &pod, node }, now);
            }
            self.wake(Event::PodCame { pod: &pod }, now);
        }
    }

    /// What this process decided counts, since it is the only one that writes it; what an earlier
    /// one decided is taken over.
    fn keep_nomination(&mut self, pod: &mut Arc<Pod>) {
        if let Some(node) = self.nominations.get(&pod.uid) {
            if pod.nominated.as_ref() != Some(node) {
                Arc::make_mut(pod).nominated = Some(node.clone());
            }
        } else if pod.nominated.is_some() && self.queue.has_free(&pod.uid) {
            Arc::make_mut(pod).nominated = None;
        } else if let Some(node) = pod.nominated.clone() {
            self.nominations.insert(pod.uid.clone(), node.clone());
            self.snapshot.nominate(pod, &node);
        }
    }

    fn gone(&mut self, pod: &Arc<Pod>, now: Duration) {
        self.queue.remove(&pod.uid);
        self.gangs.forget(pod);
        self.withdraw(&pod.uid, now);
        self.give_volumes_up(&pod.uid);
        self.doomed.remove(&pod.uid);
        if let Some(node) = self.snapshot.remove(&pod.uid) {
            self.wake(Event::PodGone { pod, node: &node }, now);
        }
    }

    fn withdraw(&mut self, uid: &Arc<str>, now: Duration) {
        if let Some(node) = self.nominations.remove(uid) {
            self.snapshot.withdraw(uid, &node);
            self.wake(Event::Withdrawn { node: &node }, now);
        }
    }

    fn give_volumes_up(&mut self, uid: &str) {
        if let Some(steps) = self.promised.remove(uid) {
            self.snapshot.volumes.give_up(&steps);
        }
    }

    fn wake(&mut self, event: Event<'_>, now: Duration) {
        if !self.queue.has_waiting() {
            return;
        }
        let (snapshot, profiles) = (&self.snapshot, &self.profiles);
        self.queue.wake(now, |pod, plugins| {
            let profile = profiles.iter().find(|profile| *profile.name == *pod.scheduler);
            profile.is_some_and(|profile| hint::helps(event, pod, plugins, snapshot, profile))
        });
    }

    /// Takes in a node as it is now; `None`: it is gone.
    pub fn node(&mut self, name: &str, node: Option<Arc<Node>>, now: Duration) {
        let Some(node) = node else {
            let old = self.snapshot.node(name).map(|info| info.node.clone());
            self.snapshot.remove_node(name);
            self.nominations.retain(|_, nominated| **nominated != *name);
            if let Some(old) = old {
                self.wake(Event::NodeGone(&old), now);
            }
            return;
        };
        let old = self.snapshot.set_node(node.clone());
        if old.as_ref() != Some(&node) {
            self.wake(Event::Node { old: old.as_deref(), new: &node }, now);
        }
    }

    /// Takes in a Service's selector; `None`: it is gone, or selects nothing.
    pub fn service(&mut self, key: &Key, selector: Option<ServiceSelector>) {
        self.snapshot.set_service(&key.namespace, &key.name, selector);
    }

    /// Takes in the labels of a namespace.
    pub fn namespace(
        &mut self,
        name: &str,
        labels: Option<BTreeMap<String, String>>,
        now: Duration,
    ) {
        self.snapshot.set_namespace(name, labels);
        self.wake(Event::Namespace, now);
    }

    /// Takes in a PodDisruptionBudget.
    pub fn budget(&mut self, key: Key, budget: Option<Budget>) {
        match budget {
            Some(budget) => self.snapshot.budgets.insert(key, budget),
            None => self.snapshot.budgets.remove(&key),
        };
    }

    /// Takes in how many members a pod group wants.
    pub fn group(&mut self, key: Key, min: Option<usize>, now: Duration) {
        match min {
            Some(min) => self.snapshot.groups.insert(key.clone(), min),
            None => self.snapshot.groups.remove(&key),
        };
        self.wake(Event::Group { namespace: &key.namespace, group: &key.name }, now);
    }

    /// Takes in a claim.
    pub fn claim(&mut self, key: Key, claim: Option<Arc<volumes::PvClaim>>, now: Duration) {
        if self.snapshot.volumes.set_claim(key.clone(), claim) {
            self.wake(Event::Claim(&key), now);
        }
    }

    /// Takes in a volume.
    pub fn volume(&mut self, name: &str, volume: Option<Arc<volumes::Volume>>, now: Duration) {
        if self.snapshot.volumes.set_volume(name, volume) {
            self.wake(Event::Volumes, now);
        }
    }

    /// Takes in a class of volumes.
    pub fn class(&mut self, name: &str, class: Option<Arc<volumes::Class>>, now: Duration) {
        if self.snapshot.volumes.set_class(name, class) {
            self.wake(Event::Volumes, now);
        }
    }

    /// Takes in what a node can attach.
    pub fn attachable(
        &mut self,
        name: &str,
        attachable: Option<Arc<volumes::Attachable>>,
        now: Duration,
    ) {
        if self.snapshot.volumes.set_attachable(name, attachable) {
            self.wake(Event::Attachable, now);
        }
    }

    /// Decides for the next pod, if one is to be tried now.
    pub fn next(&mut self, now: Duration) -> Option<Step> {
        if let Some(step) = self.ready.pop_front() {
            return Some(step);
        }
        self.queue.flush(now);
        let pod = self.queue.pop()?;
        let profile = self.profile(&pod.scheduler).cloned();
        let profile = profile.expect("only pods of a profile are in the queue");
        if profile.gangs && pod.member.is_some() {
            self.decide_gang(pod, &profile, now);
            return self.ready.pop_front();
        }
        Some(match self.decide(&pod, &profile) {
            Ok(node) => self.assume(pod, node, &profile, now),
            Err(why) => self.refuse(pod, &profile, why, now),
        })
    }

    /// Which node takes a pod.
    pub(super) fn decide(
        &mut self,
        pod: &Pod,
        profile: &Profile,
    ) -> Result<NodeName, Arc<Unschedulable>> {
        let indexed = classes::fits(pod, &self.snapshot, profile);
        if indexed {
            match self.classes.decide(pod, &self.snapshot, profile) {
                classes::Answer::Node(node) => return Ok(node),
                classes::Answer::Nowhere(Some(why)) => return Err(why),
                classes::Answer::Nowhere(None) => {}
            }
        }
        let decision = plan::decide(&self.snapshot, pod, profile, self.start);
        let decision = decision.map_err(Arc::new)?;
        self.start = (self.start + decision.examined) % self.snapshot.nodes().len();
        Ok(decision.node)
    }

    /// Counts a pod on the node that was decided.
    pub(super) fn assume(
        &mut self,
        pod: Arc<Pod>,
        node: NodeName,
        profile: &Profile,
        now: Duration,
    ) -> Step {
        let volumes = self.plan_volumes(&pod, &node);
        if !volumes.is_empty() {
            self.snapshot.volumes.promise(&volumes);
            self.promised.insert(pod.uid.clone(), volumes.clone());
        }
        self.snapshot.assume(pod.clone(), &node);
        self.withdraw(&pod.uid, now);
        self.wake(Event::PodCame { pod: &pod }, now);
        Step::Bind { pod, node, volumes, timeout: profile.bind_timeout }
    }

    fn plan_volumes(&self, pod: &Pod, node: &str) -> Vec<volume_plan::Step> {
        if pod.claims.is_empty() {
            return Vec::new();
        }
        let waiting = filter::waiting_claims(pod, &self.snapshot).unwrap_or_default();
        let info = self.snapshot.node(node);
        let plan =
            info.and_then(|info| volume_plan::plan(&self.snapshot.volumes, &waiting, &info.node));
        plan.unwrap_or_default()
    }

    /// Lets a pod wait, and looks whether others can make room.
    fn refuse(
        &mut self,
        pod: Arc<Pod>,
        profile: &Profile,
        why: Arc<Unschedulable>,
        now: Duration,
    ) -> Step {
        let plugins = why.plugins();
        let (mut pod, mut why) = (pod, why);
        let (mut room, mut withdrawn) = (None, false);
        if profile.preempts && why.nodes > 0 && why.preemption.is_none() {
            let told = match self.find_room(&pod, profile, &why) {
                Ok(found) => {
                    self.nominate(&mut pod, &found, now);
                    room = Some(found);
                    None
                }
                Err((told, gives_up)) => {
                    withdrawn = gives_up && pod.nominated.is_some();
                    Some(told)
                }
            };
            Arc::make_mut(&mut why).preemption = told;
        }
        if withdrawn {
            Arc::make_mut(&mut pod).nominated = None;
            self.withdraw(&pod.uid.clone(), now);
        }
        if room.is_none() && !withdrawn {
            self.classes.remember(&pod, &why);
        }
        self.queue.add(pod.clone());
        self.queue.unschedulable(&pod.uid, plugins, now);
        Step::Refuse { pod, why, room, withdrawn }
    }

    /// Room for a pod; or why there is none, and whether a nomination is given up for it.
    fn find_room(
        &mut self,
        pod: &Pod,
        profile: &Profile,
        why: &Unschedulable,
    ) -> Result<Room, (String, bool)> {
        if self.doomed.values().any(|for_whom| *for_whom == pod.uid) {
            let told = "preemption: not eligible due to a terminating pod on the nominated node.";
            return Err((told.to_owned(), false));
        }
        let start = self.start;
        preempt::find(&self.snapshot, pod, profile, why, start).map_err(|told| {
            let eligible = !told.starts_with("preemption: not eligible");
            (told, eligible)
        })
    }

    fn nominate(&mut self, pod: &mut Arc<Pod>, room: &Room, now: Duration) {
        if self.nominations.get(&pod.uid).is_some_and(|node| *node != room.node) {
            self.withdraw(&pod.uid.clone(), now);
        }
        Arc::make_mut(pod).nominated = Some(room.node.clone());
        self.nominations.insert(pod.uid.clone(), room.node.clone());
        self.snapshot.nominate(pod, &room.node);
        for victim in &room.victims {
            self.doomed.insert(victim.uid.clone(), pod.uid.clone());
        }
        for other in &room.displaced {
            let uid = other.uid.clone();
            if let Some(node) = self.nominations.remove(&uid) {
                self.snapshot.withdraw(&uid, &node);
            }
            // It looks for another place at once.
            if let Some(waiting) = self.queue.take(&uid) {
                let mut waiting = waiting;
                Arc::make_mut(&mut waiting).nominated = None;
                self.queue.add(waiting);
                self.queue.failed(&uid, now);
            }
        }
    }

    /// These pods could not be made to go.
    pub fn spared(&mut self, victims: &[Arc<Pod>]) {
        for victim in victims {
            self.doomed.remove(&victim.uid);
        }
    }

    /// The API has taken the binding.
    pub fn bound(&mut self, pod: &Pod) {
        self.queue.remove(&pod.uid);
        self.promised.remove(&pod.uid);
    }

    /// The API has refused the binding; `again`: it may take the next one.
    pub fn not_bound(&mut self, pod: &Pod, node: &str, again: bool, now: Duration) {
        if !self.snapshot.is_assumed(&pod.uid) {
            return;
        }
        self.snapshot.forget(&pod.uid);
        self.give_volumes_up(&pod.uid);
        if again {
            self.queue.failed(&pod.uid, now);
        } else {
            self.queue.remove(&pod.uid);
        }
        self.wake(Event::PodGone { pod, node }, now);
    }

    /// When [`Self::next`] has something to do; `None`: not before something happens.
    pub fn due(&self) -> Option<Duration> {
        let ready = self.queue.is_ready() || !self.ready.is_empty();
        if ready { Some(Duration::ZERO) } else { self.queue.due() }
    }

    /// What is known of the cluster.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The profile that pods have which say nothing.
    pub fn first_profile(&self) -> Option<&Profile> {
        self.profiles.first().map(|profile| &**profile)
    }

    /// Which of the pods of a group are counted on nodes.
    pub(super) fn placed_among(&self, uids: &HashSet<Arc<str>>) -> usize {
        uids.iter().filter(|uid| self.snapshot.is_placed(uid)).count()
    }

    /// Lets a pod of a group wait.
    pub(super) fn refuse_member(
        &mut self,
        pod: Arc<Pod>,
        plugins: Plugins,
        why: Arc<Unschedulable>,
        now: Duration,
    ) {
        self.queue.unschedulable(&pod.uid, plugins, now);
        self.ready.push_back(Step::Refuse { pod, why, room: None, withdrawn: false });
    }

    /// Takes back what was assumed for a pod.
    pub(super) fn unassume(&mut self, pod: &Pod) {
        self.snapshot.forget(&pod.uid);
        self.give_volumes_up(&pod.uid);
    }
}
