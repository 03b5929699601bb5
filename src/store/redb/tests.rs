//! What only the engine on disk can show: crashes, a full disk, files that are not well.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use ::redb::StorageBackend;
use bytes::Bytes;
use futures::StreamExt as _;

use super::*;
use crate::base::clock::FakeClock;
use crate::base::rng::Rng;
use crate::store::{Expect, Notice, Value};

fn put(key: &str, size: usize, expect: Expect) -> Write {
    let value = Value { bytes: Bytes::from(vec![7; size]), attrs: Bytes::from_static(b"a=b") };
    Write::Put { key: key.into(), value, expect, ttl: None }
}

/// A disk in memory that can be filled, and whose power can be cut.
#[derive(Debug, Clone, Default)]
struct TestDisk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// What a sync has made safe.
    durable: Vec<u8>,
    /// What was written since, in order.
    pending: Vec<Pending>,
    /// What is read.
    current: Vec<u8>,
    /// Writes and syncs until the power fails.
    until_cut: Option<u64>,
    /// Writes past this many bytes find the disk full.
    capacity: Option<usize>,
}

#[derive(Debug, Clone)]
enum Pending {
    Len(usize),
    Bytes(usize, Vec<u8>),
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Bytes(at, data) => {
                if bytes.len() < at + data.len() {
                    bytes.resize(at + data.len(), 0);
                }
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Platter {
    fn power(&mut self) -> io::Result<()> {
        match &mut self.until_cut {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: Pending) -> io::Result<()> {
        self.power()?;
        if let (Some(capacity), Pending::Bytes(at, data)) = (self.capacity, &change)
            && at + data.len() > capacity
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut self.current);
        self.pending.push(change);
        Ok(())
    }
}

impl TestDisk {
    fn cut_after(operations: u64) -> Self {
        let platter = Platter { until_cut: Some(operations), ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)))
    }

    /// What is found when the power returns: all that was synced, and any part of the rest.
    fn after_the_cut(&self, rng: &mut Rng) -> Self {
        let platter = self.0.lock();
        let mut bytes = platter.durable.clone();
        for change in &platter.pending {
            match (rng.below(3), change) {
                (0, _) => {}
                (1, Pending::Bytes(at, data)) => {
                    // A torn write: whole sectors, from its start.
                    let kept = (data.len() / 2) & !511;
                    Pending::Bytes(*at, data[..kept].to_vec()).apply(&mut bytes);
                }
                _ => change.apply(&mut bytes),
            }
        }
        let durable = bytes.clone();
        let platter = Platter { durable, current: bytes, ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)))
    }
}

impl StorageBackend for TestDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().current.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (at, platter) = (offset as usize, self.0.lock());
        let bytes = platter.current.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().change(Pending::Len(len as usize))
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.power()?;
        platter.durable = platter.current.clone();
        platter.pending.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().change(Pending::Bytes(offset as usize, data.to_vec()))
    }
    fn try_lock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, ::redb::BackendError> {
        Ok(true)
    }
    fn unlock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<(), ::redb::BackendError> {
        Ok(())
    }
}

impl Storage for TestDisk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }
    fn name(&self) -> String {
        "the test disk".to_owned()
    }
}

/// Eight writers at a time until a write fails. Answers what was acknowledged.
async fn write_until_it_fails(store: &Arc<RedbStore>, limit: u64) -> Vec<Entry> {
    let mut acknowledged: Vec<Entry> = Vec::new();
    for round in 0..limit {
        let writes = (0..8).map(|n| {
            let key = format!("pods/{n}/{}", round % 5);
            let last = acknowledged.iter().rev().find(|e| *e.key == *key);
            let expect = last.map_or(Expect::Absent, |e| Expect::Modified(e.modified));
            store.write(put(&key, 600, expect))
        });
        let mut failed = false;
        for done in futures::future::join_all(writes).await {
            match done {
                Ok(entry) => acknowledged.push(entry),
                Err(_) => failed = true,
            }
        }
        if failed {
            break;
        }
    }
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_any_write() {
    let mut rng = Rng::seeded(11);
    let mut cut_short = 0;
    for _ in 0..40 {
        let disk = TestDisk::cut_after(20 + rng.below(400));
        let Ok(store) = open_storage(Box::new(disk.clone()), RedbConfig::default()) else {
            continue;
        };
        let acknowledged = write_until_it_fails(&store, 60).await;
        cut_short += u32::from(acknowledged.len() < 480);
        store.close().await;
        let found = disk.after_the_cut(&mut rng);
        let store = open_storage(Box::new(found), RedbConfig::default()).expect("it opens again");
        for entry in &acknowledged {
            let now = store.get(&entry.key).await.expect("readable").expect("not lost");
            assert!(now.modified >= entry.modified, "{} was lost", entry.key);
        }
        let newest = acknowledged.iter().map(|e| e.modified).max().unwrap_or(0);
        assert!(store.revision() >= newest);
        let next = store.write(put("pods/after", 10, Expect::Absent)).await.expect("it goes on");
        assert_eq!(next.modified, store.revision());
    }
    assert!(cut_short > 20, "only {cut_short} cuts came while writing");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let clock = FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a valid timestamp"));
    let config = || RedbConfig { clock: clock.clone(), ..RedbConfig::default() };
    let disk = TestDisk::default();
    let store = open_storage(Box::new(disk.clone()), config()).expect("a new store");
    store.write(put("pods/first", 100, Expect::Absent)).await.expect("there is room");
    let used = disk.0.lock().current.len();
    disk.0.lock().capacity = Some(used + (1 << 20));
    let mut kept = 0;
    let error = loop {
        match store.write(put(&format!("pods/{kept}"), 100_000, Expect::Absent)).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 10_000, "the disk is never full");
    };
    assert!(matches!(error, StoreError::NoSpace(_)), "{error}");
    let small = store.write(put("pods/small", 1, Expect::Absent)).await;
    assert!(matches!(small, Err(StoreError::NoSpace(_))), "{small:?}");
    assert!(store.get("pods/first").await.expect("readable").is_some());
    let mut watch = store.watch("pods/", store.revision()).await.expect("a watch");
    disk.0.lock().capacity = None;
    clock.advance(Duration::from_secs(2));
    let written = store.write(put("pods/small", 1, Expect::Absent)).await.expect("room again");
    assert!(written.modified > kept);
    let told = loop {
        match watch.next().await.expect("the watch goes on").expect("the watch goes on") {
            Notice::Event(event) if event.revision == written.modified => break event,
            _ => {}
        }
    };
    assert_eq!(&*told.entry.key, "pods/small");
    store.close().await;
    let store = open_storage(Box::new(disk), config()).expect("it opens again");
    assert_eq!(store.get("pods/small").await.expect("readable"), Some(written));
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_ended_and_others_are_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = RedbConfig { watcher_buffer: 8, ..RedbConfig::default() };
    let store = open(dir.path(), config).expect("a new store");
    let mut slow = store.watch("pods/", 0).await.expect("a watch");
    let mut other = store.watch("nodes/", 0).await.expect("a watch");
    for n in 0..20 {
        store.write(put(&format!("pods/{n}"), 10, Expect::Absent)).await.expect("a new key");
    }
    store.write(put("nodes/a", 10, Expect::Absent)).await.expect("a new key");
    for _ in 0..8 {
        assert!(matches!(slow.next().await, Some(Ok(Notice::Event(_)))));
    }
    assert!(matches!(slow.next().await, Some(Err(StoreError::TooSlow(8)))));
    assert!(slow.next().await.is_none());
    assert!(matches!(other.next().await, Some(Ok(Notice::Event(e))) if e.revision == 21));
    drop(slow);
    assert_eq!(store.load().0, 1);
    drop(other);
    assert_eq!(store.load().0, 0);
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_writes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open(dir.path(), RedbConfig::default()).expect("a new store");
    let mut watch = store.watch("", 0).await.expect("a watch");
    store.close().await;
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
    let late = store.write(put("pods/a", 1, Expect::Absent)).await;
    assert!(matches!(late, Err(StoreError::Closed)));
}

#[tokio::test]
async fn the_directory_is_its_owners_alone_and_opened_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("deep/store");
    let store = open(&path, RedbConfig::default()).expect("a new store");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("store.redb"))), (0o700, 0o600));
    let second = open(&path, RedbConfig::default()).err().expect("it is in use");
    assert!(matches!(second, OpenError::Locked { .. }), "{second}");
    store.close().await;
    open(&path, RedbConfig::default()).expect("it is free again");
}

#[tokio::test]
async fn files_that_are_not_well_are_told_by_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("file"), b"x").expect("a file");
    let error =
        open(&dir.path().join("file/store"), RedbConfig::default()).err().expect("no directory");
    assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");

    for (name, damage) in [("garbage", 0), ("header", 1), ("half", 2), ("middle", 3)] {
        let path = dir.path().join(name);
        let file = path.join("store.redb");
        let store = open(&path, RedbConfig::default()).expect("a new store");
        for n in 0..200 {
            let key = format!("pods/{n}");
            store.write(put(&key, 900, Expect::Absent)).await.expect("a new key");
        }
        store.close().await;
        let mut bytes = std::fs::read(&file).expect("the file");
        let length = bytes.len();
        match damage {
            0 => bytes = vec![0x5a; 40_000],
            1 => bytes[..600].fill(0xff),
            2 => bytes.truncate(length / 8),
            _ => bytes[4096..].fill(0xee),
        }
        std::fs::write(&file, bytes).expect("the damage is done");
        let error =
            open(&path, RedbConfig::default()).err().unwrap_or_else(|| panic!("{name} opens"));
        assert!(error.to_string().contains("store.redb"), "{name}: {error}");
        assert!(matches!(error, OpenError::Corrupt { .. }), "{name}: {error}");
    }
}

/// The name of the crash test, whose child is the same test.
const KILLED: &str = "store::redb::tests::what_was_acknowledged_survives_a_killed_process";

/// The child of the crash test: writes until it is killed, and prints what was acknowledged.
async fn crash_child(dir: &str) {
    let store = open(Path::new(dir), RedbConfig::default()).expect("a store");
    let writers = (0..16).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let key = format!("pods/{}-{writer}/{n}", std::process::id());
                let entry = store.write(put(&key, 1024, Expect::Absent)).await.expect("a new key");
                let line = format!("ack {} {key}\n", entry.modified);
                io::stdout().lock().write_all(line.as_bytes()).expect("someone reads");
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    if let Ok(dir) = std::env::var("CORACLE_CRASH_DIR") {
        return crash_child(&dir).await;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut acknowledged: Vec<(Revision, String)> = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", KILLED, "--nocapture"])
            .env("CORACLE_CRASH_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = io::BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // The last line may be torn: what follows its number is checked against the store.
            let mut words = line.split(' ').skip_while(|word| !word.ends_with("ack")).skip(1);
            let (Some(revision), Some(key)) = (words.next(), words.next()) else { continue };
            acknowledged.push((revision.parse().expect("a revision"), key.to_owned()));
            seen += 1;
            if seen == 300 + 100 * round {
                child.kill().expect("the child is there to be killed");
            }
        }
        child.wait().expect("the child has ended");
        assert!(seen >= 300, "the child acknowledged only {seen} writes");
        let store = open(dir.path(), RedbConfig::default()).expect("it opens again");
        for (revision, key) in &acknowledged {
            let entry = store.get(key).await.expect("readable");
            assert_eq!(entry.map(|e| e.modified), Some(*revision), "{key} was acknowledged");
        }
        store.close().await;
    }
}
