//! A node attaches no more volumes of a driver than its CSINode says.

use std::collections::{BTreeMap, HashSet};

use super::{Boxed, Filter, Reason};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::volumes::CsiVolume;

struct Rule<'a> {
    snapshot: &'a Snapshot,
    /// The pod's volumes.
    wanted: HashSet<&'a CsiVolume>,
}

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Boxed<'a>> {
    if pod.claims.is_empty() || !snapshot.volumes.are_limited() {
        return None;
    }
    let wanted: HashSet<&CsiVolume> = snapshot.volumes.attached(pod).collect();
    (!wanted.is_empty()).then(|| Box::new(Rule { snapshot, wanted }) as Boxed<'a>)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        let volumes = &self.snapshot.volumes;
        let there: HashSet<&CsiVolume> =
            info.pods.iter().flat_map(|other| volumes.attached(other)).collect();
        let mut new: BTreeMap<&str, i64> = BTreeMap::new();
        for volume in self.wanted.iter().filter(|volume| !there.contains(**volume)) {
            *new.entry(&volume.driver).or_default() += 1;
        }
        let too_many = new.into_iter().any(|(driver, new)| {
            let attached = there.iter().filter(|volume| volume.driver == driver).count() as i64;
            let limit = volumes.limit(&info.node.name, driver);
            limit.is_some_and(|limit| attached + new > limit)
        });
        if too_many {
            refuse(Reason::VolumeCount);
        }
    }
}
