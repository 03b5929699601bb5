//! What the view is fed with: informers for objects, and the nodes' counters, read every second
//! through the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::facts::{DeploymentFacts, EventFacts, NodeFacts, PodFacts, ServiceFacts, SliceFacts};
use super::model::{Observed, Picture};
use super::rates::{self, Rates};
use crate::base::shutdown::Shutdown;
use crate::client::informer::{Builder, Informer, Source};
use crate::client::meta::Object;

const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long a node may take to tell its counters.
const COUNT_PATIENCE: Duration = Duration::from_secs(2);
/// Nodes that are asked for their counters at a time.
const ASKED_AT_ONCE: usize = 16;

/// Everything that the view shows, kept up to date.
pub struct Feed {
    nodes: Informer<NodeFacts>,
    pods: Informer<PodFacts>,
    deployments: Informer<DeploymentFacts>,
    services: Informer<ServiceFacts>,
    slices: Informer<SliceFacts>,
    events: Informer<EventFacts>,
    rates: Arc<Mutex<Rates>>,
}

fn informer<K, P>(
    client: &Client,
    project: impl Fn(&K) -> Option<P> + Send + Sync + 'static,
    shutdown: &Shutdown,
) -> Informer<P>
where
    K: k8s_openapi::Resource + Object + Clone + DeserializeOwned + Send + 'static,
    P: Send + Sync + 'static,
{
    let builder = Builder::new(Source::all::<K>(), move |object: K| project(&object));
    builder.start(client.clone(), shutdown.clone())
}

impl Feed {
    /// Starts to watch, until `shutdown`.
    pub fn start(client: &Client, shutdown: &Shutdown) -> Self {
        let nodes = informer(client, |o: &Node| Some(NodeFacts::of(o)), shutdown);
        let rates = Arc::default();
        let counting = count(client.clone(), nodes.clone(), Arc::clone(&rates));
        let end = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = counting => {}
                () = end.cancelled() => {}
            }
        });
        Self {
            nodes,
            pods: informer(client, |o: &Pod| Some(PodFacts::of(o)), shutdown),
            deployments: informer(client, |o: &Deployment| Some(DeploymentFacts::of(o)), shutdown),
            services: informer(client, |o: &Service| Some(ServiceFacts::of(o)), shutdown),
            slices: informer(client, |o: &EndpointSlice| SliceFacts::of(o), shutdown),
            events: informer(client, |o: &Event| Some(EventFacts::of(o)), shutdown),
            rates,
        }
    }

    /// Returns once everything has been read once.
    pub async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.deployments.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.events.synced().await;
    }

    /// The cluster as it is known now.
    pub fn picture(&self) -> Picture {
        Picture::of(Observed {
            now: Timestamp::now(),
            nodes: all(&self.nodes),
            pods: all(&self.pods),
            deployments: all(&self.deployments),
            services: all(&self.services),
            slices: all(&self.slices),
            events: all(&self.events),
            rates: self.rates.lock().all().clone(),
        })
    }
}

fn all<P: Clone>(informer: &Informer<P>) -> Vec<P> {
    informer.list().iter().map(|facts| facts.as_ref().clone()).collect()
}

/// Reads the counters of all nodes again and again.
async fn count(client: Client, nodes: Informer<NodeFacts>, rates: Arc<Mutex<Rates>>) {
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let names: Vec<String> = nodes.list().iter().map(|node| node.name.clone()).collect();
        let asked = futures::stream::iter(names).map(|name| {
            let client = client.clone();
            async move { Some((name.clone(), counters(&client, &name).await?)) }
        });
        let readings: BTreeMap<_, _> =
            asked.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await;
        let now = Instant::now();
        rates.lock().take(readings, now.duration_since(last).as_secs_f64());
        last = now;
    }
}

/// What one node has counted; `None` when it does not answer.
async fn counters(client: &Client, node: &str) -> Option<BTreeMap<crate::client::Key, u64>> {
    let path = format!("/api/v1/nodes/{node}/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    let answer = tokio::time::timeout(COUNT_PATIENCE, client.request_text(request)).await;
    Some(rates::parse(&answer.ok()?.ok()?))
}
