//! The controllers: each a folder with `plan.rs` (pure: what was observed in, actions out) and
//! `run.rs` (the loop: watch, plan, apply).
//!
//! | controller | keeps |
//! |---|---|
//! | [`deployment`] | ReplicaSets of a Deployment, rolled out step by step |
//! | [`replicaset`] | as many pods as asked for; ReplicationControllers too |
//! | [`statefulset`] | pods with stable names and volumes |
//! | [`daemonset`] | one pod on every node that fits |
//! | [`job`] | pods until enough of them succeeded |
//! | [`cronjob`] | Jobs by the clock |
//! | [`ttl`] | finished Jobs deleted after their time |
//! | [`disruption`] | how many pods may be evicted |
//! | [`quota`] | what ResourceQuotas limit, counted |
//! | [`endpointslice`] | where the pods behind a Service are |
//! | [`service_account`] | a `default` account in every namespace; tokens in Secrets |
//! | [`root_ca`] | the cluster's CA in every namespace |
//! | [`node_ipam`] | a pod range for every node |
//! | [`node_lifecycle`] | silent nodes tainted, their pods elsewhere |
//! | [`pod_gc`] | pods that nobody else removes, removed |
//! | [`namespace`] | a deleted namespace emptied |
//! | [`garbage`] | what nobody owns any more, deleted |
//! | [`cluster_role`] | the rules of aggregated roles |
//! | [`csr`] | certificate requests approved, signed and forgotten |
//!
//! All run in one process at a time, under one Lease ([`crate::client::leader`]). They read shared
//! informers ([`context::Informers`]) and meet only through objects.
//!
//! **Invariant:** a reconcile never lists; it reads informers, and what it writes is guarded by a
//! resourceVersion, a uid or a name of its own choosing.

pub(crate) mod cluster_role;
pub(crate) mod context;
pub(crate) mod cronjob;
pub(crate) mod csr;
pub(crate) mod daemonset;
pub(crate) mod deployment;
pub(crate) mod discovery;
pub(crate) mod disruption;
pub(crate) mod endpointslice;
pub(crate) mod expectations;
pub(crate) mod garbage;
pub(crate) mod history;
pub(crate) mod job;
pub(crate) mod namespace;
pub(crate) mod node_ipam;
pub(crate) mod node_lifecycle;
pub(crate) mod pod_gc;
pub(crate) mod pods;
pub(crate) mod quota;
pub(crate) mod replicaset;
pub(crate) mod root_ca;
pub(crate) mod selector;
pub(crate) mod service_account;
#[cfg(test)]
mod simulation;
pub(crate) mod statefulset;
pub(crate) mod ttl;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use self::context::{Context, Informers};
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::leader::{self, LeaderConfig};

/// Signs certificates; keys are not the controllers' business.
pub trait Signer: Send + Sync + 'static {
    /// The PEM of a certificate for the request in `csr_pem` (PEM), in the name of the signer
    /// `signer_name` (as `kubernetes.io/kubelet-serving`), for `usages` (as `server auth`), valid
    /// for `seconds`.
    ///
    /// # Errors
    /// Why the request cannot be signed, for people.
    fn sign(
        &self,
        csr_pem: &str,
        signer_name: &str,
        usages: &[String],
        seconds: u64,
    ) -> Result<String, String>;
}

/// How patient the cluster is with silent nodes.
#[derive(Debug, Clone)]
pub struct NodeLifecycleConfig {
    /// How often nodes are looked at (`--node-monitor-period`).
    pub monitor_period: Duration,
    /// How long a node may be silent before it is Unknown (`--node-monitor-grace-period`).
    pub grace_period: Duration,
    /// The same for a node that never reported (`--node-startup-grace-period`).
    pub startup_grace_period: Duration,
    /// Nodes tainted NoExecute a second (`--node-eviction-rate`).
    pub eviction_rate: f64,
    /// The same when most nodes are unhealthy (`--secondary-node-eviction-rate`).
    pub secondary_eviction_rate: f64,
    /// Up to this many nodes, none is tainted while most are unhealthy
    /// (`--large-cluster-size-threshold`).
    pub large_cluster: usize,
    /// From this share on, most nodes count as unhealthy (`--unhealthy-zone-threshold`).
    pub unhealthy_threshold: f64,
}

impl Default for NodeLifecycleConfig {
    fn default() -> Self {
        Self {
            monitor_period: Duration::from_secs(5),
            grace_period: Duration::from_secs(50),
            startup_grace_period: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_cluster: 50,
            unhealthy_threshold: 0.55,
        }
    }
}

/// What the controllers are told at start.
#[derive(Clone)]
pub struct ControllersConfig {
    /// This process among those that could run the controllers.
    pub identity: String,
    pub clock: SharedClock,
    /// Seeds names and jitter.
    pub seed: u64,
    pub signer: Arc<dyn Signer>,
    /// The longest that a certificate may be valid (`--cluster-signing-duration`).
    pub signing_duration: Duration,
    /// The CA that pods trust, in PEM.
    pub root_ca_pem: String,
    /// Where nodes get their pod ranges from.
    pub cluster_cidr: IpNet,
    /// The prefix length of a node's range.
    pub node_cidr_prefix: u8,
    pub node_lifecycle: NodeLifecycleConfig,
    /// How many pods that are over are kept (`--terminated-pod-gc-threshold`).
    pub terminated_pods_max: usize,
}

impl ControllersConfig {
    /// A configuration with Kubernetes' defaults: the cluster range `10.128.0.0/9`, a /20 a node.
    pub fn new(identity: &str, clock: SharedClock, signer: Arc<dyn Signer>, ca: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            clock,
            seed: 1,
            signer,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            root_ca_pem: ca.to_owned(),
            cluster_cidr: "10.128.0.0/9".parse().expect("a literal range"),
            node_cidr_prefix: 20,
            node_lifecycle: NodeLifecycleConfig::default(),
            terminated_pods_max: 12_500,
        }
    }
}

/// Runs all controllers while this process leads, until `shutdown`.
pub async fn run(client: kube::Client, config: ControllersConfig, shutdown: Shutdown) {
    let lease = LeaderConfig::new("coracle-controllers", &config.identity);
    let clock = config.clock.clone();
    let config = Arc::new(config);
    let act = {
        let client = client.clone();
        move |stop: Shutdown| act(client.clone(), config.clone(), stop)
    };
    leader::run(client, lease, clock, shutdown, act).await;
}

async fn act(client: kube::Client, config: Arc<ControllersConfig>, stop: Shutdown) {
    let informers = Arc::new(Informers::start(&client, &stop));
    tokio::select! {
        () = stop.cancelled() => return,
        () = informers.synced() => {}
    }
    let context =
        Context { client, clock: config.clock.clone(), informers, config, shutdown: stop };
    tokio::join!(
        deployment::run::run(context.clone()),
        replicaset::run::run::<replicaset::run::Set>(context.clone()),
        replicaset::run::run::<replicaset::run::Replication>(context.clone()),
        job::run::run(context.clone()),
        cronjob::run::run(context.clone()),
        ttl::run::run(context.clone()),
        disruption::run::run(context.clone()),
        quota::run::run(context.clone()),
        statefulset::run::run(context.clone()),
        daemonset::run::run(context.clone()),
        endpointslice::run::run(context.clone()),
        service_account::run::run(context.clone()),
        root_ca::run::run(context.clone()),
        node_ipam::run::run(context.clone()),
        node_lifecycle::run::run(context.clone()),
        pod_gc::run::run(context.clone()),
        csr::run::run(context.clone()),
        cluster_role::run::run(context.clone()),
        namespace::run::run(context.clone()),
        garbage::run::run(context.clone()),
    );
}
