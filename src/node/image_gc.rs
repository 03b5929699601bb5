//! Makes room on the disk of images: what no pod uses goes, longest unused first, once the disk is
//! fuller than a threshold (the kubelet's `image_gc_manager`).

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;

use super::agent::Node;
use super::config::ImageGc;
use crate::client::events::EventType;

/// How many bytes are to be freed on a disk of `total` bytes of which `available` are free.
fn wanted(total: u64, available: u64, gc: &ImageGc) -> Option<u64> {
    let total = u128::from(total);
    let used_percent = 100 - (u128::from(available) * 100).checked_div(total)?.min(100);
    if used_percent < u128::from(gc.high_percent) {
        return None;
    }
    let free = total * (100 - u128::from(gc.low_percent)) / 100;
    let missing = free.saturating_sub(u128::from(available));
    u64::try_from(missing).ok()
}

/// The images of all pods that are not over.
fn used(node: &Node) -> HashSet<String> {
    let mut all = HashSet::new();
    for handle in node.workers.lock().values() {
        let view = handle.view.lock();
        if !view.over {
            all.extend(view.images.iter().cloned());
        }
    }
    all
}

fn about(node: &Node) -> ObjectReference {
    let name = node.config.node_name.clone();
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        // As the kubelet: the node's name is its UID in events.
        uid: Some(name.clone()),
        name: Some(name),
        ..ObjectReference::default()
    }
}

/// Looks at the disk every so often, until the shutdown.
pub async fn run(node: Arc<Node>) {
    let gc = node.config.image_gc;
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = tokio::time::sleep(gc.every) => {}
        }
        let Ok(disk) = rustix::fs::statvfs(node.config.data_dir.join("images")) else { continue };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let wanted = wanted(bytes(disk.f_blocks), bytes(disk.f_bavail), &gc);
        let (used, worker) = (used(&node), Arc::clone(&node));
        let collected = tokio::task::spawn_blocking(move || {
            // Without need, only what pulls left behind is swept.
            worker.images.collect(wanted.unwrap_or(0), &used, gc.age_min, worker.clock.now())
        });
        let freed = match collected.await.map_err(std::io::Error::other).and_then(|freed| freed) {
            Ok(freed) => freed,
            Err(error) => {
                tracing::warn!(%error, "images could not be removed");
                let message = format!("Image garbage collection failed: {error}");
                node.recorder.event(&about(&node), EventType::Warning, "ImageGCFailed", message);
                continue;
            }
        };
        if !freed.images.is_empty() {
            tracing::info!(bytes = freed.bytes, images = ?freed.images, "unused images were removed");
        }
        if let Some(wanted) = wanted.filter(|wanted| *wanted > freed.bytes) {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {} bytes eligible to free.",
                freed.bytes
            );
            let about = about(&node);
            node.recorder.event(&about, EventType::Warning, "FreeDiskSpaceFailed", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_down_to_the_low_threshold() {
        let gc = ImageGc::default();
        for (available, expected) in [(100, None), (16, None), (15, Some(5)), (0, Some(20))] {
            assert_eq!(wanted(100, available, &gc), expected, "{available} free");
        }
        assert_eq!(wanted(0, 0, &gc), None);
        let always = ImageGc { high_percent: 0, low_percent: 0, ..gc };
        assert_eq!(wanted(100, 60, &always), Some(40));
    }
}
