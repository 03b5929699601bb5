//! Pod groups: so many of their members are scheduled together, or none.
//!
//! A group is named by the label `scheduling.x-k8s.io/pod-group`, and how many of its pods there
//! must be at least (`minMember`) is said by the PodGroup of that name
//! (`scheduling.x-k8s.io/v1alpha1`, where a user installed its definition), or by the pods' label
//! `pod-group.scheduling.sigs.k8s.io/min-available`. Where neither says anything, pods are
//! scheduled one by one.
//!
//! When it is the turn of a member, all members that wait are decided for, one after the other,
//! each counting for the next. If there are enough then, all are bound; if not, what was assumed is
//! taken back. So no group holds room that it cannot use while another one needs it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::config::{Plugin, Plugins, Profile};
use super::plan::{self, NodeName, Unschedulable};
use super::pod::Pod;
use super::state::State;
use crate::client::Key;

/// The uids of the members of each group.
#[derive(Debug, Default)]
pub struct Gangs(HashMap<Key, HashSet<Arc<str>>>);

fn group_of(pod: &Pod) -> Option<Key> {
    let member = pod.member.as_ref()?;
    Some(Key::new(&*pod.namespace, &member.group))
}

impl Gangs {
    /// Takes in a pod.
    pub fn see(&mut self, pod: &Pod) {
        if let Some(group) = group_of(pod) {
            self.0.entry(group).or_default().insert(pod.uid.clone());
        }
    }

    /// Forgets a pod.
    pub fn forget(&mut self, pod: &Pod) {
        let Some(group) = group_of(pod) else { return };
        if let Some(members) = self.0.get_mut(&group) {
            members.remove(&pod.uid);
            if members.is_empty() {
                self.0.remove(&group);
            }
        }
    }

    fn members(&self, group: &Key) -> HashSet<Arc<str>> {
        self.0.get(group).cloned().unwrap_or_default()
    }
}

impl State {
    /// Decides for a pod and the others of its group; what is to be done is ready then.
    pub(super) fn decide_gang(&mut self, pod: Arc<Pod>, profile: &Profile, now: Duration) {
        let group = group_of(&pod).expect("only members are decided for together");
        let said = pod.member.as_ref().and_then(|member| member.min);
        let min = self.snapshot.groups.get(&group).copied().or(said).unwrap_or(0);
        let members = self.gangs.members(&group);
        let placed = self.placed_among(&members);
        let mut waiting: Vec<Arc<str>> =
            members.iter().filter(|uid| self.queue.has_free(uid)).cloned().collect();
        waiting.sort();
        let known = placed + waiting.len() + 1;
        if known < min {
            let message = format!(
                "pre-filter pod {} cannot find enough sibling pods, current pods number: {known}, \
                 minMember of group: {min}",
                pod.key.name
            );
            let why = plan::too_few(self.snapshot.nodes().len(), message);
            let plugins = why.plugins();
            self.refuse_member(pod, plugins, Arc::new(why), now);
            return;
        }
        let mut pods = vec![pod];
        if placed < min {
            pods.extend(waiting.iter().filter_map(|uid| self.queue.take(uid)));
        }
        pods.sort_by(|a, b| a.matters_more(b));
        let (taken, refused) = self.try_all(pods, profile);
        if placed + taken.len() >= min {
            for (pod, node) in taken {
                let step = self.assume(pod, node, profile, now);
                self.ready.push_back(step);
            }
            for (pod, why) in refused {
                let plugins = why.plugins();
                self.refuse_member(pod, plugins, why, now);
            }
            return;
        }
        self.reject(&group, taken, refused, now);
    }

    /// Decides for one after the other, each assumed for the next.
    #[expect(clippy::type_complexity, reason = "who goes where, and who goes nowhere and why")]
    fn try_all(
        &mut self,
        pods: Vec<Arc<Pod>>,
        profile: &Profile,
    ) -> (Vec<(Arc<Pod>, NodeName)>, Vec<(Arc<Pod>, Arc<Unschedulable>)>) {
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for pod in pods {
            match self.decide(&pod, profile) {
                Ok(node) => {
                    self.snapshot.assume(pod.clone(), &node);
                    taken.push((pod, node));
                }
                Err(why) => refused.push((pod, why)),
            }
        }
        (taken, refused)
    }

    /// Takes back what was assumed, and lets the whole group wait.
    fn reject(
        &mut self,
        group: &Key,
        taken: Vec<(Arc<Pod>, NodeName)>,
        refused: Vec<(Arc<Pod>, Arc<Unschedulable>)>,
        now: Duration,
    ) {
        let mut plugins = Plugins::default().with(Plugin::Coscheduling);
        for (_, why) in &refused {
            plugins = why.plugins().iter().fold(plugins, Plugins::with);
        }
        let culprit = refused.first().map(|(pod, _)| pod.key.name.clone()).unwrap_or_default();
        let message = format!(
            "PodGroup {group} gets rejected due to Pod {culprit} is unschedulable even after \
             PostFilter"
        );
        let why = Arc::new(plan::too_few(self.snapshot.nodes().len(), message));
        for (pod, _) in taken {
            self.unassume(&pod);
            self.refuse_member(pod, plugins, why.clone(), now);
        }
        for (pod, why) in refused {
            self.refuse_member(pod, plugins, why, now);
        }
    }
}
