//! The root CA publisher's loop. There is nothing to plan: the ConfigMap says the CA, or is written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, ROOT_CA, quiet_conflict};

const WORKERS: usize = 2;
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver \
     when using internal endpoints such as the internal service IP or kubernetes.default.svc. No \
     other usage is guaranteed across distributions of Kubernetes clusters.";

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("root-ca"));
    let to = queue.clone();
    context.informers.namespaces.on_change(move |change| to.add(change.key.name.clone()));
    let to = queue.clone();
    context.informers.root_cas.on_change(move |change| to.add(change.key.namespace.clone()));
    let handed = context.clone();
    let reconcile = move |namespace: String| {
        let context = handed.clone();
        async move { quiet_conflict(publish(&context, &namespace).await) }
    };
    queue.run("root-ca", WORKERS, context.shutdown.clone(), reconcile).await;
}

async fn publish(context: &Context, namespace: &str) -> Result<Outcome, kube::Error> {
    let found = context.informers.namespaces.get(&Key::new("", namespace));
    if !found.is_some_and(|namespace| namespace.active) {
        return Ok(Outcome::done());
    }
    let data = BTreeMap::from([("ca.crt".to_owned(), context.config.root_ca_pem.clone())]);
    let annotations = json!({"kubernetes.io/description": DESCRIPTION});
    let written = match context.informers.root_cas.get(&Key::new(namespace, ROOT_CA)) {
        Some(map) if map.data.as_ref() == Some(&data) => return Ok(Outcome::done()),
        Some(map) => {
            let body = json!({"metadata": {"uid": map.metadata.uid, "annotations": annotations},
                "data": data});
            let path = rest::object::<ConfigMap>(namespace, ROOT_CA);
            rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Merge, &body).await
        }
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(ROOT_CA.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    annotations: serde_json::from_value(annotations).ok(),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..ConfigMap::default()
            };
            let path = rest::collection::<ConfigMap>(namespace);
            rest::create::<rest::Ignored>(&context.client, &path, &map).await
        }
    };
    match written {
        Err(error)
            if !rest::is_already_exists(&error)
                && !rest::is_namespace_terminating(&error)
                && !rest::is_not_found(&error) =>
        {
            Err(error)
        }
        _ => Ok(Outcome::done()),
    }
}
