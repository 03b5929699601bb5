//! The log on disk: one row a revision, and which rows are live.
//!
//! There is one table of state, `log: revision → row`. The current value of a key is its newest
//! row; so a write costs one row at the end of the tree, not two rows in two trees. Compaction to
//! a floor removes what no reader at or after the floor can meet: for every row up to the floor,
//! the row that it replaced, and the row itself where it is a deletion.
//!
//! **Invariant:** `swept ≤ floor ≤ newest revision`; rows after the floor have no gaps; the newest
//! revision is the larger of the last row and the floor (a swept deletion may have been last).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    TableError,
};
use parking_lot::RwLock;

use super::row::{self, Damaged, Head, Record};
use super::storage::{Boxed, Storage};
use crate::store::{EventKind, Revision, StoreError};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store in this one, has it open.
    #[error(
        "the store {path} is in use by another process; stop it, or choose another data directory"
    )]
    Locked { path: String },
    /// The operating system refuses.
    #[error(
        "the store {path} cannot be opened: {source}; check that this user owns it and that the disk is well"
    )]
    Unreadable { path: String, source: std::io::Error },
    /// It is no store, or a damaged one.
    #[error("the store {path} is corrupt: {what}; move it away and restore a backup")]
    Corrupt { path: String, what: String },
    /// A newer Coracle wrote it.
    #[error(
        "the store {path} has format {found}, this version knows {FORMAT}; run the newer version"
    )]
    Format { path: String, found: u64 },
}

/// How far compaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The oldest revision that can be read.
    pub floor: Revision,
    /// Up to where the rows that nobody can read any more have been removed.
    pub swept: Revision,
}

/// The database, which is opened anew after a write that failed.
pub struct Disk {
    storage: Box<dyn Storage>,
    cache_bytes: usize,
    database: RwLock<Option<Arc<Database>>>,
}

impl Disk {
    /// Opens the storage.
    ///
    /// # Errors
    /// [`OpenError`] with what is wrong and what to do.
    pub fn open(storage: Box<dyn Storage>, cache_bytes: usize) -> Result<Self, OpenError> {
        let disk = Self { storage, cache_bytes, database: RwLock::new(None) };
        disk.reopen()?;
        Ok(disk)
    }

    /// Opens the database again, where it is not open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reopen(&self) -> Result<(), OpenError> {
        let mut slot = self.database.write();
        if slot.is_none() {
            *slot = Some(Arc::new(self.open_database()?));
        }
        Ok(())
    }

    /// Whether [`Self::reopen`] is needed before the next commit.
    pub fn is_closed(&self) -> bool {
        self.database.read().is_none()
    }

    /// Closes the database. The file is unlocked once the last reader has ended.
    pub fn close(&self) {
        self.database.write().take();
    }

    fn open_database(&self) -> Result<Database, OpenError> {
        let path = self.storage.name();
        let backend = self.storage.open();
        let backend =
            backend.map_err(|source| OpenError::Unreadable { path: path.clone(), source })?;
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes);
        // A file that is no database may make the opening panic.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder.create_with_backend(Boxed(backend))?;
            prepare(&database)?;
            Ok::<_, Failed>(database)
        }));
        let corrupt = |what: String| OpenError::Corrupt { path: path.clone(), what };
        match opened {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(Failed::Format(found))) => Err(OpenError::Format { path, found }),
            Ok(Err(Failed::Redb(error))) => Err(match *error {
                ::redb::Error::DatabaseAlreadyOpen => OpenError::Locked { path },
                ::redb::Error::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
                    OpenError::Unreadable { path, source }
                }
                other => corrupt(other.to_string()),
            }),
            Err(_) => Err(corrupt("it does not have the structure of a database".to_owned())),
        }
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        self.database.read().clone().ok_or(StoreError::Closed)
    }

    /// Makes `records` durable, with one sync, and sweeps up to `to.swept`.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or [`StoreError::Engine`]. The database is closed then: what was
    /// written may or may not be there.
    pub fn commit(
        &self,
        records: &[Record],
        from: Floor,
        to: Floor,
        quick_repair: bool,
    ) -> Result<(), StoreError> {
        let done = self.try_commit(records, from, to, quick_repair);
        if done.is_err() {
            self.close();
        }
        done
    }

    fn try_commit(
        &self,
        records: &[Record],
        from: Floor,
        to: Floor,
        quick_repair: bool,
    ) -> Result<(), StoreError> {
        let database = self.database()?;
        let mut txn = database.begin_write().map_err(failed)?;
        txn.set_quick_repair(quick_repair);
        {
            let mut log = txn.open_table(LOG).map_err(failed)?;
            for record in records {
                let len = record.encoded_len();
                let mut row = log.insert_reserve(record.event.revision, len).map_err(failed)?;
                record.encode(row.as_mut());
            }
            if to != from {
                let gone = unreachable_rows(&log, from.swept, to.swept)?;
                for revision in gone {
                    log.remove(revision).map_err(failed)?;
                }
                let mut meta = txn.open_table(META).map_err(failed)?;
                meta.insert("floor", to.floor).map_err(failed)?;
                meta.insert("swept", to.swept).map_err(failed)?;
            }
        }
        txn.commit().map_err(failed)
    }

    /// A view of the log as it is now.
    ///
    /// # Errors
    /// [`StoreError::Closed`] while the database is closed, [`StoreError::Engine`] when it fails.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let txn = self.database()?.begin_read().map_err(failed)?;
        let log = txn.open_table(LOG).map_err(failed)?;
        let meta = txn.open_table(META).map_err(failed)?;
        let number = |name| meta.get(name).map_err(failed).map(|n| n.map_or(0, |n| n.value()));
        let floor = Floor { floor: number("floor")?, swept: number("swept")? };
        Ok(Snapshot { log, floor })
    }
}

/// The log at one commit. Holds pages back: let it go soon.
pub struct Snapshot {
    log: ReadOnlyTable<u64, &'static [u8]>,
    /// How far compaction had come.
    pub floor: Floor,
}

impl Snapshot {
    /// The record of `revision`, where it is kept.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk or the row is damaged.
    pub fn record(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        let row = self.log.get(revision).map_err(failed)?;
        row.map(|row| Record::decode(revision, row.value()).map_err(damaged)).transpose()
    }

    /// Calls `each` with every row from `from` on, until it answers false.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk is damaged, or what `each` answers.
    pub fn scan(
        &self,
        from: Revision,
        mut each: impl FnMut(Revision, &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for row in self.log.range(from..).map_err(failed)? {
            let (revision, row) = row.map_err(failed)?;
            if !each(revision.value(), row.value())? {
                break;
            }
        }
        Ok(())
    }
}

/// The rows that nobody can read once the floor has passed `to`, told by the rows after `from`.
fn unreachable_rows(
    log: &::redb::Table<'_, u64, &'static [u8]>,
    from: Revision,
    to: Revision,
) -> Result<Vec<Revision>, StoreError> {
    let mut gone = Vec::new();
    if from >= to {
        return Ok(gone);
    }
    for row in log.range(from + 1..=to).map_err(failed)? {
        let (revision, row) = row.map_err(failed)?;
        let head = Head::decode(revision.value(), row.value()).map_err(damaged)?;
        if head.previous != 0 {
            gone.push(head.previous);
        }
        if head.kind == EventKind::Deleted {
            gone.push(revision.value());
        }
    }
    Ok(gone)
}

enum Failed {
    Redb(Box<::redb::Error>),
    Format(u64),
}

impl<E: Into<::redb::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

/// Makes the tables, and refuses what another version wrote.
fn prepare(database: &Database) -> Result<(), Failed> {
    let txn = database.begin_read()?;
    match txn.open_table(META) {
        Ok(meta) => {
            let found = meta.get("format")?.map_or(0, |n| n.value());
            return if found == FORMAT { Ok(()) } else { Err(Failed::Format(found)) };
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    drop(txn);
    let txn = database.begin_write()?;
    txn.open_table(LOG)?;
    txn.open_table(META)?.insert("format", FORMAT)?;
    txn.commit()?;
    Ok(())
}

pub(super) fn damaged(error: Damaged) -> StoreError {
    StoreError::Engine(error.to_string())
}

/// The key of a row.
pub(super) fn key_of(revision: Revision, row: &[u8]) -> Result<&str, StoreError> {
    row::key(revision, row).map_err(damaged)
}

fn failed(error: impl Into<::redb::Error>) -> StoreError {
    let error = error.into();
    if let ::redb::Error::Io(io) = &error {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
            return StoreError::NoSpace(format!("{io}; free some space on the store's disk"));
        }
    }
    StoreError::Engine(error.to_string())
}
