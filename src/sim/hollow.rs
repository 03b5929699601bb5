//! A hollow node: everything of an agent that the API sees, and nothing that runs.
//!
//! ```text
//!  join (own key, CSR, certificate) ─▶ connect ─▶ register ─▶ list its pods ─▶ watch
//!                                        ▲                        │ 410         │ broke, ended
//!                                        └──── pause ◀────────────┴─────────────┘
//!  while it watches: Lease every few seconds; of each pod that is new: Running and Ready; of each
//!  that is deleted: gone
//! ```
//!
//! **Invariant:** what a node holds is what the API says is bound to it, once it has caught up;
//! [`super::check`] compares both.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::time::MissedTickBehavior;

use super::plan::{self, Action, Event, Pod};
use super::wire::{Connection, Endpoint, Kind};
use crate::base::clock::{rfc3339_micros, rfc3339_seconds};
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;
use crate::link::identity::{CertificateRequest, Identity};

/// How many nodes join at once.
const JOINING: usize = 64;
/// How many pods a node holds.
pub const PODS_MAX: usize = 250;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// As the kubelet's: a status that did not change is still written so often.
const STATUS_EVERY: Duration = Duration::from_secs(300);

/// What happened, over all nodes.
#[derive(Default)]
pub struct Tally {
    pub joined: AtomicUsize,
    pub ready_nodes: AtomicUsize,
    pub heartbeats: AtomicU64,
    pub late_heartbeats: AtomicU64,
    pub reconnects: AtomicU64,
    /// By the uid of a pod: where it was first seen, and when it was seen and Ready.
    pub pods: Mutex<HashMap<String, Seen>>,
    pub bound: AtomicUsize,
    pub ready: AtomicUsize,
    /// Pods that two nodes were given.
    pub twice: Mutex<Vec<String>>,
}

/// When a pod got how far.
#[derive(Debug, Clone)]
pub struct Seen {
    pub node: usize,
    pub bound: Instant,
    pub ready: Option<Instant>,
}

/// What all nodes share.
pub struct Fleet {
    pub endpoint: Endpoint,
    pub bearer: String,
    pub heartbeat: Duration,
    pub tally: Tally,
    pub joining: Semaphore,
    pub shutdown: Shutdown,
}

impl Fleet {
    pub fn new(endpoint: Endpoint, bearer: String, heartbeat: Duration, stop: Shutdown) -> Self {
        let joining = Semaphore::new(JOINING);
        Self { endpoint, bearer, heartbeat, tally: Tally::default(), joining, shutdown: stop }
    }
}

/// A handle on a node.
pub struct Node {
    pub name: String,
    at: usize,
    /// Uids of the pods that it holds.
    pub held: Mutex<HashMap<String, String>>,
    /// While set, it says and hears nothing.
    pub silent: AtomicBool,
    /// Its connection is to be broken.
    pub cut: Notify,
}

/// The name of a node.
pub fn name(at: usize) -> String {
    format!("hollow-{at:05}")
}

impl Node {
    pub fn new(at: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name(at),
            at,
            held: Mutex::default(),
            silent: AtomicBool::new(false),
            cut: Notify::new(),
        })
    }

    fn ip(&self, pod: usize) -> String {
        let (high, low) = (self.at / 256 % 256, self.at % 256);
        format!("10.{high}.{low}.{}", pod % 250 + 2)
    }

    /// Lives until the shutdown.
    pub async fn run(self: Arc<Self>, fleet: Arc<Fleet>, mut rng: Rng) {
        let identity = loop {
            match self.join(&fleet).await {
                Ok(identity) => break identity,
                Err(error) => tracing::info!(node = self.name, %error, "not joined yet"),
            }
            if self.pause(&fleet, &mut rng).await {
                return;
            }
        };
        fleet.tally.joined.fetch_add(1, Ordering::Relaxed);
        let mut first = true;
        loop {
            if !self.silent.load(Ordering::Relaxed) {
                let lived = tokio::select! {
                    () = fleet.shutdown.cancelled() => return,
                    () = self.cut.notified() => Ok(()),
                    lived = self.live(&fleet, &identity, &mut rng, first) => lived,
                };
                if let Err(error) = lived {
                    tracing::info!(node = self.name, %error, "the connection is made anew");
                }
                first = false;
                fleet.tally.reconnects.fetch_add(1, Ordering::Relaxed);
            }
            if self.pause(&fleet, &mut rng).await {
                return;
            }
        }
    }

    /// Half a second, more or less; answers whether it is the end.
    async fn pause(&self, fleet: &Fleet, rng: &mut Rng) -> bool {
        let pause = Duration::from_millis(250 + rng.below(500));
        tokio::select! {
            () = fleet.shutdown.cancelled() => true,
            () = tokio::time::sleep(pause) => false,
        }
    }

    /// A certificate of its own, from a request of its own.
    async fn join(&self, fleet: &Fleet) -> anyhow::Result<Identity> {
        let _turn = fleet.joining.acquire().await?;
        let connection = fleet.endpoint.connect(None, Some(fleet.bearer.clone())).await?;
        let user = format!("system:node:{}", self.name);
        let request = CertificateRequest::new(&user, &["system:nodes"], &[])?;
        let csr = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": format!("csr-{}-", self.name)},
            "spec": {
                "request": STANDARD.encode(&request.request_pem),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        });
        let made = connection.must("POST", CSRS, Kind::Json, Some(&csr), &[]).await?;
        let made: Value = serde_json::from_slice(&made)?;
        let path = format!("{CSRS}/{}", made["metadata"]["name"].as_str().context("no name")?);
        for _ in 0..600 {
            let seen = connection.get(&path).await?;
            if let Some(certificate) = seen["status"]["certificate"].as_str() {
                let pem = String::from_utf8(STANDARD.decode(certificate)?)?;
                return Ok(Identity::new(pem, request.key_pem)?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("nobody signed the certificate request of {} within a minute", self.name)
    }

    /// From one connection to the next.
    async fn live(
        &self,
        fleet: &Fleet,
        identity: &Identity,
        rng: &mut Rng,
        first: bool,
    ) -> anyhow::Result<()> {
        let connection = {
            let _turn = fleet.joining.acquire().await?;
            let connection = fleet.endpoint.connect(Some(identity), None).await?;
            self.register(&connection).await?;
            connection
        };
        if first {
            fleet.tally.ready_nodes.fetch_add(1, Ordering::Relaxed);
        }
        let mut work = FuturesUnordered::new();
        let (mut lines, pods) = self.list(&connection).await?;
        for pod in pods {
            self.observe(fleet, &connection, pod, &mut work);
        }
        // Spread over the period, so that a fleet does not beat as one.
        let offset = rng.below(u64::try_from(fleet.heartbeat.as_millis())?.max(1));
        let start = tokio::time::Instant::now() + Duration::from_millis(offset);
        let mut beat = tokio::time::interval_at(start, fleet.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = tokio::time::interval_at(start + STATUS_EVERY, STATUS_EVERY);
        loop {
            if self.silent.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::select! {
                line = lines.next() => {
                    let Some(line) = line? else { bail!("the watch ended") };
                    self.hear(fleet, &connection, &line, &mut work)?;
                }
                _ = beat.tick() => self.renew(fleet, &connection).await?,
                _ = status.tick() => self.tell_ready(&connection).await?,
                Some(done) = work.next() => done?,
            }
        }
    }

    async fn register(&self, connection: &Connection) -> anyhow::Result<()> {
        let zone = format!("zone-{}", self.at % 3);
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": {
                "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": zone, "coracle.dev/hollow": "true",
            }},
        });
        // 409: it was there before.
        connection.must("POST", "/api/v1/nodes", Kind::Json, Some(&node), &[409]).await?;
        self.tell_ready(connection).await?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": self.lease(),
        });
        connection.must("POST", LEASES, Kind::Json, Some(&lease), &[409]).await?;
        Ok(())
    }

    async fn tell_ready(&self, connection: &Connection) -> anyhow::Result<()> {
        let now = rfc3339_seconds(Timestamp::now());
        let has = json!({
            "cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti",
            "pods": PODS_MAX.to_string(),
        });
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "it is hollow and well", "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        });
        let status = json!({"status": {
            "capacity": has, "allocatable": has, "conditions": [condition],
            "addresses": [{"type": "Hostname", "address": self.name}],
            "nodeInfo": {
                "kubeletVersion": "v1.37.0+hollow", "operatingSystem": "linux",
                "architecture": "amd64", "machineID": "", "systemUUID": "", "bootID": "",
                "kernelVersion": "", "osImage": "hollow", "containerRuntimeVersion": "hollow://1",
                "kubeProxyVersion": "",
            },
        }});
        let path = format!("/api/v1/nodes/{}/status", self.name);
        connection.must("PATCH", &path, Kind::StrategicPatch, Some(&status), &[]).await?;
        Ok(())
    }

    fn lease(&self) -> Value {
        json!({
            "holderIdentity": self.name, "leaseDurationSeconds": 40,
            "renewTime": rfc3339_micros(Timestamp::now()),
        })
    }

    async fn renew(&self, fleet: &Fleet, connection: &Connection) -> anyhow::Result<()> {
        let start = Instant::now();
        let path = format!("{LEASES}/{}", self.name);
        let body = json!({"spec": self.lease()});
        connection.must("PATCH", &path, Kind::MergePatch, Some(&body), &[]).await?;
        fleet.tally.heartbeats.fetch_add(1, Ordering::Relaxed);
        if start.elapsed() > fleet.heartbeat {
            fleet.tally.late_heartbeats.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The pods that are bound to it, and the watch from there on.
    async fn list(
        &self,
        connection: &Connection,
    ) -> anyhow::Result<(super::wire::Lines, Vec<Pod>)> {
        let query = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let mut listed = connection.get(&query).await?;
        let version = listed["metadata"]["resourceVersion"].as_str().context("no version")?;
        let watch =
            format!("{query}&watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        let lines = connection.watch(&watch).await?;
        let pods: Vec<Pod> = match listed["items"].take() {
            Value::Null => Vec::new(),
            items => serde_json::from_value(items)?,
        };
        // What went while it was away.
        let there: std::collections::HashSet<&str> =
            pods.iter().map(|pod| pod.metadata.uid.as_str()).collect();
        self.held.lock().retain(|uid, _| there.contains(uid.as_str()));
        Ok((lines, pods))
    }

    fn hear<'a>(
        &'a self,
        fleet: &'a Fleet,
        connection: &Connection,
        line: &[u8],
        work: &mut FuturesUnordered<Work<'a>>,
    ) -> anyhow::Result<()> {
        let event: Event = serde_json::from_slice(line)?;
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => self.observe(fleet, connection, event.object, work),
            "DELETED" => {
                self.held.lock().remove(&event.object.metadata.uid);
            }
            "BOOKMARK" => {}
            other => bail!("the watch says {other} {:?}", event.object.code),
        }
        Ok(())
    }

    fn observe<'a>(
        &'a self,
        fleet: &'a Fleet,
        connection: &Connection,
        pod: Pod,
        work: &mut FuturesUnordered<Work<'a>>,
    ) {
        let uid = pod.metadata.uid.clone();
        let held = {
            let mut held = self.held.lock();
            held.insert(uid.clone(), pod.metadata.name.clone());
            held.len()
        };
        {
            let mut pods = fleet.tally.pods.lock();
            let seen = pods.entry(uid).or_insert_with(|| {
                fleet.tally.bound.fetch_add(1, Ordering::Relaxed);
                Seen { node: self.at, bound: Instant::now(), ready: None }
            });
            if seen.node != self.at {
                fleet.tally.twice.lock().push(pod.metadata.name.clone());
            }
        }
        let now = rfc3339_seconds(Timestamp::now());
        let action = plan::plan(&pod, &self.ip(held), &now);
        if action != Action::Nothing {
            work.push(Box::pin(carry_out(fleet, connection.clone(), pod, action)));
        }
    }
}

type Work<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

async fn carry_out(
    fleet: &Fleet,
    connection: Connection,
    pod: Pod,
    action: Action,
) -> anyhow::Result<()> {
    let meta = &pod.metadata;
    let path = format!("/api/v1/namespaces/{}/pods/{}", meta.namespace, meta.name);
    match action {
        Action::Nothing => {}
        Action::Report(status) => {
            let body = json!({"metadata": {"uid": meta.uid}, "status": status});
            let path = format!("{path}/status");
            let gone = [404, 409];
            connection.must("PATCH", &path, Kind::StrategicPatch, Some(&body), &gone).await?;
            let mut pods = fleet.tally.pods.lock();
            if let Some(seen) = pods.get_mut(&meta.uid)
                && seen.ready.is_none()
            {
                seen.ready = Some(Instant::now());
                fleet.tally.ready.fetch_add(1, Ordering::Relaxed);
            }
        }
        Action::Remove => {
            let body = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": meta.uid},
            });
            connection.must("DELETE", &path, Kind::Json, Some(&body), &[404, 409]).await?;
        }
    }
    Ok(())
}
