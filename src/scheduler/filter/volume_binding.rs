//! The volumes of a pod must be within reach: those that it has, and those that it would get.

use std::sync::Arc;

use super::{Boxed, Filter, Reason, Stop};
use crate::scheduler::config::Plugin;
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::volumes::{PvClaim, Volume, plan};

struct Rule<'a> {
    snapshot: &'a Snapshot,
    bound: Vec<&'a Volume>,
    /// The volume of a claim is gone.
    gone: bool,
    /// Claims that get their volume where the pod goes.
    waiting: Vec<Arc<PvClaim>>,
}

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Result<Option<Boxed<'a>>, Stop> {
    if pod.claims.is_empty() {
        return Ok(None);
    }
    let volumes = &snapshot.volumes;
    let mut rule =
        Rule { snapshot, bound: Vec::new(), gone: false, waiting: waiting(pod, snapshot)? };
    for claim in &pod.ask.claims {
        let claim = volumes.claim(&pod.namespace, &claim.name);
        let Some(bound) = claim.and_then(|claim| claim.bound.as_deref()) else { continue };
        match volumes.volume(bound) {
            Some(volume) => rule.bound.push(volume),
            None => rule.gone = true,
        }
    }
    Ok(Some(Box::new(rule)))
}

/// The claims of a pod that get their volume where the pod goes.
///
/// # Errors
/// A claim with which the pod can go nowhere.
pub fn waiting(pod: &Pod, snapshot: &Snapshot) -> Result<Vec<Arc<PvClaim>>, Stop> {
    let stop = |message: String| Err(Stop { plugin: Plugin::VolumeBinding, message });
    let (mut waiting, mut immediate) = (Vec::new(), false);
    for asked in &pod.ask.claims {
        let name = &asked.name;
        let Some(claim) = snapshot.volumes.claim(&pod.namespace, name) else {
            return stop(if asked.ephemeral {
                format!(
                    "waiting for ephemeral volume controller to create the \
                     persistentvolumeclaim \"{name}\""
                )
            } else {
                format!("persistentvolumeclaim \"{name}\" not found")
            });
        };
        if claim.lost {
            let volume = claim.bound.as_deref().unwrap_or_default();
            return stop(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \
                 \"{volume}\""
            ));
        }
        if claim.deleting {
            return stop(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if asked.ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
            return stop(format!(
                "PVC \"{}\" was not created for pod \"{}\" (pod is not owner)",
                claim.key, pod.key
            ));
        }
        if claim.bound.is_some() {
            continue;
        }
        let class = claim.class.as_deref().and_then(|class| snapshot.volumes.class(class));
        if class.is_some_and(|class| class.waits) {
            waiting.push(claim.clone());
        } else {
            immediate = true;
        }
    }
    if immediate {
        return stop("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    Ok(waiting)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        if self.gone {
            refuse(Reason::VolumeGone);
            return;
        }
        if self.bound.iter().any(|volume| !volume.reaches(&info.node)) {
            refuse(Reason::VolumeReach);
        }
        if !self.waiting.is_empty()
            && plan::plan(&self.snapshot.volumes, &self.waiting, &info.node).is_none()
        {
            refuse(Reason::VolumeToBind);
        }
    }
}
