//! What a user may do: `system:masters` everything, nodes what their pods need, everybody what
//! RBAC gives them. The first that allows decides; nobody denies what another allows.

mod node;
mod node_pods;
mod rbac;
mod references;
mod rule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;

pub(super) use node::{LEASES, NodeAuthorizer, NodeIdentity, identity};
pub(super) use node_pods::NodePods;
pub(super) use rbac::{ACCOUNT_PREFIX, Bindings, Rbac, RoleRef, Roles, aggregate};
pub(super) use references::{MIRROR, References};
pub(super) use rule::{Rule, compacted, missing, quoted};

use super::mirror::Mirror;
use super::{Attributes, Authorizer, Decision, UserInfo};
use crate::link::identity::MASTERS_GROUP;

/// A decision with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

/// The authorizers, in order.
pub(super) struct Chain {
    pub node: NodeAuthorizer,
    pub rbac: Arc<Rbac>,
    /// What the tables of RBAC are filled by.
    pub mirrors: Vec<Mirror>,
}

/// Whether the user may do everything, whatever the roles say.
pub(super) fn is_master(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == MASTERS_GROUP)
}

/// Only those who said who they are make the tables catch up.
fn is_known(user: &UserInfo) -> bool {
    !user.groups.iter().any(|group| group == "system:unauthenticated")
}

impl Chain {
    /// Decides, and says why.
    pub async fn decide(&self, user: &UserInfo, asked: &Attributes) -> Verdict {
        if is_master(user) {
            return Verdict { allowed: true, reason: String::new() };
        }
        let mut reasons = Vec::new();
        match self.node.decide(user, asked).await {
            node::Answer::Allowed => return Verdict { allowed: true, reason: String::new() },
            node::Answer::Silent(reason) | node::Answer::Unrelated(reason) => reasons.push(reason),
        }
        let mut answer = self.rbac.decide(user, asked);
        if matches!(answer, rbac::Answer::Silent(_)) && is_known(user) {
            self.settle().await;
            answer = self.rbac.decide(user, asked);
        }
        match answer {
            rbac::Answer::Allowed(reason) => return Verdict { allowed: true, reason },
            rbac::Answer::Silent(reason) => reasons.extend(reason),
        }
        reasons.retain(|reason| !reason.is_empty());
        Verdict { allowed: false, reason: reasons.join("\n") }
    }

    /// Waits until the tables of RBAC show all that was written before.
    pub async fn settle(&self) {
        futures::future::join_all(self.mirrors.iter().map(Mirror::settle)).await;
    }
}

#[async_trait]
impl Authorizer for Chain {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let verdict = self.decide(user, attributes).await;
        if verdict.allowed {
            return Decision::Allow;
        }
        Decision::Deny((!verdict.reason.is_empty()).then_some(verdict.reason))
    }
}
