//! The quota controller's loop.
//!
//! It lists what it counts, since quotas limit kinds that nobody here keeps (Secrets, custom
//! resources); only in namespaces that have a quota, and no more often than once a second each.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use serde::Deserialize;
use serde_json::Value;

use super::plan;
use crate::client::informer::Informer;
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};
use crate::controllers::discovery::discover;

const WORKERS: usize = 2;
/// How long a quota is left alone after it was counted.
const HOLD: Duration = Duration::from_secs(1);
/// How often quotas are counted whose kinds are not watched.
const PERIOD: Duration = Duration::from_secs(10);
/// And the others, should something have been missed.
const PERIOD_WATCHED: Duration = Duration::from_secs(300);
/// The kinds whose changes are told.
const WATCHED: [&str; 8] = [
    "pods",
    "services",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "replicasets",
    "deployments",
    "statefulsets",
    "jobs",
];

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("resourcequota"));
    watch(&context, &queue);
    let shutdown = context.shutdown.clone();
    let reconcile = move |key: Key| {
        let context = context.clone();
        async move { quiet_conflict(reconcile(&context, &key).await) }
    };
    queue.run("resourcequota", WORKERS, shutdown, reconcile).await;
}

fn watch(context: &Context, queue: &WorkQueue<Key>) {
    let informers = &context.informers;
    let to = queue.clone();
    informers.quotas.on_change(move |change| to.add(change.key.clone()));
    let of_namespace = |to: WorkQueue<Key>, quotas: Informer<ResourceQuota>| {
        move |namespace: &str| {
            for quota in quotas.indexed("namespace", namespace) {
                to.add(Key::of(&quota.metadata));
            }
        }
    };
    let tell = || of_namespace(queue.clone(), informers.quotas.clone());
    let told = tell();
    informers.pods.on_change(move |change| {
        let over = change.new.is_some_and(|pod| pod.is_terminal());
        let was = change.old.is_some_and(|pod| pod.is_terminal());
        if change.old.is_none() || change.new.is_none() || over != was {
            told(&change.key.namespace);
        }
    });
    let told = tell();
    informers.services.on_change(move |change| told(&change.key.namespace));
    let told = tell();
    informers.claims.on_change(move |change| told(&change.key.namespace));
    for sets in [&informers.replica_sets, &informers.replication_controllers] {
        let told = tell();
        sets.on_change(move |change| {
            if change.old.is_none() || change.new.is_none() {
                told(&change.key.namespace);
            }
        });
    }
    let told = tell();
    informers.deployments.on_change(move |change| {
        if change.old.is_none() || change.new.is_none() {
            told(&change.key.namespace);
        }
    });
    let told = tell();
    informers.stateful_sets.on_change(move |change| {
        if change.old.is_none() || change.new.is_none() {
            told(&change.key.namespace);
        }
    });
    let told = tell();
    informers.jobs.on_change(move |change| {
        if change.old.is_none() || change.new.is_none() {
            told(&change.key.namespace);
        }
    });
}

async fn reconcile(context: &Context, key: &Key) -> Result<Outcome, kube::Error> {
    let Some(quota) = context.informers.quotas.get(key) else {
        return Ok(Outcome::done());
    };
    let kinds = plan::kinds(&quota);
    let served = discover(&context.client).await?;
    let mut objects = BTreeMap::new();
    for (group, plural) in &kinds {
        let find = |r: &&_| -> bool {
            let r: &crate::controllers::discovery::Resource = r;
            r.group == *group && r.plural == *plural
        };
        let Some(resource) = served.resources.iter().find(find) else { continue };
        let list: List = rest::get(&context.client, &resource.collection(&key.namespace)).await?;
        objects.insert((group.clone(), plural.clone()), list.items);
    }
    let status = plan::status(&quota, &objects);
    let old = quota.status.clone().unwrap_or_default();
    let path = rest::object::<ResourceQuota>(&key.namespace, &key.name);
    let version = quota.metadata.resource_version.as_deref();
    let written = rest::patch_status(&context.client, &path, version, &old, &status).await;
    rest::found(written)?;
    let watched = kinds.iter().all(|(_, plural)| WATCHED.contains(&plural.as_str()));
    let period = if watched { PERIOD_WATCHED } else { PERIOD };
    Ok(Outcome::again_in(period).holding(HOLD))
}
