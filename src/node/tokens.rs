//! Service-account tokens of the node's pods (TokenRequest, bound to the pod), renewed when four
//! fifths of their time are over, kept sealed in the node's store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection, Volume};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pod::volumes::payload::tokens;
use super::store::NodeStore;
use crate::base::clock::SharedClock;

/// A token is renewed at the latest after this long.
const RENEW_AT_LATEST: Duration = Duration::from_secs(24 * 3600);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch token: {0}")]
pub struct TokenError(String);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    token: String,
    issued: Timestamp,
    expires: Timestamp,
    /// What it was asked for; a change of the projection asks again.
    audience: String,
    seconds: i64,
}

impl Stored {
    fn renew_at(&self) -> Timestamp {
        let life = self.expires.duration_since(self.issued);
        let life = Duration::try_from(life).unwrap_or(Duration::ZERO);
        self.issued + (life * 4 / 5).min(RENEW_AT_LATEST)
    }
}

/// See the module.
pub struct Tokens {
    client: kube::Client,
    store: Arc<NodeStore>,
    clock: SharedClock,
}

/// The tokens of one volume by path, and when the first of them is to be renewed.
#[derive(Debug, Default)]
pub struct VolumeTokens {
    pub by_path: BTreeMap<String, String>,
    pub renew_at: Option<Timestamp>,
}

impl Tokens {
    pub fn new(client: kube::Client, store: Arc<NodeStore>, clock: SharedClock) -> Self {
        Self { client, store, clock }
    }

    /// The tokens that `volume` projects, fresh ones where their time has come. While the API
    /// server cannot be reached the old ones stay, even past their end: a pod that runs is better
    /// than one that waits.
    pub async fn of(&self, pod: &Pod, volume: &Volume) -> Result<VolumeTokens, TokenError> {
        let mut found = VolumeTokens::default();
        for projection in tokens(volume) {
            let key = key(pod, volume, projection);
            let audience = projection.audience.clone().unwrap_or_default();
            let seconds = projection.expiration_seconds.unwrap_or(3600);
            let now = self.clock.now();
            let stored: Option<Stored> = self
                .store
                .get(&key)
                .filter(|s: &Stored| s.audience == audience && s.seconds == seconds);
            let token = match stored {
                Some(stored) if now < stored.renew_at() => stored,
                stored => match (self.request(pod, &audience, seconds).await, stored) {
                    (Ok(fresh), _) => {
                        self.store.put(&key, &fresh);
                        fresh
                    }
                    (Err(error), Some(mut stored)) => {
                        tracing::warn!(%error, "a service-account token could not be renewed");
                        // Tried again in a minute.
                        stored.issued = now;
                        found.renew_at = Some(now + Duration::from_secs(60));
                        found.by_path.insert(projection.path.clone(), stored.token);
                        continue;
                    }
                    (Err(error), None) => return Err(error),
                },
            };
            let renew_at = token.renew_at();
            found.renew_at = Some(found.renew_at.map_or(renew_at, |at| at.min(renew_at)));
            found.by_path.insert(projection.path.clone(), token.token);
        }
        Ok(found)
    }

    async fn request(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Stored, TokenError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let bound = json!({
            "apiVersion": "v1", "kind": "Pod",
            "name": pod.metadata.name, "uid": pod.metadata.uid,
        });
        let account = account.unwrap_or("default");
        request(&self.client, &self.clock, namespace, account, audience, seconds, Some(bound)).await
    }

    /// Forgets the tokens of a pod.
    pub fn forget(&self, pod: &Pod) {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        for volume in volumes {
            for projection in tokens(volume) {
                self.store.remove(&key(pod, volume, projection));
            }
        }
    }
}

fn key(pod: &Pod, volume: &Volume, projection: &ServiceAccountTokenProjection) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("token/{uid}/{}/{}", volume.name, projection.path)
}

/// Asks for a token of a ServiceAccount.
async fn request(
    client: &kube::Client,
    clock: &SharedClock,
    namespace: &str,
    account: &str,
    audience: &str,
    seconds: i64,
    bound: Option<Value>,
) -> Result<Stored, TokenError> {
    let failed = |message: String| TokenError(message);
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
    });
    let issued = clock.now();
    let answer: Value = crate::client::rest::create(client, &path, &body)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    let token =
        text("/status/token").ok_or_else(|| failed("an answer without token".to_owned()))?;
    let expires = text("/status/expirationTimestamp").and_then(|t| t.parse().ok());
    Ok(Stored {
        token: token.to_owned(),
        issued,
        expires: expires.unwrap_or(issued + Duration::from_secs(3600)),
        audience: audience.to_owned(),
        seconds,
    })
}

/// A token of a ServiceAccount that is not bound to a pod, and when to ask for the next.
pub async fn of_account(
    client: &kube::Client,
    clock: &SharedClock,
    namespace: &str,
    account: &str,
) -> Result<(String, Timestamp), TokenError> {
    let stored = request(client, clock, namespace, account, "", 3600, None).await?;
    let renew_at = stored.renew_at();
    Ok((stored.token, renew_at))
}
