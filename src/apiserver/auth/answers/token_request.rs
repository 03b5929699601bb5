//! `serviceaccounts/token`: a token of an account, for an audience and a time, bound to an object
//! with which it ends.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::strings;
use crate::api::field::Path;
use crate::api::status::{ApiError, FieldError};
use crate::api::{Object, meta};
use crate::apiserver::answers::Answer;
use crate::apiserver::auth::authn::{Claims, Kubernetes, ObjectRef};
use crate::apiserver::auth::start::AuthConfig;
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::registry::Registry;
use crate::base::clock::rfc3339_seconds;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;

/// What admission asks for in the name of every pod. Clients that read their token once live
/// longer than that, so these tokens do as well; when they should have been read again is noted.
const SECONDS_OF_PODS: i64 = 3607;
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;

/// The answer.
pub(super) struct TokenRequests {
    config: AuthConfig,
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<ObjectRef>,
    secret: Option<ObjectRef>,
    node: Option<ObjectRef>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl TokenRequests {
    pub fn new(config: &AuthConfig) -> Self {
        Self { config: config.clone() }
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.config.registry
    }

    async fn existing(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Object, ApiError> {
        let found = self.registry().get(("", plural), namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found("", plural, name))
    }

    async fn bound(
        &self,
        reference: &Value,
        namespace: &str,
        account: &str,
    ) -> Result<Bound, ApiError> {
        let mut bound = Bound::default();
        if !reference.is_object() {
            return Ok(bound);
        }
        let (version, kind) = (text(&reference["apiVersion"]), text(&reference["kind"]));
        let name = text(&reference["name"]);
        let (uid, to) = match (version.contains('/'), kind) {
            (false, "Pod") => {
                let pod = self.existing("pods", namespace, name).await?;
                if text(&pod["spec"]["serviceAccountName"]) != account {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with \
                         different serviceaccount name."
                    )));
                }
                bound.node = self.node_of(&pod).await?;
                (meta::uid(&pod).to_owned(), &mut bound.pod)
            }
            (false, "Secret") => {
                let secret = self.existing("secrets", namespace, name).await?;
                (meta::uid(&secret).to_owned(), &mut bound.secret)
            }
            (false, "Node") => {
                let node = self.existing("nodes", "", name).await?;
                (meta::uid(&node).to_owned(), &mut bound.node)
            }
            _ => {
                let group_version =
                    if version.contains('/') { version.to_owned() } else { format!("/{version}") };
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {group_version}, Kind={kind}"
                )));
            }
        };
        let wanted = text(&reference["uid"]);
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in \
                 record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict("", kind, name, &why));
        }
        *to = Some(ObjectRef { name: name.to_owned(), uid });
        Ok(bound)
    }

    /// The node of a pod; without its uid where the Node is gone.
    async fn node_of(&self, pod: &Object) -> Result<Option<ObjectRef>, ApiError> {
        let name = text(&pod["spec"]["nodeName"]);
        if name.is_empty() {
            return Ok(None);
        }
        let node = self.registry().get(("", "nodes"), "", name).await?;
        let uid = node.as_ref().map(|node| meta::uid(node).to_owned()).unwrap_or_default();
        Ok(Some(ObjectRef { name: name.to_owned(), uid }))
    }

    /// How long a token lives, and after how long it should have been replaced.
    fn lifetime(&self, seconds: i64, audiences: &[String], bound: &Bound) -> (i64, Option<i64>) {
        let ours = audiences.iter().all(|audience| self.config.audiences.contains(audience));
        if bound.pod.is_some() && seconds == SECONDS_OF_PODS && ours {
            return (SECONDS_EXTENDED, Some(seconds));
        }
        (seconds, None)
    }
}

#[async_trait]
impl Answer for TokenRequests {
    async fn answer(
        &self,
        _: &UserInfo,
        attributes: &Attributes,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        let Attributes { namespace, name, .. } = attributes;
        match_parent(&object, namespace, name)?;
        let account = self.existing("serviceaccounts", namespace, name).await?;
        let uid = meta::uid(&account).to_owned();
        let wanted = meta::uid(&object);
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the token request ({wanted}) does not match the UID of the service \
                 account ({uid})"
            );
            return Err(ApiError::conflict(GROUP, KIND, name, &why));
        }
        let seconds = object["spec"]["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
        let errors = validate(seconds, &object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(GROUP, KIND, "", &errors));
        }
        let mut audiences = strings(&object["spec"]["audiences"]);
        if audiences.is_empty() {
            audiences = self.config.audiences.clone();
        }
        let bound = self.bound(&object["spec"]["boundObjectRef"], namespace, name).await?;
        let now = self.config.clock.now();
        let (lives, warns) = self.lifetime(seconds, &audiences, &bound);
        let issued = now.as_second();
        let claims = Claims {
            aud: audiences.clone(),
            exp: issued.saturating_add(lives),
            iat: issued,
            iss: self.config.issuer.clone(),
            jti: self.registry().new_uid(),
            kubernetes: Kubernetes {
                namespace: namespace.clone(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: ObjectRef { name: name.clone(), uid: uid.clone() },
                warnafter: warns.map(|seconds| issued.saturating_add(seconds)),
            },
            nbf: issued,
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        let claims = serde_json::to_value(&claims).map_err(ApiError::internal)?;
        let token = self.config.key.sign(&claims).map_err(ApiError::internal)?;
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(namespace);
        metadata["uid"] = json!(uid);
        metadata["creationTimestamp"] = json!(rfc3339_seconds(now));
        object["spec"]["audiences"] = json!(audiences);
        object["spec"]["expirationSeconds"] = json!(seconds);
        let expires = rfc3339_seconds(now + SignedDuration::from_secs(seconds));
        object["status"] = json!({"token": token, "expirationTimestamp": expires});
        Ok(object)
    }
}

fn match_parent(object: &Object, namespace: &str, name: &str) -> Result<(), ApiError> {
    let path = Path::new("metadata");
    for (field, said, is, what) in [
        ("name", meta::name(object), name, "name"),
        ("namespace", meta::namespace(object), namespace, "namespace"),
    ] {
        if !said.is_empty() && said != is {
            let why = format!("must match the service account {what} if specified");
            let error = path.child(field).invalid(said, why);
            return Err(ApiError::invalid(GROUP, KIND, name, &[error]));
        }
    }
    Ok(())
}

fn validate(seconds: i64, object: &Object) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let at = path.child("expirationSeconds");
    if seconds < SECONDS_MIN {
        errors.push(at.invalid(seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > SECONDS_MAX {
        errors.push(at.invalid(seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let attestations = object["spec"]["attestations"].as_object();
    if attestations.is_some_and(|map| !map.is_empty()) {
        let why = "attestations are not issued by this server";
        errors.push(path.child("attestations").forbidden(why));
    }
    errors
}
