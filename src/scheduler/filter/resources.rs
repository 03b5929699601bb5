//! What a pod asks for must be left on the node, and a place among its pods.

use crate::scheduler::model::Pod;
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    let (wanted, claimed, all) = (&pod.requests, &info.claimed, &info.node.allocatable);
    let mut reasons = Vec::new();
    if info.pods.len() as i64 >= info.node.pods_max {
        reasons.push("Too many pods".to_owned());
    }
    let mut need = |name: &str, wanted: i64, claimed: i64, all: i64| {
        if wanted > 0 && wanted > all.saturating_sub(claimed) {
            reasons.push(format!("Insufficient {name}"));
        }
    };
    need("cpu", wanted.cpu_milli, claimed.cpu_milli, all.cpu_milli);
    need("memory", wanted.memory_bytes, claimed.memory_bytes, all.memory_bytes);
    need("ephemeral-storage", wanted.ephemeral_bytes, claimed.ephemeral_bytes, all.ephemeral_bytes);
    for (name, amount) in &wanted.extended {
        let of = |r: &std::collections::BTreeMap<String, i64>| r.get(name).copied().unwrap_or(0);
        need(name, *amount, of(&claimed.extended), of(&all.extended));
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}
