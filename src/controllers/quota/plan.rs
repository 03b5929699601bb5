//! The status of a ResourceQuota from the objects of its namespace.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

use crate::api::quantity::Quantity;
use crate::api::quota::{self, Usage};

/// The kinds that must be listed for the quota: `(group, plural)`.
pub fn kinds(quota: &ResourceQuota) -> BTreeSet<(String, String)> {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.filter_map(|(name, _)| quota::counted_from(name))
        .map(|(group, plural)| (group.to_owned(), plural.to_owned()))
        .collect()
}

/// The status, given the objects of each kind.
pub fn status(
    quota: &ResourceQuota,
    objects: &BTreeMap<(String, String), Vec<Value>>,
) -> ResourceQuotaStatus {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let whole = serde_json::to_value(quota).expect("a quota is valid JSON");
    let mut used: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for ((group, plural), objects) in objects {
        for object in objects.iter().filter(|object| quota::in_scope(&whole, plural, object)) {
            for (name, amount) in quota::usage(group, plural, object) {
                if let Some(sum) = used.get_mut(&name) {
                    *sum = sum.plus(amount);
                }
            }
        }
    }
    let used = used.into_iter().map(|(name, amount)| (name, Text(amount.to_string())));
    ResourceQuotaStatus { hard: Some(hard), used: Some(used.collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_quota_limits_and_is_about_is_counted() {
        let quota: ResourceQuota = serde_json::from_value(json!({"metadata": {"name": "q"},
            "spec": {"hard": {"pods": "5", "count/deployments.apps": "2"}}}))
        .expect("a quota");
        let key = |group: &str, plural: &str| (group.to_owned(), plural.to_owned());
        assert_eq!(kinds(&quota), [key("", "pods"), key("apps", "deployments")].into());
        let over = json!({"status": {"phase": "Failed"}});
        let objects = [
            (key("", "pods"), vec![json!({}), json!({}), over]),
            (key("apps", "deployments"), vec![json!({})]),
        ];
        let status = status(&quota, &objects.into());
        let used = status.used.expect("amounts");
        assert_eq!((&*used["pods"].0, &*used["count/deployments.apps"].0), ("2", "1"));
        assert_eq!(used.len(), 2);
    }
}
