//! The node IPAM controller's loop.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use super::plan::Ranges;
use crate::client::events::{EventType, Recorder};
use crate::client::meta::{Key, reference};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};

struct Controller {
    context: Context,
    recorder: Recorder,
    ranges: Arc<Mutex<Ranges>>,
}

fn ranges_of(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.clone().unwrap_or_default();
    let all = spec.pod_cidrs.unwrap_or_default().into_iter().chain(spec.pod_cidr);
    all.filter_map(|range| range.parse().ok()).collect()
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let config = &context.config;
    let ranges = match Ranges::new(config.cluster_cidr, config.node_cidr_prefix) {
        Ok(ranges) => Arc::new(Mutex::new(ranges)),
        Err(error) => {
            tracing::error!(error, "nodes get no pod ranges");
            return context.shutdown.cancelled().await;
        }
    };
    let queue = WorkQueue::new(context.seed("node-ipam"));
    // The ranges that nodes have are all noted before the first one is given out.
    let (to, noted) = (queue.clone(), ranges.clone());
    context.informers.nodes.on_change(move |change| {
        let mut ranges = noted.lock();
        match (change.old, change.new) {
            (_, Some(node)) => ranges_of(node).into_iter().for_each(|net| ranges.occupy(net)),
            (Some(node), None) => ranges_of(node).into_iter().for_each(|net| ranges.release(net)),
            (None, None) => {}
        }
        to.add(change.key.clone());
    });
    let recorder = context.recorder("cidrAllocator");
    let controller = Arc::new(Controller { context: context.clone(), recorder, ranges });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("node-ipam", 1, context.shutdown.clone(), reconcile).await;
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let path = rest::cluster_object::<Node>(&key.name);
        let unassigned = |node: &Node| ranges_of(node).is_empty();
        if !self.context.informers.nodes.get(key).is_some_and(|node| unassigned(&node)) {
            return Ok(Outcome::done());
        }
        // The informer may be behind one's own write: a range is given once only.
        let live = rest::found(rest::get::<Node>(&self.context.client, &path).await)?;
        let Some(node) = live.filter(unassigned) else { return Ok(Outcome::done()) };
        let Some(range) = self.ranges.lock().take() else {
            let told = format!("Node {} status is now: CIDRNotAvailable", key.name);
            let about = reference(&node);
            self.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", told);
            return Ok(Outcome::again_in(std::time::Duration::from_secs(10)));
        };
        let body = json!({
            "metadata": {"uid": node.metadata.uid,
                "resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]},
        });
        let patched = rest::patch::<rest::Ignored>(
            &self.context.client,
            &path,
            rest::Patch::Strategic,
            &body,
        );
        if let Err(error) = patched.await {
            self.ranges.lock().release(range);
            return rest::found(Err(error)).map(|_: Option<()>| Outcome::done());
        }
        tracing::info!(node = %key.name, %range, "a node got its pod range");
        Ok(Outcome::done())
    }
}
