//! `nodeSelector` and required node affinity.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::scheduler::model::{Node, Pod};
use crate::scheduler::snapshot::NodeInfo;

pub fn check(info: &NodeInfo, pod: &Pod) -> Result<(), Vec<String>> {
    let node = &info.node;
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = pod
        .node_affinity
        .as_ref()
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = required
        .is_none_or(|selector| selector.node_selector_terms.iter().any(|t| term_matches(t, node)));
    if selected && fits {
        return Ok(());
    }
    Err(vec!["node(s) didn't match Pod's node affinity/selector".to_owned()])
}

/// Whether a term matches: all of its requirements do, and it has some.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_name = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, by_name(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|v| values.iter().any(|w| w == v));
    let compared = |fits: fn(i64, i64) -> bool| {
        let number = value.and_then(|v| v.parse::<i64>().ok());
        let bound = values.first().and_then(|v| v.parse::<i64>().ok());
        number.zip(bound).is_some_and(|(number, bound)| fits(number, bound))
    };
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|number, bound| number > bound),
        "Lt" => compared(|number, bound| number < bound),
        _ => false,
    }
}
