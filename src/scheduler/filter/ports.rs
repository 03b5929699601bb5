//! Two pods on one node cannot have the same port of the host.

use super::Reason;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(pod: &Pod, info: &NodeInfo) -> Option<Reason> {
    if pod.host_ports.is_empty() {
        return None;
    }
    let mut taken = info.pods.iter().flat_map(|other| &other.host_ports);
    taken
        .any(|port| pod.host_ports.iter().any(|wanted| wanted.meets(port)))
        .then_some(Reason::Ports)
}
