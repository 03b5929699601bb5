//! API aggregation: an APIService with a Service behind it has requests for its group and version
//! answered there.
//!
//! ```text
//! request ─▶ authenticated ─▶ authorized ─▶ whose group and version is it?
//!                                             ├─ this server's
//!                                             └─ an APIService's: X-Remote-User … ─▶ Service
//! every few seconds: GET /apis/GROUP/VERSION ─▶ Available True | False, and what it serves
//! ```
//!
//! The other server knows this one by the certificate of the front proxy, whose CA and headers
//! `kube-system/extension-apiserver-authentication` tells.

mod available;
mod proxy;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Value, json};

pub use available::follow;

use super::reach::Reach;
use super::registry::{Derived, Registry};
use crate::api::Object;
use crate::api::kinds::KindTable;
use crate::api::meta;
use crate::api::status::ApiError;
use crate::link::identity::Identity;
use crate::link::outbound::Trust;

const API_SERVICES: (&str, &str) = ("apiregistration.k8s.io", "apiservices");

/// An APIService that another server answers.
#[derive(Debug, Clone)]
pub(super) struct Delegate {
    /// As `v1beta1.metrics.k8s.io`.
    pub name: String,
    pub group: String,
    pub version: String,
    namespace: String,
    service: String,
    port: i64,
    trust: Trust,
    group_priority: i64,
    version_priority: i64,
}

impl Delegate {
    fn parse(object: &Object) -> Option<Self> {
        let spec = &object["spec"];
        let service = &spec["service"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        service.is_object().then(|| Self {
            name: meta::name(object).to_owned(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            namespace: text(&service["namespace"]),
            service: text(&service["name"]),
            port: service["port"].as_i64().unwrap_or(443),
            trust: Trust {
                ca_bundle: crate::api::decode_base64(&text(&spec["caBundle"])),
                anyone: spec["insecureSkipTLSVerify"] == true,
            },
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
        })
    }
}

/// What asks other servers.
pub struct Aggregator {
    registry: Arc<Registry>,
    reach: Arc<Reach>,
    /// By which this server proves itself to others.
    identity: Option<Identity>,
    delegates: Derived<Vec<Delegate>>,
    /// What each of them was last found to serve (an `APIResourceList`), by name.
    found: RwLock<HashMap<String, Value>>,
}

impl Aggregator {
    /// Follows the APIServices in `registry`.
    pub fn new(
        registry: Arc<Registry>,
        reach: Arc<Reach>,
        identity: Option<Identity>,
    ) -> Arc<Self> {
        let delegates = Derived::new(&registry, &[API_SERVICES], |mut all| {
            all.pop().unwrap_or_default().iter().filter_map(Delegate::parse).collect()
        });
        Arc::new(Self { registry, reach, identity, delegates, found: RwLock::default() })
    }

    /// Who answers for a group and version, where it is not this server. What this server serves
    /// itself nobody takes from it.
    pub(super) async fn delegate(
        &self,
        table: &KindTable,
        group: &str,
        version: &str,
    ) -> Result<Option<Delegate>, ApiError> {
        if group.is_empty() || table.serves(group, version) {
            return Ok(None);
        }
        let all = self.delegates.get().await?;
        Ok(all.iter().find(|d| d.group == group && d.version == version).cloned())
    }

    /// Adds what other servers serve to a list of groups (`/apis`), or answers one group
    /// (`/apis/GROUP`).
    pub(super) async fn groups(&self, table: &KindTable) -> Result<Vec<Value>, ApiError> {
        let mut all: Vec<Delegate> = self.delegates.get().await?.as_ref().clone();
        all.retain(|d| !table.serves(&d.group, &d.version));
        all.sort_by(|a, b| {
            (b.group_priority, &a.group, b.version_priority).cmp(&(
                a.group_priority,
                &b.group,
                a.version_priority,
            ))
        });
        let mut groups: Vec<Value> = Vec::new();
        for delegate in &all {
            let version = json!({
                "groupVersion": format!("{}/{}", delegate.group, delegate.version),
                "version": delegate.version,
            });
            match groups.iter_mut().find(|g| g["name"] == delegate.group) {
                Some(group) => {
                    if let Some(versions) = group["versions"].as_array_mut() {
                        versions.push(version);
                    }
                }
                None => groups.push(json!({
                    "name": delegate.group,
                    "versions": [version],
                    "preferredVersion": version,
                })),
            }
        }
        Ok(groups)
    }

    /// What other servers serve, as items of the aggregated discovery document.
    pub(super) async fn discovered(&self, table: &KindTable) -> Result<Vec<Value>, ApiError> {
        let groups = self.groups(table).await?;
        let found = self.found.read();
        let items = groups.iter().map(|group| {
            let name = group["name"].as_str().unwrap_or_default();
            let versions = group["versions"].as_array().into_iter().flatten().map(|version| {
                let version = version["version"].as_str().unwrap_or_default();
                match found.get(&format!("{version}.{name}")) {
                    Some(list) => json!({"version": version, "freshness": "Current",
                        "resources": aggregated(list, name, version)}),
                    None => json!({"version": version, "freshness": "Stale", "resources": []}),
                }
            });
            let versions: Vec<Value> = versions.collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        });
        Ok(items.collect())
    }
}

/// An `APIResourceList` as the resources of an aggregated document.
fn aggregated(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let all = meta::list(&list["resources"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind_of = |resource: &Value| {
        let or = |field: &str, otherwise: &str| match text(&resource[field]).as_str() {
            "" => otherwise.to_owned(),
            said => said.to_owned(),
        };
        json!({"group": or("group", group), "version": or("version", version),
            "kind": resource["kind"]})
    };
    let main = all.iter().filter(|resource| !text(&resource["name"]).contains('/'));
    main.map(|resource| {
        let name = text(&resource["name"]);
        let mut shown = json!({
            "resource": name,
            "responseKind": kind_of(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                shown[field] = resource[field].clone();
            }
        }
        let below: Vec<Value> = all
            .iter()
            .filter_map(|sub| {
                let subresource = text(&sub["name"]);
                let subresource = subresource.strip_prefix(&format!("{name}/"))?.to_owned();
                Some(json!({"subresource": subresource, "responseKind": kind_of(sub),
                    "verbs": sub["verbs"]}))
            })
            .collect();
        if !below.is_empty() {
            shown["subresources"] = below.into();
        }
        shown
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_resources_is_told_in_the_aggregated_form() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true,
                "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]});
        let found = aggregated(&list, "wardle.example.com", "v1alpha1");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["responseKind"]["group"], "wardle.example.com");
        assert_eq!(found[0]["subresources"][0]["subresource"], "status");
    }
}
