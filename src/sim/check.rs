//! What must hold once the cluster has come to rest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::hollow::{Node, PODS_MAX, Tally};
use super::load::NAMESPACE;
use super::plan::Pod;
use super::wire::Connection;

/// The pods of the simulation.
///
/// # Errors
/// The server refused, or the connection broke.
pub async fn pods(connection: &Connection) -> anyhow::Result<Vec<Pod>> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?limit=5000&continue={token}");
        let mut page = connection.get(&path).await?;
        if let items @ Value::Array(_) = page["items"].take() {
            all.extend(serde_json::from_value::<Vec<Pod>>(items)?);
        }
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(all);
        }
    }
}

/// Whether all of `wanted` pods run, and nothing else is left.
pub fn at_rest(pods: &[Pod], wanted: usize) -> bool {
    let done = |pod: &Pod| {
        let phase = pod.status.phase.as_deref();
        pod.metadata.deletion_timestamp.is_none() && matches!(phase, Some("Running" | "Succeeded"))
    };
    pods.len() == wanted && pods.iter().all(done)
}

/// What is wrong, a line each.
pub fn violations(pods: &[Pod], nodes: &[Arc<Node>], tally: &Tally) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_node: HashMap<&str, HashSet<&str>> = HashMap::new();
    for pod in pods {
        match pod.spec.node_name.as_deref() {
            Some(node) => {
                by_node.entry(node).or_default().insert(&pod.metadata.uid);
            }
            None => wrong.push(format!("{} is bound to no node", pod.metadata.name)),
        }
    }
    for node in nodes {
        let bound = by_node.get(node.name.as_str()).cloned().unwrap_or_default();
        if bound.len() > PODS_MAX {
            wrong.push(format!("{} has {} pods, more than {PODS_MAX}", node.name, bound.len()));
        }
        let held = node.held.lock();
        let missed = bound.iter().filter(|uid| !held.contains_key(**uid)).count();
        if missed > 0 {
            wrong.push(format!("{} was never told of {missed} pods", node.name));
        }
        let stale = held.keys().filter(|uid| !bound.contains(uid.as_str())).count();
        if stale > 0 {
            wrong.push(format!("{} was not told that {stale} pods are gone", node.name));
        }
    }
    for pod in tally.twice.lock().iter() {
        wrong.push(format!("{pod} was given to two nodes"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "uid": name}, "spec": {"nodeName": node},
            "status": {"phase": "Running"},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn what_a_node_was_not_told_is_found() {
        let node = Node::new(0);
        let (tally, there) = (Tally::default(), [pod("a", &node.name)]);
        let nodes = [node.clone()];
        assert_eq!(violations(&there, &nodes, &tally), ["hollow-00000 was never told of 1 pods"]);
        node.held.lock().insert("a".to_owned(), "a".to_owned());
        assert_eq!(violations(&there, &nodes, &tally), [""; 0]);
        assert_eq!(
            violations(&[], &nodes, &tally),
            ["hollow-00000 was not told that 1 pods are gone"]
        );
        assert!(at_rest(&there, 1) && !at_rest(&there, 2));
    }
}
