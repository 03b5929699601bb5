//! Watch: one stream a kind from the store, fanned out to every watcher.
//!
//! ```text
//! store ──notices──▶ Hub (one a storage prefix) ──Arc<Told>──▶ bounded queue ──▶ Watcher ──▶ lines
//!                     by namespace, by spec.nodeName, by key, or all
//! ```
//!
//! An event is encoded once for all watchers that want it in one form ([`Told`]), and it costs
//! what its matching watchers cost: a hub keeps those that ask for one namespace, one node or one
//! object apart. A watcher that resumes reads what lies before the hub's position from the store
//! and then goes on with its queue.
//!
//! **Invariant:** a watcher is told every matching event after its revision, once and in order;
//! where that cannot be kept (a full queue, a lost revision) its stream ends.

mod hub;
mod told;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use hub::Hub;
pub use hub::Interest;
pub use told::Told;
pub use watcher::{WatchOptions, Watcher};

use crate::apiserver::catalog::Resource;
use crate::base::shutdown::Shutdown;
use crate::store::{Revision, Store, StoreError};

/// How many events may wait for one watcher.
const QUEUE: usize = 2048;

/// The hubs, one a storage prefix, each begun by its first watcher.
pub struct Hubs {
    store: Arc<dyn Store>,
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
    watchers: Arc<AtomicUsize>,
    ending: Shutdown,
}

/// Counts a watcher for as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A watcher's end of a queue.
pub(in crate::apiserver::watch) struct Subscription {
    pub queue: tokio::sync::mpsc::Receiver<Arc<Told>>,
    /// The queue holds every event after this one.
    pub joined: Revision,
    pub hub: Arc<Hub>,
    /// Every watch ends when this does.
    pub ending: Shutdown,
    _counted: Counted,
}

impl Hubs {
    /// No hub runs yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, hubs: Mutex::default(), watchers: Arc::default(), ending: Shutdown::new() }
    }

    /// How many watchers there are now.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// End every watch, now and from now on.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Queue every event of a kind that `interest` names, from the hub's position on.
    async fn subscribe(
        &self,
        resource: &Resource,
        interest: Interest,
    ) -> Result<Subscription, StoreError> {
        let prefix = resource.kind.prefix(None);
        let hub = {
            let mut hubs = self.hubs.lock();
            let new = || Arc::new(Hub::new(prefix.clone(), hub::index_field(resource)));
            hubs.entry(prefix.clone()).or_insert_with(new).clone()
        };
        let (queue, joined) = hub.join(&self.store, interest, QUEUE).await?;
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self.watchers.clone());
        let ending = self.ending.clone();
        Ok(Subscription { queue, joined, hub, ending, _counted: counted })
    }
}
