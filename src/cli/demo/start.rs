//! From nothing to a cluster in which the pods of the manifests serve.

use std::time::{Duration, Instant};

use anyhow::bail;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;

use super::cluster::Cluster;
use super::manifests;
use super::progress::Progress;
use crate::cli::top::facts::{NodeFacts, NodeState, PodFacts, PodState};

/// How long workers may take to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the pods may take: the first ones are compiled.
const PODS_PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Starts the workers and waits until all are Ready.
///
/// # Errors
/// A process ended, or some worker is not Ready in time; its last words are part of the error.
pub async fn workers(
    cluster: &Cluster,
    client: &Client,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let names: Vec<String> = cluster.addresses().into_iter().map(|(name, _)| name).collect();
    progress.begin(format!("{} workers join", names.len()));
    cluster.start_workers()?;
    let nodes: Api<Node> = Api::all(client.clone());
    let since = Instant::now();
    loop {
        cluster.check()?;
        let ready: Vec<String> = nodes
            .list(&ListParams::default())
            .await?
            .iter()
            .map(NodeFacts::of)
            .filter(|node| node.state == NodeState::Ready)
            .map(|node| node.name)
            .collect();
        let Some(missing) = names.iter().find(|name| !ready.contains(name)) else {
            progress.done(&format!("workers joined over TLS: {}", names.join(", ")));
            return Ok(());
        };
        progress.now(format!("{} of {} workers are Ready", ready.len(), names.len()));
        if since.elapsed() > JOIN_PATIENCE {
            let tail = cluster.tail_of(missing);
            bail!("{missing} is not Ready after {JOIN_PATIENCE:?}; the end of its log:\n{tail}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Applies the manifests.
///
/// # Errors
/// What the server refused.
pub async fn apply(
    client: &Client,
    objects: &[Value],
    progress: &mut Progress,
) -> anyhow::Result<()> {
    progress.begin("manifests are applied");
    for object in objects {
        progress.now(format!("applying {}", manifests::named(object)));
        manifests::apply(client, object).await?;
    }
    progress.done(&format!("{} objects of manifests/demo applied", objects.len()));
    Ok(())
}

/// How many pods the manifests ask for.
pub fn pods_asked(objects: &[Value]) -> usize {
    let count = |object: &Value| match object["kind"].as_str() {
        Some("Deployment") => object["spec"]["replicas"].as_u64().unwrap_or(1),
        Some("Pod") => 1,
        _ => 0,
    };
    let pods: u64 = objects.iter().map(count).sum();
    usize::try_from(pods).unwrap_or(usize::MAX)
}

/// Waits until `wanted` pods serve, or have done their work.
///
/// # Errors
/// A process ended, or some pod is not there in time; the error names those and their state.
pub async fn pods(
    cluster: &Cluster,
    client: &Client,
    wanted: usize,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    progress.begin("pods start");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let since = Instant::now();
    loop {
        cluster.check()?;
        let list = pods.list(&ListParams::default()).await?;
        let facts: Vec<PodFacts> = list.iter().map(PodFacts::of).collect();
        let (well, ill): (Vec<_>, Vec<_>) = facts
            .iter()
            .partition(|pod| matches!(pod.state, PodState::Ready | PodState::Succeeded));
        if well.len() >= wanted {
            progress.done(&format!("{wanted} pods are up"));
            return Ok(());
        }
        progress.now(format!("{} of {wanted} pods are up", well.len()));
        if since.elapsed() > PODS_PATIENCE {
            let ill: Vec<String> =
                ill.iter().map(|pod| format!("{}: {}", pod.key.name, pod.word)).collect();
            bail!(
                "only {} of {wanted} pods are up after {PODS_PATIENCE:?}: {}",
                well.len(),
                ill.join(", ")
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
