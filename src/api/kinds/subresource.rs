//! Subresources: their names in URLs, and what discovery says of them.

use super::Kind;

/// A subresource that a kind serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The kind of the objects that a subresource takes and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubresourceKind {
    /// Empty with an empty version: the group and version of the resource itself.
    pub group: &'static str,
    pub version: &'static str,
    /// Empty: the kind of the resource itself.
    pub kind: &'static str,
    /// Its type in the schema; empty: that of the resource itself, or none.
    pub schema: &'static str,
}

const SELF: SubresourceKind = SubresourceKind { group: "", version: "", kind: "", schema: "" };

impl Subresource {
    /// Every subresource.
    pub const ALL: [Self; 14] = [
        Self::Status,
        Self::Scale,
        Self::Binding,
        Self::Eviction,
        Self::Log,
        Self::Exec,
        Self::Attach,
        Self::PortForward,
        Self::Proxy,
        Self::EphemeralContainers,
        Self::Resize,
        Self::Token,
        Self::Approval,
        Self::Finalize,
    ];

    /// As in the URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Finalize => "finalize",
        }
    }

    /// The subresource of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The verbs that discovery tells.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status
            | Self::Scale
            | Self::EphemeralContainers
            | Self::Resize
            | Self::Approval => &["get", "patch", "update"],
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Log => &["get"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
            Self::Proxy => &["create", "delete", "get", "patch", "update"],
            Self::Finalize => &["update"],
        }
    }

    /// The kind of what it takes and answers, for `parent`.
    pub fn kind(self, parent: &Kind) -> SubresourceKind {
        let core = |kind| SubresourceKind { kind, ..SELF };
        match self {
            Self::Status
            | Self::Log
            | Self::EphemeralContainers
            | Self::Resize
            | Self::Approval
            | Self::Finalize => SELF,
            Self::Scale => SubresourceKind {
                group: "autoscaling",
                version: "v1",
                kind: "Scale",
                schema: "io.k8s.api.autoscaling.v1.Scale",
            },
            Self::Binding => {
                SubresourceKind { schema: "io.k8s.api.core.v1.Binding", ..core("Binding") }
            }
            Self::Eviction => SubresourceKind {
                group: "policy",
                version: "v1",
                kind: "Eviction",
                schema: "io.k8s.api.policy.v1.Eviction",
            },
            Self::Token => SubresourceKind {
                group: "authentication.k8s.io",
                version: "v1",
                kind: "TokenRequest",
                schema: "io.k8s.api.authentication.v1.TokenRequest",
            },
            Self::Exec => core("PodExecOptions"),
            Self::Attach => core("PodAttachOptions"),
            Self::PortForward => core("PodPortForwardOptions"),
            Self::Proxy => core(match &*parent.kind {
                "Node" => "NodeProxyOptions",
                "Service" => "ServiceProxyOptions",
                _ => "PodProxyOptions",
            }),
        }
    }
}
