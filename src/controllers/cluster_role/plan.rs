//! The rules of an aggregated ClusterRole (`pkg/controller/clusterroleaggregation`).

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::controllers::selector;

/// Whether the rules of the role are put together from others'.
pub fn is_aggregated(role: &ClusterRole) -> bool {
    role.aggregation_rule.is_some()
}

/// The rules that `role` should have, given all roles; nothing when it has them.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut parts: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|part| {
            let labels = part.metadata.labels.clone().unwrap_or_default();
            part.metadata.name != role.metadata.name
                && selectors.iter().any(|selector| selector::matches(selector, &labels))
        })
        .collect();
    parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.into_iter().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.clone().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, labels: serde_json::Value, verb: &str) -> Arc<ClusterRole> {
        let role = json!({"metadata": {"name": name, "labels": labels},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]});
        Arc::new(serde_json::from_value(role).expect("a ClusterRole"))
    }

    #[test]
    fn the_rules_of_all_selected_roles_come_in_order_of_name_and_once() {
        let all = [
            role("b", json!({"to": "view"}), "list"),
            role("a", json!({"to": "view"}), "get"),
            role("c", json!({"to": "view"}), "get"),
            role("d", json!({}), "delete"),
        ];
        let mut view: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "view"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}))
        .expect("a ClusterRole");
        let rules = plan(&view, &all).expect("it must change");
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "list"]);
        view.rules = Some(rules);
        assert_eq!(plan(&view, &all), None);
        assert_eq!(plan(&all[0], &all), None, "a plain role is left alone");
    }
}
