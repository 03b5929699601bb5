//! `NodeRestriction`: a node writes its own Node, its Lease and its CSINode, the status of its own
//! pods and their claims, deletes and evicts its own pods, and asks for tokens for its pods alone.
//! With the node authorizer in front of it, that is all that a node can do.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::Object;
use crate::api::meta::{self, annotation, list};
use crate::api::status::ApiError;
use crate::apiserver::admission::{Operation, Plugin, Request};
use crate::apiserver::auth::authz::{Chain, LEASES, MIRROR, NodeIdentity, References, identity};
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::bootstrap::NETWORK_ACCOUNT;
use crate::apiserver::registry::Registry;

const RESTRICTION: &str = "node-restriction.kubernetes.io";

/// The labels of `kubernetes.io` and `k8s.io` that a node may set on itself.
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The plugin.
pub struct NodeRestriction {
    pub(super) registry: Arc<Registry>,
    pub(super) authorizer: Arc<Chain>,
}

/// A write of a node.
struct Write<'a> {
    node: &'a str,
    at: &'a Attributes,
    name: &'a str,
    user: &'a UserInfo,
}

impl Write<'_> {
    fn refuse(&self, why: impl AsRef<str>) -> ApiError {
        ApiError::forbidden(&self.at.group, &self.at.resource, self.name, why.as_ref())
    }

    fn unless(&self, holds: bool, why: impl FnOnce() -> String) -> Result<(), ApiError> {
        if holds { Ok(()) } else { Err(self.refuse(why())) }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn operation_word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        self.restrict(request, object).await
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        // A deletion changes nothing on its way, so it comes by here alone.
        if request.operation == Operation::Delete {
            return self.restrict(request, object).await;
        }
        Ok(())
    }
}

impl NodeRestriction {
    async fn restrict(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let named = if at.name.is_empty() { meta::name(object) } else { &at.name };
        let node = match identity(request.user) {
            NodeIdentity::No => return Ok(()),
            NodeIdentity::Named(node) => node,
            NodeIdentity::Nameless => {
                let why = format!("could not determine node from user {:?}", request.user.name);
                return Err(ApiError::forbidden(&at.group, &at.resource, named, &why));
            }
        };
        let write = Write { node, at, name: named, user: request.user };
        match (at.group.as_str(), at.resource.as_str()) {
            ("", "pods") => self.pod(&write, request, object).await,
            ("", "nodes") => own_node(&write, request, object),
            ("", "persistentvolumeclaims") => claim_status(&write, request, object),
            ("", "serviceaccounts") if at.subresource == "token" => {
                self.token(&write, object).await
            }
            ("coordination.k8s.io", "leases") => {
                write.unless(at.namespace == LEASES, || {
                    format!("can only access leases in the {LEASES:?} system namespace")
                })?;
                write.unless(named == node, || {
                    "can only access node lease with the same name as the requesting node".into()
                })
            }
            ("storage.k8s.io", "csinodes") => write.unless(named == node, || {
                "can only access CSINode with the same name as the requesting node".into()
            }),
            _ => Ok(()),
        }
    }

    async fn pod(
        &self,
        write: &Write<'_>,
        request: &Request<'_>,
        pod: &Object,
    ) -> Result<(), ApiError> {
        let node = write.node;
        let bound = |pod: Option<&Object>| pod.is_some_and(|pod| pod["spec"]["nodeName"] == *node);
        match (write.at.subresource.as_str(), request.operation) {
            ("", Operation::Create) => self.mirror_pod(write, pod).await,
            ("", Operation::Delete) => write.unless(bound(request.old), || {
                format!("node {node:?} can only delete pods with spec.nodeName set to itself")
            }),
            ("", other) => Err(write.refuse(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation_word(other)
            ))),
            ("status", Operation::Update) => {
                write.unless(bound(request.old), || {
                    format!(
                        "node {node:?} can only update pod status for pods with spec.nodeName set \
                         to itself"
                    )
                })?;
                let old = request.old.unwrap_or(&Value::Null);
                write.unless(same(old, pod, &["metadata", "labels"]), || {
                    format!("node {node:?} cannot update labels through pod status")
                })?;
                write.unless(same(old, pod, &["status", "resourceClaimStatuses"]), || {
                    format!("node {node:?} cannot update resource claim statues")
                })
            }
            // An eviction comes by here as the deletion that it is.
            ("eviction", Operation::Delete) => write.unless(bound(request.old), || {
                format!("node {node} can only evict pods with spec.nodeName set to itself")
            }),
            ("status" | "eviction", other) => {
                Err(write.refuse(format!("unexpected operation {:?}", operation_word(other))))
            }
            (other, _) => Err(write.refuse(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            ))),
        }
    }

    /// A pod that the node already runs by itself, told to the API: it refers to nothing there.
    async fn mirror_pod(&self, write: &Write<'_>, pod: &Object) -> Result<(), ApiError> {
        let node = write.node;
        write.unless(annotation(pod, MIRROR).is_some(), || {
            format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            )
        })?;
        write.unless(pod["spec"]["nodeName"] == *node, || {
            format!("node {node:?} can only create pods with spec.nodeName set to itself")
        })?;
        self.owned_by_node(write, pod).await?;
        let refers =
            |what: &str| format!("node {node:?} can not create pods that reference {what}");
        let found = References::all_of(pod);
        write.unless(found.account.is_empty(), || refers("a service account"))?;
        write.unless(found.secrets.is_empty(), || refers("secrets"))?;
        write.unless(found.config_maps.is_empty(), || refers("configmaps"))?;
        let sources = || {
            let volumes = list(&pod["spec"]["volumes"]).iter();
            volumes.flat_map(|volume| list(&volume["projected"]["sources"]))
        };
        let none = |field: &str| sources().all(|source| source[field].is_null());
        write.unless(none("clusterTrustBundle"), || refers("clustertrustbundles"))?;
        write.unless(none("serviceAccountToken"), || refers("a service account"))?;
        write.unless(found.claims.is_empty(), || refers("persistentvolumeclaims"))
    }

    async fn owned_by_node(&self, write: &Write<'_>, pod: &Object) -> Result<(), ApiError> {
        let node = write.node;
        let can_only = |what: &str| format!("node {node:?} can only create pods with {what}");
        let owner = match meta::owners(pod) {
            [owner] => owner,
            [] => {
                return Err(write.refuse(can_only("an owner reference set to itself")));
            }
            _ => return Err(write.refuse(can_only("a single owner reference set to itself"))),
        };
        let is_node =
            owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == *node;
        write.unless(is_node, || can_only("an owner reference set to itself"))?;
        write.unless(owner["controller"] == true, || {
            can_only("a controller owner reference set to itself")
        })?;
        write.unless(owner["blockOwnerDeletion"] != true, || {
            format!("node {node:?} must not set blockOwnerDeletion on an owner reference")
        })?;
        let found = self.registry.get(("", "nodes"), "", node).await?;
        let Some(found) = found else { return Err(ApiError::not_found("", "nodes", node)) };
        let (said, uid) = (text(&owner["uid"]), meta::uid(&found));
        write.unless(said == uid, || format!("node {node} UID mismatch: expected {said} got {uid}"))
    }

    /// A token for a pod of the node. The network of every node runs as one account, by which it
    /// reads what no node may.
    async fn token(&self, write: &Write<'_>, asked: &Object) -> Result<(), ApiError> {
        let at = write.at;
        if (at.namespace.as_str(), at.name.as_str()) == NETWORK_ACCOUNT {
            return Ok(());
        }
        let bound = &asked["spec"]["boundObjectRef"];
        let name = text(&bound["name"]);
        let to_pod = bound["apiVersion"] == "v1" && bound["kind"] == "Pod" && !name.is_empty();
        write.unless(to_pod, || "node requested token not bound to a pod".into())?;
        let uid = text(&bound["uid"]);
        write.unless(!uid.is_empty(), || {
            "node requested token with a pod binding without a uid".into()
        })?;
        let found = self.registry.get(("", "pods"), &at.namespace, name).await?;
        let Some(pod) = found else { return Err(ApiError::not_found("", "pods", name)) };
        write.unless(meta::uid(&pod) == uid, || {
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            )
        })?;
        write.unless(pod["spec"]["nodeName"] == *write.node, || {
            "node requested token bound to a pod scheduled on a different node".into()
        })?;
        self.audience(write, &pod, list(&asked["spec"]["audiences"])).await
    }

    /// A node asks for what its pod asks for, or for what it was given leave to.
    async fn audience(
        &self,
        write: &Write<'_>,
        pod: &Object,
        audiences: &[Value],
    ) -> Result<(), ApiError> {
        let audience = match audiences {
            [] => "",
            [one] => text(one),
            _ => return Err(write.refuse("node may only request 0 or 1 audiences")),
        };
        let volumes = list(&pod["spec"]["volumes"]);
        let projected = volumes.iter().flat_map(|volume| list(&volume["projected"]["sources"]));
        let mut tokens = projected.map(|source| &source["serviceAccountToken"]);
        if tokens.any(|token| token.is_object() && text(&token["audience"]) == audience) {
            return Ok(());
        }
        for volume in volumes {
            let driver = text(&volume["csi"]["driver"]);
            if !driver.is_empty() && self.driver_asks(driver, audience).await? {
                return Ok(());
            }
        }
        let leave = Attributes {
            verb: "request-serviceaccounts-token-audience".into(),
            version: "v1".into(),
            resource: audience.to_owned(),
            namespace: write.at.namespace.clone(),
            name: write.at.name.clone(),
            ..Attributes::default()
        };
        let given =
            !audience.is_empty() && self.authorizer.decide(write.user, &leave).await.allowed;
        write.unless(given, || format!("audience {audience:?} not found in pod spec volume"))
    }

    async fn driver_asks(&self, driver: &str, audience: &str) -> Result<bool, ApiError> {
        let found = self.registry.get(("storage.k8s.io", "csidrivers"), "", driver).await?;
        let requests = found.as_ref().map(|driver| list(&driver["spec"]["tokenRequests"]));
        let mut requests = requests.into_iter().flatten();
        Ok(requests.any(|request| text(&request["audience"]) == audience))
    }
}

/// Whether a field is the same, one that is missing being as good as an empty one.
fn same(a: &Object, b: &Object, path: &[&str; 2]) -> bool {
    let of = |object: &Object| -> Value {
        match &object[path[0]][path[1]] {
            Value::Object(map) if map.is_empty() => Value::Null,
            Value::Array(list) if list.is_empty() => Value::Null,
            value => value.clone(),
        }
    };
    of(a) == of(b)
}

fn own_node(write: &Write<'_>, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
    let node = write.node;
    write.unless(write.name == node, || {
        format!("node {node:?} is not allowed to modify node {:?}", write.name)
    })?;
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            write.unless(object["spec"]["configSource"].is_null(), || {
                format!("node {node:?} is not allowed to create pods with a non-nil configSource")
            })?;
            let forbidden = forbidden_labels(object, &Value::Null);
            write.unless(forbidden.is_empty(), || {
                let labels = forbidden.join(", ");
                format!("node {node:?} is not allowed to set the following labels: {labels}")
            })
        }
        (Operation::Update, Some(old)) => {
            let source = &object["spec"]["configSource"];
            let kept = source.is_null() || *source == old["spec"]["configSource"];
            write.unless(kept, || {
                format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil \
                     configSource"
                )
            })?;
            write.unless(same(old, object, &["spec", "taints"]), || {
                format!("node {node:?} is not allowed to modify taints")
            })?;
            // An owner that is gone would have the Node deleted, and its taints with it.
            write.unless(same(old, object, &["metadata", "ownerReferences"]), || {
                format!("node {node:?} is not allowed to modify ownerReferences")
            })?;
            let forbidden = forbidden_labels(object, old);
            write.unless(forbidden.is_empty(), || {
                format!("is not allowed to modify labels: {}", forbidden.join(", "))
            })
        }
        _ => Ok(()),
    }
}

/// The labels that differ and that a node may not set, in order.
fn forbidden_labels(new: &Object, old: &Object) -> Vec<String> {
    let (new, old) = (&new["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys = |labels: &Value| -> BTreeSet<String> {
        labels.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect()
    };
    let all: BTreeSet<String> = keys(new).union(&keys(old)).cloned().collect();
    all.into_iter().filter(|key| new[key] != old[key] && is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| {
        let sub = namespace.strip_suffix(domain);
        sub.is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    };
    if within(RESTRICTION) {
        return true;
    }
    let own = OWN_LABELS.contains(&label)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !own
}

/// Only how far the growing of a volume has come.
fn claim_status(write: &Write<'_>, request: &Request<'_>, new: &Object) -> Result<(), ApiError> {
    write.unless(write.at.subresource == "status", || "may only update PVC status".into())?;
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        let word = operation_word(request.operation);
        return Err(write.refuse(format!("unexpected operation {word:?}")));
    };
    let rest = |claim: &Object| {
        let mut rest = claim.clone();
        let fields = ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];
        for (outer, fields) in
            [("status", &fields[..]), ("metadata", &["resourceVersion", "managedFields"][..])]
        {
            if let Some(map) = rest[outer].as_object_mut() {
                fields.iter().for_each(|field| {
                    map.remove(*field);
                });
            }
        }
        rest
    };
    write.unless(rest(old) == rest(new), || {
        format!(
            "node {:?} is not allowed to update fields other than status.capacity and \
             status.conditions",
            write.node
        )
    })
}
