//! What pods ask for and nodes have, as numbers.
//!
//! cpu is in thousandths of a core, everything else in whole units (bytes, pieces). How containers
//! add up follows KEP-753 (sidecars are init containers that keep running), KEP-2837 (resources of
//! the whole pod) and KEP-1287 (a container that is being resized holds the larger of both sizes).

use std::sync::Arc;

use super::seen::{Amounts, Container, PodSpec, PodStatus};
use crate::api::quantity::Quantity;

/// What a container that asks for nothing is scored as.
const UNASKED_CPU_MILLI: i64 = 100;
const UNASKED_MEMORY: i64 = 200 << 20;

/// An amount of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub extended: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a resource list. What is no quantity counts as nothing: the API refuses it.
    pub fn of(list: &Amounts) -> Self {
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

    /// How much there is of a resource by its name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            "pods" => self.pods,
            _ => self.extended(name),
        }
    }

    /// Whether nothing is asked for but a place.
    pub fn is_best_effort(&self) -> bool {
        self.cpu_milli == 0 && self.memory == 0 && self.extended.iter().all(|(_, n)| *n == 0)
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

    /// In the order of names, so that equal amounts are equal.
    fn sorted(mut self) -> Self {
        self.extended.sort();
        self
    }
}

/// What the filters count of a pod, and what the scores count (where a container asks for no cpu
/// or no memory they assume some, so that such pods spread as well).
pub fn of_pod(spec: &PodSpec, status: &PodStatus) -> (Resources, Resources) {
    let asked = total(spec, |container| requests(container, status));
    let scored = total(spec, |container| {
        let mut requests = requests(container, status);
        if requests.cpu_milli == 0 {
            requests.cpu_milli = UNASKED_CPU_MILLI;
        }
        if requests.memory == 0 {
            requests.memory = UNASKED_MEMORY;
        }
        requests
    });
    (asked.sorted(), scored.sorted())
}

/// What a container is counted as: what it asks for; while it is resized, what it still holds as
/// well; where its node will never grant the resize, what it holds alone.
fn requests(container: &Container, status: &PodStatus) -> Resources {
    let asked = Resources::of(&container.resources.requests);
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses);
    let Some(told) = statuses.into_iter().find(|told| told.name == container.name) else {
        return asked;
    };
    if told.resources.is_none() && told.allocated_resources.is_none() {
        return asked;
    }
    let mut held = Resources::default();
    if let Some(actual) = &told.resources {
        held.raise_to(&Resources::of(&actual.requests));
    }
    if let Some(allocated) = &told.allocated_resources {
        held.raise_to(&Resources::of(allocated));
    }
    let infeasible = status.conditions.iter().any(|condition| {
        condition.kind == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
    });
    if !infeasible {
        held.raise_to(&asked);
    }
    held
}

fn total(spec: &PodSpec, requests: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests(container), 1);
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in &spec.init_containers {
        let mut peak = requests(container);
        if container.is_sidecar() {
            running.add(&peak, 1);
            sidecars.add(&peak, 1);
            peak = sidecars.clone();
        } else {
            peak.add(&sidecars, 1);
        }
        starting.raise_to(&peak);
    }
    running.raise_to(&starting);
    for (name, written) in &spec.resources.requests {
        let one = Resources::of(&Amounts::from([(name.clone(), written.clone())]));
        match name.as_str() {
            "cpu" => running.cpu_milli = one.cpu_milli,
            _ => *running.slot(name) = one.get(name),
        }
    }
    if !spec.overhead.is_empty() {
        running.add(&Resources::of(&spec.overhead), 1);
    }
    running.pods = 1;
    running
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

    fn of(spec: &PodSpec) -> (Resources, Resources) {
        of_pod(spec, &PodStatus::default())
    }

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
        let (asked, _) = of(&pod);
        assert_eq!((asked.cpu_milli, asked.memory >> 20, asked.pods), (910, 310, 1));
    }

    #[test]
    fn what_asks_for_nothing_is_scored_as_something() {
        let (asked, scored) = of(&spec(serde_json::json!({"containers": [{"name": "c"}]})));
        assert_eq!((asked.cpu_milli, asked.memory), (0, 0));
        assert_eq!((scored.cpu_milli, scored.memory), (UNASKED_CPU_MILLI, UNASKED_MEMORY));
    }

    #[test]
    fn resources_of_the_whole_pod_stand_for_those_of_its_containers() {
        let (asked, _) = of(&spec(serde_json::json!({
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
    #[test]
    fn a_resize_holds_both_sizes_until_it_is_done_or_refused_for_good() {
        let pod = spec(serde_json::json!({"containers": [container("2", "64Mi")]}));
        let told = |actual: &str, allocated: &str, reason: &str| -> PodStatus {
            serde_json::from_value(serde_json::json!({
                "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                "containerStatuses": [{
                    "name": "c",
                    "allocatedResources": {"cpu": allocated},
                    "resources": {"requests": {"cpu": actual}},
                }],
            }))
            .expect("a status")
        };
        for (actual, allocated, reason, cpu) in [
            ("1", "1", "Deferred", 2000),
            ("3", "2", "", 3000),
            ("1", "2", "", 2000),
            ("1", "1500m", "Infeasible", 1500),
        ] {
            let (asked, _) = of_pod(&pod, &told(actual, allocated, reason));
            assert_eq!(asked.cpu_milli, cpu, "{actual} {allocated} {reason}");
        }
    }
}
