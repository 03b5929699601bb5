//! What the server counts, in the names of `kube-apiserver` where it has one.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

/// What a request is counted under. Labels come from the catalog and from fixed lists, so their
/// number is bounded whatever clients send.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LatencyLabels {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    resource: String,
}

/// The counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<LatencyLabels, Histogram>,
    watchers: Gauge,
    objects: Family<ObjectLabels, Gauge>,
    revision: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let latency =
            Family::<LatencyLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (watchers, objects) = (Gauge::default(), Family::default());
        let revision = Gauge::<u64, AtomicU64>::default();
        registry.register("apiserver_request", "Requests answered", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the response head, watches excluded",
            latency.clone(),
        );
        registry.register("apiserver_registered_watchers", "Watches open", watchers.clone());
        registry.register("apiserver_storage_objects", "Objects stored", objects.clone());
        registry.register("apiserver_storage_revision", "Newest revision", revision.clone());
        Self { registry, requests, latency, watchers, objects, revision }
    }
}

impl Metrics {
    /// Count an answer.
    pub fn answered(&self, labels: RequestLabels, seconds: f64) {
        if labels.verb != "watch" {
            let of = LatencyLabels {
                verb: labels.verb.clone(),
                group: labels.group.clone(),
                resource: labels.resource.clone(),
            };
            self.latency.get_or_create(&of).observe(seconds);
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// The text that a scrape reads. `objects`: how many of each resource are stored.
    pub fn scrape(&self, watchers: usize, revision: u64, objects: &[(String, u64)]) -> String {
        self.watchers.set(i64::try_from(watchers).unwrap_or(i64::MAX));
        self.revision.set(revision);
        for (resource, count) in objects {
            let labels = ObjectLabels { resource: resource.clone() };
            self.objects.get_or_create(&labels).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("memory takes every write");
        out
    }
}
