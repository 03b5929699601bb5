//! The store contract: keys, bytes and revisions. It knows no kinds.
//!
//! Every write gets the next revision of one counter for the whole store. A write is a
//! compare-and-swap on one key; it is acknowledged, and readable, only once it is durable.
//! Watchers get every event after the revision that they name, in revision order, without gaps,
//! or [`StoreError::Compacted`].
//!
//! Two engines: [`redb`] on disk, [`memory`] as the model that the other is checked against (and
//! for tests of what stands above).
//!
//! **Invariant:** for every engine, `contract` holds: what one history of operations returns on the
//! in-memory model it returns on the engine, crashes included.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(test)]
mod contract;
pub mod memory;
pub mod redb;
pub mod sealed;

/// A revision of the store. 0 is before the first write.
pub type Revision = u64;

/// A value and the small block of attributes that lies beside it. Both are opaque to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The object, encoded.
    pub bytes: Bytes,
    /// What watchers and selectors need to know of the object without decoding it.
    pub attrs: Bytes,
}

/// A key with its current (or then current) value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, `/`-separated.
    pub key: Arc<str>,
    /// The value.
    pub value: Value,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that last wrote it.
    pub modified: Revision,
}

/// What must hold of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key has no value.
    Absent,
    /// The key was last written at this revision.
    Modified(Revision),
}

/// One write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Set the value. `ttl`: the key is deleted, with an event, once it has passed.
    Put { key: Arc<str>, value: Value, expect: Expect, ttl: Option<Duration> },
    /// Remove the key. `value`: what the DELETED event carries (the last state as the deleter
    /// wants it told).
    Delete { key: Arc<str>, value: Value, expect: Expect },
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key had no value before.
    Created,
    /// The key had another value before.
    Modified,
    /// The key has no value any more.
    Deleted,
}

/// One change, as watchers see it. Shared by all of them.
#[derive(Debug, Clone)]
pub struct Event {
    /// The revision of the write.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The key with its new value; for [`EventKind::Deleted`] the value named by the deletion,
    /// `modified` being the revision of the deletion.
    pub entry: Entry,
    /// The attributes that the key had before, where it existed.
    pub previous_attrs: Option<Bytes>,
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A change below the prefix.
    Event(Arc<Event>),
    /// Everything up to this revision has been delivered (sent when asked for with
    /// [`Store::progress`], and by some engines when a watch of the past reaches the present).
    Progress(Revision),
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The revision of the snapshot that the page was read from.
    pub revision: Revision,
    /// Whether more keys follow the last entry.
    pub more: bool,
    /// How many entries follow the page.
    pub remaining: u64,
}

/// Which keys to list, from which snapshot.
#[derive(Debug, Clone)]
pub struct Range {
    /// Every key of the list starts with this.
    pub prefix: Arc<str>,
    /// Start after this key (for the next page).
    pub after: Option<Arc<str>>,
    /// At most so many entries; 0: all.
    pub limit: usize,
    /// The snapshot; `None`: the newest.
    pub revision: Option<Revision>,
}

/// Why an operation was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The key has a value (for [`Expect::Absent`]), or another revision than the expected one.
    /// Carries what is there now.
    #[error("the key is at another revision")]
    Conflict(Option<Entry>),
    /// The revision lies before what is kept.
    #[error("revision {asked} is compacted, the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    /// The revision lies after the newest.
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
    /// The disk, or the engine, failed. What was not acknowledged may or may not be there.
    #[error("the store failed: {0}")]
    Engine(String),
    /// The watcher did not take its events fast enough; it starts again from a list.
    #[error("the watcher fell more than {0} events behind")]
    TooSlow(usize),
    /// There is no space left for writes; reads go on.
    #[error("no space left for the store: {0}")]
    NoSpace(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A watch: a stream of notices that ends with an error when the watcher is too slow or its
/// revision is gone.
pub type WatchStream = futures::stream::BoxStream<'static, Result<Notice, StoreError>>;

/// An engine.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Do one write, durably. Answers the entry as it is now (for a deletion: as the event tells
    /// it), whose `modified` is the revision of the write. Dropping the future does not undo it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expect` does not hold; a deletion of what is absent is one.
    async fn write(&self, write: Write) -> Result<Entry, StoreError>;

    /// The current value of a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// A page of keys.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] for a revision that cannot be served.
    async fn list(&self, range: Range) -> Result<Page, StoreError>;

    /// How many keys start with `prefix` now.
    async fn count(&self, prefix: &str) -> Result<u64, StoreError>;

    /// Every event below `prefix` after revision `after`, then live ones.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when `after` lies before the oldest revision kept,
    /// [`StoreError::Future`] when it lies after the newest.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// The newest revision that is durable and readable.
    fn revision(&self) -> Revision;

    /// Ask for a [`Notice::Progress`] on the watches below `prefix`.
    fn progress(&self, prefix: &str);

    /// Drop events and old values before `before`, so that older revisions answer
    /// [`StoreError::Compacted`]. Engines do this by themselves for what is older than five
    /// minutes. A `before` that is compacted already changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Future`] when `before` lies after the newest revision.
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;
}
