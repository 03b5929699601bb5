//! What every controller is handed: the client, the shared informers, the clock, the shutdown.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ControllersConfig;
use super::history::{self, Revision};
use super::replicaset::run::as_set;
use super::view::{self, Namespace, Pod, Templated};
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::events::Recorder;
use crate::client::informer::{Builder, Informer, Source};
use crate::client::meta::{Object, controller_of};
use crate::client::rest;
use crate::client::workqueue::Outcome;

/// The Namespace in which nodes keep their Leases.
pub const NODE_LEASES: &str = "kube-node-lease";
/// The ConfigMap that carries the cluster's CA into every namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// A node's Lease: only that it changed matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLease {
    pub name: String,
    pub resource_version: String,
}

/// A Secret with a ServiceAccount's token.
#[derive(Debug, Clone)]
pub struct TokenSecret {
    pub meta: ObjectMeta,
    pub account: String,
    pub account_uid: String,
    pub has_token: bool,
}

/// One informer a kind, shared by all controllers.
pub struct Informers {
    pub pods: Informer<Pod>,
    pub replica_sets: Informer<Templated<ReplicaSet>>,
    pub replication_controllers: Informer<Templated<ReplicaSet>>,
    pub deployments: Informer<Templated<Deployment>>,
    pub jobs: Informer<Templated<Job>>,
    pub quotas: Informer<core::ResourceQuota>,
    pub budgets: Informer<PodDisruptionBudget>,
    pub cron_jobs: Informer<CronJob>,
    pub stateful_sets: Informer<Templated<StatefulSet>>,
    pub daemon_sets: Informer<Templated<DaemonSet>>,
    pub revisions: Informer<Revision>,
    pub claims: Informer<ObjectMeta>,
    pub services: Informer<core::Service>,
    pub endpoint_slices: Informer<EndpointSlice>,
    pub endpoints: Informer<core::Endpoints>,
    pub nodes: Informer<core::Node>,
    pub leases: Informer<NodeLease>,
    pub namespaces: Informer<Namespace>,
    pub service_accounts: Informer<ObjectMeta>,
    pub tokens: Informer<TokenSecret>,
    pub root_cas: Informer<core::ConfigMap>,
    pub requests: Informer<CertificateSigningRequest>,
}

fn owner_uid(meta: &ObjectMeta) -> Vec<String> {
    controller_of(meta).map(|owner| owner.uid.clone()).into_iter().collect()
}

fn namespace_of(meta: &ObjectMeta) -> Vec<String> {
    meta.namespace.clone().into_iter().collect()
}

fn orphan_of(meta: &ObjectMeta) -> Vec<String> {
    if controller_of(meta).is_some() { Vec::new() } else { namespace_of(meta) }
}

/// The label that names the Service of an EndpointSlice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    name.map(|name| format!("{namespace}/{name}")).into_iter().collect()
}

fn token_secret(secret: core::Secret) -> Option<TokenSecret> {
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let read = |name: &str| annotations.get(name).cloned().unwrap_or_default();
    let has_token = secret.data.as_ref().is_some_and(|data| data.contains_key("token"));
    let mut meta = secret.metadata;
    view::trim(&mut meta);
    Some(TokenSecret {
        account: read("kubernetes.io/service-account.name"),
        account_uid: read("kubernetes.io/service-account.uid"),
        has_token,
        meta,
    })
}

/// ReplicaSets, or what is looked at as if it were one.
fn sets_of<K>(
    source: Source,
    project: impl Fn(K) -> Option<Templated<ReplicaSet>> + Send + Sync + 'static,
) -> Builder<K, Templated<ReplicaSet>>
where
    K: Object + Clone + serde::de::DeserializeOwned + Send + 'static,
{
    Builder::new(source, project)
        .index("controller", |set: &Templated<ReplicaSet>| owner_uid(&set.object.metadata))
        .index("orphan", |set: &Templated<ReplicaSet>| orphan_of(&set.object.metadata))
        .index("namespace", |set: &Templated<ReplicaSet>| namespace_of(&set.object.metadata))
}

impl Informers {
    fn workloads(
        client: &kube::Client,
        stop: &Shutdown,
    ) -> (Informer<Pod>, Informer<Templated<ReplicaSet>>, Informer<Templated<Deployment>>) {
        let pods = Builder::new(Source::all::<core::Pod>(), view::pod)
            .index("controller", |pod: &Pod| {
                pod.controller.iter().map(|owner| owner.uid.clone()).collect()
            })
            .index("orphan", |pod: &Pod| {
                if pod.controller.is_none() { vec![pod.key.namespace.clone()] } else { vec![] }
            })
            .index("namespace", |pod: &Pod| vec![pod.key.namespace.clone()])
            .index("node", |pod: &Pod| vec![pod.node.clone()])
            .start(client.clone(), stop.clone());
        let replica_sets = sets_of(Source::all::<ReplicaSet>(), view::replica_set)
            .start(client.clone(), stop.clone());
        let deployments = Builder::new(Source::all::<Deployment>(), view::deployment)
            .index("namespace", |d: &Templated<Deployment>| namespace_of(&d.object.metadata))
            .start(client.clone(), stop.clone());
        (pods, replica_sets, deployments)
    }

    /// Starts all informers.
    pub fn start(client: &kube::Client, stop: &Shutdown) -> Self {
        let (pods, replica_sets, deployments) = Self::workloads(client, stop);
        Self {
            pods,
            replica_sets,
            replication_controllers: sets_of(
                Source::all::<core::ReplicationController>(),
                |controller: core::ReplicationController| view::replica_set(as_set(controller)),
            )
            .start(client.clone(), stop.clone()),
            deployments,
            jobs: Builder::new(Source::all::<Job>(), view::job)
                .index("controller", |job: &Templated<Job>| owner_uid(&job.object.metadata))
                .index("namespace", |job: &Templated<Job>| namespace_of(&job.object.metadata))
                .start(client.clone(), stop.clone()),
            quotas: Builder::new(
                Source::all::<core::ResourceQuota>(),
                |mut quota: core::ResourceQuota| {
                    view::trim(&mut quota.metadata);
                    Some(quota)
                },
            )
            .index("namespace", |quota: &core::ResourceQuota| namespace_of(&quota.metadata))
            .start(client.clone(), stop.clone()),
            budgets: Builder::new(
                Source::all::<PodDisruptionBudget>(),
                |mut budget: PodDisruptionBudget| {
                    view::trim(&mut budget.metadata);
                    Some(budget)
                },
            )
            .index("namespace", |budget: &PodDisruptionBudget| namespace_of(&budget.metadata))
            .start(client.clone(), stop.clone()),
            cron_jobs: Builder::new(Source::all::<CronJob>(), view::cron_job)
                .start(client.clone(), stop.clone()),
            stateful_sets: Builder::new(Source::all::<StatefulSet>(), view::stateful_set)
                .index("namespace", |set: &Templated<StatefulSet>| {
                    namespace_of(&set.object.metadata)
                })
                .start(client.clone(), stop.clone()),
            daemon_sets: Builder::new(Source::all::<DaemonSet>(), view::daemon_set)
                .index("namespace", |set: &Templated<DaemonSet>| namespace_of(&set.object.metadata))
                .start(client.clone(), stop.clone()),
            revisions: Builder::new(Source::all::<ControllerRevision>(), history::revision)
                .index("controller", |revision: &Revision| owner_uid(&revision.meta))
                .index("orphan", |revision: &Revision| orphan_of(&revision.meta))
                .start(client.clone(), stop.clone()),
            claims: Builder::new(
                Source::all::<core::PersistentVolumeClaim>(),
                |mut claim: core::PersistentVolumeClaim| {
                    view::trim(&mut claim.metadata);
                    Some(claim.metadata)
                },
            )
            .start(client.clone(), stop.clone()),
            services: Builder::new(Source::all::<core::Service>(), |mut service: core::Service| {
                view::trim(&mut service.metadata);
                Some(service)
            })
            .index("namespace", |service: &core::Service| namespace_of(&service.metadata))
            .start(client.clone(), stop.clone()),
            endpoint_slices: Builder::new(
                Source::all::<EndpointSlice>(),
                |mut slice: EndpointSlice| {
                    view::trim(&mut slice.metadata);
                    Some(slice)
                },
            )
            .index("service", service_of)
            .start(client.clone(), stop.clone()),
            endpoints: Builder::new(
                Source::all::<core::Endpoints>(),
                |mut endpoints: core::Endpoints| {
                    view::trim(&mut endpoints.metadata);
                    Some(endpoints)
                },
            )
            .start(client.clone(), stop.clone()),
            nodes: Builder::new(Source::all::<core::Node>(), view::node)
                .start(client.clone(), stop.clone()),
            leases: Builder::new(Source::in_namespace::<Lease>(NODE_LEASES), |lease: Lease| {
                Some(NodeLease {
                    name: lease.metadata.name.unwrap_or_default(),
                    resource_version: lease.metadata.resource_version.unwrap_or_default(),
                })
            })
            .start(client.clone(), stop.clone()),
            namespaces: Builder::new(Source::all::<core::Namespace>(), view::namespace)
                .start(client.clone(), stop.clone()),
            service_accounts: Builder::new(
                Source::all::<core::ServiceAccount>(),
                |mut account: core::ServiceAccount| {
                    view::trim(&mut account.metadata);
                    Some(account.metadata)
                },
            )
            .start(client.clone(), stop.clone()),
            tokens: Builder::new(
                Source::all::<core::Secret>().fields("type=kubernetes.io/service-account-token"),
                token_secret,
            )
            .index("account", |token: &TokenSecret| {
                let namespace = token.meta.namespace.as_deref().unwrap_or_default();
                vec![format!("{namespace}/{}", token.account)]
            })
            .start(client.clone(), stop.clone()),
            root_cas: Builder::new(
                Source::all::<core::ConfigMap>().fields(format!("metadata.name={ROOT_CA}")),
                |mut map: core::ConfigMap| {
                    view::trim(&mut map.metadata);
                    // A server that ignored the selector must not make this hold every ConfigMap.
                    (map.meta().name.as_deref() == Some(ROOT_CA)).then_some(map)
                },
            )
            .start(client.clone(), stop.clone()),
            requests: Builder::new(
                Source::all::<CertificateSigningRequest>(),
                |mut request: CertificateSigningRequest| {
                    view::trim(&mut request.metadata);
                    Some(request)
                },
            )
            .start(client.clone(), stop.clone()),
        }
    }

    /// Returns once every informer has read its first list.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.replica_sets.synced(),
            self.replication_controllers.synced(),
            self.deployments.synced(),
            self.jobs.synced(),
            self.budgets.synced(),
            self.quotas.synced(),
            self.cron_jobs.synced(),
            self.stateful_sets.synced(),
            self.daemon_sets.synced(),
            self.revisions.synced(),
            self.claims.synced(),
            self.services.synced(),
            self.endpoint_slices.synced(),
            self.endpoints.synced(),
            self.nodes.synced(),
            self.leases.synced(),
            self.namespaces.synced(),
            self.service_accounts.synced(),
            self.tokens.synced(),
            self.root_cas.synced(),
            self.requests.synced(),
        );
    }
}

/// What a controller is handed; clones share all of it.
#[derive(Clone)]
pub struct Context {
    pub client: kube::Client,
    pub clock: SharedClock,
    pub informers: Arc<Informers>,
    pub config: Arc<ControllersConfig>,
    pub shutdown: Shutdown,
}

impl Context {
    /// A recorder of events in the name of `component`.
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::start(
            self.client.clone(),
            component,
            "",
            self.clock.clone(),
            self.shutdown.clone(),
        )
    }

    /// A seed of its own for `purpose`.
    pub fn seed(&self, purpose: &str) -> u64 {
        purpose.bytes().fold(self.config.seed, |seed, byte| {
            (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// A conflict only says that the informer is behind: look again soon, and say nothing.
pub fn quiet_conflict(result: Result<Outcome, kube::Error>) -> Result<Outcome, kube::Error> {
    match result {
        Err(error) if rest::is_conflict(&error) => Ok(Outcome::again_in(Duration::from_millis(20))),
        other => other,
    }
}
