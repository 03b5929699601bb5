//! What admission asks about who writes: nodes keep to their own, signers are asked for by whoever
//! may, nobody gives out more than they hold.

mod certificates;
mod escalation;
mod node_restriction;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use certificates::{CertificateApproval, CertificateSigning, CertificateSubjectRestriction};
use escalation::Escalation;
use node_restriction::NodeRestriction;

use super::authz::Chain;
use crate::apiserver::admission::Plugin;
use crate::apiserver::registry::Registry;

/// The plugins, in order.
pub(super) fn plugins(registry: &Arc<Registry>, authorizer: &Arc<Chain>) -> Vec<Arc<dyn Plugin>> {
    let (registry, authorizer) = (registry.clone(), authorizer.clone());
    vec![
        Arc::new(NodeRestriction { registry, authorizer: authorizer.clone() }),
        Arc::new(CertificateApproval { authorizer: authorizer.clone() }),
        Arc::new(CertificateSigning { authorizer: authorizer.clone() }),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(Escalation { authorizer }),
    ]
}
