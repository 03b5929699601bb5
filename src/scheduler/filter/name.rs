//! A pod that names its node goes nowhere else.

use super::Reason;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Node;

pub fn check(pod: &Pod, node: &Node) -> Option<Reason> {
    pod.node.as_ref().filter(|name| **name != node.name).map(|_| Reason::Name)
}
