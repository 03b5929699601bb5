//! The ServiceAccount and token controllers' loops.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::plan::{self, Action};
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, TokenSecret, quiet_conflict};

const WORKERS: usize = 2;
/// Tokens in Secrets are meant to last: ten years, or what the server allows at most.
const TOKEN_SECONDS: i64 = 10 * 365 * 24 * 3600;

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    tokio::join!(accounts(context.clone()), tokens(context));
}

async fn accounts(context: Context) {
    let queue = WorkQueue::new(context.seed("serviceaccount"));
    let to = queue.clone();
    context.informers.namespaces.on_change(move |change| to.add(change.key.name.clone()));
    let to = queue.clone();
    context.informers.service_accounts.on_change(move |change| {
        if change.new.is_none() && change.key.name == "default" {
            to.add(change.key.namespace.clone());
        }
    });
    let handed = context.clone();
    let reconcile = move |namespace: String| {
        let context = handed.clone();
        async move { quiet_conflict(default_account(&context, &namespace).await) }
    };
    queue.run("serviceaccount", WORKERS, context.shutdown.clone(), reconcile).await;
}

async fn default_account(context: &Context, namespace: &str) -> Result<Outcome, kube::Error> {
    let found = context.informers.namespaces.get(&Key::new("", namespace));
    let active = found.is_some_and(|namespace| namespace.active);
    let key = Key::new(namespace, "default");
    if !active || context.informers.service_accounts.get(&key).is_some() {
        return Ok(Outcome::done());
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(key.name),
            namespace: Some(key.namespace),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let path = rest::collection::<ServiceAccount>(namespace);
    match rest::create::<rest::Ignored>(&context.client, &path, &account).await {
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

async fn tokens(context: Context) {
    let queue = WorkQueue::new(context.seed("tokens"));
    let to = queue.clone();
    context.informers.tokens.on_change(move |change| to.add(change.key.clone()));
    let (to, tokens) = (queue.clone(), context.informers.tokens.clone());
    context.informers.service_accounts.on_change(move |change| {
        for token in tokens.indexed("account", &change.key.to_string()) {
            to.add(Key::of(&token.meta));
        }
    });
    let handed = context.clone();
    let reconcile = move |key: Key| {
        let context = handed.clone();
        async move { quiet_conflict(token(&context, &key).await) }
    };
    queue.run("tokens", WORKERS, context.shutdown.clone(), reconcile).await;
}

async fn token(context: &Context, key: &Key) -> Result<Outcome, kube::Error> {
    let Some(secret) = context.informers.tokens.get(key) else { return Ok(Outcome::done()) };
    let account = Key::new(key.namespace.clone(), secret.account.clone());
    let known = context.informers.service_accounts.get(&account);
    let mut uid = known.and_then(|meta| meta.uid.clone());
    if plan::plan(&secret, uid.as_deref()) == Action::Delete {
        // The informer may be behind: ask before destroying a credential.
        let path = rest::object::<ServiceAccount>(&account.namespace, &account.name);
        let live = rest::found(rest::get::<ServiceAccount>(&context.client, &path).await)?;
        uid = live.and_then(|account| account.metadata.uid);
    }
    let path = rest::object::<Secret>(&key.namespace, &key.name);
    match (plan::plan(&secret, uid.as_deref()), uid) {
        (Action::Delete, _) => {
            let options = rest::Delete::uid(secret.meta.uid.clone().unwrap_or_default());
            rest::found(rest::delete(&context.client, &path, &options).await)?;
        }
        (Action::Fill, Some(uid)) => fill(context, key, &secret, &uid).await?,
        _ => {}
    }
    Ok(Outcome::done())
}

async fn fill(
    context: &Context,
    key: &Key,
    secret: &Arc<TokenSecret>,
    account_uid: &str,
) -> Result<(), kube::Error> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(key.name.clone()),
                uid: secret.meta.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let path = rest::object::<ServiceAccount>(&key.namespace, &secret.account);
    let answer: TokenRequest =
        rest::create(&context.client, &format!("{path}/token"), &request).await?;
    let token = answer.status.map(|status| status.token).unwrap_or_default();
    let body = json!({
        "metadata": {"uid": secret.meta.uid, "resourceVersion": secret.meta.resource_version,
            "annotations": {"kubernetes.io/service-account.uid": account_uid}},
        "stringData": {"token": token, "namespace": key.namespace,
            "ca.crt": context.config.root_ca_pem},
    });
    let path = rest::object::<Secret>(&key.namespace, &key.name);
    let patched =
        rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Merge, &body).await;
    rest::found(patched).map(|_| ())
}
