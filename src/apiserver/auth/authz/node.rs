//! The node authorizer (`plugin/pkg/auth/authorizer/node`): a node may read what its own pods need,
//! and nothing of other nodes.
//!
//! ```text
//! node ◀── pod ◀── secret, configmap, serviceaccount
//!            ◀── persistentvolumeclaim ◀── persistentvolume ◀── secret
//! node ◀── volumeattachment
//! ```
//!
//! What it writes is its own to begin with (leases, CSINodes), or is held to that by the
//! `NodeRestriction` admission plugin.

use std::sync::Arc;

use super::node_pods::NodePods;
use super::references::{References, volume_secrets};
use super::rule::Rule;
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::auth::mirror::Mirror;
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::registry::Registry;
use crate::link::identity::{NODE_PREFIX, NODES_GROUP};

/// The namespace of the leases of nodes.
pub const LEASES: &str = "kube-node-lease";

/// Who a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeIdentity<'a> {
    /// No node.
    No,
    /// A node without a name.
    Nameless,
    Named(&'a str),
}

/// Reads who asks: a node is a user `system:node:NAME` in the group of nodes.
pub fn identity(user: &UserInfo) -> NodeIdentity<'_> {
    let Some(name) = user.name.strip_prefix(NODE_PREFIX) else { return NodeIdentity::No };
    if !user.groups.iter().any(|group| group == NODES_GROUP) {
        return NodeIdentity::No;
    }
    if name.is_empty() { NodeIdentity::Nameless } else { NodeIdentity::Named(name) }
}

/// What it says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Allowed,
    /// It has no opinion; the reason, where there is one.
    Silent(String),
    /// Only whoever knows more pods than the request's time allowed can tell.
    Unrelated(String),
}

/// The authorizer.
pub struct NodeAuthorizer {
    registry: Arc<Registry>,
    pods: Arc<NodePods>,
    mirror: Mirror,
    rules: Vec<Rule>,
}

fn silent(reason: impl Into<String>) -> Answer {
    Answer::Silent(reason.into())
}

/// What can be related to a node.
#[derive(Debug, Clone, Copy)]
enum Vertex {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    Attachment,
    Account,
}

impl NodeAuthorizer {
    /// `rules`: what every node may do besides.
    pub fn new(
        registry: &Arc<Registry>,
        pods: Arc<NodePods>,
        mirror: Mirror,
        rules: Vec<Rule>,
    ) -> Self {
        Self { registry: registry.clone(), pods, mirror, rules }
    }

    /// Decides. A refusal for want of a relation is given only when the pods of this moment are
    /// known.
    pub async fn decide(&self, user: &UserInfo, asked: &Attributes) -> Answer {
        let node = match identity(user) {
            NodeIdentity::No => return silent(""),
            NodeIdentity::Nameless => {
                return silent(format!("unknown node for user {:?}", user.name));
            }
            NodeIdentity::Named(node) => node,
        };
        match self.judge(node, asked).await {
            Answer::Unrelated(_) => {
                self.mirror.settle().await;
                match self.judge(node, asked).await {
                    Answer::Unrelated(reason) => Answer::Silent(reason),
                    answer => answer,
                }
            }
            answer => answer,
        }
    }

    async fn judge(&self, node: &str, asked: &Attributes) -> Answer {
        match (asked.group.as_str(), asked.resource.as_str()) {
            ("", "secrets") => self.read(node, Vertex::Secret, asked).await,
            ("", "configmaps") => self.read(node, Vertex::ConfigMap, asked).await,
            ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                match asked.verb.as_str() {
                    "update" | "patch" => self.related(node, Vertex::Claim, asked).await,
                    _ => silent("can only get/update/patch this type"),
                }
            }
            ("", "persistentvolumeclaims") => self.get(node, Vertex::Claim, asked).await,
            ("", "persistentvolumes") => self.get(node, Vertex::Volume, asked).await,
            ("storage.k8s.io", "volumeattachments") => {
                self.get(node, Vertex::Attachment, asked).await
            }
            ("", "serviceaccounts") => self.account(node, asked).await,
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => csi_node(node, asked),
            ("resource.k8s.io", "resourceslices" | "resourceclaims") => {
                silent("nodes have no devices to give out here")
            }
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.pod(node, asked).await,
            _ if self.rules.iter().any(|rule| rule.allows(asked)) => Answer::Allowed,
            _ => silent(""),
        }
    }

    /// A read of one object, whatever the verb.
    async fn read(&self, node: &str, vertex: Vertex, asked: &Attributes) -> Answer {
        if !matches!(asked.verb.as_str(), "get" | "list" | "watch") {
            return silent("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return silent("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return silent("can only read namespaced object of this type");
        }
        self.related(node, vertex, asked).await
    }

    async fn get(&self, node: &str, vertex: Vertex, asked: &Attributes) -> Answer {
        if asked.verb != "get" {
            return silent("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return silent("cannot get subresource");
        }
        self.related(node, vertex, asked).await
    }

    async fn account(&self, node: &str, asked: &Attributes) -> Answer {
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.related(node, Vertex::Account, asked).await;
        }
        if asked.verb != "create" || asked.name.is_empty() {
            return silent("can only create tokens for individual service accounts");
        }
        if asked.subresource != "token" {
            return silent("can only create token subresource of serviceaccount");
        }
        self.related(node, Vertex::Account, asked).await
    }

    async fn pod(&self, node: &str, asked: &Attributes) -> Answer {
        match (asked.subresource.as_str(), asked.verb.as_str()) {
            ("", "get") => self.get(node, Vertex::Pod, asked).await,
            ("", "list" | "watch") => {
                let own =
                    |(field, value): &(String, String)| field == "spec.nodeName" && value == node;
                if asked.field_selector.iter().any(own) {
                    return Answer::Allowed;
                }
                if !asked.name.is_empty() {
                    return self.related(node, Vertex::Pod, asked).await;
                }
                silent("can only list/watch pods with spec.nodeName field selector")
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Answer::Allowed
            }
            _ => silent(""),
        }
    }

    async fn related(&self, node: &str, vertex: Vertex, asked: &Attributes) -> Answer {
        if asked.name.is_empty() {
            return silent("No Object name found");
        }
        let reason = || format!("no relationship found between node '{node}' and this object");
        match self.has_path(node, vertex, &asked.namespace, &asked.name).await {
            Ok(true) => Answer::Allowed,
            Ok(false) => Answer::Unrelated(reason()),
            Err(error) => {
                tracing::warn!(%error, node, "the node authorizer cannot read the store");
                Answer::Silent(reason())
            }
        }
    }

    async fn has_path(
        &self,
        node: &str,
        vertex: Vertex,
        namespace: &str,
        name: &str,
    ) -> Result<bool, ApiError> {
        let pods = &self.pods;
        match vertex {
            Vertex::Pod => Ok(pods.is_on(node, namespace, name)),
            Vertex::ConfigMap => {
                pods.any(node, namespace, |pod| pod.config_maps.contains(name)).await
            }
            Vertex::Claim => pods.any(node, namespace, |pod| pod.claims.contains(name)).await,
            Vertex::Account => pods.any(node, namespace, |pod| pod.account == name).await,
            Vertex::Secret => {
                let named = |pod: &References| pod.secrets.contains(name);
                if pods.any(node, namespace, named).await? {
                    return Ok(true);
                }
                self.is_secret_of_volume(node, namespace, name).await
            }
            Vertex::Volume => {
                let Some(volume) = self.object(("", "persistentvolumes"), "", name).await? else {
                    return Ok(false);
                };
                let (namespace, claim) = claim_of(&volume);
                pods.any(node, namespace, |pod| pod.claims.contains(claim)).await
            }
            Vertex::Attachment => {
                let of = ("storage.k8s.io", "volumeattachments");
                let attachment = self.object(of, "", name).await?;
                Ok(attachment.is_some_and(|found| found["spec"]["nodeName"] == *node))
            }
        }
    }

    /// Whether a volume that a pod of the node claims needs the secret.
    async fn is_secret_of_volume(
        &self,
        node: &str,
        namespace: &str,
        name: &str,
    ) -> Result<bool, ApiError> {
        let wanted = (namespace.to_owned(), name.to_owned());
        for (of, claim) in self.pods.claims(node).await? {
            let found = self.object(("", "persistentvolumeclaims"), &of, &claim).await?;
            let volume = found.as_ref().and_then(|claim| claim["spec"]["volumeName"].as_str());
            let Some(volume) = volume.filter(|name| !name.is_empty()) else { continue };
            let volume = self.object(("", "persistentvolumes"), "", volume).await?;
            let claimed = volume.filter(|volume| claim_of(volume) == (of.as_str(), &claim));
            if claimed.is_some_and(|volume| volume_secrets(&volume, &of).contains(&wanted)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn object(
        &self,
        resource: (&str, &str),
        namespace: &str,
        name: &str,
    ) -> Result<Option<Object>, ApiError> {
        self.registry.get(resource, namespace, name).await
    }
}

/// The claim that a volume is bound to, as `(namespace, name)`.
fn claim_of(volume: &Object) -> (&str, &str) {
    let claim = &volume["spec"]["claimRef"];
    let text = |field: &str| claim[field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

fn lease(node: &str, asked: &Attributes) -> Answer {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return silent("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return silent(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // The name of what is created is not known yet: admission sees it.
    if asked.verb != "create" && asked.name != node {
        return silent("can only access node lease with the same name as the requesting node");
    }
    Answer::Allowed
}

fn csi_node(node: &str, asked: &Attributes) -> Answer {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return silent("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return silent("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return silent("can only access CSINode with the same name as the requesting node");
    }
    Answer::Allowed
}

fn own_node(node: &str, asked: &Attributes) -> Answer {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Answer::Allowed,
        ("", "get" | "list" | "watch") => match asked.name.as_str() {
            name if name == node => Answer::Allowed,
            "" => silent(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => {
                silent(format!("node '{node}' cannot read '{other}', only its own Node object"))
            }
        },
        _ => silent(""),
    }
}
