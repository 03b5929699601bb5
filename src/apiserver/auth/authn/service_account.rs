//! Service-account tokens: signed by the cluster's key, for an audience, in their time, of an
//! account that is still the same, and bound to objects that are still there.
//!
//! What a signature says never changes, so it is verified once a token; everything else is judged
//! at every request, by the objects as they are then.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::CREDENTIAL_ID;
use super::claims::{Claims, LEEWAY_SECONDS, ObjectRef};
use crate::api::meta;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::authz::ACCOUNT_PREFIX;
use crate::apiserver::auth::{UserInfo, mirror};
use crate::apiserver::encoding;
use crate::apiserver::registry::Registry;
use crate::apiserver::registry::update::Target;
use crate::base::clock::SharedClock;
use crate::link::identity::ServiceAccountKey;

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How many verified tokens are remembered.
const VERIFIED_MAX: usize = 16 * 1024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// The authenticator.
pub(super) struct ServiceAccountTokens {
    registry: Arc<Registry>,
    key: ServiceAccountKey,
    issuer: String,
    clock: SharedClock,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccountTokens {
    pub fn new(
        registry: Arc<Registry>,
        key: ServiceAccountKey,
        issuer: String,
        clock: SharedClock,
    ) -> Self {
        Self { registry, key, issuer, clock, verified: Mutex::default() }
    }

    /// The account behind a token, and the audiences among `wanted` that it is for. `None`: the
    /// token is none that this cluster has signed.
    ///
    /// # Errors
    /// Why it is not valid (any more), in the words of Kubernetes.
    pub async fn user(
        &self,
        token: &str,
        wanted: &[String],
    ) -> Option<Result<(UserInfo, Vec<String>), String>> {
        let claims = self.claims(token)?;
        Some(self.judge(&claims, wanted).await)
    }

    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > TOKEN_BYTES_MAX || token.split('.').count() != 3 {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let claims: Claims = serde_json::from_value(self.key.verify(token)?).ok()?;
        if claims.iss != self.issuer {
            return None;
        }
        let claims = Arc::new(claims);
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }

    async fn judge(
        &self,
        claims: &Claims,
        wanted: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        let now = self.clock.now();
        let audiences = claims.shared_audiences(wanted)?;
        claims.check_time(now)?;
        let said = &claims.kubernetes;
        let (namespace, account) = (&said.namespace, &said.serviceaccount);
        let live = Live { registry: &self.registry, namespace, now };
        live.check_account(account).await?;
        if let Some(secret) = &said.secret {
            live.check("secrets", "secret", secret).await?;
        }
        if let Some(pod) = &said.pod {
            live.check("pods", "pod", pod).await?;
        }
        // The node of a pod's token is told, not checked: the pod stands for it.
        if let (Some(node), None) = (&said.node, &said.pod) {
            live.check("nodes", "node", node).await?;
        }
        Ok((user(claims), audiences))
    }
}

/// The user that an account is.
pub(in crate::apiserver::auth) fn account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    UserInfo {
        name: format!("{ACCOUNT_PREFIX}{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ],
        extra: BTreeMap::new(),
    }
}

fn user(claims: &Claims) -> UserInfo {
    let said = &claims.kubernetes;
    let account = &said.serviceaccount;
    let mut user = account_user(&said.namespace, &account.name, &account.uid);
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &said.pod {
        add(POD_NAME, &pod.name);
        add(POD_UID, &pod.uid);
    }
    if let Some(node) = &said.node {
        add(NODE_NAME, &node.name);
        add(NODE_UID, &node.uid);
    }
    if !claims.jti.is_empty() {
        add(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    user
}

/// The objects as they are now.
struct Live<'a> {
    registry: &'a Arc<Registry>,
    namespace: &'a str,
    now: Timestamp,
}

/// What is known of an object that is there.
struct Found {
    uid: String,
    /// It has been marked as deleted for longer than clocks may differ.
    deleted: bool,
}

impl Live<'_> {
    async fn find(&self, plural: &str, name: &str) -> Result<Option<Found>, ApiError> {
        let resource = mirror::resource(self.registry, "", plural)?;
        let target = Target { resource: &resource, namespace: self.namespace, name };
        let entry = match self.registry.entry(target).await {
            Ok(entry) => entry,
            Err(error) if error.reason == Reason::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let object = encoding::decode_metadata(&entry)?;
        let since = object["metadata"]["deletionTimestamp"].as_str();
        let since = since.and_then(|at| at.parse::<Timestamp>().ok());
        let before = self.now.as_second() - LEEWAY_SECONDS;
        let deleted = since.is_some_and(|at| at.as_second() < before);
        Ok(Some(Found { uid: meta::uid(&object).to_owned(), deleted }))
    }

    async fn check_account(&self, account: &ObjectRef) -> Result<(), String> {
        let ObjectRef { name, uid } = account;
        let namespace = self.namespace;
        let found = self.find("serviceaccounts", name).await.map_err(|e| e.to_string())?;
        let Some(found) = found else {
            return Err(format!("serviceaccounts {name:?} not found"));
        };
        if found.deleted {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        if found.uid != *uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({uid})",
                found.uid
            ));
        }
        Ok(())
    }

    async fn check(&self, plural: &str, what: &str, bound: &ObjectRef) -> Result<(), String> {
        let found = self.find(plural, &bound.name).await.map_err(|e| e.to_string())?;
        match found {
            Some(found) if !found.deleted && found.uid == bound.uid => Ok(()),
            Some(found) if !found.deleted => Err(format!(
                "{what} UID ({}) does not match service account {what} ref claim ({})",
                found.uid, bound.uid
            )),
            _ => Err("service account token has been invalidated".to_owned()),
        }
    }
}
