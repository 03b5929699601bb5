//! From objects to what is shown. Pure: the same facts give the same picture.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::facts::{
    DeploymentFacts, EventFacts, NodeFacts, NodeState, PodFacts, PodState, ServiceFacts, SliceFacts,
};
use super::rates::Rate;
use crate::client::Key;

/// How many events are shown at most.
const EVENTS_MAX: usize = 200;

/// What is known of the cluster at one moment.
#[derive(Debug, Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub nodes: Vec<NodeFacts>,
    pub pods: Vec<PodFacts>,
    pub deployments: Vec<DeploymentFacts>,
    pub services: Vec<ServiceFacts>,
    pub slices: Vec<SliceFacts>,
    pub events: Vec<EventFacts>,
    /// Requests a second, by Service.
    pub rates: BTreeMap<Key, Rate>,
}

impl Observed {
    /// An empty cluster.
    pub fn nothing() -> Self {
        Self {
            now: Timestamp::UNIX_EPOCH,
            nodes: Vec::new(),
            pods: Vec::new(),
            deployments: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
            events: Vec::new(),
            rates: BTreeMap::new(),
        }
    }
}

/// A node with its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBox {
    pub node: NodeFacts,
    pub pods: Vec<PodFacts>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRow {
    pub service: ServiceFacts,
    pub ready: usize,
    pub all: usize,
    /// `None`: nobody counts (the nodes are not Coracle's, or do not answer).
    pub rate: Option<Rate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// `12s`, `3m`, `5h`, `2d`.
    pub age: String,
    pub event: EventFacts,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub nodes: Vec<NodeBox>,
    /// Pods that no node of `nodes` has.
    pub unplaced: Vec<PodFacts>,
    pub deployments: Vec<DeploymentFacts>,
    pub services: Vec<ServiceRow>,
    /// The newest first.
    pub events: Vec<EventRow>,
}

impl Picture {
    /// The picture of what was observed.
    pub fn of(observed: Observed) -> Self {
        let Observed { now, mut nodes, mut pods, mut deployments, services, slices, .. } = observed;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        deployments.sort_by(|a, b| a.key.cmp(&b.key));
        let mut by_node: BTreeMap<String, Vec<PodFacts>> = BTreeMap::new();
        for pod in pods {
            let node = pod.node.clone().filter(|node| nodes.iter().any(|n| n.name == *node));
            by_node.entry(node.unwrap_or_default()).or_default().push(pod);
        }
        let unplaced = by_node.remove("").unwrap_or_default();
        let nodes = nodes.into_iter().map(|node| {
            let pods = by_node.remove(&node.name).unwrap_or_default();
            NodeBox { node, pods }
        });
        Self {
            nodes: nodes.collect(),
            unplaced,
            deployments,
            services: service_rows(services, &slices, &observed.rates),
            events: event_rows(observed.events, now),
        }
    }

    /// The pod of that key, wherever it is.
    pub fn pod(&self, key: &Key) -> Option<&PodFacts> {
        self.pods().find(|pod| pod.key == *key)
    }

    /// All pods: node by node, at last those without one.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.nodes.iter().flat_map(|node| &node.pods).chain(&self.unplaced)
    }

    /// Nodes that are Ready, and all.
    pub fn ready_nodes(&self) -> (usize, usize) {
        let ready = self.nodes.iter().filter(|n| n.node.state == NodeState::Ready).count();
        (ready, self.nodes.len())
    }

    /// Pods that serve or have done their work, and all.
    pub fn well_pods(&self) -> (usize, usize) {
        let well = |pod: &&PodFacts| matches!(pod.state, PodState::Ready | PodState::Succeeded);
        (self.pods().filter(well).count(), self.pods().count())
    }

    /// Requests a second over all Services.
    pub fn rate(&self) -> f64 {
        self.services.iter().filter_map(|row| row.rate).map(|rate| rate.0).sum()
    }
}

fn service_rows(
    mut services: Vec<ServiceFacts>,
    slices: &[SliceFacts],
    rates: &BTreeMap<Key, Rate>,
) -> Vec<ServiceRow> {
    services.sort_by(|a, b| a.key.cmp(&b.key));
    let row = |service: ServiceFacts| {
        let own = slices.iter().filter(|slice| slice.service == service.key);
        let (ready, all) = own.fold((0, 0), |(r, a), slice| (r + slice.ready, a + slice.all));
        let rate = rates.get(&service.key).copied();
        ServiceRow { service, ready, all, rate }
    };
    services.into_iter().map(row).collect()
}

fn event_rows(mut events: Vec<EventFacts>, now: Timestamp) -> Vec<EventRow> {
    events.sort_by(|a, b| (b.at, &b.about, &b.message).cmp(&(a.at, &a.about, &a.message)));
    events.truncate(EVENTS_MAX);
    let row = |event: EventFacts| EventRow { age: age(event.at, now), event };
    events.into_iter().map(row).collect()
}

/// The time between, in its largest unit.
fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::samples;

    #[test]
    fn pods_are_in_the_boxes_of_their_nodes() {
        let picture = samples::picture();
        let boxes: Vec<(&str, usize)> =
            picture.nodes.iter().map(|n| (n.node.name.as_str(), n.pods.len())).collect();
        assert_eq!(boxes, [("demo-worker-1", 4), ("demo-worker-2", 3)]);
        assert_eq!(picture.unplaced.len(), 1);
        assert_eq!(picture.ready_nodes(), (1, 2));
    }

    #[test]
    fn a_pod_of_a_node_that_is_gone_is_shown_without_one() {
        let mut observed = samples::observed();
        observed.nodes.retain(|node| node.name != "demo-worker-2");
        let picture = Picture::of(observed);
        assert_eq!(picture.unplaced.len(), 4);
    }

    #[test]
    fn services_count_the_endpoints_of_all_their_slices() {
        let picture = samples::picture();
        let row = &picture.services[1];
        assert_eq!(row.service.key.name, "hello-http");
        assert_eq!((row.ready, row.all), (2, 3));
    }

    #[test]
    fn the_newest_event_comes_first() {
        let picture = samples::picture();
        let ages: Vec<&str> = picture.events.iter().map(|e| e.age.as_str()).collect();
        assert_eq!(ages, ["1s", "4s", "3m"]);
    }
}
