//! Taints with effect NoSchedule or NoExecute keep pods away that do not tolerate them.

use super::{Filter, Reason};
use crate::scheduler::node::{NodeInfo, Taint};
use crate::scheduler::pod::{Pod, Toleration};

pub struct Rule<'a>(pub &'a Pod);

impl Filter for Rule<'_> {
    fn check(&self, info: &NodeInfo, refuse: &mut dyn FnMut(Reason)) {
        if let Some(taint) = untolerated(&self.0.tolerations, &info.node.taints) {
            let value = taint.value.as_deref().unwrap_or_default();
            refuse(Reason::Taint { key: taint.key.as_str().into(), value: value.into() });
        }
    }
}

/// The first taint that keeps a pod with these tolerations away.
pub fn untolerated<'a>(tolerations: &[Toleration], taints: &'a [Taint]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerated(tolerations, taint))
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
    let numbers = || {
        let number = |text: Option<&String>| text?.parse::<i64>().ok();
        Some((number(taint.value.as_ref())?, number(toleration.value.as_ref())?))
    };
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        // KEP-5471.
        "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
        "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
        _ => false,
    }
}
