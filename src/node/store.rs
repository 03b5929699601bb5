//! The node's own store: what an agent must still know after it was killed while the API server
//! was out of reach. One redb file; every value is sealed with the node's key, since Secrets and
//! pod specs are among them.
//!
//! Writers do not wait: what is to be written lies in a table by key, so the newest value of a
//! pod wins, and one thread commits whatever has gathered. A reader sees what is yet to be
//! committed.
//!
//! **Invariant:** the table of pending writes holds at most one value a key, so it is bounded by
//! what the node knows.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use redb::{Builder, Database, ReadableDatabase, TableDefinition};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;

const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("node");
/// Pages that redb keeps in memory: what is read is read once, at start.
const CACHE_BYTES: usize = 4 << 20;

/// Why the node's store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the node's store {path}: {message}")]
    Open { path: PathBuf, message: String },
    #[error("the node's key {path} is not usable: {message}")]
    Key { path: PathBuf, message: String },
}

struct Pending {
    writes: HashMap<String, Option<Vec<u8>>>,
    /// What the writer thread is committing now.
    committing: HashMap<String, Option<Vec<u8>>>,
    closed: bool,
}

struct Shared {
    database: Database,
    key: LessSafeKey,
    random: SystemRandom,
    pending: Mutex<Pending>,
    wake: Condvar,
    idle: Condvar,
}

/// Key and value under one roof, sealed. Dropping it commits what is pending.
pub struct NodeStore {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl NodeStore {
    /// Opens `node.redb` in `dir` with the key in `node.key`; both are made where they are not.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("node.redb");
        let failed = |message: String| StoreError::Open { path: path.clone(), message };
        let key = key(&dir.join("node.key"))?;
        let mut settings = Builder::new();
        settings.set_cache_size(CACHE_BYTES);
        let database = settings.create(&path).map_err(|e| failed(e.to_string()))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(|e| failed(e.to_string()))?;
        let setup = database.begin_write().map_err(|e| failed(e.to_string()))?;
        setup.open_table(TABLE).map_err(|e| failed(e.to_string()))?;
        setup.commit().map_err(|e| failed(e.to_string()))?;
        let pending = Pending { writes: HashMap::new(), committing: HashMap::new(), closed: false };
        let shared = Arc::new(Shared {
            database,
            key,
            random: SystemRandom::new(),
            pending: Mutex::new(pending),
            wake: Condvar::new(),
            idle: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("node-store".to_owned())
            .spawn(move || worker.write_all())
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Puts `value` under `key`, soon.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) {
        let plain = serde_json::to_vec(value).expect("what the node keeps is plain data");
        let sealed = self.shared.seal(key, plain);
        self.push(key, Some(sealed));
    }

    /// Removes what is under `key`, soon.
    pub fn remove(&self, key: &str) {
        self.push(key, None);
    }

    fn push(&self, key: &str, value: Option<Vec<u8>>) {
        self.shared.pending.lock().writes.insert(key.to_owned(), value);
        self.shared.wake.notify_one();
    }

    /// What is under `key`; something that was not sealed with this node's key is nothing.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let pending = {
            let pending = self.shared.pending.lock();
            pending.writes.get(key).or_else(|| pending.committing.get(key)).cloned()
        };
        let sealed = match pending {
            Some(value) => value?,
            None => self.shared.read(key)?,
        };
        self.shared.unseal(key, sealed)
    }

    /// Everything committed whose key begins with `prefix`; for the start of the agent.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, T)> {
        let found = self.shared.range(prefix).unwrap_or_default();
        let open = |(key, sealed): (String, Vec<u8>)| {
            let value = self.shared.unseal(&key, sealed)?;
            Some((key, value))
        };
        found.into_iter().filter_map(open).collect()
    }

    /// Waits until everything put so far is on disk.
    pub fn flush(&self) {
        let mut pending = self.shared.pending.lock();
        while !(pending.writes.is_empty() && pending.committing.is_empty()) {
            self.shared.idle.wait(&mut pending);
        }
    }
}

impl Drop for NodeStore {
    fn drop(&mut self) {
        self.shared.pending.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn write_all(&self) {
        loop {
            let batch = {
                let mut pending = self.pending.lock();
                while pending.writes.is_empty() {
                    if pending.closed {
                        return;
                    }
                    self.wake.wait(&mut pending);
                }
                pending.committing = std::mem::take(&mut pending.writes);
                pending.committing.clone()
            };
            if let Err(error) = self.commit(&batch) {
                // The pods go on; what is lost is only what a restart would have known.
                tracing::error!(%error, "cannot write to the node's store");
            }
            self.pending.lock().committing.clear();
            self.idle.notify_all();
        }
    }

    fn commit(&self, batch: &HashMap<String, Option<Vec<u8>>>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in batch {
                match value {
                    Some(value) => drop(table.insert(key.as_str(), value.as_slice())?),
                    None => drop(table.remove(key.as_str())?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        let table = self.database.begin_read().ok()?.open_table(TABLE).ok()?;
        Some(table.get(key).ok()??.value().to_vec())
    }

    fn range(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut found = Vec::new();
        for entry in table.range(prefix..)? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// The key is authenticated too: a value cannot be passed off as another's.
    fn seal(&self, key: &str, mut plain: Vec<u8>) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system has randomness");
        let sealing = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(sealing, Aad::from(key.as_bytes()), &mut plain)
            .expect("a value is far below the cipher's limit");
        let mut sealed = nonce.to_vec();
        sealed.append(&mut plain);
        sealed
    }

    fn unseal<T: DeserializeOwned>(&self, key: &str, mut sealed: Vec<u8>) -> Option<T> {
        if sealed.len() < NONCE_LEN {
            return None;
        }
        let mut cipher = sealed.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(key.as_bytes()), &mut cipher).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

/// The key in `path`, made where there is none.
fn key(path: &Path) -> Result<LessSafeKey, StoreError> {
    let failed = |message: String| StoreError::Key { path: path.to_owned(), message };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut bytes = vec![0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| failed("no randomness".to_owned()))?;
            write_private(path, &bytes).map_err(|e| failed(e.to_string()))?;
            bytes
        }
        Err(e) => return Err(failed(e.to_string())),
    };
    let unbound = UnboundKey::new(&AES_256_GCM, &bytes)
        .map_err(|_| failed(format!("it has {} bytes, not 32", bytes.len())))?;
    Ok(LessSafeKey::new(unbound))
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_after_reopening_and_unreadable_without_the_key() {
        let dir = tempfile::tempdir().expect("a directory");
        {
            let store = NodeStore::open(dir.path()).expect("a store");
            store.put("pod/a", &"hunter2");
            store.put("pod/b", &1);
            store.put("other", &2);
            assert_eq!(store.get::<String>("pod/a").as_deref(), Some("hunter2"));
            store.flush();
            store.remove("pod/b");
            assert_eq!(store.get::<i32>("pod/b"), None);
        }
        let bytes = std::fs::read(dir.path().join("node.redb")).expect("a file");
        assert!(!bytes.windows(7).any(|w| w == b"hunter2"));
        {
            let store = NodeStore::open(dir.path()).expect("a store");
            let pods: Vec<(String, String)> = store.scan("pod/");
            assert_eq!(pods, [("pod/a".to_owned(), "hunter2".to_owned())]);
        }
        std::fs::remove_file(dir.path().join("node.key")).expect("removed");
        let store = NodeStore::open(dir.path()).expect("a store");
        assert_eq!(store.get::<String>("pod/a"), None);
    }

    #[test]
    fn a_sealed_value_cannot_be_passed_off_as_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = NodeStore::open(dir.path()).expect("a store");
        let sealed = store.shared.seal("a", b"1".to_vec());
        assert_eq!(store.shared.unseal::<i32>("a", sealed.clone()), Some(1));
        assert_eq!(store.shared.unseal::<i32>("b", sealed), None);
    }

    #[test]
    fn keys_are_private_files() {
        let dir = tempfile::tempdir().expect("a directory");
        NodeStore::open(dir.path()).expect("a store");
        for name in ["node.key", "node.redb"] {
            let mode = std::fs::metadata(dir.path().join(name)).expect("a file").permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
        }
    }
}
