//! The verbs of the API on paths, over [`kube::Client`].
//!
//! `kube::Api` wants a type for every kind and decodes every answer into it; controllers also act
//! on kinds known only by discovery and mostly need no answer. Errors are [`kube::Error`]; the
//! functions at the end ask what one means.

use http::{Method, Request, header};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Asks for metadata only, and takes whole objects from a server that cannot.
pub const ACCEPT_PARTIAL: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// The same for lists.
pub const ACCEPT_PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What an answer that nobody reads is decoded into.
pub type Ignored = serde::de::IgnoredAny;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by their keys.
    Strategic,
    /// RFC 6902.
    Json,
}

impl Patch {
    fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The options of a deletion; the default ones delete as the kind's own defaults say.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this resourceVersion.
    pub resource_version: Option<String>,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
}

impl Delete {
    /// Deletes only the object with this uid.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = json!(uid);
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = json!(version);
        }
        if let Some(grace) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = json!(grace);
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        body
    }
}

fn group_version<K: Resource>() -> String {
    if K::GROUP.is_empty() {
        format!("/api/{}", K::VERSION)
    } else {
        format!("/apis/{}/{}", K::GROUP, K::VERSION)
    }
}

/// The path of all objects of a kind, in all namespaces.
pub fn all<K: Resource>() -> String {
    format!("{}/{}", group_version::<K>(), K::URL_PATH_SEGMENT)
}

/// The path of the objects of a kind in one namespace.
pub fn collection<K: Resource<Scope = NamespaceResourceScope>>(namespace: &str) -> String {
    format!("{}/namespaces/{namespace}/{}", group_version::<K>(), K::URL_PATH_SEGMENT)
}

/// The path of an object in a namespace.
pub fn object<K: Resource<Scope = NamespaceResourceScope>>(namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection::<K>(namespace))
}

/// The path of a cluster-scoped object.
pub fn cluster_object<K: Resource<Scope = ClusterResourceScope>>(name: &str) -> String {
    format!("{}/{name}", all::<K>())
}

fn request(
    method: Method,
    path: &str,
    content_type: &'static str,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, kube::Error> {
    serde_json::to_vec(body).map_err(kube::Error::SerdeError)
}

/// Reads `path`.
///
/// # Errors
/// What the server answered, or that it could not be asked.
pub async fn get<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, kube::Error> {
    client.request(request(Method::GET, path, "application/json", Vec::new())?).await
}

/// Reads only the metadata of the object at `path`.
///
/// # Errors
/// As [`get`].
pub async fn get_partial(
    client: &kube::Client,
    path: &str,
) -> Result<super::meta::Partial, kube::Error> {
    let mut asked = request(Method::GET, path, "application/json", Vec::new())?;
    asked.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static(ACCEPT_PARTIAL));
    client.request(asked).await
}

/// Posts `body` to the collection (or subresource) at `path`.
///
/// # Errors
/// As [`get`].
pub async fn create<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    body: &impl Serialize,
) -> Result<T, kube::Error> {
    client.request(request(Method::POST, path, "application/json", encode(body)?)?).await
}

/// Puts `body` in the place of what is at `path`.
///
/// # Errors
/// As [`get`]; 409 when `metadata.resourceVersion` is set and no longer the newest.
pub async fn replace<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    body: &impl Serialize,
) -> Result<T, kube::Error> {
    client.request(request(Method::PUT, path, "application/json", encode(body)?)?).await
}

/// Patches what is at `path`.
///
/// # Errors
/// As [`replace`].
pub async fn patch<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    kind: Patch,
    body: &Value,
) -> Result<T, kube::Error> {
    client.request(request(Method::PATCH, path, kind.content_type(), encode(body)?)?).await
}

/// Deletes what is at `path`.
///
/// # Errors
/// As [`get`]; 409 when a precondition does not hold.
pub async fn delete(
    client: &kube::Client,
    path: &str,
    options: &Delete,
) -> Result<(), kube::Error> {
    let body = encode(&options.body())?;
    let asked = request(Method::DELETE, path, "application/json", body)?;
    client.request::<Ignored>(asked).await.map(|_| ())
}

/// The merge patch (RFC 7386) that makes `old` be `new`; nothing when they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = serde_json::Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        match before.get(name) {
            Some(old) => {
                if let Some(change) = merge_diff(old, value) {
                    patch.insert(name.clone(), change);
                }
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    Some(Value::Object(patch))
}

/// Writes the difference between two states of `status` to the status subresource of the object at
/// `path`, provided that the object is still at `resource_version`.
///
/// # Errors
/// As [`replace`].
pub async fn patch_status<S: Serialize>(
    client: &kube::Client,
    path: &str,
    resource_version: Option<&str>,
    old: &S,
    new: &S,
) -> Result<(), kube::Error> {
    let value = |status: &S| serde_json::to_value(status).map_err(kube::Error::SerdeError);
    let Some(change) = merge_diff(&value(old)?, &value(new)?) else {
        return Ok(());
    };
    let mut body = json!({"status": change});
    if let Some(version) = resource_version {
        body["metadata"]["resourceVersion"] = json!(version);
    }
    patch::<Ignored>(client, &format!("{path}/status"), Patch::Merge, &body).await.map(|_| ())
}

/// The HTTP code of an error that the server answered.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// Someone else wrote the object meanwhile, or a precondition does not hold.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// An object of that name is already there.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Nothing can be created, since the namespace is being deleted.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            let causes = status.details.iter().flat_map(|d| &d.causes);
            status.code == 403
                && (causes.into_iter().any(|c| c.reason == "NamespaceTerminating")
                    || status.message.contains("because it is being terminated"))
        }
        _ => false,
    }
}

/// `None` for what is not there.
///
/// # Errors
/// Any other error.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Node, Pod};

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(all::<Pod>(), "/api/v1/pods");
        assert_eq!(
            object::<Deployment>("default", "web"),
            "/apis/apps/v1/namespaces/default/deployments/web"
        );
        assert_eq!(cluster_object::<Node>("one"), "/api/v1/nodes/one");
    }

    #[test]
    fn a_merge_diff_holds_only_what_changed() {
        let old = json!({"a": 1, "b": {"c": 1, "d": [1]}, "gone": true});
        let new = json!({"a": 1, "b": {"c": 2, "d": [1]}, "new": "x"});
        assert_eq!(merge_diff(&old, &new), Some(json!({"b": {"c": 2}, "gone": null, "new": "x"})));
        assert_eq!(merge_diff(&old, &old), None);
    }

    #[test]
    fn a_deletion_names_its_preconditions_and_policy() {
        let mut options = Delete::uid("u1");
        options.propagation = Some(Propagation::Foreground);
        assert_eq!(
            options.body(),
            json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"uid": "u1"}, "propagationPolicy": "Foreground"})
        );
    }
}
