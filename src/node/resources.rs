//! What pods ask for: requests and limits summed as the scheduler and the kubelet sum them, and
//! the quality-of-service class. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::quantity;

/// Amounts by resource name; cpu in thousandths of a core, everything else in whole units.
pub type Amounts = BTreeMap<String, i64>;

/// The amount of `quantity` in the unit of `resource`, rounded up; what does not parse is 0, since
/// the API server admits only what does.
pub fn amount(resource: &str, quantity: &Quantity) -> i64 {
    let parsed = quantity.0.parse().unwrap_or(quantity::Quantity::ZERO);
    if resource == "cpu" { parsed.milli() } else { parsed.units() }
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter().flatten().map(|(k, v)| (k.clone(), amount(k, v))).collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, value) in more {
        let sum = into.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*value);
    }
}

fn raise(into: &mut Amounts, to: &Amounts) {
    for (name, value) in to {
        let high = into.entry(name.clone()).or_default();
        *high = (*high).max(*value);
    }
}

fn requests_of(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut requests = amounts(resources.and_then(|r| r.limits.as_ref()));
    requests.extend(amounts(resources.and_then(|r| r.requests.as_ref())));
    requests
}

/// What a pod is counted as: the sum of its containers and sidecars, or the highest moment while
/// its init containers run, whichever is more, plus its overhead. `pods` is always 1.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &requests_of(container));
    }
    let mut sidecars = Amounts::new();
    let mut highest = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = requests_of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut highest, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut highest, &moment);
        }
    }
    raise(&mut total, &highest);
    if let Some(resources) = &spec.resources {
        let mut own = amounts(resources.limits.as_ref());
        own.extend(amounts(resources.requests.as_ref()));
        total.extend(own);
    }
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total.insert("pods".to_owned(), 1);
    total
}

/// The limit of one resource of a container, if it has one.
pub fn limit(container: &Container, resource: &str) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    let value = amount(resource, limits.get(resource)?);
    u64::try_from(value).ok().filter(|v| *v > 0)
}

/// What a container asks for of one resource; where it only has a limit, that.
pub fn request(container: &Container, resource: &str) -> Option<u64> {
    let value = requests_of(container).get(resource).copied()?;
    u64::try_from(value).ok().filter(|v| *v > 0)
}

/// All limits of a container.
pub fn limits(container: &Container) -> BTreeMap<String, u64> {
    let limits = amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()));
    limits.into_iter().filter_map(|(name, n)| Some((name, u64::try_from(n).ok()?))).collect()
}

/// `Guaranteed`, `Burstable` or `BestEffort`, over cpu and memory of all containers.
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let resources = container.resources.as_ref();
        let requests = amounts(resources.and_then(|r| r.requests.as_ref()));
        let limits = amounts(resources.and_then(|r| r.limits.as_ref()));
        for name in ["cpu", "memory"] {
            let request = requests.get(name).or(limits.get(name)).copied().unwrap_or(0);
            let limit = limits.get(name).copied().unwrap_or(0);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).expect("a pod")
    }

    #[test]
    fn amounts_come_in_the_unit_of_their_resource() {
        let of = |resource, text: &str| amount(resource, &Quantity(text.to_owned()));
        assert_eq!(of("cpu", "250m"), 250);
        assert_eq!(of("cpu", "1.5"), 1500);
        assert_eq!(of("memory", "1Gi"), 1 << 30);
        assert_eq!(of("memory", "128974848"), 128_974_848);
        assert_eq!(of("memory", "1e3"), 1000);
        assert_eq!(of("cpu", "100u"), 1);
    }

    #[test]
    fn the_highest_moment_of_the_init_containers_counts() {
        let c =
            |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = c("s", "100m");
        sidecar["restartPolicy"] = json!("Always");
        let spec =
            json!({"initContainers": [sidecar, c("i", "1")], "containers": [c("a", "200m")]});
        let requests = pod_requests(pod(spec).spec.as_ref().expect("a spec"));
        assert_eq!(requests["cpu"], 1100);
        assert_eq!(requests["pods"], 1);
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let with = |resources| {
            qos_class(&pod(json!({"containers": [{"name": "a", "resources": resources}]})))
        };
        assert_eq!(with(json!({})), "BestEffort");
        assert_eq!(with(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(with(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
        let differ = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(with(differ), "Burstable");
    }
}
