//! The EndpointSlice and Endpoints controllers' loop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use super::endpoints;
use super::mirror;
use super::plan::{self, Action, Observed};
use crate::base::rng::Rng;
use crate::client::informer::Informer;
use crate::client::meta::{Key, controller_of};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, SERVICE_NAME, quiet_conflict};
use crate::controllers::expectations::Expectations;
use crate::controllers::selector;
use crate::controllers::view::Pod;

const WORKERS: usize = 5;
/// How long a Service is left alone after a reconcile, for each pod of its namespace.
const HOLD_PER_POD: Duration = Duration::from_micros(20);

struct Controller {
    context: Context,
    /// Slices that were written and whose new state the informer does not show yet, by Service.
    expectations: Arc<Expectations>,
    rng: Mutex<Rng>,
}

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("endpointslice"));
    let expectations = Arc::new(Expectations::default());
    watch(&context, &queue, &expectations);
    let controller = Arc::new(Controller {
        rng: Mutex::new(Rng::seeded(context.seed("slice names"))),
        expectations,
        context: context.clone(),
    });
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { quiet_conflict(controller.reconcile(&key).await) }
    };
    queue.run("endpointslice", WORKERS, context.shutdown.clone(), reconcile).await;
}

/// What of a pod endpoints are made of.
fn matters(pod: &Pod) -> impl PartialEq + '_ {
    (
        &pod.labels,
        &pod.ips,
        &pod.node,
        pod.ready.is_some(),
        pod.is_terminal(),
        pod.deleting.is_some(),
        (&pod.uid, &pod.hostname, &pod.subdomain, &pod.ports),
    )
}

fn watch(context: &Context, queue: &WorkQueue<Key>, expectations: &Arc<Expectations>) {
    let informers = &context.informers;
    let to = queue.clone();
    informers.services.on_change(move |change| to.add(change.key.clone()));
    let (to, services) = (queue.clone(), informers.services.clone());
    informers.pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && matters(old) == matters(new)
        {
            return;
        }
        for pod in [change.old, change.new].into_iter().flatten() {
            add_services(&to, &services, pod);
        }
    });
    let (to, seen) = (queue.clone(), expectations.clone());
    informers.endpoint_slices.on_change(move |change| {
        for (slice, is_new) in [(change.old, false), (change.new, true)] {
            let Some(slice) = slice else { continue };
            let meta = &slice.metadata;
            let name = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let Some(name) = name {
                to.add(Key::new(meta.namespace.clone().unwrap_or_default(), name.clone()));
            }
            if let Some(owner) = controller_of(meta) {
                if is_new {
                    seen.created(&owner.uid, meta.name.as_deref().unwrap_or_default());
                } else {
                    seen.deleted(&owner.uid, &version(slice));
                }
            }
        }
    });
    let to = queue.clone();
    informers.endpoints.on_change(move |change| to.add(change.key.clone()));
}

fn add_services(queue: &WorkQueue<Key>, services: &Informer<Service>, pod: &Pod) {
    for service in services.indexed("namespace", &pod.key.namespace) {
        let spec = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if spec.is_some_and(|wanted| selector::has_all(wanted, &pod.labels)) {
            queue.add(Key::of(&service.metadata));
        }
    }
}

/// One state of a slice.
fn version(slice: &EndpointSlice) -> String {
    let meta = &slice.metadata;
    format!(
        "{}@{}",
        meta.name.as_deref().unwrap_or_default(),
        meta.resource_version.as_deref().unwrap_or_default()
    )
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, kube::Error> {
        let informers = &self.context.informers;
        let Some(service) = informers.services.get(key) else {
            // The slices go with their owner; Endpoints have none.
            return self.delete_endpoints(key).await.map(|()| Outcome::done());
        };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::done());
        }
        self.mirror(key, &service).await?;
        if !plan::is_selected(&service) {
            return Ok(Outcome::done());
        }
        let pods = informers.pods.indexed("namespace", &key.namespace);
        self.write_endpoints(key, &service, &pods).await?;
        let uid = service.metadata.uid.clone().unwrap_or_default();
        let now = self.context.clock.monotonic();
        if self.expectations.satisfied(&uid, now) {
            for action in self.plan(key, &service, &pods) {
                self.act(key, &uid, action).await?;
            }
        }
        let count = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        Ok(Outcome::done().holding(HOLD_PER_POD.saturating_mul(count)))
    }

    /// Keeps the slices of Endpoints that were written by hand. Their names follow from the
    /// Endpoints, so a write that does not show yet is only refused when it is done again.
    async fn mirror(&self, key: &Key, service: &Service) -> Result<(), kube::Error> {
        let informers = &self.context.informers;
        let slices = informers.endpoint_slices.indexed("service", &key.to_string());
        let endpoints = informers.endpoints.get(key);
        let client = &self.context.client;
        for action in mirror::plan(endpoints.as_deref(), Some(service), &slices) {
            let result = match action {
                Action::Create(slice) => {
                    let path = rest::collection::<EndpointSlice>(&key.namespace);
                    match rest::create::<rest::Ignored>(client, &path, &slice).await {
                        Err(error) if rest::is_already_exists(&error) => Ok(()),
                        Err(error) if rest::is_namespace_terminating(&error) => return Ok(()),
                        other => other.map(|_| ()),
                    }
                }
                Action::Update(slice) => {
                    let name = slice.metadata.name.clone().unwrap_or_default();
                    let path = rest::object::<EndpointSlice>(&key.namespace, &name);
                    rest::replace::<rest::Ignored>(client, &path, &slice).await.map(|_| ())
                }
                Action::Delete { name, uid } => {
                    let path = rest::object::<EndpointSlice>(&key.namespace, &name);
                    rest::delete(client, &path, &rest::Delete::uid(uid)).await
                }
            };
            rest::found(result)?;
        }
        Ok(())
    }

    fn plan(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Vec<Action> {
        let informers = &self.context.informers;
        let slices = informers.endpoint_slices.indexed("service", &key.to_string());
        let zone = |node: &str| {
            let node = informers.nodes.get(&Key::new("", node))?;
            node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
        };
        plan::plan(&Observed { service, pods, slices: &slices, zone: &zone })
    }

    async fn act(&self, key: &Key, owner: &str, action: Action) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let now = self.context.clock.monotonic();
        let result = match action {
            Action::Create(mut slice) => {
                let mut prefix = format!("{}-", key.name);
                prefix.truncate(63 - 5);
                let name = format!("{prefix}{}", self.rng.lock().suffix(5));
                slice.metadata.generate_name = Some(prefix);
                slice.metadata.name = Some(name.clone());
                self.expectations.creating(owner, &name, now);
                let path = rest::collection::<EndpointSlice>(&key.namespace);
                let created = rest::create::<rest::Ignored>(client, &path, &slice).await;
                if created.is_err() {
                    self.expectations.created(owner, &name);
                }
                match created {
                    Err(error) if rest::is_namespace_terminating(&error) => return Ok(()),
                    other => other.map(|_| ()),
                }
            }
            Action::Update(slice) => {
                let version = version(&slice);
                let name = slice.metadata.name.clone().unwrap_or_default();
                self.expectations.deleting(owner, &version, now);
                let path = rest::object::<EndpointSlice>(&key.namespace, &name);
                let updated = rest::replace::<rest::Ignored>(client, &path, &slice).await;
                if updated.is_err() {
                    self.expectations.deleted(owner, &version);
                }
                updated.map(|_| ())
            }
            Action::Delete { name, uid } => {
                let path = rest::object::<EndpointSlice>(&key.namespace, &name);
                rest::delete(client, &path, &rest::Delete::uid(uid)).await
            }
        };
        rest::found(result).map(|_| ())
    }

    async fn write_endpoints(
        &self,
        key: &Key,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let client = &self.context.client;
        let mut wanted = endpoints::wanted(service, pods);
        match self.context.informers.endpoints.get(key) {
            Some(have) if endpoints::agrees(&have, &wanted) => Ok(()),
            Some(have) => {
                let mut meta = have.metadata.clone();
                meta.labels = wanted.metadata.labels;
                meta.annotations = wanted.metadata.annotations;
                wanted.metadata = meta;
                let path = rest::object::<Endpoints>(&key.namespace, &key.name);
                let replaced = rest::replace::<rest::Ignored>(client, &path, &wanted).await;
                rest::found(replaced).map(|_| ())
            }
            None => {
                let path = rest::collection::<Endpoints>(&key.namespace);
                match rest::create::<rest::Ignored>(client, &path, &wanted).await {
                    Err(error)
                        if rest::is_already_exists(&error)
                            || rest::is_namespace_terminating(&error) =>
                    {
                        Ok(())
                    }
                    other => other.map(|_| ()),
                }
            }
        }
    }

    async fn delete_endpoints(&self, key: &Key) -> Result<(), kube::Error> {
        // What was written by hand, perhaps before its Service, is not this controller's.
        let have = self.context.informers.endpoints.get(key);
        if !have.is_some_and(|have| endpoints::is_managed(&have)) {
            return Ok(());
        }
        let path = rest::object::<Endpoints>(&key.namespace, &key.name);
        let deleted = rest::delete(&self.context.client, &path, &rest::Delete::default()).await;
        rest::found(deleted).map(|_| ())
    }
}
