//! A port of the host can be had once.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    let taken = |port| info.host_ports.iter().any(|other| other.conflicts(port));
    if pod.host_ports.iter().any(taken) {
        return Err(vec!["node(s) didn't have free ports for the requested pod ports".to_owned()]);
    }
    Ok(())
}
