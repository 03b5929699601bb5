//! What a pod may hold on the disk: `sizeLimit` of its emptyDirs, and `ephemeral-storage` of its
//! containers. Looked at every so often, as the kubelet does; who holds more is evicted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::state::{Event, Note, Verdict};
use super::worker::{Answer, Worker};
use crate::node::resources::limit;

/// What all containers together may hold, where each has a limit.
fn total(pod: &Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().map(|container| limit(container, "ephemeral-storage")).sum()
}

/// Whether there is anything to look at.
pub fn has_limits(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut empty = volumes.filter_map(|volume| volume.empty_dir.as_ref());
    total(pod).is_some() || empty.any(|empty| empty.size_limit.is_some())
}

/// Measures, and evicts the pod where it holds too much.
pub fn measure(worker: &Worker) {
    if worker.state.is_down() || worker.state.stop.is_some() {
        return;
    }
    let (pod, volumes) = (Arc::clone(&worker.pod), Arc::clone(&worker.volumes));
    worker.aside(async move {
        let looked =
            tokio::task::spawn_blocking(move || volumes.over_limit(&pod, total(&pod))).await;
        let answer: Answer = Box::new(move |worker| {
            let message = looked.ok().flatten()?;
            worker.say(Note {
                warning: true,
                reason: "Evicted",
                message: message.clone(),
                container: None,
            });
            Some(Event::Evicted(Verdict { reason: "Evicted".to_owned(), message }))
        });
        answer
    });
}
