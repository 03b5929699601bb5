//! A hub: the one store watch of a kind, and the queues of its watchers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Told;
use crate::apiserver::attrs::Attrs;
use crate::apiserver::catalog::Resource;
use crate::apiserver::filter::namespace_of;
use crate::store::{Event, Notice, Revision, Store, StoreError, WatchStream};

/// The field by which watchers are kept apart, where a kind has it.
const INDEX_FIELD: &str = "spec.nodeName";

/// Where [`INDEX_FIELD`] stands in the attribute block of a kind.
pub(super) fn index_field(resource: &Resource) -> Option<usize> {
    resource.stored.selectable.iter().position(|p| p == INDEX_FIELD)
}

/// Which events a watcher may want. A superset of what its filter lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    All,
    Namespace(String),
    /// Objects whose index field has, or had, this value.
    Field(String),
    /// The object under this key.
    Key(String),
}

type Queue = mpsc::Sender<Arc<Told>>;

#[derive(Default)]
struct Queues {
    running: bool,
    all: Vec<Queue>,
    by_namespace: HashMap<String, Vec<Queue>>,
    by_field: HashMap<String, Vec<Queue>>,
    by_key: HashMap<String, Vec<Queue>>,
}

/// The hub of a kind.
pub(super) struct Hub {
    prefix: String,
    index: Option<usize>,
    position: AtomicU64,
    starting: tokio::sync::Mutex<()>,
    queues: Mutex<Queues>,
}

impl Hub {
    pub(super) fn new(prefix: String, index: Option<usize>) -> Self {
        Self {
            prefix,
            index,
            position: AtomicU64::new(0),
            starting: tokio::sync::Mutex::default(),
            queues: Mutex::default(),
        }
    }

    /// Everything up to this revision is in the queues.
    pub(super) fn position(&self) -> Revision {
        self.position.load(Ordering::Acquire)
    }

    /// Where its index field stands in the attribute block.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A new queue, and the revision after which it holds everything.
    pub(super) async fn join(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        interest: Interest,
        capacity: usize,
    ) -> Result<(mpsc::Receiver<Arc<Told>>, Revision), StoreError> {
        let (sender, receiver) = mpsc::channel(capacity);
        loop {
            {
                let mut queues = self.queues.lock();
                if queues.running {
                    queues.add(interest, sender);
                    // Read under the lock under which events are handed out.
                    return Ok((receiver, self.position()));
                }
            }
            self.start(store).await?;
        }
    }

    async fn start(self: &Arc<Self>, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let _starting = self.starting.lock().await;
        if self.queues.lock().running {
            return Ok(());
        }
        let from = store.revision();
        let notices = store.watch(&self.prefix, from).await?;
        self.position.store(from, Ordering::Release);
        self.queues.lock().running = true;
        tokio::spawn(self.clone().run(notices));
        Ok(())
    }

    async fn run(self: Arc<Self>, mut notices: WatchStream) {
        while let Some(notice) = notices.next().await {
            match notice {
                Ok(Notice::Event(event)) => self.hand_out(event),
                Ok(Notice::Progress(revision)) => {
                    self.position.fetch_max(revision, Ordering::AcqRel);
                }
                Err(error) => {
                    tracing::info!(prefix = %self.prefix, %error, "a hub lost its watch");
                    break;
                }
            }
        }
        // The watchers see the end of their queues, and their clients watch again.
        *self.queues.lock() = Queues::default();
    }

    fn hand_out(&self, event: Arc<Event>) {
        let told = Arc::new(Told::new(event));
        let mut queues = self.queues.lock();
        self.position.store(told.event.revision, Ordering::Release);
        let key = &told.event.entry.key;
        offer(&mut queues.all, &told);
        offer_in(&mut queues.by_key, key, &told);
        offer_in(&mut queues.by_namespace, namespace_of(key), &told);
        let Some(index) = self.index else { return };
        let field = |block| Attrs::new(block).field(index).unwrap_or_default();
        let now = field(&told.event.entry.value.attrs);
        offer_in(&mut queues.by_field, now, &told);
        let before = told.event.previous_attrs.as_ref().map_or(now, |block| field(block));
        if before != now {
            offer_in(&mut queues.by_field, before, &told);
        }
    }
}

impl Queues {
    fn add(&mut self, interest: Interest, queue: Queue) {
        match interest {
            Interest::All => self.all.push(queue),
            Interest::Namespace(name) => self.by_namespace.entry(name).or_default().push(queue),
            Interest::Field(value) => self.by_field.entry(value).or_default().push(queue),
            Interest::Key(key) => self.by_key.entry(key).or_default().push(queue),
        }
    }
}

/// Queue an event for every watcher; one that is gone, or whose queue is full, is let go.
fn offer(queues: &mut Vec<Queue>, told: &Arc<Told>) {
    queues.retain(|queue| queue.try_send(told.clone()).is_ok());
}

fn offer_in(by: &mut HashMap<String, Vec<Queue>>, name: &str, told: &Arc<Told>) {
    let Some(queues) = by.get_mut(name) else { return };
    offer(queues, told);
    if queues.is_empty() {
        by.remove(name);
    }
}
