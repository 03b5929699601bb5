//! What an object uses of a ResourceQuota, and whether a quota is about it (Kubernetes'
//! `pkg/quota/v1/evaluator/core`). Admission charges by this, and the controller counts by it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Object;
use super::meta::{self, list};
use super::quantity::{Format, Quantity};

/// Amounts by the names that quotas give them.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that quotas know by their plural alone.
const PLAIN: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn number(n: usize) -> Quantity {
    Quantity::from_units(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let sum = usage.entry(name.into()).or_insert(Quantity::ZERO);
    *sum = sum.plus(amount);
}

/// The kind that an amount of this name is counted from: `(group, plural)`.
pub fn counted_from(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group, plural));
    }
    match name {
        "services.nodeports" | "services.loadbalancers" => Some(("", "services")),
        "requests.storage" => Some(("", "persistentvolumeclaims")),
        _ if name.contains(".storageclass.storage.k8s.io/") => Some(("", "persistentvolumeclaims")),
        _ if PLAIN.contains(&name) => PLAIN.iter().find(|p| **p == name).map(|p| ("", *p)),
        "cpu" | "memory" | "ephemeral-storage" => Some(("", "pods")),
        _ if name.starts_with("requests.")
            || name.starts_with("limits.")
            || name.starts_with("hugepages-") =>
        {
            Some(("", "pods"))
        }
        _ => None,
    }
}

/// What the object uses, by every name that a quota could count it under.
pub fn usage(group: &str, plural: &str, object: &Object) -> Usage {
    let mut usage = Usage::new();
    let counted = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    add(&mut usage, format!("count/{counted}"), number(1));
    match (group, plural) {
        ("", "pods") => pod(&mut usage, object),
        ("", "services") => service(&mut usage, object),
        ("", "persistentvolumeclaims") => claim(&mut usage, object),
        ("", plural) if PLAIN.contains(&plural) => add(&mut usage, plural, number(1)),
        _ => {}
    }
    usage
}

fn pod(usage: &mut Usage, pod: &Object) {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return;
    }
    add(usage, "pods", number(1));
    for (name, amount) in resources(&pod["spec"], "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
        {
            add(usage, name.clone(), amount);
        }
        add(usage, format!("requests.{name}"), amount);
    }
    for (name, amount) in resources(&pod["spec"], "limits") {
        add(usage, format!("limits.{name}"), amount);
    }
}

/// What a pod asks for: its containers and sidecars together, or the largest init container with
/// the sidecars before it, whichever is more; and its overhead.
fn resources(spec: &Value, which: &str) -> Usage {
    let of = |container: &Value| -> Usage {
        let amounts = container["resources"][which].as_object();
        let amounts = amounts.into_iter().flatten();
        amounts.filter_map(|(name, text)| Some((name.clone(), amount(text)?))).collect()
    };
    let sum = |into: &mut Usage, other: Usage| {
        for (name, amount) in other {
            add(into, name, amount);
        }
    };
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in list(&spec["initContainers"]) {
        let mut now = sidecars.clone();
        sum(&mut now, of(container));
        if container["restartPolicy"] == "Always" {
            sidecars = now.clone();
        }
        for (name, amount) in now {
            let most = peak.entry(name).or_insert(Quantity::ZERO);
            *most = (*most).max(amount);
        }
    }
    let mut total = sidecars;
    for container in list(&spec["containers"]) {
        sum(&mut total, of(container));
    }
    for (name, amount) in peak {
        let most = total.entry(name).or_insert(Quantity::ZERO);
        *most = (*most).max(amount);
    }
    for (name, text) in spec["overhead"].as_object().into_iter().flatten() {
        if let Some(amount) = amount(text)
            && (which == "requests" || total.contains_key(name))
        {
            add(&mut total, name.clone(), amount);
        }
    }
    total
}

fn service(usage: &mut Usage, service: &Object) {
    add(usage, "services", number(1));
    let spec = &service["spec"];
    let ports = list(&spec["ports"]).len();
    match spec["type"].as_str() {
        Some("NodePort") => add(usage, "services.nodeports", number(ports)),
        Some("LoadBalancer") => {
            add(usage, "services.loadbalancers", number(1));
            if spec["allocateLoadBalancerNodePorts"] != false {
                add(usage, "services.nodeports", number(ports));
            }
        }
        _ => {}
    }
}

fn claim(usage: &mut Usage, claim: &Object) {
    add(usage, "persistentvolumeclaims", number(1));
    let asked = amount(&claim["spec"]["resources"]["requests"]["storage"]);
    if let Some(asked) = asked {
        add(usage, "requests.storage", asked);
    }
    let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|c| !c.is_empty()) else {
        return;
    };
    let prefix = format!("{class}.storageclass.storage.k8s.io");
    add(usage, format!("{prefix}/persistentvolumeclaims"), number(1));
    if let Some(asked) = asked {
        add(usage, format!("{prefix}/requests.storage"), asked);
    }
}

/// Whether the quota is about the object, by its scopes. Only pods have any.
pub fn in_scope(quota: &Object, plural: &str, object: &Object) -> bool {
    let spec = &quota["spec"];
    let scopes = list(&spec["scopes"]);
    let selectors = list(&spec["scopeSelector"]["matchExpressions"]);
    if scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    let exists = Value::Null;
    plural == "pods"
        && scopes.iter().all(|scope| has_scope(scope, &exists, object))
        && selectors.iter().all(|selector| has_scope(&selector["scopeName"], selector, object))
}

fn has_scope(scope: &Value, selector: &Value, pod: &Object) -> bool {
    let spec = &pod["spec"];
    let ends = spec["activeDeadlineSeconds"].as_i64().is_some();
    let asks = ["requests", "limits"].iter().any(|which| {
        let used = resources(spec, which);
        ["cpu", "memory"].iter().any(|name| used.get(*name).is_some_and(|a| a.sign() > 0))
    });
    match scope.as_str() {
        Some("Terminating") => ends,
        Some("NotTerminating") => !ends,
        Some("BestEffort") => !asks,
        Some("NotBestEffort") => asks,
        Some("PriorityClass") => {
            let class = spec["priorityClassName"].as_str().unwrap_or_default();
            let listed = list(&selector["values"]).iter().any(|value| value == class);
            match selector["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("DoesNotExist") => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

/// What the pod's containers must say and do not, since the quota limits it: `limits.cpu for: a`.
pub fn unsaid(hard: &Value, pod: &Object) -> Vec<String> {
    let mut missing = Vec::new();
    for name in hard.as_object().into_iter().flatten().map(|(name, _)| name) {
        let (which, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            "requests.cpu" | "limits.cpu" | "requests.memory" | "limits.memory" => {
                name.split_once('.').expect("the literals have a dot")
            }
            _ => continue,
        };
        let spec = &pod["spec"];
        let containers = list(&spec["initContainers"]).iter().chain(list(&spec["containers"]));
        let silent: Vec<&str> = containers
            .filter(|container| amount(&container["resources"][which][resource]).is_none())
            .map(|container| container["name"].as_str().unwrap_or_default())
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    missing
}

/// Those of `usage` that the quota limits.
pub fn limited(hard: &Value, usage: &Usage) -> Usage {
    let is_limited = |name: &&String| hard.get(name.as_str()).is_some();
    usage.keys().filter(is_limited).map(|name| (name.clone(), usage[name])).collect()
}

/// What `used` is once `more` is added, for the names of `more`; `Err` tells what goes beyond
/// `hard`, in Kubernetes' words.
///
/// # Errors
/// `exceeded quota: …`.
pub fn charge(quota: &Object, more: &Usage) -> Result<Usage, String> {
    let (hard, used) = (&quota["status"]["hard"], &quota["status"]["used"]);
    let mut new = Usage::new();
    let (mut requested, mut known, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    for (name, amount_of) in more {
        let have = amount(&used[name]).unwrap_or(Quantity::ZERO);
        let sum = have.plus(*amount_of);
        let limit = amount(&hard[name]);
        if amount_of.sign() > 0
            && let Some(limit) = limit.filter(|limit| sum > *limit)
        {
            requested.push(format!("{name}={amount_of}"));
            known.push(format!("{name}={have}"));
            limits.push(format!("{name}={limit}"));
        }
        new.insert(name.clone(), sum);
    }
    if requested.is_empty() {
        return Ok(new);
    }
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        meta::name(quota),
        requested.join(","),
        known.join(","),
        limits.join(",")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(usage: &Usage) -> String {
        usage.iter().map(|(n, a)| format!("{n}={a}")).collect::<Vec<_>>().join(" ")
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_uses_its_containers_or_its_largest_init_container() {
        let mut sidecar = container("s", "100m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"initContainers": [sidecar, container("i", "1")],
            "containers": [container("a", "200m"), container("b", "300m")],
            "overhead": {"cpu": "50m"}}});
        assert_eq!(
            told(&usage("", "pods", &pod)),
            "count/pods=1 cpu=1150m pods=1 requests.cpu=1150m"
        );
        let mut over = pod;
        over["status"]["phase"] = json!("Succeeded");
        assert_eq!(told(&usage("", "pods", &over)), "count/pods=1");
    }

    #[test]
    fn services_claims_and_others_are_counted_under_their_names() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            told(&usage("", "services", &service)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            told(&usage("", "persistentvolumeclaims", &claim)),
            "count/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 \
             requests.storage=1Gi"
        );
        assert_eq!(told(&usage("apps", "deployments", &json!({}))), "count/deployments.apps=1");
        assert_eq!(counted_from("count/deployments.apps"), Some(("apps", "deployments")));
        assert_eq!(counted_from("limits.cpu"), Some(("", "pods")));
        assert_eq!(counted_from("requests.storage"), Some(("", "persistentvolumeclaims")));
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let plain = json!({"spec": {"containers": [{"name": "a"}]}});
        let asks = json!({"spec": {"containers": [container("a", "1")],
            "activeDeadlineSeconds": 5, "priorityClassName": "high"}});
        let cases = [
            ("Terminating", false, true),
            ("NotTerminating", true, false),
            ("BestEffort", true, false),
            ("NotBestEffort", false, true),
            ("PriorityClass", false, true),
        ];
        for (scope, first, second) in cases {
            let quota = quota(scope);
            let both = (in_scope(&quota, "pods", &plain), in_scope(&quota, "pods", &asks));
            assert_eq!(both, (first, second), "{scope}");
            assert!(!in_scope(&quota, "services", &plain));
        }
        let high = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}});
        assert!(in_scope(&high, "pods", &asks) && !in_scope(&high, "pods", &plain));
    }

    #[test]
    fn what_goes_beyond_the_quota_is_refused_in_kubernetes_words() {
        let quota = json!({"metadata": {"name": "q"},
            "status": {"hard": {"pods": "2", "cpu": "1"}, "used": {"pods": "2", "cpu": "500m"}}});
        let more = |pods: i64, cpu: i64| -> Usage {
            [
                ("pods".to_owned(), Quantity::from_units(pods, Format::DecimalSi)),
                ("cpu".to_owned(), Quantity::from_milli(cpu)),
            ]
            .into()
        };
        assert_eq!(
            charge(&quota, &more(1, 100)),
            Err("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2".to_owned())
        );
        assert_eq!(charge(&quota, &more(0, 500)).map(|u| told(&u)), Ok("cpu=1 pods=2".to_owned()));
        let silent = json!({"spec": {"containers": [{"name": "a"}, container("b", "1")]}});
        assert_eq!(unsaid(&quota["status"]["hard"], &silent), ["cpu for: a"]);
    }
}
