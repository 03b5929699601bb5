//! The pod garbage collector's loop: a look every twenty seconds.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use serde_json::json;

use super::plan::{self, Missing, Observed, Why};
use crate::client::meta::{Key, time};
use crate::client::rest;
use crate::controllers::context::Context;
use crate::controllers::node_lifecycle::plan::{Health, OUT_OF_SERVICE, health};
use crate::controllers::view::Pod;

const PERIOD: Duration = Duration::from_secs(20);

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missing = Missing::default();
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let garbage = observe(&context, &mut missing);
        let mut gone = HashMap::new();
        for (pod, why) in garbage {
            if why == Why::Orphaned && !node_is_gone(&context, &pod.node, &mut gone).await {
                continue;
            }
            if let Err(error) = remove(&context, &pod, why).await {
                tracing::info!(pod = %pod.key, %error, "a garbage pod could not be removed");
            }
        }
    }
}

fn observe(context: &Context, missing: &mut Missing) -> Vec<(std::sync::Arc<Pod>, Why)> {
    let pods = context.informers.pods.list();
    let nodes = &context.informers.nodes;
    let node_exists = |name: &str| nodes.get(&Key::new("", name)).is_some();
    let out_of_service = |name: &str| {
        nodes.get(&Key::new("", name)).is_some_and(|node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            health(&node) != Health::Ready && taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
        })
    };
    let observed = Observed {
        pods: &pods,
        node_exists: &node_exists,
        out_of_service: &out_of_service,
        terminated_max: context.config.terminated_pods_max,
    };
    plan::plan(&observed, missing, context.clock.monotonic())
}

/// Asks the server itself, once a node: pods are not removed on an informer's word.
async fn node_is_gone(context: &Context, name: &str, known: &mut HashMap<String, bool>) -> bool {
    if let Some(gone) = known.get(name) {
        return *gone;
    }
    let path = rest::cluster_object::<core::Node>(name);
    let answer = rest::get_partial(&context.client, &path).await;
    let gone = answer.is_err_and(|error| rest::is_not_found(&error));
    known.insert(name.to_owned(), gone);
    gone
}

async fn remove(context: &Context, pod: &Pod, why: Why) -> Result<(), kube::Error> {
    let path = rest::object::<core::Pod>(&pod.key.namespace, &pod.key.name);
    if !pod.is_terminal() {
        let mut body = json!({"metadata": {"uid": pod.uid}, "status": {"phase": "Failed"}});
        if why == Why::Orphaned {
            body["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
                "lastTransitionTime": time(context.clock.now())}]);
        }
        let status = format!("{path}/status");
        let patched =
            rest::patch::<rest::Ignored>(&context.client, &status, rest::Patch::Strategic, &body);
        if rest::found(patched.await)?.is_none() {
            return Ok(());
        }
    }
    let options = rest::Delete {
        uid: Some(pod.uid.clone()),
        grace_period_seconds: Some(0),
        ..rest::Delete::default()
    };
    tracing::info!(pod = %pod.key, ?why, "removing a garbage pod");
    rest::found(rest::delete(&context.client, &path, &options).await).map(|_| ())
}
