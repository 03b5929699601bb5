//! A local, indexed picture of the objects of one kind, kept by list and watch.
//!
//! An informer keeps a *projection* of every object, made once as it arrives, so that thousands of
//! objects cost what is really looked at. Readers never ask the server: [`Informer::get`],
//! [`Informer::list`] and [`Informer::indexed`] read memory. Who wants to know what changed
//! registers a function ([`Informer::on_change`]) or takes keys, each once however often it
//! changed, from [`Informer::changes`].
//!
//! [`reflector`](self::reflector) holds the state machine that keeps the picture up to date.
//!
//! **Invariant:** every reader sees a state that the server had; each change is told exactly once
//! and after it can be read; after a gap (410, restart of the server) what vanished meanwhile is
//! told as removed.

mod cache;
mod reflector;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use self::cache::Cache;
use super::meta::{Key, Object};
use super::rest;
use crate::base::shutdown::Shutdown;

/// Which objects to keep.
#[derive(Debug, Clone)]
pub struct Source {
    path: String,
    labels: String,
    fields: String,
    metadata_only: bool,
    page: u32,
}

impl Source {
    /// All objects of a kind.
    pub fn all<K: k8s_openapi::Resource>() -> Self {
        Self::at(rest::all::<K>())
    }

    /// The objects of a kind in one namespace.
    pub fn in_namespace<K>(namespace: &str) -> Self
    where
        K: k8s_openapi::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Self::at(rest::collection::<K>(namespace))
    }

    /// The objects that a list of `path` answers.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            labels: String::new(),
            fields: String::new(),
            metadata_only: false,
            page: 500,
        }
    }

    /// Only objects that the label selector matches.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = selector.into();
        self
    }

    /// Only objects that the field selector matches, as `spec.nodeName=one`.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = selector.into();
        self
    }

    /// Only the metadata of the objects (decode them as [`super::meta::Partial`]).
    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// How many objects a page of the first list has.
    #[must_use]
    pub fn page(mut self, objects: u32) -> Self {
        self.page = objects;
        self
    }
}

/// What happened to one object: `old` is missing for a new one, `new` for one that is gone.
#[derive(Debug)]
pub struct Change<'a, P> {
    pub key: &'a Key,
    pub old: Option<&'a Arc<P>>,
    pub new: Option<&'a Arc<P>>,
}

type Handler<P> = Box<dyn Fn(Change<'_, P>) + Send + Sync>;
type IndexFn<P> = Box<dyn Fn(&P) -> Vec<String> + Send + Sync>;

struct Subscribers<P> {
    handlers: Vec<Handler<P>>,
    pending: Vec<Weak<Pending>>,
}

struct Shared<P> {
    cache: RwLock<Cache<P>>,
    /// Held while a change is applied and told, so that changes are told in order.
    subscribers: Mutex<Subscribers<P>>,
    synced: watch::Sender<bool>,
}

/// A picture of the objects of one kind; clones share it.
pub struct Informer<P>(Arc<Shared<P>>);

impl<P> Clone for Informer<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// How an informer is put together.
pub struct Builder<K, P> {
    source: Source,
    project: Box<dyn Fn(K) -> Option<P> + Send + Sync>,
    indexes: Vec<(&'static str, IndexFn<P>)>,
    seed: u64,
}

impl<K, P> Builder<K, P>
where
    K: Object + DeserializeOwned + Send + 'static,
    P: Send + Sync + 'static,
{
    /// Keeps what `project` makes of each object of `source`; objects of which it makes `None`
    /// are left out.
    pub fn new(source: Source, project: impl Fn(K) -> Option<P> + Send + Sync + 'static) -> Self {
        Self { source, project: Box::new(project), indexes: Vec::new(), seed: 1 }
    }

    /// Lets objects be found by the values that `values` gives ([`Informer::indexed`]).
    #[must_use]
    pub fn index(
        mut self,
        name: &'static str,
        values: impl Fn(&P) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.indexes.push((name, Box::new(values)));
        self
    }

    /// Seeds the jitter of the reconnects.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts a task that keeps the picture until `shutdown`.
    pub fn start(self, client: kube::Client, shutdown: Shutdown) -> Informer<P> {
        let informer = Informer(Arc::new(Shared {
            cache: RwLock::new(Cache::new(self.indexes)),
            subscribers: Mutex::new(Subscribers { handlers: Vec::new(), pending: Vec::new() }),
            synced: watch::Sender::new(false),
        }));
        let reflector = reflector::Reflector::new(
            client,
            self.source,
            self.project,
            informer.clone(),
            self.seed,
        );
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = reflector.run() => {}
            }
        });
        informer
    }
}

impl<P> Informer<P> {
    /// The projection of an object.
    pub fn get(&self, key: &Key) -> Option<Arc<P>> {
        self.0.cache.read().get(key)
    }

    /// All projections, in no order.
    pub fn list(&self) -> Vec<Arc<P>> {
        self.0.cache.read().list()
    }

    /// All keys, in no order.
    pub fn keys(&self) -> Vec<Key> {
        self.0.cache.read().keys()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.cache.read().len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The projections whose index `index` has `value`, by key.
    ///
    /// # Panics
    /// When the informer was built without that index.
    pub fn indexed(&self, index: &'static str, value: &str) -> Vec<Arc<P>> {
        self.0.cache.read().indexed(index, value)
    }

    /// How many objects [`Self::indexed`] would give.
    ///
    /// # Panics
    /// When the informer was built without that index.
    pub fn count(&self, index: &'static str, value: &str) -> usize {
        self.0.cache.read().count(index, value)
    }

    /// Returns once the first list has been read whole.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the first list has been read whole.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Calls `handler` for every object that is there, and from then on for every change, in
    /// order. It runs on the informer's task: it must be quick and must not register others.
    pub fn on_change(&self, handler: impl Fn(Change<'_, P>) + Send + Sync + 'static) {
        let mut subscribers = self.0.subscribers.lock();
        let present = self.0.cache.read().entries();
        for (key, object) in &present {
            handler(Change { key, old: None, new: Some(object) });
        }
        subscribers.handlers.push(Box::new(handler));
    }

    /// The keys of what is there and of what changes from now on, each once until it was taken.
    pub fn changes(&self) -> Changes {
        let mut subscribers = self.0.subscribers.lock();
        let pending = Arc::new(Pending { keys: Mutex::default(), wake: Notify::new() });
        pending.keys.lock().extend(self.keys());
        pending.wake.notify_one();
        subscribers.pending.push(Arc::downgrade(&pending));
        Changes(pending)
    }

    /// Puts `object` in the place of what is under `key`, and tells.
    fn apply(&self, key: &Key, object: Option<P>) {
        let mut subscribers = self.0.subscribers.lock();
        let new = object.map(Arc::new);
        let old = self.0.cache.write().put(key, new.clone());
        if old.is_none() && new.is_none() {
            return;
        }
        for handler in &subscribers.handlers {
            handler(Change { key, old: old.as_ref(), new: new.as_ref() });
        }
        subscribers.pending.retain(|pending| match pending.upgrade() {
            Some(pending) => {
                pending.keys.lock().insert(key.clone());
                pending.wake.notify_one();
                true
            }
            None => false,
        });
    }

    fn set_synced(&self) {
        self.0.synced.send_replace(true);
    }
}

struct Pending {
    keys: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

/// Keys of changed objects, from [`Informer::changes`].
pub struct Changes(Arc<Pending>);

impl Changes {
    /// The keys that changed since the last call; waits until there is one.
    pub async fn next(&mut self) -> Vec<Key> {
        loop {
            let keys = std::mem::take(&mut *self.0.keys.lock());
            if !keys.is_empty() {
                return keys.into_iter().collect();
            }
            self.0.wake.notified().await;
        }
    }
}
