//! What is worked out from the objects of a resource, and worked out anew once one was written.
//!
//! **Invariant:** what was written before a request is seen by it: a count goes up before the
//! write is answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::Registry;
use crate::api::Object;
use crate::api::status::ApiError;

/// How often objects of one storage were written.
struct Count {
    storage: String,
    writes: AtomicU64,
}

/// The storages that somebody observes.
#[derive(Default)]
pub(super) struct Observed(RwLock<Vec<Arc<Count>>>);

impl Observed {
    fn of(&self, storage: &str) -> Arc<Count> {
        let found = self.0.read().iter().find(|count| count.storage == storage).cloned();
        found.unwrap_or_else(|| {
            let count = Arc::new(Count { storage: storage.to_owned(), writes: AtomicU64::new(1) });
            self.0.write().push(count.clone());
            count
        })
    }

    /// An object of that storage was written.
    pub(super) fn written(&self, storage: &str) {
        for count in self.0.read().iter().filter(|count| count.storage == storage) {
            count.writes.fetch_add(1, Ordering::Release);
        }
    }
}

type Make<T> = dyn Fn(Vec<Vec<Object>>) -> T + Send + Sync;

/// Something that is made from all objects of a few resources.
pub struct Derived<T> {
    registry: Weak<Registry>,
    resources: Vec<(&'static str, &'static str)>,
    counts: Vec<Arc<Count>>,
    make: Box<Make<T>>,
    /// With the sum of the counts that it was made at.
    current: Mutex<Option<(u64, Arc<T>)>>,
}

impl<T> Derived<T> {
    /// From the objects of `resources`, in their order.
    pub fn new(
        registry: &Arc<Registry>,
        resources: &[(&'static str, &'static str)],
        make: impl Fn(Vec<Vec<Object>>) -> T + Send + Sync + 'static,
    ) -> Self {
        let storage = |(group, plural): &(&str, &str)| match *group {
            "" => (*plural).to_owned(),
            group => format!("{group}/{plural}"),
        };
        let counts = resources.iter().map(|r| registry.observed.of(&storage(r))).collect();
        Self {
            registry: Arc::downgrade(registry),
            resources: resources.to_vec(),
            counts,
            make: Box::new(make),
            current: Mutex::new(None),
        }
    }

    /// As the objects are now.
    ///
    /// # Errors
    /// 500 when the store fails.
    pub async fn get(&self) -> Result<Arc<T>, ApiError> {
        let at = self.counts.iter().map(|count| count.writes.load(Ordering::Acquire)).sum();
        if let Some((made_at, current)) = &*self.current.lock()
            && *made_at == at
        {
            return Ok(current.clone());
        }
        let Some(registry) = self.registry.upgrade() else {
            return Err(ApiError::internal("the server is shutting down"));
        };
        let mut all = Vec::with_capacity(self.resources.len());
        for resource in &self.resources {
            all.push(registry.list(*resource, None).await?.0);
        }
        let made = Arc::new((self.make)(all));
        *self.current.lock() = Some((at, made.clone()));
        Ok(made)
    }
}
