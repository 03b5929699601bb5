//! What pods ask for and nodes have, as numbers.
//!
//! cpu is in thousandths of a core, everything else in whole units (bytes, pieces). How containers
//! add up follows KEP-753 (sidecars are init containers that keep running) and KEP-2837
//! (resources of the whole pod).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use crate::api::quantity::Quantity;

/// What a container that asks for nothing is scored as.
const UNASKED_CPU_MILLI: i64 = 100;
const UNASKED_MEMORY: i64 = 200 << 20;

/// An amount of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub extended: Vec<(Arc<str>, i64)>,
}

type List = BTreeMap<String, Written>;

impl Resources {
    /// Reads a resource list. What is no quantity counts as nothing: the API refuses it.
    pub fn of(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, written) in list {
            let Ok(quantity) = written.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli(),
                _ => *resources.slot(name) = quantity.units(),
            }
        }
        resources
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu_milli,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral,
            "pods" => &mut self.pods,
            _ => {
                let found = self.extended.iter().position(|(n, _)| **n == *name);
                let at = found.unwrap_or_else(|| {
                    self.extended.push((name.into(), 0));
                    self.extended.len() - 1
                });
                &mut self.extended[at].1
            }
        }
    }

    /// How much there is of an extended resource.
    pub fn extended(&self, name: &str) -> i64 {
        self.extended.iter().find(|(n, _)| **n == *name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `other`, `times` times (−1 takes it away).
    pub fn add(&mut self, other: &Self, times: i64) {
        self.cpu_milli += times * other.cpu_milli;
        self.memory += times * other.memory;
        self.ephemeral += times * other.ephemeral;
        self.pods += times * other.pods;
        for (name, amount) in &other.extended {
            *self.slot(name) += times * amount;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.extended {
            let slot = self.slot(name);
            *slot = (*slot).max(*amount);
        }
    }
}

/// What the filters count of a pod, and what the scores count (where a container asks for no cpu
/// or no memory they assume some, so that such pods spread as well).
pub fn of_pod(spec: &PodSpec) -> (Resources, Resources) {
    let asked = total(spec, requests);
    let scored = total(spec, |container| {
        let mut requests = requests(container);
        if requests.cpu_milli == 0 {
            requests.cpu_milli = UNASKED_CPU_MILLI;
        }
        if requests.memory == 0 {
            requests.memory = UNASKED_MEMORY;
        }
        requests
    });
    (asked, scored)
}

fn requests(container: &Container) -> Resources {
    let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    list.map_or_else(Resources::default, Resources::of)
}

fn total(spec: &PodSpec, requests: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests(container), 1);
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut peak = requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&peak, 1);
            sidecars.add(&peak, 1);
            peak = sidecars.clone();
        } else {
            peak.add(&sidecars, 1);
        }
        starting.raise_to(&peak);
    }
    running.raise_to(&starting);
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (name, written) in whole.into_iter().flatten() {
        let one = Resources::of(&BTreeMap::from([(name.clone(), written.clone())]));
        match name.as_str() {
            "cpu" => running.cpu_milli = one.cpu_milli,
            "memory" => running.memory = one.memory,
            _ => *running.slot(name) = one.extended(name),
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::of(overhead), 1);
    }
    running.pods = 1;
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).expect("a pod spec")
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_all_along() {
        let mut sidecar = container("100m", "10Mi");
        sidecar["restartPolicy"] = "Always".into();
        let pod = spec(serde_json::json!({
            "containers": [container("200m", "64Mi"), container("300m", "64Mi")],
            "initContainers": [container("900m", "1Mi"), sidecar, container("550m", "300Mi")],
            "overhead": {"cpu": "10m"},
        }));
        let (asked, _) = of_pod(&pod);
        assert_eq!((asked.cpu_milli, asked.memory >> 20, asked.pods), (910, 310, 1));
    }

    #[test]
    fn what_asks_for_nothing_is_scored_as_something() {
        let (asked, scored) = of_pod(&spec(serde_json::json!({"containers": [{"name": "c"}]})));
        assert_eq!((asked.cpu_milli, asked.memory), (0, 0));
        assert_eq!((scored.cpu_milli, scored.memory), (UNASKED_CPU_MILLI, UNASKED_MEMORY));
    }

    #[test]
    fn resources_of_the_whole_pod_stand_for_those_of_its_containers() {
        let (asked, _) = of_pod(&spec(serde_json::json!({
            "containers": [container("200m", "64Mi")],
            "resources": {"requests": {"cpu": "1"}},
        })));
        assert_eq!((asked.cpu_milli, asked.memory >> 20), (1000, 64));
    }

    #[test]
    fn extended_resources_are_counted_by_name() {
        let list = BTreeMap::from([("example.com/npu".to_owned(), Written("2".to_owned()))]);
        let mut resources = Resources::of(&list);
        resources.add(&Resources::of(&list), 1);
        resources.add(&Resources::of(&list), -1);
        assert_eq!(resources.extended("example.com/npu"), 2);
        assert_eq!(resources.extended("example.com/gpu"), 0);
    }
}
