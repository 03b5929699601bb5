//! Tables in memory that follow the objects of one resource, so that a decision reads no store.
//!
//! ```text
//! list ──▶ replace ──▶ watch ──▶ put | remove ──▶ …
//!   ▲                    │ broken, too slow, compacted
//!   └────── pause ◀──────┘
//! ```
//!
//! A table runs behind the store by the time that a task needs to wake. What is refused because
//! of it is asked again after [`Mirror::settle`], so a refusal is never older than its request.
//!
//! **Invariant:** a table shows one state of the store, later ones replacing earlier ones; while a
//! watch is broken it keeps the last one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::status::ApiError;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::{Registry, store_error};
use crate::base::backoff::Backoff;
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;
use crate::store::{Entry, EventKind, Notice, Range, Revision, StoreError};

/// The longest that a refusal waits for its table.
const SETTLE_MAX: Duration = Duration::from_millis(250);
/// The store is asked how far a table is no more often than this, however many are refused.
const ASK_EVERY: Duration = Duration::from_millis(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What follows the store.
pub(super) trait Table: Send + Sync + 'static {
    /// These are all objects that there are.
    fn replace(&self, entries: &[Entry]);

    /// The object is new or has changed.
    fn put(&self, entry: &Entry);

    /// The object is gone.
    fn remove(&self, key: &str);
}

/// A table that is being followed.
pub(super) struct Mirror {
    registry: Arc<Registry>,
    prefix: Arc<str>,
    seen: watch::Receiver<Revision>,
    asked: Mutex<Option<Instant>>,
}

impl Mirror {
    /// Fills `table` and keeps it up to date until `shutdown`.
    ///
    /// # Errors
    /// When the store cannot be read, or serves no such resource.
    pub async fn start(
        registry: &Arc<Registry>,
        (group, plural): (&'static str, &'static str),
        table: Arc<dyn Table>,
        shutdown: Shutdown,
    ) -> Result<Self, ApiError> {
        let resource = resource(registry, group, plural)?;
        let prefix: Arc<str> = resource.kind.prefix(None).into();
        let at = fill(registry, &prefix, &*table).await.map_err(|e| store_error(&e))?;
        let (told, seen) = watch::channel(at);
        let follower = Follower { registry: registry.clone(), prefix: prefix.clone(), table, told };
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run(at) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Self { registry: registry.clone(), prefix, seen, asked: Mutex::default() })
    }

    /// Waits until the table shows all that was written before the call, or for a moment.
    pub async fn settle(&self) {
        let wanted = self.registry.store.revision();
        let mut seen = self.seen.clone();
        let caught_up = async {
            while *seen.borrow_and_update() < wanted {
                self.ask();
                // The answer may be from before the last write was handed out: ask again.
                if matches!(tokio::time::timeout(ASK_EVERY, seen.changed()).await, Ok(Err(_))) {
                    return;
                }
            }
        };
        if tokio::time::timeout(SETTLE_MAX, caught_up).await.is_err() {
            tracing::debug!(prefix = %self.prefix, "a table of the authorizers is behind");
        }
    }

    fn ask(&self) {
        let now = Instant::now();
        let mut asked = self.asked.lock();
        if asked.is_none_or(|at| now.duration_since(at) >= ASK_EVERY) {
            *asked = Some(now);
            drop(asked);
            self.registry.store.progress(&self.prefix);
        }
    }
}

/// A resource that every server serves.
pub(super) fn resource(
    registry: &Registry,
    group: &str,
    plural: &str,
) -> Result<Arc<Resource>, ApiError> {
    let found = registry.catalog().preferred(group, plural).cloned();
    found.ok_or_else(|| ApiError::internal(format!("{plural} in {group:?} are not served")))
}

struct Follower {
    registry: Arc<Registry>,
    prefix: Arc<str>,
    table: Arc<dyn Table>,
    told: watch::Sender<Revision>,
}

impl Follower {
    async fn run(self, mut at: Revision) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut rng = Rng::seeded(at);
        loop {
            let (error, reached) = self.watch(at).await;
            if matches!(error, StoreError::Closed) {
                return;
            }
            if reached > at {
                backoff.reset();
            }
            tracing::debug!(%error, prefix = %self.prefix, "a watch of the authorizers broke off");
            loop {
                tokio::time::sleep(backoff.next_delay(&mut rng)).await;
                match fill(&self.registry, &self.prefix, &*self.table).await {
                    Ok(revision) => {
                        at = revision;
                        self.told.send_replace(at);
                        break;
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => tracing::warn!(%error, "the authorizers cannot read the store"),
                }
            }
        }
    }

    /// Applies changes until the watch ends; answers why it did, and how far it came.
    async fn watch(&self, mut at: Revision) -> (StoreError, Revision) {
        let mut notices = match self.registry.store.watch(&self.prefix, at).await {
            Ok(notices) => notices,
            Err(error) => return (error, at),
        };
        while let Some(notice) = notices.next().await {
            at = match notice {
                Ok(Notice::Event(event)) => {
                    match event.kind {
                        EventKind::Deleted => self.table.remove(&event.entry.key),
                        EventKind::Created | EventKind::Modified => self.table.put(&event.entry),
                    }
                    event.revision
                }
                Ok(Notice::Progress(revision)) => revision.max(at),
                Err(error) => return (error, at),
            };
            self.told.send_replace(at);
        }
        (StoreError::Engine("the watch ended".to_owned()), at)
    }
}

async fn fill(
    registry: &Registry,
    prefix: &Arc<str>,
    table: &dyn Table,
) -> Result<Revision, StoreError> {
    let range = Range { prefix: prefix.clone(), after: None, limit: 0, revision: None };
    let page = registry.store.list(range).await?;
    table.replace(&page.entries);
    Ok(page.revision)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::api::kinds::KindTable;
    use crate::apiserver::registry::RegistryConfig;
    use crate::apiserver::strategy;
    use crate::base::clock::SystemClock;
    use crate::store::memory::MemoryStore;
    use crate::store::{Page, Store, WatchStream, Write};

    /// A store whose first watches break off before they tell anything.
    struct Breaking {
        store: MemoryStore,
        breaks: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Store for Breaking {
        async fn write(&self, write: Write) -> Result<Entry, StoreError> {
            self.store.write(write).await
        }

        async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
            self.store.get(key).await
        }

        async fn list(&self, range: Range) -> Result<Page, StoreError> {
            self.store.list(range).await
        }

        async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
            self.store.count(prefix).await
        }

        async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
            let left = self.breaks.load(Ordering::Relaxed);
            if left == 0 {
                return self.store.watch(prefix, after).await;
            }
            self.breaks.store(left - 1, Ordering::Relaxed);
            match left % 2 {
                0 => Ok(futures::stream::iter([Err(StoreError::TooSlow(1))]).boxed()),
                _ => Err(StoreError::Compacted { asked: after, oldest: after + 1 }),
            }
        }

        fn revision(&self) -> Revision {
            self.store.revision()
        }

        fn progress(&self, prefix: &str) {
            self.store.progress(prefix);
        }

        async fn compact(&self, before: Revision) -> Result<(), StoreError> {
            self.store.compact(before).await
        }
    }

    #[derive(Default)]
    struct Names(Mutex<BTreeSet<String>>);

    fn name(key: &str) -> String {
        crate::apiserver::filter::name_of(key).to_owned()
    }

    impl Table for Names {
        fn replace(&self, entries: &[Entry]) {
            *self.0.lock() = entries.iter().map(|entry| name(&entry.key)).collect();
        }

        fn put(&self, entry: &Entry) {
            self.0.lock().insert(name(&entry.key));
        }

        fn remove(&self, key: &str) {
            self.0.lock().remove(&name(key));
        }
    }

    async fn start(breaks: usize) -> (Arc<Registry>, Arc<Names>, Mirror, Shutdown) {
        let store = Breaking { store: MemoryStore::new(), breaks: AtomicUsize::new(breaks) };
        let registry = Registry::new(RegistryConfig {
            store: Arc::new(store),
            kinds: KindTable::builtin(),
            strategies: strategy::strategies(),
            clock: SystemClock::shared(),
            rng: Rng::seeded(1),
        });
        let (table, shutdown) = (Arc::new(Names::default()), Shutdown::new());
        let of = ("", "namespaces");
        let mirror = Mirror::start(&registry, of, table.clone(), shutdown.clone()).await;
        (registry, table, mirror.expect("started"), shutdown)
    }

    async fn create(registry: &Registry, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        registry.create(("", "namespaces"), "", object).await.expect("created");
    }

    #[tokio::test]
    async fn a_table_that_has_settled_shows_what_was_written_before() {
        let (registry, table, mirror, _shutdown) = start(0).await;
        for at in 0..50 {
            create(&registry, &format!("n{at}")).await;
            mirror.settle().await;
            assert_eq!(table.0.lock().len(), at + 1);
        }
    }

    #[tokio::test]
    async fn a_table_is_filled_again_when_its_watch_breaks_off() {
        let (registry, table, mirror, _shutdown) = start(2).await;
        create(&registry, "a").await;
        for _ in 0..100 {
            mirror.settle().await;
            if table.0.lock().contains("a") {
                break;
            }
        }
        create(&registry, "b").await;
        for _ in 0..100 {
            mirror.settle().await;
            if table.0.lock().len() == 2 {
                return;
            }
        }
        panic!("the table stopped following: {:?}", table.0.lock());
    }
}
