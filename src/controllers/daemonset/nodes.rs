//! Which nodes a DaemonSet's pods belong on: `nodeName`, `nodeSelector`, required node affinity,
//! taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::controllers::node_lifecycle::eviction::tolerates;

/// What a node is to a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// A pod belongs there.
    Run,
    /// None is started there; one that runs stays.
    Stay,
    No,
}

/// What the node is to pods of this spec, which already has the tolerations of its kind.
pub fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name)
        || !is_selected(spec, node, name)
    {
        return Fit::No;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| {
        let mut taints = taints.iter().filter(|taint| taint.effect == effect);
        taints.any(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
    };
    match (untolerated("NoExecute"), untolerated("NoSchedule")) {
        (true, _) => Fit::No,
        (_, true) => Fit::Stay,
        _ => Fit::Run,
    }
}

fn is_selected(spec: &PodSpec, node: &Node, name: &str) -> bool {
    let nothing = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&nothing);
    let selector = spec.node_selector.iter().flatten();
    if !selector.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
        .is_none_or(|wanted| {
            wanted.node_selector_terms.iter().any(|term| term_fits(term, labels, name))
        })
}

/// A term without requirements fits nothing.
fn term_fits(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|wanted| holds(wanted, labels.get(&wanted.key).map(String::as_str)))
        && fields.iter().all(|wanted| wanted.key == "metadata.name" && holds(wanted, Some(name)))
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let both = number(value).zip(number(values.first().map(String::as_str)));
    match wanted.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => both.is_some_and(|(value, bound)| value > bound),
        "Lt" => both.is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "one", "labels": {"disk": "ssd",
            "cores": "4"}}, "spec": {"taints": taints}}))
        .expect("a node")
    }

    fn affinity(term: Value) -> Value {
        json!({"containers": [], "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    }

    #[test]
    fn a_node_fits_when_it_is_selected_and_its_taints_are_tolerated() {
        let gt = |value: &str| {
            affinity(json!({"matchExpressions": [
                {"key": "cores", "operator": "Gt", "values": [value]}]}))
        };
        let named = |name: &str| {
            affinity(json!({"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": [name]}]}))
        };
        let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect}]);
        let tolerant = json!({"containers": [], "tolerations": [
            {"key": "k", "operator": "Equal", "value": "v"}]});
        let plain = json!({"containers": []});
        let cases = [
            (plain.clone(), json!([]), Fit::Run),
            (json!({"containers": [], "nodeName": "two"}), json!([]), Fit::No),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), json!([]), Fit::Run),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), json!([]), Fit::No),
            (gt("3"), json!([]), Fit::Run),
            (gt("4"), json!([]), Fit::No),
            (named("one"), json!([]), Fit::Run),
            (named("two"), json!([]), Fit::No),
            (affinity(json!({})), json!([]), Fit::No),
            (plain.clone(), taint("NoSchedule"), Fit::Stay),
            (plain.clone(), taint("NoExecute"), Fit::No),
            (plain, taint("PreferNoSchedule"), Fit::Run),
            (tolerant, taint("NoExecute"), Fit::Run),
        ];
        for (spec, taints, expected) in cases {
            let told = spec.to_string();
            let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
            assert_eq!(fit(&spec, &node(taints)), expected, "{told}");
        }
    }
}
