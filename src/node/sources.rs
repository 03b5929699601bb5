//! ConfigMaps and Secrets that the node's pods use: one watch an object, as the node authorizer
//! allows, shared by all pods that name it, with a sealed copy in the node's store for when the
//! API server cannot be reached.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pod::env::{Data, Lookup};
use super::pod::spec::ephemeral;
use super::pod::volumes::payload::references;
use super::store::NodeStore;
use crate::base::shutdown::Shutdown;
use crate::client::Key;
use crate::client::informer::{Builder, Informer, Source};

/// How long a pod waits for the API server before the stored copy is taken, and before it gives
/// up where there is none.
const FRESH_WITHIN: Duration = Duration::from_millis(700);
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ConfigMap,
    Secret,
}

/// One object that a pod names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source/{:?}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// The API server did not answer and nothing is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to sync {kind} cache: timed out waiting for the condition")]
pub struct Unknown {
    kind: &'static str,
}

struct Watched {
    users: HashMap<String, Arc<Notify>>,
    informer: Informer<Data>,
    stop: Shutdown,
}

/// See the module.
pub struct Sources {
    client: kube::Client,
    store: Arc<NodeStore>,
    shutdown: Shutdown,
    watched: Arc<Mutex<HashMap<Reference, Watched>>>,
}

/// What one pod's references were found to be, for the pure parts.
#[derive(Debug, Default)]
pub struct Found {
    maps: HashMap<String, Arc<Data>>,
    secrets: HashMap<String, Arc<Data>>,
}

impl Lookup for Found {
    fn config_map(&self, name: &str) -> Option<&Data> {
        self.maps.get(name).map(Arc::as_ref)
    }

    fn secret(&self, name: &str) -> Option<&Data> {
        self.secrets.get(name).map(Arc::as_ref)
    }
}

/// Everything that `pod` names, in volumes and environments.
pub fn of_pod(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut all = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        all.insert(Reference { kind, namespace: namespace.clone(), name: name.to_owned() });
    };
    let Some(spec) = &pod.spec else { return all };
    for volume in spec.volumes.iter().flatten() {
        let (maps, secrets) = references(volume);
        maps.into_iter().for_each(|name| add(Kind::ConfigMap, name));
        secrets.into_iter().for_each(|name| add(Kind::Secret, name));
    }
    for secret in spec.image_pull_secrets.iter().flatten().filter(|s| !s.name.is_empty()) {
        add(Kind::Secret, &secret.name);
    }
    let added = ephemeral(spec);
    let own = spec.init_containers.iter().flatten().chain(&spec.containers);
    for container in own.chain(&added) {
        for source in container.env_from.iter().flatten() {
            source.config_map_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
            source.secret_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
        }
        for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
            source.secret_key_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
        }
    }
    all
}

fn map_data(map: ConfigMap) -> Option<Data> {
    let mut data: Data = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes())).collect();
    data.extend(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0)));
    Some(data)
}

fn secret_data(secret: Secret) -> Option<Data> {
    Some(secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect())
}

impl Sources {
    pub fn new(client: kube::Client, store: Arc<NodeStore>, shutdown: Shutdown) -> Self {
        Self { client, store, shutdown, watched: Arc::default() }
    }

    /// From now on the pod `uid` uses exactly these; `changed` is told when one changes.
    pub fn set(&self, uid: &str, wanted: &BTreeSet<Reference>, changed: &Arc<Notify>) {
        let mut watched = self.watched.lock();
        watched.retain(|reference, entry| {
            if !wanted.contains(reference) {
                entry.users.remove(uid);
            }
            let unused = entry.users.is_empty();
            if unused {
                entry.stop.cancel();
                self.store.remove(&reference.to_string());
            }
            !unused
        });
        for reference in wanted {
            let users = match watched.get_mut(reference) {
                Some(entry) => &mut entry.users,
                None => {
                    let entry = self.watch(reference.clone());
                    &mut watched.entry(reference.clone()).or_insert(entry).users
                }
            };
            users.insert(uid.to_owned(), Arc::clone(changed));
        }
    }

    fn watch(&self, reference: Reference) -> Watched {
        let stop = self.shutdown.child_token();
        let only = format!("metadata.name={}", reference.name);
        let namespace = &reference.namespace;
        let client = self.client.clone();
        let informer = match reference.kind {
            Kind::ConfigMap => {
                let source = Source::in_namespace::<ConfigMap>(namespace).fields(only);
                Builder::new(source, map_data).start(client, stop.clone())
            }
            Kind::Secret => {
                let source = Source::in_namespace::<Secret>(namespace).fields(only);
                Builder::new(source, secret_data).start(client, stop.clone())
            }
        };
        let (watched, store) = (Arc::downgrade(&self.watched), Arc::downgrade(&self.store));
        informer.on_change(move |change| {
            let (Some(watched), Some(store)) = (watched.upgrade(), store.upgrade()) else { return };
            match change.new {
                Some(data) => store.put(&reference.to_string(), data.as_ref()),
                None => store.remove(&reference.to_string()),
            }
            // `set` holds the table while an informer is made, which tells nothing yet.
            if let Some(entry) = watched.lock().get(&reference) {
                entry.users.values().for_each(|user| user.notify_one());
            }
        });
        Watched { users: HashMap::new(), informer, stop }
    }

    /// What the references are now, each found or known to be missing.
    pub async fn find(&self, references: &BTreeSet<Reference>) -> Result<Found, Unknown> {
        let mut found = Found::default();
        for reference in references {
            if let Some(data) = self.one(reference).await? {
                let into = match reference.kind {
                    Kind::ConfigMap => &mut found.maps,
                    Kind::Secret => &mut found.secrets,
                };
                into.insert(reference.name.clone(), data);
            }
        }
        Ok(found)
    }

    async fn one(&self, reference: &Reference) -> Result<Option<Arc<Data>>, Unknown> {
        let kind = match reference.kind {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        };
        let informer = self.watched.lock().get(reference).map(|entry| entry.informer.clone());
        let informer = informer.ok_or(Unknown { kind })?;
        let key = Key::new(reference.namespace.clone(), reference.name.clone());
        if tokio::time::timeout(FRESH_WITHIN, informer.synced()).await.is_ok() {
            return Ok(informer.get(&key));
        }
        if let Some(stored) = self.store.get::<Data>(&reference.to_string()) {
            return Ok(Some(Arc::new(stored)));
        }
        match tokio::time::timeout(GIVE_UP_AFTER, informer.synced()).await {
            Ok(()) => Ok(informer.get(&key)),
            Err(_) => Err(Unknown { kind }),
        }
    }
}
