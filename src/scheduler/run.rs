//! The loop: informers feed the state, its steps become requests, many in flight.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use serde_json::json;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::SchedulerConfig;
use super::plan::{NodeName, Unschedulable};
use super::pod::{Pod, Refused};
use super::snapshot::{Node, ServiceSelector};
use super::state::{State, Step};
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::events::{EventType, Recorder};
use crate::client::informer::{Builder, Informer, Source};
use crate::client::leader::{self, LeaderConfig};
use crate::client::{meta, rest};

/// How many requests may be in flight.
const IN_FLIGHT: usize = 128;
/// How many pods are decided for before news is heard again.
const BATCH: usize = 64;

/// Schedules, whenever this process leads, until `shutdown`.
pub async fn run(
    client: kube::Client,
    config: SchedulerConfig,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    let lease = LeaderConfig::new("kube-scheduler", config.identity.clone());
    let act = {
        let (client, clock) = (client.clone(), clock.clone());
        move |stop: Shutdown| lead(client.clone(), config.clone(), clock.clone(), stop)
    };
    leader::run(client, lease, clock, shutdown, act).await;
}

/// What came of a request for a pod.
enum Done {
    Bound(Arc<Pod>),
    NotBound { pod: Arc<Pod>, again: bool },
    Told,
}

struct Informers {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    services: Informer<ServiceSelector>,
}

impl Informers {
    fn start(client: &kube::Client, stop: &Shutdown) -> Self {
        let pods = Builder::new(Source::all::<v1::Pod>(), Pod::of);
        let nodes = Builder::new(Source::all::<v1::Node>(), Node::of);
        let services = Builder::new(Source::all::<v1::Service>(), selector_of);
        Self {
            pods: pods.start(client.clone(), stop.clone()),
            nodes: nodes.start(client.clone(), stop.clone()),
            services: services.start(client.clone(), stop.clone()),
        }
    }
}

fn selector_of(service: v1::Service) -> Option<ServiceSelector> {
    let selector = service.spec?.selector.filter(|selector| !selector.is_empty())?;
    Some(ServiceSelector { namespace: service.metadata.namespace?, selector })
}

/// Schedules until `stop`.
async fn lead(client: kube::Client, config: SchedulerConfig, clock: SharedClock, stop: Shutdown) {
    let informers = Informers::start(&client, &stop);
    let recorder = Recorder::start(client.clone(), &config.name, "", clock.clone(), stop.clone());
    let effects = Effects { client, recorder, clock: clock.clone() };
    let mut state = State::new(&config.name, config.policy);
    let (mut pods, mut nodes, mut services) =
        (informers.pods.changes(), informers.nodes.changes(), informers.services.changes());
    tokio::select! {
        () = stop.cancelled() => return,
        _ = futures::future::join3(
            informers.pods.synced(),
            informers.nodes.synced(),
            informers.services.synced(),
        ) => {}
    }
    let mut in_flight: JoinSet<Done> = JoinSet::new();
    loop {
        let room = in_flight.len() < IN_FLIGHT;
        let wait = state.due().filter(|_| room).map(|at| at.saturating_sub(clock.monotonic()));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            keys = nodes.next() => for key in keys {
                state.node(&key.name, informers.nodes.get(&key), clock.monotonic());
            },
            keys = services.next() => for key in keys {
                state.service(&key, informers.services.get(&key).map(|s| (*s).clone()));
            },
            keys = pods.next() => for key in keys {
                let pod = informers.pods.get(&key);
                state.pod(key, pod, clock.monotonic());
            },
            Some(done) = in_flight.join_next() => settle(&mut state, done, clock.monotonic()),
            () = sleep(wait) => {}
        }
        for _ in 0..BATCH {
            if in_flight.len() >= IN_FLIGHT {
                break;
            }
            let Some(step) = state.next(clock.monotonic()) else { break };
            let effects = effects.clone();
            let key = match &step {
                Step::Bind { pod, .. } | Step::Refuse { pod, .. } => &pod.key,
            };
            let span = tracing::info_span!("schedule", ns = key.namespace, pod = key.name);
            in_flight.spawn(effects.carry_out(step).instrument(span));
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn settle(state: &mut State, done: Result<Done, tokio::task::JoinError>, now: Duration) {
    match done {
        Ok(Done::Bound(pod)) => state.bound(&pod),
        Ok(Done::NotBound { pod, again }) => state.not_bound(&pod, again, now),
        Ok(Done::Told) => {}
        Err(error) => tracing::error!(%error, "a request of the scheduler panicked"),
    }
}

/// What steps do to the world.
#[derive(Clone)]
struct Effects {
    client: kube::Client,
    recorder: Recorder,
    clock: SharedClock,
}

impl Effects {
    async fn carry_out(self, step: Step) -> Done {
        match step {
            Step::Bind { pod, node } => self.bind(pod, node).await,
            Step::Refuse { pod, why } => self.refuse(&pod, &why).await,
        }
    }

    async fn bind(self, pod: Arc<Pod>, node: NodeName) -> Done {
        let path = rest::object::<v1::Pod>(&pod.key.namespace, &pod.key.name);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": &*node},
        });
        let bound =
            rest::create::<rest::Ignored>(&self.client, &format!("{path}/binding"), &binding).await;
        match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&pod.reference, EventType::Normal, "Scheduled", message);
                Done::Bound(pod)
            }
            Err(error) => {
                // Gone, or bound by someone else: the informer tells.
                let again = !rest::is_not_found(&error) && !rest::is_conflict(&error);
                tracing::info!(%node, %error, "the pod could not be bound");
                if again {
                    let message = format!("binding to {node} failed: {error}");
                    self.recorder.event(
                        &pod.reference,
                        EventType::Warning,
                        "FailedScheduling",
                        message,
                    );
                }
                Done::NotBound { pod, again }
            }
        }
    }

    async fn refuse(self, pod: &Pod, why: &Unschedulable) -> Done {
        let message = why.to_string();
        let refused = Refused { reason: "Unschedulable".to_owned(), message };
        let (about, reason) = (&pod.reference, "FailedScheduling");
        self.recorder.event(about, EventType::Warning, reason, refused.message.clone());
        if pod.refused.as_ref() == Some(&refused) {
            return Done::Told;
        }
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": refused.reason,
            "message": refused.message,
        });
        if pod.refused.is_none() {
            condition["lastTransitionTime"] = json!(meta::time(self.clock.now()));
        }
        let path = rest::object::<v1::Pod>(&pod.key.namespace, &pod.key.name);
        let body = json!({
            "metadata": {"uid": &*pod.uid},
            "status": {"conditions": [condition]},
        });
        let path = format!("{path}/status");
        let patched =
            rest::patch::<rest::Ignored>(&self.client, &path, rest::Patch::Strategic, &body).await;
        if let Err(error) = patched.map(drop)
            && !rest::is_not_found(&error)
            && !rest::is_conflict(&error)
        {
            tracing::info!(%error, "the condition could not be written");
        }
        Done::Told
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
