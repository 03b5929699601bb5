//! The node must exist.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    if info.exists && (pod.node.is_empty() || pod.node == info.node.name) {
        return Ok(());
    }
    Err(vec!["node(s) didn't match the requested node name".to_owned()])
}
