//! The view without a terminal: a line for everything that changes.

use std::collections::BTreeMap;

use super::facts::{NodeState, PodState};
use super::model::Picture;

/// The lines that tell what is new in `after`. Pure.
pub fn changes(before: &Picture, after: &Picture) -> Vec<String> {
    let mut lines = node_changes(before, after);
    lines.extend(pod_changes(before, after));
    let known: BTreeMap<_, _> = before.services.iter().map(|s| (&s.service.key, s)).collect();
    for row in &after.services {
        let was = known.get(&row.service.key).map(|s| (s.ready, s.all));
        if was != Some((row.ready, row.all)) {
            lines.push(format!(
                "service {}: {} of {} endpoints ready ({})",
                row.service.key.name,
                row.ready,
                row.all,
                row.service.ports.join(",")
            ));
        }
    }
    lines
}

fn node_changes(before: &Picture, after: &Picture) -> Vec<String> {
    let known: BTreeMap<&str, NodeState> =
        before.nodes.iter().map(|n| (n.node.name.as_str(), n.node.state)).collect();
    let mut lines = Vec::new();
    for node in after.nodes.iter().map(|n| &n.node) {
        if known.get(node.name.as_str()) != Some(&node.state) {
            let word = match node.state {
                NodeState::Ready => "Ready",
                NodeState::NotReady => "NotReady",
                NodeState::Unknown => "down",
            };
            lines.push(format!("node {}: {word}", node.name));
        }
    }
    for name in known.keys().filter(|name| !after.nodes.iter().any(|n| n.node.name == **name)) {
        lines.push(format!("node {name}: gone"));
    }
    lines
}

fn pod_changes(before: &Picture, after: &Picture) -> Vec<String> {
    let shown = |picture: &Picture| -> BTreeMap<_, _> {
        let pods = picture.pods().map(|pod| {
            let node = pod.node.clone().unwrap_or_else(|| "no node".to_owned());
            // `Running` alone hides whether it serves.
            let word = match pod.state {
                PodState::Ready => "ready".to_owned(),
                PodState::NotReady => format!("{}, not ready", pod.word),
                _ => pod.word.clone(),
            };
            (pod.key.clone(), (node, word, pod.restarts))
        });
        pods.collect()
    };
    let (before, after) = (shown(before), shown(after));
    let mut lines = Vec::new();
    for (key, now) in &after {
        if before.get(key) != Some(now) {
            let (node, word, restarts) = now;
            let times =
                if *restarts > 0 { format!(" (restarts: {restarts})") } else { String::new() };
            lines.push(format!("pod {}: {word} on {node}{times}", key.name));
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        lines.push(format!("pod {}: gone", key.name));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::samples;

    #[test]
    fn only_what_changed_is_told() {
        let before = samples::picture();
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let mut observed = samples::observed();
        observed.nodes[0].state = NodeState::Ready;
        observed.pods.remove(0);
        observed.pods[0].state = PodState::Ready;
        observed.slices.remove(1);
        let lines = changes(&before, &Picture::of(observed));
        assert_eq!(
            lines,
            [
                "node demo-worker-2: Ready",
                "pod hello-http-7d4-bbb: ready on demo-worker-2",
                "pod hello-http-7d4-aaa: gone",
                "service hello-http: 1 of 2 endpoints ready (80:30080/TCP)",
            ]
        );
    }
}
