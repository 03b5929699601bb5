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
