//! What the first start creates, and every start repairs: namespaces, roles, the `kubernetes`
//! Service, and what else clients take for granted.
//!
//! Roles and bindings get back what they lack and keep what others added to them, unless their
//! annotation `rbac.authorization.kubernetes.io/autoupdate` says `false`. What tells where the
//! cluster is (endpoints, CA) is set to what is true now. Everything else is created once and then
//! left alone.

use serde_json::Value;

use super::registry::Registry;
use super::strategy::Part;
use crate::api::Object;
use crate::api::status::{ApiError, Reason};

mod flows;
mod objects;
mod roles;

pub(super) use objects::NETWORK_ACCOUNT;
pub use objects::{BootstrapConfig, FRONT_PROXY};
pub(super) use roles::node_rules;

/// Creates and repairs everything.
///
/// # Errors
/// What the registry refused.
pub async fn reconcile(registry: &Registry, config: &BootstrapConfig) -> Result<(), ApiError> {
    registry.load_definitions().await?;
    let mut wanted = objects::objects(config);
    wanted.extend(flows::priority_levels());
    wanted.extend(flows::flow_schemas());
    wanted.extend(roles::cluster_roles());
    wanted.extend(roles::cluster_role_bindings());
    wanted.extend(roles::namespaced());
    for object in wanted {
        ensure(registry, object).await?;
    }
    Ok(())
}

async fn ensure(registry: &Registry, wanted: Object) -> Result<(), ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let catalog = registry.catalog();
    let kind = catalog.table().of(&text(&wanted["apiVersion"]), &text(&wanted["kind"]));
    let kind = kind.expect("only built-in kinds are bootstrapped");
    let resource = (kind.group.as_ref(), kind.plural.as_ref());
    let metadata = &wanted["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let Some(current) = registry.get(resource, &namespace, &name).await? else {
        return match registry.create(resource, &namespace, wanted).await {
            Err(error) if error.reason != Reason::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    };
    let mut repaired = current.clone();
    repair(&mut repaired, &wanted);
    if repaired == current {
        return Ok(());
    }
    tracing::info!(kind = %kind.kind, name, "a bootstrap object was repaired");
    registry.update(resource, Part::Main, repaired).await.map(|_| ())
}

/// Brings `current` to what it must have.
fn repair(current: &mut Object, wanted: &Object) {
    match wanted["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => {
            let updates =
                &current["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"];
            if updates == "false" {
                return;
            }
            add_missing(current, wanted, "rules");
            add_missing(current, wanted, "subjects");
        }
        "Endpoints" => replace(current, wanted, &["subsets"]),
        "EndpointSlice" => replace(current, wanted, &["endpoints", "ports"]),
        "ConfigMap" => replace(current, wanted, &["data"]),
        _ => {}
    }
}

fn add_missing(current: &mut Object, wanted: &Object, field: &str) {
    // The rules of an aggregated role are its parts', not ours to add to.
    if wanted["aggregationRule"].is_object() {
        return;
    }
    let Some(wanted) = wanted[field].as_array() else { return };
    let mut all = current[field].as_array().cloned().unwrap_or_default();
    let before = all.len();
    all.extend(wanted.iter().filter(|item| !covered(&all, item)).cloned().collect::<Vec<_>>());
    if all.len() > before {
        current[field] = Value::Array(all);
    }
}

/// Whether an item is among `all`, defaults that the server set aside.
fn covered(all: &[Value], item: &Value) -> bool {
    let item = item.as_object();
    all.iter().any(|other| {
        item.is_some_and(|fields| fields.iter().all(|(key, value)| other.get(key) == Some(value)))
    })
}

fn replace(current: &mut Object, wanted: &Object, fields: &[&str]) {
    for field in fields {
        if !says(&current[*field], &wanted[*field]) {
            current[*field] = wanted[*field].clone();
        }
    }
}

/// Whether `now` says all that `wanted` says (and perhaps defaults besides).
fn says(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(n, w)| says(n, w))
        }
        (Value::Object(now), Value::Object(wanted)) => {
            wanted.iter().all(|(key, w)| now.get(key).is_some_and(|n| says(n, w)))
        }
        _ => now == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_gets_back_what_it_lacks_and_keeps_what_was_added() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let wanted = json!({"kind": "ClusterRole", "rules": [rule("get"), rule("list")]});
        let mut current = json!({"kind": "ClusterRole", "rules": [rule("list"), rule("watch")]});
        repair(&mut current, &wanted);
        assert_eq!(current["rules"], json!([rule("list"), rule("watch"), rule("get")]));
        current["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] =
            json!("false");
        current["rules"] = json!([]);
        repair(&mut current, &wanted);
        assert_eq!(current["rules"], json!([]));
    }

    #[test]
    fn an_endpoint_is_replaced_only_when_it_is_not_true_any_more() {
        let endpoint = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true}});
        let slice = |ip: &str| json!({"kind": "EndpointSlice", "endpoints": [endpoint(ip)]});
        let mut current = slice("10.0.0.1");
        current["endpoints"][0]["conditions"]["serving"] = json!(true);
        let before = current.clone();
        repair(&mut current, &slice("10.0.0.1"));
        assert_eq!(current, before);
        repair(&mut current, &slice("10.0.0.2"));
        assert_eq!(current["endpoints"][0]["addresses"][0], "10.0.0.2");
    }
}
