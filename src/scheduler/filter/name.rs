//! A pod that names its node goes nowhere else.

use super::{Boxed, Filter, Reason};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;

struct Rule<'a>(&'a str);

pub fn prepare(pod: &Pod) -> Option<Boxed<'_>> {
    pod.node.as_deref().map(|name| Box::new(Rule(name)) as Boxed<'_>)
}

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        if *info.node.name != *self.0 {
            refuse(Reason::Name);
        }
    }
}
