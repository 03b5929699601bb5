//! A claim that one pod may use is used by one pod; a disk that one node may attach, on one.

use std::collections::HashSet;

use super::{Boxed, Filter, Reason};
use crate::client::Key;
use crate::scheduler::node::{Node, NodeInfo};
use crate::scheduler::pod::{Disk, Pod};
use crate::scheduler::snapshot::Snapshot;

struct Rule<'a> {
    pod: &'a Pod,
    /// The pod's claims that are `ReadWriteOncePod`.
    exclusive: HashSet<Key>,
    /// How often other pods use these.
    conflicts: usize,
}

pub fn prepare<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Boxed<'a>> {
    if pod.claims.is_empty() && pod.disks.is_empty() {
        return None;
    }
    let volumes = &snapshot.volumes;
    let claims = pod.claims.iter().filter_map(|c| volumes.claim(&pod.namespace, &c.name));
    let exclusive: HashSet<Key> =
        claims.filter(|claim| claim.is_exclusive()).map(|claim| claim.key.clone()).collect();
    let conflicts = exclusive.iter().map(|claim| volumes.users(claim)).sum();
    Some(Box::new(Rule { pod, exclusive, conflicts }))
}

impl Rule<'_> {
    fn shared_with(&self, other: &Pod) -> usize {
        if self.exclusive.is_empty() {
            return 0;
        }
        let keys = other.claims.iter().map(|claim| Key::new(&*other.namespace, &claim.name));
        keys.filter(|key| self.exclusive.contains(key)).count()
    }
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        let others = || info.pods.iter().flat_map(|other| &other.disks);
        if self.pod.disks.iter().any(|disk| others().any(|other| conflict(disk, other))) {
            refuse(Reason::Disk);
        }
        if self.conflicts > 0 {
            refuse(Reason::Exclusive);
        }
    }

    fn add(&mut self, other: &Pod, _: &Node) {
        self.conflicts += self.shared_with(other);
    }

    fn remove(&mut self, other: &Pod, _: &Node) {
        self.conflicts = self.conflicts.saturating_sub(self.shared_with(other));
    }
}

fn conflict(a: &Disk, b: &Disk) -> bool {
    match (a, b) {
        (Disk::Gce(a), Disk::Gce(b)) => a.pd_name == b.pd_name && !(a.read_only && b.read_only),
        (Disk::Aws(a), Disk::Aws(b)) => a.volume_id == b.volume_id,
        (Disk::Iscsi(a), Disk::Iscsi(b)) => {
            (&a.iqn, a.lun) == (&b.iqn, b.lun) && !(a.read_only && b.read_only)
        }
        (Disk::Rbd(a), Disk::Rbd(b)) => {
            (&a.pool, &a.image) == (&b.pool, &b.image)
                && a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
                && !(a.read_only && b.read_only)
        }
        _ => false,
    }
}
