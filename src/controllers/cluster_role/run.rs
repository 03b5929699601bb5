//! The ClusterRole aggregation controller's loop.

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::json;

use super::plan;
use crate::client::informer::{Builder, Informer, Source};
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::view;

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let roles =
        Builder::new(Source::all::<ClusterRole>(), |mut role: ClusterRole| {
            view::trim(&mut role.metadata);
            Some(role)
        })
        .index("aggregated", |role: &ClusterRole| {
            if plan::is_aggregated(role) { vec![String::new()] } else { Vec::new() }
        })
        .start(context.client.clone(), context.shutdown.clone());
    tokio::select! {
        () = context.shutdown.cancelled() => return,
        () = roles.synced() => {}
    }
    let queue: WorkQueue<Key> = WorkQueue::new(context.seed("clusterrole-aggregation"));
    let (to, all) = (queue.clone(), roles.clone());
    // Any role may be a part of any aggregated one, and there are few of those.
    roles.on_change(move |_| {
        for role in all.indexed("aggregated", "") {
            to.add(Key::of(&role.metadata));
        }
    });
    let handed = context.clone();
    let reconcile = move |key: Key| {
        let (context, roles) = (handed.clone(), roles.clone());
        async move { quiet_conflict(aggregate(&context, &roles, &key).await) }
    };
    queue.run("clusterrole-aggregation", 1, context.shutdown.clone(), reconcile).await;
}

async fn aggregate(
    context: &Context,
    roles: &Informer<ClusterRole>,
    key: &Key,
) -> Result<Outcome, kube::Error> {
    let Some(role) = roles.get(key) else { return Ok(Outcome::done()) };
    let Some(rules) = plan::plan(&role, &roles.list()) else { return Ok(Outcome::done()) };
    let body = json!({
        "metadata": {"uid": role.metadata.uid, "resourceVersion": role.metadata.resource_version},
        "rules": rules,
    });
    let path = rest::cluster_object::<ClusterRole>(&key.name);
    let patched =
        rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Merge, &body).await;
    rest::found(patched).map(|_| Outcome::done())
}
