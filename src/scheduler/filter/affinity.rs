//! `nodeSelector` and required node affinity, both of which must match.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::Reason;
use crate::scheduler::pod::Pod;
use crate::scheduler::snapshot::Node;

pub fn check(pod: &Pod, node: &Node) -> Option<Reason> {
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let wanted =
        pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| matches(term, node)));
    (!selected || !wanted).then_some(Reason::Affinity)
}

/// Whether all requirements of a term hold. A term without any matches nothing.
pub fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| holds(requirement, &node.labels))
        && fields.iter().all(|requirement| field_holds(requirement, node))
}

fn field_holds(requirement: &NodeSelectorRequirement, node: &Node) -> bool {
    // metadata.name is the only field that a node can be selected by.
    let named = requirement.values.iter().flatten().any(|value| **value == *node.name);
    requirement.key == "metadata.name"
        && match requirement.operator.as_str() {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let label = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" => label.is_some_and(|label| values.contains(label)),
        "NotIn" => label.is_none_or(|label| !values.contains(label)),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        "Gt" => compare(label, values).is_some_and(|(label, value)| label > value),
        "Lt" => compare(label, values).is_some_and(|(label, value)| label < value),
        _ => false,
    }
}

fn compare(label: Option<&String>, values: &[String]) -> Option<(i64, i64)> {
    let [value] = values else { return None };
    Some((label?.parse().ok()?, value.parse().ok()?))
}
