//! A cordoned node takes no pods, but those that tolerate the taint of that name.

use crate::scheduler::model::{Pod, Taint};
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    if info.node.unschedulable && !pod.tolerations.iter().any(|t| t.tolerates(&taint)) {
        return Err(vec!["node(s) were unschedulable".to_owned()]);
    }
    Ok(())
}
