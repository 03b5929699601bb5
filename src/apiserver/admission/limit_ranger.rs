//! `LimitRanger`: containers get the namespace's default requests and limits, and pods and claims
//! stay within its bounds.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::meta::list;
use crate::api::quantity::Quantity;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

const RANGES: (&str, &str) = ("", "limitranges");
/// Tells which values came from this plugin.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub struct LimitRanger {
    registry: Arc<Registry>,
}

impl LimitRanger {
    /// Looks LimitRanges up in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The limits of the namespace, for a write that they are about.
    async fn limits(&self, request: &Request<'_>) -> Result<Vec<Value>, ApiError> {
        let at = request.attributes;
        let about = match request.kind {
            "Pod" => request.operation == Operation::Create,
            "PersistentVolumeClaim" => {
                matches!(request.operation, Operation::Create | Operation::Update)
            }
            _ => false,
        };
        if !about || !at.subresource.is_empty() {
            return Ok(Vec::new());
        }
        let (ranges, _) = self.registry.list(RANGES, Some(&at.namespace)).await?;
        Ok(ranges.iter().flat_map(|range| list(&range["spec"]["limits"]).to_vec()).collect())
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        if request.is_core("Pod") {
            for limit in self.limits(request).await? {
                fill(&limit, object);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        if !request.attributes.group.is_empty() {
            return Ok(());
        }
        let mut wrong = Vec::new();
        for limit in self.limits(request).await? {
            match (limit["type"].as_str(), request.kind) {
                (Some("Container"), "Pod") => {
                    for container in containers(object) {
                        bounds(&limit, "Container", &container["resources"], &mut wrong);
                    }
                }
                (Some("Pod"), "Pod") => bounds(&limit, "Pod", &whole(object), &mut wrong),
                (Some("PersistentVolumeClaim"), "PersistentVolumeClaim") => {
                    claim_bounds(&limit, &object["spec"]["resources"], &mut wrong);
                }
                _ => {}
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let at = request.attributes;
        let why =
            if wrong.len() == 1 { wrong.remove(0) } else { format!("[{}]", wrong.join(", ")) };
        Err(ApiError::forbidden(&at.group, &at.resource, &at.name, &why))
    }
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    list(&pod["spec"]["initContainers"]).iter().chain(list(&pod["spec"]["containers"]))
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

/// Gives the containers of a pod their defaults, and notes it.
fn fill(limit: &Value, pod: &mut Object) {
    if limit["type"] != "Container" {
        return;
    }
    // What the range leaves open, its own defaults have filled in.
    let (limits, requests) = (&limit["default"], &limit["defaultRequest"]);
    let mut told = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        // Indexing to write would put a null in the place of a list that is not there.
        let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            // A limit of its own is also its request, as everywhere.
            let own = container["resources"]["limits"].clone();
            for (which, defaults) in [("requests", requests), ("limits", limits)] {
                let set = set_missing(container, which, defaults, &own);
                if !set.is_empty() {
                    let which = which.trim_end_matches('s');
                    told.push(format!("{} {which} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        crate::api::meta::metadata(pod);
        let annotations = crate::api::meta::entry(&mut pod["metadata"], "annotations");
        annotations.insert(ANNOTATION.into(), json!(text));
    }
}

fn set_missing(container: &mut Value, which: &str, defaults: &Value, own: &Value) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in defaults.as_object().into_iter().flatten() {
        let said = !container["resources"][which][name].is_null();
        if said || (which == "requests" && !own[name].is_null()) {
            continue;
        }
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        container["resources"][which][name] = value.clone();
        set.push(name.clone());
    }
    set
}

/// What the containers of a pod ask for together; limits only where every container has one.
fn whole(pod: &Object) -> Value {
    let mut sums = json!({});
    for which in ["requests", "limits"] {
        let usage = crate::api::quota::usage("", "pods", pod);
        for (name, amount) in usage {
            if let Some(resource) = name.strip_prefix(&format!("{which}.")) {
                let everywhere = list(&pod["spec"]["containers"])
                    .iter()
                    .all(|container| !container["resources"][which][resource].is_null());
                if which == "requests" || everywhere {
                    sums[which][resource] = json!(amount.to_string());
                }
            }
        }
    }
    sums
}

/// What of `resources` is out of the limit's bounds.
fn bounds(limit: &Value, kind: &str, resources: &Value, wrong: &mut Vec<String>) {
    let entries = |field: &str| limit[field].as_object().cloned().unwrap_or_default();
    let both = |name: &str| {
        let limit = amount(&resources["limits"][name]);
        (amount(&resources["requests"][name]).or(limit), limit)
    };
    for (name, bound) in entries("min") {
        let Some(least) = amount(&bound) else { continue };
        let start = format!("minimum {name} usage per {kind} is {least}");
        match both(&name) {
            (None, _) => wrong.push(format!("{start}.  No request is specified")),
            (Some(request), _) if request < least => {
                wrong.push(format!("{start}, but request is {request}"));
            }
            (_, Some(limit)) if limit < least => {
                wrong.push(format!("{start}, but limit is {limit}"));
            }
            _ => {}
        }
    }
    for (name, bound) in entries("max") {
        let Some(most) = amount(&bound) else { continue };
        let start = format!("maximum {name} usage per {kind} is {most}");
        match both(&name) {
            (_, None) => wrong.push(format!("{start}.  No limit is specified")),
            (_, Some(limit)) if limit > most => {
                wrong.push(format!("{start}, but limit is {limit}"));
            }
            (Some(request), _) if request > most => {
                wrong.push(format!("{start}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, bound) in entries("maxLimitRequestRatio") {
        let Some(most) = amount(&bound) else { continue };
        let start = format!("{name} max limit to request ratio per {kind} is {most}");
        match both(&name) {
            (Some(request), Some(limit)) if request.sign() > 0 => {
                let ratio = limit.nano() as f64 / request.nano() as f64;
                if ratio > most.nano() as f64 / 1e9 {
                    wrong.push(format!("{start}, but provided ratio is {ratio:.6}"));
                }
            }
            _ => wrong.push(format!("{start}, but no request is specified or request is 0.")),
        }
    }
}

fn claim_bounds(limit: &Value, resources: &Value, wrong: &mut Vec<String>) {
    let Some(asked) = amount(&resources["requests"]["storage"]) else { return };
    let bound = |field: &str| amount(&limit[field]["storage"]);
    let kind = "PersistentVolumeClaim";
    if let Some(least) = bound("min").filter(|least| asked < *least) {
        wrong.push(format!("minimum storage usage per {kind} is {least}, but request is {asked}"));
    }
    if let Some(most) = bound("max").filter(|most| asked > *most) {
        wrong.push(format!("maximum storage usage per {kind} is {most}, but request is {asked}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Object {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    #[test]
    fn a_container_gets_what_it_does_not_say() {
        let limit = json!({"type": "Container", "default": {"cpu": "2", "memory": "512Mi"},
            "defaultRequest": {"cpu": "2", "memory": "256Mi"}});
        let mut silent = pod(json!({}));
        fill(&limit, &mut silent);
        let resources = &silent["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], json!({"cpu": "2", "memory": "256Mi"}));
        assert_eq!(resources["limits"], json!({"cpu": "2", "memory": "512Mi"}));
        assert_eq!(
            silent["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for \
             container a"
        );
        let mut own = pod(json!({"limits": {"memory": "100Mi", "cpu": "1"}}));
        fill(&limit, &mut own);
        let resources = &own["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"memory": "100Mi", "cpu": "1"}));
        assert!(resources["requests"].is_null(), "its limit is its request");
    }

    #[test]
    fn what_is_out_of_bounds_is_told_in_kubernetes_words() {
        let limit = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1"},
            "maxLimitRequestRatio": {"cpu": "4"}});
        let told = |resources: Value| {
            let mut wrong = Vec::new();
            bounds(&limit, "Container", &resources, &mut wrong);
            wrong
        };
        assert!(told(json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "1"}})).is_empty());
        assert_eq!(
            told(json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "200m"}})),
            ["minimum cpu usage per Container is 100m, but request is 50m"]
        );
        assert_eq!(
            told(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})),
            ["maximum cpu usage per Container is 1, but limit is 2"]
        );
        assert_eq!(
            told(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})),
            ["cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000"]
        );
        assert_eq!(told(json!({})).len(), 3);
    }
}
