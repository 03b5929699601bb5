//! `ServiceAccount`: every pod runs as an account that exists, and finds the account's token, the
//! cluster's CA and its namespace below [`MOUNT_PATH`].

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;
use crate::base::rng::Rng;

/// Where pods find their token.
pub const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An hour and seven seconds: Kubernetes' mark of a token that this plugin asked for.
const TOKEN_SECONDS: u64 = 3607;

/// The plugin.
pub struct ServiceAccount {
    registry: Arc<Registry>,
    rng: Mutex<Rng>,
}

impl ServiceAccount {
    /// Looks accounts up in `registry`; `rng` names the volumes.
    pub fn new(registry: Arc<Registry>, rng: Rng) -> Self {
        Self { registry, rng: Mutex::new(rng) }
    }
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let create = request.operation == Operation::Create;
        let mirror = &object["metadata"]["annotations"]["kubernetes.io/config.mirror"];
        if !request.is_core("Pod") || !create || mirror.is_string() || !object["spec"].is_object() {
            return Ok(());
        }
        let spec = &mut object["spec"];
        if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
            spec["serviceAccountName"] = json!("default");
        }
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
        let name = spec["serviceAccountName"].as_str().unwrap_or_default();
        let found = self.registry.get(("", "serviceaccounts"), &at.namespace, name).await?;
        let Some(account) = found else {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                at.namespace
            );
            return Err(ApiError::forbidden("", "pods", &at.name, &why));
        };
        if mounts_token(spec, &account) {
            let volume = format!("kube-api-access-{}", self.rng.lock().suffix(5));
            mount_token(spec, &volume);
        }
        let none = spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
        if none && account["imagePullSecrets"].is_array() {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }
}

/// What the pod says of it holds, then what its account says; else yes.
fn mounts_token(spec: &Value, account: &Value) -> bool {
    let said = |v: &Value| v["automountServiceAccountToken"].as_bool();
    said(spec).or(said(account)).unwrap_or(true)
}

fn mount_token(spec: &mut Value, volume: &str) {
    let mut added = false;
    for field in ["initContainers", "containers"] {
        // Indexing to write would put a null in the place of a list that is not there.
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            added |= mount_in(container, volume);
        }
    }
    if !added {
        return;
    }
    let volume = token_volume(volume);
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

/// Mounts the volume where the container has nothing of its own at that path; whether it did.
fn mount_in(container: &mut Value, volume: &str) -> bool {
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
    match container["volumeMounts"].as_array_mut() {
        Some(mounts) if mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) => return false,
        Some(mounts) => mounts.push(mount),
        None => container["volumeMounts"] = json!([mount]),
    }
    true
}

fn token_volume(name: &str) -> Value {
    let token = json!({"expirationSeconds": TOKEN_SECONDS, "path": "token"});
    let ca = json!({
        "name": "kube-root-ca.crt",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    });
    let namespace = json!({
        "path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
    });
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": token},
                {"configMap": ca},
                {"downwardAPI": {"items": [namespace]}},
            ],
        },
    })
}
