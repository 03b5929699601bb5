//! Nodes that have the pod's images already, weighed by how large these are and how widely spread.

use super::{MAX, Score};
use crate::scheduler::node::NodeInfo;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Snapshot;

const MIB: i64 = 1024 * 1024;
const LEAST: i64 = 23 * MIB;
const MOST_OF_ONE: i64 = 1000 * MIB;

pub struct Rule<'a>(pub &'a Pod, pub &'a Snapshot);

impl Score for Rule<'_> {
    fn number(&self, info: &NodeInfo) -> i64 {
        number(self.0, info, self.1)
    }
}

/// What a node gets.
pub fn number(pod: &Pod, info: &NodeInfo, snapshot: &Snapshot) -> i64 {
    if info.node.images.is_empty() || pod.images.is_empty() {
        return 0;
    }
    let all = snapshot.nodes().len() as f64;
    let there = pod.images.iter().filter_map(|image| {
        let size = *info.node.images.get(image)?;
        // What only one node has would draw everything there.
        Some((size as f64 * (snapshot.nodes_with_image(image) as f64 / all)) as i64)
    });
    let most = MOST_OF_ONE * pod.images.len() as i64;
    let sum = there.sum::<i64>().clamp(LEAST, most);
    MAX * (sum - LEAST) / (most - LEAST)
}
