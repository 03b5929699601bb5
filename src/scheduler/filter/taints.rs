//! Taints that a pod does not tolerate keep it off.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    let hard = info.node.taints.iter().filter(|t| t.effect != "PreferNoSchedule");
    let untolerated = hard.into_iter().find(|t| !pod.tolerations.iter().any(|o| o.tolerates(t)));
    match untolerated {
        None => Ok(()),
        Some(taint) => {
            Err(vec![format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)])
        }
    }
}
