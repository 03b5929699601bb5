//! What a pod can read about itself: `fieldRef` and `resourceFieldRef`, for the environment and
//! for downward files. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::node::resources::{Amounts, amount};

/// What the node knows about a pod that its object does not say yet.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub pod_ip: String,
    pub host_ip: String,
    /// What a container without a limit may have: the node's allocatable.
    pub allocatable: Amounts,
}

/// Why a reference gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("invalid divisor {0} for {1}")]
    Divisor(String, String),
}

/// A map as downward files write it: one `key="value"` a line, sorted, the value quoted as Go does.
fn map_file(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v)));
    lines.collect::<Vec<_>>().join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a field of the pod.
pub fn field(
    pod: &Pod,
    facts: &Facts,
    selector: &ObjectFieldSelector,
) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let path = selector.field_path.as_str();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => map_file(meta.labels.as_ref()),
        "metadata.annotations" => map_file(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// The value of a resource of a container, `own` unless the reference names another.
pub fn resource(
    pod: &Pod,
    facts: &Facts,
    own: Option<&str>,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).or(own);
    let name = name.unwrap_or_default();
    let containers =
        pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let container = containers
        .into_iter()
        .find(|c| c.name == name)
        .ok_or_else(|| FieldError::Container(name.to_owned()))?;
    let (kind, what) = selector
        .resource
        .split_once('.')
        .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
        .ok_or_else(|| FieldError::Resource(selector.resource.clone()))?;
    let divisor = selector.divisor.as_ref().map_or("1", |d| d.0.as_str());
    let divisor = if divisor == "0" || divisor.is_empty() { "1" } else { divisor };
    // cpu is counted in thousandths on both sides, so the quotient is the same.
    let unit = amount(what, &Quantity(divisor.to_owned()));
    if unit <= 0 {
        return Err(FieldError::Divisor(divisor.to_owned(), selector.resource.clone()));
    }
    let value = value_of(container, kind, what)
        .or_else(|| facts.allocatable.get(what).copied().filter(|_| kind == "limits"))
        .unwrap_or(0);
    Ok((value / unit + i64::from(value % unit != 0)).to_string())
}

fn value_of(container: &Container, kind: &str, what: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let limits = resources.limits.as_ref().and_then(|l| l.get(what));
    let found = match kind {
        "limits" => limits,
        _ => resources.requests.as_ref().and_then(|r| r.get(what)).or(limits),
    };
    found.map(|quantity| amount(what, quantity)).filter(|v| *v > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u",
                         "labels": {"b": "2", "a": "x\"y\n"}},
            "spec": {"nodeName": "w1", "containers": [
                {"name": "app", "resources": {"limits": {"memory": "1Gi", "cpu": "1500m"}}},
                {"name": "free"}]},
        }))
        .expect("a pod")
    }

    fn facts() -> Facts {
        let allocatable = [("cpu".to_owned(), 4000), ("memory".to_owned(), 8 << 30)].into();
        Facts { pod_ip: "10.1.0.2".to_owned(), host_ip: "127.0.0.1".to_owned(), allocatable }
    }

    #[test]
    fn fields_of_the_pod_are_found() {
        let of = |path: &str| {
            let selector = ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            };
            field(&pod(), &facts(), &selector)
        };
        let table = [
            ("metadata.name", "web"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"x\\\"y\\n\"\nb=\"2\""),
            ("spec.nodeName", "w1"),
            ("status.podIP", "10.1.0.2"),
            ("status.hostIP", "127.0.0.1"),
        ];
        for (path, expected) in table {
            assert_eq!(of(path).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(of("spec.volumes"), Err(FieldError::Path("spec.volumes".to_owned())));
    }

    #[test]
    fn resources_are_divided_and_rounded_up_and_default_to_the_node() {
        let of = |container: &str, what: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: divisor.map(|d| Quantity(d.to_owned())),
                resource: what.to_owned(),
            };
            resource(&pod(), &facts(), Some(container), &selector).expect("a value")
        };
        assert_eq!(of("app", "limits.cpu", None), "2");
        assert_eq!(of("app", "limits.cpu", Some("1m")), "1500");
        assert_eq!(of("app", "requests.memory", Some("1Mi")), "1024");
        assert_eq!(of("free", "limits.memory", Some("1Gi")), "8");
        assert_eq!(of("free", "requests.cpu", None), "0");
    }
}
