//! What the simulation asks of the cluster.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::wire::{Connection, Kind};

/// The namespace that everything is in.
pub const NAMESPACE: &str = "sim";
/// How many pods are created at once, where they are created one by one.
const CREATING: usize = 128;
/// How many replicas a Deployment has at most.
const REPLICAS: usize = 5000;

/// How pods come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Deployments of at most 5,000 replicas.
    Deployments,
    /// Pods of no owner.
    Pods,
}

fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "app", "image": "sim.example/app:1",
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        }],
    })
}

/// Makes the namespace, and waits until pods may be created in it.
///
/// # Errors
/// The server refused.
pub async fn namespace(connection: &Connection) -> anyhow::Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    connection.must("POST", "/api/v1/namespaces", Kind::Json, Some(&namespace), &[409]).await?;
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    for _ in 0..600 {
        if connection.ask("GET", &account, Kind::Json, None).await?.0 == 200 {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("the namespace {NAMESPACE} has no default ServiceAccount after a minute")
}

/// Asks for `pods` pods.
///
/// # Errors
/// The server refused, or the connection broke.
pub async fn create(
    connection: &Connection,
    workload: Workload,
    pods: usize,
) -> anyhow::Result<()> {
    match workload {
        Workload::Deployments => deployments(connection, pods).await,
        Workload::Pods => {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            stream::iter(0..pods)
                .map(|at| {
                    let (connection, path) = (connection.clone(), path.clone());
                    async move {
                        let pod = json!({
                            "apiVersion": "v1", "kind": "Pod",
                            "metadata": {"name": format!("pod-{at:06}"), "labels": {"app": "sim"}},
                            "spec": pod_spec(),
                        });
                        connection.must("POST", &path, Kind::Json, Some(&pod), &[409]).await
                    }
                })
                .buffer_unordered(CREATING)
                .try_for_each(|_| async { Ok(()) })
                .await
        }
    }
}

/// Deletes pods by name; those that are gone already are no loss.
///
/// # Errors
/// The server refused, or the connection broke.
pub async fn delete(
    connection: &Connection,
    names: impl Iterator<Item = &String>,
) -> anyhow::Result<()> {
    let paths = names.map(|name| format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"));
    stream::iter(paths)
        .map(|path| {
            let connection = connection.clone();
            async move { connection.must("DELETE", &path, Kind::Json, None, &[404]).await }
        })
        .buffer_unordered(CREATING)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn deployments(connection: &Connection, pods: usize) -> anyhow::Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    let mut left = pods;
    for at in 0.. {
        if left == 0 {
            break;
        }
        let replicas = left.min(REPLICAS);
        left -= replicas;
        let labels = json!({"app": format!("sim-{at}")});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": format!("sim-{at}")},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec()},
            },
        });
        connection.must("POST", &path, Kind::Json, Some(&deployment), &[409]).await?;
    }
    Ok(())
}
