//! The registry: one generic path a verb, over the store, for every kind.
//!
//! A write goes: name and system fields → defaults → admission changes → `prepare` → hooks
//! (allocation) → validation → admission refusals → compare-and-swap. Its public methods are the
//! in-process API for what lives inside the server (bootstrap, authorizer caches): they are
//! trusted, so they skip authorization and admission, nothing else.
//!
//! **Invariant:** nothing here knows a kind by name; what a kind does differently is its row, its
//! strategy and its [`Hook`].

pub mod call;
pub mod collection;
pub(in crate::apiserver) mod convert;
pub mod create;
pub mod delete;
pub mod hooks;
mod managed;
pub mod meta;
mod observe;
pub mod read;
pub mod token;
pub mod update;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;

pub use call::{Call, Written};
pub use convert::Converter;
pub use delete::DeleteOptions;
pub use hooks::{Hook, Reservation};
pub use observe::Derived;

use super::catalog::{Catalog, Resource, Strategies};
use super::definitions::{DEFINITIONS, Definitions};
use super::encoding;
use super::strategy::Part;
use super::watch::Hubs;
use crate::api::Object;
use crate::api::kinds::KindTable;
use crate::api::status::{ApiError, Reason};
use crate::base::clock::SharedClock;
use crate::base::rng::Rng;
use crate::store::{EventKind, Notice, Revision, Store, StoreError};

/// What a registry is made of.
pub struct RegistryConfig {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The kinds to serve.
    pub kinds: KindTable,
    /// Their strategies.
    pub strategies: Strategies,
    /// Where timestamps come from.
    pub clock: SharedClock,
    /// Where generated names and uids come from.
    pub rng: Rng,
}

/// The registry.
pub struct Registry {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: SharedClock,
    pub(super) hubs: Hubs,
    catalog: ArcSwap<Catalog>,
    /// Held while the catalog is changed.
    changing: Mutex<()>,
    strategies: Strategies,
    rng: Mutex<Rng>,
    hooks: HashMap<String, Arc<dyn Hook>>,
    observed: observe::Observed,
    converter: std::sync::OnceLock<Arc<dyn Converter>>,
}

/// A change, as the in-process watch tells it.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub kind: EventKind,
    /// The object after it; for a deletion its last state.
    pub object: Object,
    /// The revision of the change.
    pub revision: Revision,
}

impl Registry {
    /// A registry over a store, without hooks.
    pub fn new(config: RegistryConfig) -> Arc<Self> {
        Self::with_hooks(config, HashMap::new())
    }

    /// A registry whose writes of the resources `GROUP/PLURAL` (`/services` for the core group)
    /// go through hooks.
    pub fn with_hooks(config: RegistryConfig, hooks: HashMap<String, Arc<dyn Hook>>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let mut hooks = hooks;
            let (group, plural) = DEFINITIONS;
            let definitions = Definitions::new(me.clone());
            hooks.insert(format!("{group}/{plural}"), Arc::new(definitions));
            Self { hooks, ..Self::plain(config) }
        })
    }

    fn plain(config: RegistryConfig) -> Self {
        let catalog = Catalog::new(config.kinds, &config.strategies);
        Self {
            hubs: Hubs::new(config.store.clone()),
            store: config.store,
            clock: config.clock,
            catalog: ArcSwap::from_pointee(catalog),
            changing: Mutex::new(()),
            strategies: config.strategies,
            rng: Mutex::new(config.rng),
            hooks: HashMap::new(),
            observed: observe::Observed::default(),
            converter: std::sync::OnceLock::new(),
        }
    }

    /// The kinds that are served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Serve the kinds of `table` from now on.
    pub fn serve(&self, table: KindTable) {
        self.catalog.store(Arc::new(Catalog::new(table, &self.strategies)));
    }

    /// Serve the kinds that `change` makes of those that are served now.
    pub(super) fn change_table(&self, change: &dyn Fn(&KindTable) -> KindTable) {
        let _one_at_a_time = self.changing.lock();
        self.serve(change(self.catalog.load().table()));
    }

    /// What is stored is as a hook sees it written.
    pub(super) fn defined(&self, object: &Object) {
        let (group, plural) = DEFINITIONS;
        if let Some(hook) = self.hooks.get(&format!("{group}/{plural}")) {
            hook.written(object);
        }
    }

    /// The newest revision that can be read.
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    /// The clock that timestamps come from.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// How many watches are open.
    pub(super) fn watchers(&self) -> usize {
        self.hubs.watchers()
    }

    /// End every watch of clients: the server is about to stop.
    pub fn end_watches(&self) {
        self.hubs.end();
    }

    /// A random number in `0.0..1.0`.
    pub(super) fn fraction(&self) -> f64 {
        self.rng.lock().fraction()
    }

    /// Whether the store takes requests.
    pub(super) async fn is_open(&self) -> bool {
        self.store.get("/healthz").await.is_ok()
    }

    /// How many objects of a kind there are.
    pub(super) async fn count(&self, kind: &crate::api::kinds::Kind) -> Result<u64, ApiError> {
        self.store.count(&kind.prefix(None)).await.map_err(|e| store_error(&e))
    }

    pub(super) fn hook(&self, resource: &Resource) -> Option<&Arc<dyn Hook>> {
        if self.hooks.is_empty() {
            return None;
        }
        self.hooks.get(&format!("{}/{}", resource.kind.group, resource.kind.plural))
    }

    /// A random uid, as RFC 9562 version 4.
    pub(super) fn new_uid(&self) -> String {
        let mut rng = self.rng.lock();
        let (high, low) = (rng.next_u64(), rng.next_u64());
        drop(rng);
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff,
        )
    }

    /// The end of a generated name.
    pub(super) fn name_suffix(&self) -> String {
        self.rng.lock().suffix(5)
    }

    fn find(&self, group: &str, plural: &str) -> Result<Arc<Resource>, ApiError> {
        self.catalog.load().preferred(group, plural).cloned().ok_or_else(|| {
            ApiError::new(
                Reason::NotFound,
                format!("the server could not find the resource {plural} in the group {group:?}"),
            )
        })
    }

    /// The object `name`, or `None`. `namespace` is ignored for cluster-scoped kinds.
    ///
    /// # Errors
    /// 404 for an unknown resource, 500 when the store fails.
    pub async fn get(
        &self,
        (group, plural): (&str, &str),
        namespace: &str,
        name: &str,
    ) -> Result<Option<Object>, ApiError> {
        let resource = self.find(group, plural)?;
        let entry = self.store.get(&resource.kind.key(namespace, name)).await;
        match entry.map_err(|e| store_error(&e))? {
            Some(entry) => encoding::decode(&resource, &entry).map(Some),
            None => Ok(None),
        }
    }

    /// All objects, or those in one namespace, with the revision of the snapshot.
    ///
    /// # Errors
    /// 404 for an unknown resource, 500 when the store fails.
    pub async fn list(
        &self,
        (group, plural): (&str, &str),
        namespace: Option<&str>,
    ) -> Result<(Vec<Object>, Revision), ApiError> {
        let resource = self.find(group, plural)?;
        let range = crate::store::Range {
            prefix: resource.kind.prefix(namespace).into(),
            after: None,
            limit: 0,
            revision: None,
        };
        let page = self.store.list(range).await.map_err(|e| store_error(&e))?;
        let objects: Result<Vec<Object>, ApiError> =
            page.entries.iter().map(|entry| encoding::decode(&resource, entry)).collect();
        Ok((objects?, page.revision))
    }

    /// Every change after a revision. The stream ends with an error when it cannot go on; list
    /// and watch again then.
    ///
    /// # Errors
    /// 404 for an unknown resource, 410 when the revision is gone.
    pub async fn watch(
        self: &Arc<Self>,
        (group, plural): (&str, &str),
        after: Revision,
    ) -> Result<BoxStream<'static, Result<Change, ApiError>>, ApiError> {
        let resource = self.find(group, plural)?;
        let prefix = resource.kind.prefix(None);
        let notices = self.store.watch(&prefix, after).await.map_err(|e| store_error(&e))?;
        let changes = notices.filter_map(move |notice| {
            let change = match notice {
                Ok(Notice::Progress(_)) => None,
                Ok(Notice::Event(event)) => {
                    Some(encoding::decode(&resource, &event.entry).map(|object| Change {
                        kind: event.kind,
                        object,
                        revision: event.revision,
                    }))
                }
                Err(error) => Some(Err(store_error(&error))),
            };
            std::future::ready(change)
        });
        Ok(changes.boxed())
    }

    /// Create an object.
    ///
    /// # Errors
    /// 409 when it exists, 422 when it breaks a rule.
    pub async fn create(
        &self,
        (group, plural): (&str, &str),
        namespace: &str,
        object: Object,
    ) -> Result<Object, ApiError> {
        let resource = self.find(group, plural)?;
        let call = Call::internal(&resource, namespace, "create");
        let written = self.create_as(&call, &resource, namespace, object).await?;
        encoding::decode(&resource, &written.entry)
    }

    /// Replace an object. With `metadata.resourceVersion` only the state that it names.
    ///
    /// # Errors
    /// 404, 409 when it has changed since, 422 when it breaks a rule.
    pub async fn update(
        &self,
        (group, plural): (&str, &str),
        part: Part,
        object: Object,
    ) -> Result<Object, ApiError> {
        let resource = self.find(group, plural)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let call = Call::internal(&resource, &namespace, "update");
        let target = update::Target { resource: &resource, namespace: &namespace, name: &name };
        let change = |_: &Object| Ok(object.clone());
        let written = self.update_as(&call, target, Some(part), true, &change).await?;
        encoding::decode(&resource, &written.entry)
    }

    /// Delete an object at once (finalizers still hold it). `Ok(false)`: there was none.
    ///
    /// # Errors
    /// 500 when the store fails.
    pub async fn delete(
        &self,
        (group, plural): (&str, &str),
        namespace: &str,
        name: &str,
    ) -> Result<bool, ApiError> {
        let resource = self.find(group, plural)?;
        let call = Call::internal(&resource, namespace, "delete");
        let target = update::Target { resource: &resource, namespace, name };
        let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
        match self.delete_as(&call, target, &options).await {
            Ok(_) => Ok(true),
            Err(error) if error.reason == Reason::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How long a client should wait before it tries again, in seconds.
const RETRY_SECONDS: u64 = 1;

/// A store error, where it is not about the state of one key.
pub(super) fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted { asked, oldest } => {
            ApiError::new(Reason::Expired, format!("too old resource version: {asked} ({oldest})"))
        }
        StoreError::Future { asked, newest } => ApiError::new(
            Reason::Timeout,
            format!("Too large resource version: {asked}, current: {newest}"),
        )
        .with_details(serde_json::json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": RETRY_SECONDS,
        })),
        StoreError::Closed => {
            ApiError::new(Reason::ServiceUnavailable, "the server is shutting down")
        }
        StoreError::TooSlow(_) => ApiError::new(Reason::Expired, error.to_string()),
        StoreError::NoSpace(_) => ApiError::new(Reason::ServiceUnavailable, error.to_string()),
        StoreError::Conflict(_) | StoreError::Engine(_) => ApiError::internal(error),
    }
}

/// The lifetime that a strategy gives, for the store.
pub(super) fn ttl(resource: &Resource) -> Option<Duration> {
    resource.strategy.ttl()
}
