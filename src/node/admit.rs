//! What a node refuses though the scheduler sent it: the kubelet's own checks, in its words. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::pod::state::Verdict;
use super::resources::{Amounts, pod_requests};

/// What the node is, as far as a pod may be refused for it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub allocatable: Amounts,
}

/// What a pod asks of the node, or what several do together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asks {
    amounts: Amounts,
    /// Protocol and number of host ports.
    ports: Vec<(String, i32)>,
}

impl Asks {
    pub fn of(pod: &Pod) -> Self {
        let amounts = pod.spec.as_ref().map(pod_requests).unwrap_or_default();
        Self { amounts, ports: host_ports(pod) }
    }

    pub fn add(&mut self, more: &Self) {
        for (name, value) in &more.amounts {
            match self.amounts.get_mut(name) {
                Some(sum) => *sum = sum.saturating_add(*value),
                None => drop(self.amounts.insert(name.clone(), *value)),
            }
        }
        self.ports.extend(more.ports.iter().cloned());
    }
}

fn refuse(reason: &str, message: String) -> Verdict {
    Verdict { reason: reason.to_owned(), message: format!("Pod was rejected: {message}") }
}

/// Whether `pod` may run here beside what the pods that have not ended use.
pub fn admit(pod: &Pod, used: &Asks, facts: &Facts) -> Result<(), Verdict> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("the node's OS is linux, but the pod asks for {}", os.name);
        return Err(refuse("PodOSNotSupported", message));
    }
    if !selected(pod, facts) {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(refuse("NodeAffinity", message.to_owned()));
    }
    if host_ports(pod).iter().any(|port| used.ports.contains(port)) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(refuse("NodePorts", message.to_owned()));
    }
    for (name, requested) in pod_requests(spec) {
        let capacity = facts.allocatable.get(&name).copied().unwrap_or(0);
        let used = used.amounts.get(&name).copied().unwrap_or(0);
        if requested > 0 && used.saturating_add(requested) > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return Err(refuse(&format!("OutOf{name}"), message));
        }
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> Vec<(String, i32)> {
    let containers = pod.spec.iter().flat_map(|s| {
        let sidecars = s.init_containers.iter().flatten();
        sidecars.filter(|c| c.restart_policy.is_some()).chain(&s.containers)
    });
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|n| *n > 0)?;
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

fn selected(pod: &Pod, facts: &Facts) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let plain = spec.node_selector.iter().flatten();
    if !plain.into_iter().all(|(key, value)| facts.labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, facts)))
}

fn matches(term: &NodeSelectorTerm, facts: &Facts) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let name = |key: &str| (key == "metadata.name").then_some(&facts.name);
    labels.iter().all(|r| holds(r, facts.labels.get(&r.key)))
        && fields.iter().all(|r| holds(r, name(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => !value.is_some_and(|v| values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first())).is_some_and(|(a, b)| a > b),
        "Lt" => number(value).zip(number(values.first())).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).expect("a pod")
    }

    fn with_cpu(cpu: &str) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn used(pods: &[&Pod]) -> Asks {
        let mut all = Asks::default();
        pods.iter().for_each(|pod| all.add(&Asks::of(pod)));
        all
    }

    fn facts() -> Facts {
        let amounts = [("cpu", 2000), ("memory", 1 << 30), ("pods", 3)];
        Facts {
            name: "w1".to_owned(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            allocatable: amounts.map(|(k, v)| (k.to_owned(), v)).into(),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_the_kubelets_words() {
        let (a, b) = (with_cpu("1900m"), with_cpu("100m"));
        assert_eq!(admit(&b, &used(&[&a]), &facts()), Ok(()));
        let refused = admit(&with_cpu("101m"), &used(&[&a]), &facts()).expect_err("too much");
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 101, used: 1900, capacity: 2000"
        );
        let none = pod(json!({"containers": [{"name": "a"}]}));
        let full = admit(&none, &used(&[&none, &none, &none]), &facts()).expect_err("too many");
        assert_eq!(full.reason, "OutOfpods");
        let gpu = json!({"containers": [{"name": "a", "resources": {"limits": {"x.io/gpu": 1}}}]});
        let gpu = serde_json::to_string(&gpu).expect("json").replace(":1}", ":\"1\"}");
        let gpu = pod(serde_json::from_str(&gpu).expect("json"));
        assert_eq!(admit(&gpu, &used(&[]), &facts()).expect_err("none").reason, "OutOfx.io/gpu");
    }

    #[test]
    fn a_host_port_is_given_once() {
        let port = |protocol: &str| {
            pod(json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 80, "hostPort": 8080, "protocol": protocol}]}]}))
        };
        assert_eq!(admit(&port("TCP"), &used(&[&port("UDP")]), &facts()), Ok(()));
        assert_eq!(
            admit(&port("TCP"), &used(&[&port("TCP")]), &facts()).expect_err("taken").reason,
            "NodePorts"
        );
    }

    #[test]
    fn selectors_and_affinity_are_checked_again() {
        let selector =
            |value: &str| pod(json!({"nodeSelector": {"zone": value}, "containers": []}));
        assert_eq!(admit(&selector("a"), &used(&[]), &facts()), Ok(()));
        assert_eq!(
            admit(&selector("b"), &used(&[]), &facts()).expect_err("elsewhere").reason,
            "NodeAffinity"
        );
        let affinity = |operator: &str, values: &[&str]| {
            pod(json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]}}}}))
        };
        assert_eq!(admit(&affinity("In", &["a", "b"]), &used(&[]), &facts()), Ok(()));
        assert!(admit(&affinity("NotIn", &["a"]), &used(&[]), &facts()).is_err());
        assert!(admit(&affinity("DoesNotExist", &[]), &used(&[]), &facts()).is_err());
    }
}
