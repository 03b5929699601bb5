//! Taints with effect NoSchedule or NoExecute keep pods away that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::Reason;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Node;

pub fn check(pod: &Pod, node: &Node) -> Option<Reason> {
    let taint = node
        .taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerated(&pod.tolerations, taint))?;
    let value = taint.value.as_deref().unwrap_or_default();
    Some(Reason::Taint { key: taint.key.as_str().into(), value: value.into() })
}

/// Whether one of the tolerations tolerates the taint.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// Whether a toleration tolerates a taint: an empty effect stands for all effects, an empty key
/// with `Exists` for all keys.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}
