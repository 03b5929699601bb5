//! Two pods on one node cannot have the same port of the host.

use super::{Boxed, Filter, Reason};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::{HostPort, Pod};

struct Rule<'a>(&'a [HostPort]);

pub fn prepare(pod: &Pod) -> Option<Boxed<'_>> {
    let ports = &pod.ask.host_ports;
    (!ports.is_empty()).then(|| Box::new(Rule(ports)) as Boxed<'_>)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        let mut taken = info.pods.iter().flat_map(|other| &other.host_ports);
        if taken.any(|port| self.0.iter().any(|wanted| wanted.meets(port))) {
            refuse(Reason::Ports);
        }
    }
}
