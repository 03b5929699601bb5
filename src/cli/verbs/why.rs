//! `why`: node by node, what keeps a pod from being scheduled, and what change would admit it.
//!
//! The cluster is read once, and the scheduler's own rules are asked about it.

use std::path::PathBuf;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::call::{Connection, JSON};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::client::Key;
use crate::scheduler::config::{Configuration, file};
use crate::scheduler::explain::{self, NodeVerdict, Verdict};
use crate::scheduler::informers::{self, Objects};
use crate::scheduler::pod::Pod;
use crate::scheduler::seen;
use crate::scheduler::state::State;

/// What `why` is asked.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The pod, as NAME or pod/NAME
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The KubeSchedulerConfiguration that the server was given
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// How many nodes are told of, the nearest first; 0: all
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub nodes: usize,
}

/// Explains.
///
/// # Errors
/// Bad usage, no server, no such pod.
pub async fn run(args: &WhyArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let name = match args.pod.split_once('/') {
        None => args.pod.as_str(),
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => {
            return Err(Failure::usage(format!(
                "{kind} is not scheduled, pods are: give pod/NAME"
            )));
        }
    };
    let config = configuration(args)?;
    let path = format!("/api/v1/namespaces/{}/pods/{name}", connection.namespace);
    let object: Value = connection.get(&path, JSON).await?;
    let mut state = State::new(config.clone());
    informers::read_all(&mut state, read(connection).await?);
    let read: seen::Pod = decode(&path, object.clone())?;
    let Some(pod) = Pod::of(read, &Default::default()) else {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        return out.line(format!("pod/{name} has ended: {phase}"));
    };
    for line in lines(&pod, &object, &state, &config, args.nodes) {
        out.line(line)?;
    }
    Ok(())
}

fn configuration(args: &WhyArgs) -> Result<Configuration, Failure> {
    let Some(path) = &args.scheduler_config else { return Ok(Configuration::default()) };
    let bad = |why: String| Failure::usage(format!("--scheduler-config {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    file::read(&text).map_err(|error| bad(error.to_string()))
}

fn decode<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::other(format!("{path} cannot be read: {error}")))
}

async fn list<T: DeserializeOwned>(connection: &Connection, path: &str) -> Result<Vec<T>, Failure> {
    let mut listed = connection.get(path, JSON).await?;
    match listed["items"].take() {
        Value::Null => Ok(Vec::new()),
        items => decode(path, items),
    }
}

/// Everything that decisions look at. What this server does not have counts as none.
async fn read(connection: &Connection) -> Result<Objects, Failure> {
    async fn optional<T: DeserializeOwned>(
        connection: &Connection,
        path: &str,
    ) -> Result<Vec<T>, Failure> {
        match list(connection, path).await {
            Err(failure) if failure.is_not_found() => Ok(Vec::new()),
            read => read,
        }
    }
    Ok(Objects {
        nodes: list(connection, "/api/v1/nodes").await?,
        pods: list(connection, "/api/v1/pods").await?,
        namespaces: list(connection, "/api/v1/namespaces").await?,
        services: list(connection, "/api/v1/services").await?,
        claims: list(connection, "/api/v1/persistentvolumeclaims").await?,
        volumes: list(connection, "/api/v1/persistentvolumes").await?,
        classes: optional(connection, "/apis/storage.k8s.io/v1/storageclasses").await?,
        attachable: optional(connection, "/apis/storage.k8s.io/v1/csinodes").await?,
        budgets: optional(connection, "/apis/policy/v1/poddisruptionbudgets").await?,
    })
}

/// What is told of a pod.
fn lines(
    pod: &Pod,
    object: &Value,
    state: &State,
    config: &Configuration,
    nodes_max: usize,
) -> Vec<String> {
    let name = Key::new(&*pod.namespace, &pod.key.name);
    if let Some(node) = &pod.node {
        return vec![format!("pod {name} is on node {node}")];
    }
    if pod.gated {
        let gates = object["spec"]["schedulingGates"].as_array().into_iter().flatten();
        let gates: Vec<&str> = gates.filter_map(|gate| gate["name"].as_str()).collect();
        return vec![format!(
            "pod {name} is held back by scheduling gates ({}): whoever set them takes them away",
            gates.join(", ")
        )];
    }
    let Some(profile) = config.profile(&pod.scheduler) else {
        let known: Vec<&str> = config.profiles.iter().map(|p| p.name.as_str()).collect();
        return vec![format!(
            "pod {name} waits for the scheduler {:?}, which is none of this server's ({}): correct \
             spec.schedulerName, or give the scheduler's file with --scheduler-config",
            pod.scheduler,
            known.join(", ")
        )];
    };
    let verdict = explain::explain(state.snapshot(), pod, profile);
    let mut lines = vec![headline(&name, &verdict)];
    if let Some(message) = &verdict.everywhere {
        lines.push(format!("  on every node: {message}"));
    }
    let shown = if nodes_max == 0 { verdict.nodes.len() } else { nodes_max };
    for node in verdict.nodes.iter().take(shown) {
        lines.extend(of_node(node));
    }
    if verdict.nodes.len() > shown {
        let more = verdict.nodes.len() - shown;
        lines.push(format!("and {more} more nodes (--nodes 0 tells of all)"));
    }
    lines
}

fn headline(name: &Key, verdict: &Verdict) -> String {
    match &verdict.summary {
        Some(summary) => format!("pod {name} cannot be scheduled: {summary}"),
        None => format!("pod {name} can be scheduled"),
    }
}

fn of_node(verdict: &NodeVerdict) -> Vec<String> {
    let node = &verdict.node;
    if let Some(score) = verdict.score {
        return vec![format!("{node}: would take it (score {score})")];
    }
    let mut lines = vec![format!("{node}:")];
    for obstacle in &verdict.obstacles {
        let (plugin, reason, detail) = (obstacle.plugin, &obstacle.reason, &obstacle.detail);
        lines.push(format!("  {reason} [{plugin}]: {detail}"));
        lines.push(format!("    → {}", obstacle.remedy));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn told(pod: Value, nodes: &[Value]) -> String {
        told_of(pod, nodes, 0)
    }

    fn told_of(pod: Value, nodes: &[Value], nodes_max: usize) -> String {
        let config = Configuration::default();
        let mut state = State::new(config.clone());
        let read = |value: &Value| serde_json::from_value(value.clone()).expect("an object");
        let other: Value = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "w"},
            "spec": {"nodeName": "small", "containers": [{"name": "c",
                "ports": [{"hostPort": 80}], "resources": {"requests": {"cpu": "1500m"}}}]},
        });
        let objects = Objects {
            nodes: nodes.iter().map(read).collect(),
            pods: vec![serde_json::from_value(other).expect("a pod")],
            ..Objects::default()
        };
        informers::read_all(&mut state, objects);
        assert_eq!(state.due(), None::<Duration>);
        let seen = serde_json::from_value(pod.clone()).expect("a pod");
        let read = Pod::of(seen, &Default::default()).expect("it has not ended");
        lines(&read, &pod, &state, &config, nodes_max).join("\n")
    }

    fn nodes() -> Vec<Value> {
        let node = |name: &str, cpu: &str, more: Value| {
            let mut node = json!({
                "metadata": {"name": name, "labels": {"disk": "hdd"}},
                "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}},
            });
            node["spec"] = more;
            node
        };
        vec![
            node("small", "2", json!({})),
            node(
                "tainted",
                "8",
                json!({"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}),
            ),
            node("cordoned", "1", json!({"unschedulable": true})),
        ]
    }

    fn pod(more: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        });
        for (key, value) in more.as_object().expect("an object") {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    #[test]
    fn every_node_is_told_of_with_what_would_help() {
        let text = told(pod(json!({"nodeSelector": {"disk": "hdd"}})), &nodes());
        let expected = [
            "pod default/p cannot be scheduled: 0/3 nodes are available: 1 Insufficient cpu, 1 \
             node(s) had untolerated taint {gpu: a}, 1 node(s) were unschedulable.",
            "small:",
            "  Insufficient cpu [NodeResourcesFit]: it asks for 1, 500m of 2 are free",
            "    → ask for 500m less, or free as much there",
            "  node(s) had untolerated taint {gpu: a} [TaintToleration]: it has the taint \
             gpu=a:NoSchedule",
            "    → let the pod tolerate gpu=a:NoSchedule, or take the taint off the node",
        ];
        for line in expected {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let few = told_of(pod(json!({})), &nodes(), 2);
        assert!(few.contains("and 1 more nodes (--nodes 0 tells of all)"), "{few}");
        let text = told(pod(json!({"nodeSelector": {"disk": "ssd"}})), &nodes());
        let label = "its label disk is hdd, not ssd\n    → kubectl label --overwrite node tainted \
                     disk=ssd";
        assert!(text.contains(label), "{text}");
        let tolerant = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        let text = told(tolerant, &nodes());
        assert!(text.contains("pod default/p can be scheduled\n"), "{text}");
        assert!(text.contains("tainted: would take it (score "), "{text}");
    }

    #[test]
    fn what_is_not_the_nodes_fault_is_told_as_such() {
        let gated = told(pod(json!({"schedulingGates": [{"name": "a"}, {"name": "b"}]})), &[]);
        assert!(gated.contains("scheduling gates (a, b)"), "{gated}");
        let foreign = told(pod(json!({"schedulerName": "other"})), &[]);
        assert!(foreign.contains("\"other\", which is none of this server's (default-scheduler)"));
        let there = told(pod(json!({"nodeName": "small"})), &[]);
        assert_eq!(there, "pod default/p is on node small");
        let none = told(pod(json!({})), &[]);
        assert!(none.contains("no nodes available to schedule pods"), "{none}");
    }
}
