//! What the scheduler hears of the cluster, and how its state takes it in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::node::Node;
use super::pod::{Interner, Pod};
use super::preempt::Budget;
use super::seen;
use super::snapshot::ServiceSelector;
use super::state::State;
use super::terms::selector;
use super::volumes::{Attachable, Class, PvClaim, Volume};
use crate::base::shutdown::Shutdown;
use crate::client::Key;
use crate::client::informer::{Builder, Changes, Informer, Source};
use crate::client::meta::{Object, Partial};

/// Where PodGroups are, once a user has installed their definition.
const POD_GROUPS: &str = "/apis/scheduling.x-k8s.io/v1alpha1/podgroups";

/// A PodGroup (`scheduling.x-k8s.io/v1alpha1`), as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct PodGroup {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodGroupSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodGroupSpec {
    min_member: usize,
}

impl Object for PodGroup {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Pictures of everything that decisions look at.
pub struct Informers {
    pub pods: Informer<Pod>,
    nodes: Informer<Node>,
    services: Informer<ServiceSelector>,
    namespaces: Informer<BTreeMap<String, String>>,
    budgets: Informer<Budget>,
    pub claims: Informer<PvClaim>,
    pub volumes: Informer<Volume>,
    classes: Informer<Class>,
    attachable: Informer<Attachable>,
}

impl Informers {
    /// Starts to listen.
    pub fn start(client: &kube::Client, stop: &Shutdown) -> Self {
        let interner = Interner::default();
        let pod = move |pod: seen::Pod| Pod::of(pod, &interner);
        let pods = Builder::new(Source::all::<v1::Pod>(), pod);
        let nodes = Builder::new(Source::all::<v1::Node>(), Node::of);
        let services = Builder::new(Source::all::<v1::Service>(), selector_of);
        let labels = |namespace: Partial| Some(namespace.metadata.labels.unwrap_or_default());
        let namespaces = Builder::new(Source::all::<v1::Namespace>().metadata_only(), labels);
        let budgets = Builder::new(Source::all::<PodDisruptionBudget>(), budget_of);
        let claims = Builder::new(Source::all::<v1::PersistentVolumeClaim>(), PvClaim::of);
        let volumes = Builder::new(Source::all::<v1::PersistentVolume>(), Volume::of);
        let classes = Builder::new(Source::all::<StorageClass>(), Class::of);
        let attachable = Builder::new(Source::all::<CSINode>(), Attachable::of);
        let with = || (client.clone(), stop.clone());
        macro_rules! start {
            ($($builder:ident),*) => {
                Self { $($builder: { let (client, stop) = with(); $builder.start(client, stop) }),* }
            };
        }
        start!(pods, nodes, services, namespaces, budgets, claims, volumes, classes, attachable)
    }

    /// Returns once all of it has been read.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.services.synced(),
            self.namespaces.synced(),
            self.budgets.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.attachable.synced(),
        );
    }

    /// What changes from now on.
    pub fn news(&self) -> News {
        News {
            pods: self.pods.changes(),
            nodes: self.nodes.changes(),
            services: self.services.changes(),
            namespaces: self.namespaces.changes(),
            budgets: self.budgets.changes(),
            claims: self.claims.changes(),
            volumes: self.volumes.changes(),
            classes: self.classes.changes(),
            attachable: self.attachable.changes(),
        }
    }

    /// Hands what changed to the state.
    pub fn tell(&self, heard: Heard, state: &mut State, now: Duration) {
        match heard {
            Heard::Pods(keys) => {
                for key in keys {
                    let pod = self.pods.get(&key);
                    state.pod(key, pod, now);
                }
            }
            Heard::Nodes(keys) => {
                for key in keys {
                    state.node(&key.name, self.nodes.get(&key), now);
                }
            }
            Heard::Services(keys) => {
                for key in keys {
                    state.service(&key, self.services.get(&key).map(|s| (*s).clone()));
                }
            }
            Heard::Namespaces(keys) => {
                for key in keys {
                    let labels = self.namespaces.get(&key).map(|labels| (*labels).clone());
                    state.namespace(&key.name, labels, now);
                }
            }
            Heard::Budgets(keys) => {
                for key in keys {
                    let budget = self.budgets.get(&key).map(|budget| (*budget).clone());
                    state.budget(key, budget);
                }
            }
            Heard::Claims(keys) => {
                for key in keys {
                    let claim = self.claims.get(&key);
                    state.claim(key, claim, now);
                }
            }
            Heard::Volumes(keys) => {
                for key in keys {
                    state.volume(&key.name, self.volumes.get(&key), now);
                }
            }
            Heard::Classes(keys) => {
                for key in keys {
                    state.class(&key.name, self.classes.get(&key), now);
                }
            }
            Heard::Attachable(keys) => {
                for key in keys {
                    state.attachable(&key.name, self.attachable.get(&key), now);
                }
            }
        }
    }
}

/// Listens for pod groups; begins once there is a pod that names one.
pub fn pod_groups(client: &kube::Client, stop: &Shutdown) -> Informer<usize> {
    let min = |group: PodGroup| Some(group.spec.min_member);
    Builder::new(Source::at(POD_GROUPS), min).start(client.clone(), stop.clone())
}

/// What changed of what has been heard.
pub struct News {
    pods: Changes,
    nodes: Changes,
    services: Changes,
    namespaces: Changes,
    budgets: Changes,
    claims: Changes,
    volumes: Changes,
    classes: Changes,
    attachable: Changes,
}

/// Keys of changed objects of a kind.
pub enum Heard {
    Pods(Vec<Key>),
    Nodes(Vec<Key>),
    Services(Vec<Key>),
    Namespaces(Vec<Key>),
    Budgets(Vec<Key>),
    Claims(Vec<Key>),
    Volumes(Vec<Key>),
    Classes(Vec<Key>),
    Attachable(Vec<Key>),
}

impl News {
    /// The next news; what pods need to be decided for comes before pods.
    pub async fn next(&mut self) -> Heard {
        tokio::select! {
            biased;
            keys = self.nodes.next() => Heard::Nodes(keys),
            keys = self.services.next() => Heard::Services(keys),
            keys = self.namespaces.next() => Heard::Namespaces(keys),
            keys = self.budgets.next() => Heard::Budgets(keys),
            keys = self.classes.next() => Heard::Classes(keys),
            keys = self.volumes.next() => Heard::Volumes(keys),
            keys = self.claims.next() => Heard::Claims(keys),
            keys = self.attachable.next() => Heard::Attachable(keys),
            keys = self.pods.next() => Heard::Pods(keys),
        }
    }
}

fn selector_of(service: v1::Service) -> Option<ServiceSelector> {
    let selector = service.spec?.selector.filter(|selector| !selector.is_empty())?;
    Some(ServiceSelector { namespace: service.metadata.namespace?, selector })
}

fn budget_of(budget: PodDisruptionBudget) -> Option<Budget> {
    let (spec, status) = (budget.spec?, budget.status.unwrap_or_default());
    Some(Budget {
        namespace: budget.metadata.namespace?,
        selector: selector(spec.selector.as_ref()),
        allowed: i64::from(status.disruptions_allowed.unwrap_or(0)),
        disrupted: status.disrupted_pods.unwrap_or_default().into_keys().collect(),
    })
}

/// What a list of pods, nodes and so on means to a scheduler: for looking at a cluster once.
pub fn read_all(state: &mut State, objects: Objects) {
    let interner = Interner::default();
    let now = Duration::ZERO;
    for node in objects.nodes.into_iter().filter_map(Node::of) {
        let node = Arc::new(node);
        state.node(&node.name.clone(), Some(node), now);
    }
    for namespace in objects.namespaces {
        let name = namespace.metadata.name.unwrap_or_default();
        state.namespace(&name, Some(namespace.metadata.labels.unwrap_or_default()), now);
    }
    for service in objects.services {
        let key = Key::of(&service.metadata);
        state.service(&key, selector_of(service));
    }
    for class in objects.classes.into_iter().filter_map(Class::of) {
        state.class(&class.name.clone(), Some(Arc::new(class)), now);
    }
    for volume in objects.volumes.into_iter().filter_map(Volume::of) {
        state.volume(&volume.name.clone(), Some(Arc::new(volume)), now);
    }
    for claim in objects.claims.into_iter().filter_map(PvClaim::of) {
        state.claim(claim.key.clone(), Some(Arc::new(claim)), now);
    }
    for node in objects.attachable.into_iter().filter_map(Attachable::of) {
        state.attachable(&node.name.clone(), Some(Arc::new(node)), now);
    }
    for budget in objects.budgets {
        let key = Key::of(&budget.metadata);
        state.budget(key, budget_of(budget));
    }
    for pod in objects.pods.into_iter().filter_map(|pod| Pod::of(pod, &interner)) {
        let pod = Arc::new(pod);
        state.pod(pod.key.clone(), Some(pod), now);
    }
}

/// Everything that decisions look at, as read once.
#[derive(Debug, Default)]
pub struct Objects {
    pub nodes: Vec<seen::Node>,
    pub pods: Vec<seen::Pod>,
    pub namespaces: Vec<Partial>,
    pub services: Vec<v1::Service>,
    pub claims: Vec<v1::PersistentVolumeClaim>,
    pub volumes: Vec<v1::PersistentVolume>,
    pub classes: Vec<StorageClass>,
    pub attachable: Vec<CSINode>,
    pub budgets: Vec<PodDisruptionBudget>,
}
