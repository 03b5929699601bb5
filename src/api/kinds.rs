//! The kinds table: one row says everything generic code needs to know of a kind.

use std::borrow::Cow;

type Str = Cow<'static, str>;

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// What can be done with a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Stored objects: create, delete, deletecollection, get, list, patch, update, watch.
    Stored,
    /// A question that is answered and not stored (reviews): create.
    Asked,
}

/// A subresource that a kind serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    EphemeralContainers,
    Resize,
    Token,
    Approval,
    Finalize,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Str,
    /// API version, as `v1`.
    pub version: Str,
    /// As `Deployment`.
    pub kind: Str,
    /// As `deployments`; also the last element of the URL.
    pub plural: Str,
    /// As `deployment`.
    pub singular: Str,
    /// As `deploy`.
    pub short_names: Cow<'static, [Str]>,
    /// As `all`.
    pub categories: Cow<'static, [Str]>,
    /// Where its objects live.
    pub scope: Scope,
    /// Whether objects are stored.
    pub access: Access,
    /// The subresources it serves.
    pub subresources: Cow<'static, [Subresource]>,
    /// Dotted paths that field selectors may name, besides `metadata.name` and
    /// `metadata.namespace`. A missing value selects as the empty string.
    pub selectable: Cow<'static, [Str]>,
    /// The schema of an object, as `io.k8s.api.apps.v1.Deployment`.
    pub schema: Str,
    /// First element of the keys under which its objects are stored, as `apps/deployments`;
    /// versions of one kind share it.
    pub storage: Str,
}

impl Kind {
    /// `apiVersion` of its objects: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.scope {
            Scope::Cluster => format!("/{}/{}", self.storage, name),
            Scope::Namespaced => format!("/{}/{}/{}", self.storage, namespace, name),
        }
    }

    /// What the keys of all its objects, or of those in one namespace, start with.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match (self.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => format!("/{}/{}/", self.storage, namespace),
            _ => format!("/{}/", self.storage),
        }
    }
}
