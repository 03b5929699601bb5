//! What every engine holds, and the check against the model: random histories from a seed.
//!
//! A failing seed is printed; `CORACLE_SEED` runs that one alone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use super::memory::MemoryStore;
use super::redb::{RedbConfig, RedbStore, open};
use super::{
    Entry, EventKind, Expect, Notice, Page, Range, Revision, Store, StoreError, Value, WatchStream,
    Write,
};
use crate::base::clock::FakeClock;
use crate::base::rng::Rng;

/// An engine under test.
#[async_trait]
trait Subject: Send {
    fn store(&self) -> Arc<dyn Store>;
    async fn advance(&mut self, by: Duration);
    async fn reopen(&mut self);
}

struct Model {
    store: MemoryStore,
    clock: Arc<FakeClock>,
}

struct Embedded {
    store: Arc<RedbStore>,
    clock: Arc<FakeClock>,
    dir: tempfile::TempDir,
}

fn clock() -> Arc<FakeClock> {
    FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a valid timestamp"))
}

/// A window so small that most of the past has to come from disk.
fn config(clock: &Arc<FakeClock>) -> RedbConfig {
    RedbConfig { clock: clock.clone(), window_events: 7, ..RedbConfig::default() }
}

impl Model {
    fn new() -> Self {
        let clock = clock();
        Self { store: MemoryStore::with_clock(clock.clone()), clock }
    }
}

impl Embedded {
    fn new() -> Self {
        let (clock, dir) = (clock(), tempfile::tempdir().expect("a temporary directory"));
        let store = open(dir.path(), config(&clock)).expect("a new store");
        Self { store, clock, dir }
    }
}

#[async_trait]
impl Subject for Model {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }
    async fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.store.turn();
    }
    async fn reopen(&mut self) {}
}

#[async_trait]
impl Subject for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.store.turn().await.expect("the store turns");
    }
    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path(), config(&self.clock)).expect("the store opens again");
    }
}

fn subjects() -> Vec<Box<dyn Subject>> {
    vec![Box::new(Model::new()), Box::new(Embedded::new())]
}

fn value(text: &str) -> Value {
    let attrs = Bytes::from(format!("attrs of {text}"));
    Value { bytes: Bytes::copy_from_slice(text.as_bytes()), attrs }
}

fn put(key: &str, text: &str, expect: Expect) -> Write {
    Write::Put { key: key.into(), value: value(text), expect, ttl: None }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write::Delete { key: key.into(), value: value("gone"), expect }
}

fn all(prefix: &str) -> Range {
    Range { prefix: prefix.into(), after: None, limit: 0, revision: None }
}

async fn create(store: &Arc<dyn Store>, key: &str) -> Entry {
    store.write(put(key, key, Expect::Absent)).await.expect("a new key")
}

/// All that a watch tells up to the store's revision.
async fn drain(
    store: &Arc<dyn Store>,
    prefix: &str,
    after: Revision,
) -> Result<Vec<String>, String> {
    let mut watch = store.watch(prefix, after).await.map_err(|e| format!("{e:?}"))?;
    let newest = store.revision();
    let mut told = Vec::new();
    loop {
        store.progress(prefix);
        match next(&mut watch).await {
            Some(Ok(Notice::Event(event))) => told.push(format!("{event:?}")),
            Some(Ok(Notice::Progress(revision))) if revision >= newest => return Ok(told),
            Some(Ok(Notice::Progress(_))) => {}
            Some(Err(error)) => return Err(format!("{error:?}")),
            None => return Err("ended".to_owned()),
        }
    }
}

async fn next(watch: &mut WatchStream) -> Option<Result<Notice, StoreError>> {
    let waited = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    waited.expect("the watch says something")
}

async fn next_event(watch: &mut WatchStream) -> (Revision, EventKind, String) {
    match next(watch).await {
        Some(Ok(Notice::Event(e))) => (e.revision, e.kind, e.entry.key.to_string()),
        other => panic!("no event: {other:?}"),
    }
}

#[tokio::test]
async fn a_write_needs_the_expected_revision() {
    for subject in subjects() {
        let store = subject.store();
        let first = create(&store, "pods/a/x").await;
        assert_eq!((first.created, first.modified), (1, 1));
        let again = store.write(put("pods/a/x", "2", Expect::Absent)).await;
        assert!(matches!(again, Err(StoreError::Conflict(Some(e))) if e == first));
        let stale = store.write(put("pods/a/x", "2", Expect::Modified(9))).await;
        assert!(matches!(stale, Err(StoreError::Conflict(Some(e))) if e == first));
        let second =
            store.write(put("pods/a/x", "2", Expect::Modified(1))).await.expect("it holds");
        assert_eq!((second.created, second.modified), (1, 2));
        assert_eq!(store.get("pods/a/x").await.expect("readable"), Some(second));
        let gone = store.write(delete("pods/a/x", Expect::Modified(2))).await.expect("it holds");
        assert_eq!((gone.created, gone.modified, gone.value), (1, 3, value("gone")));
        assert_eq!(store.get("pods/a/x").await.expect("readable"), None);
        let twice = store.write(delete("pods/a/x", Expect::Absent)).await;
        assert!(matches!(twice, Err(StoreError::Conflict(None))));
        assert_eq!(store.revision(), 3);
    }
}

#[tokio::test]
async fn a_paginated_list_stays_at_its_revision() {
    for subject in subjects() {
        let store = subject.store();
        for n in 0..20 {
            create(&store, &format!("pods/a/{n:02}")).await;
        }
        let page = |after: Option<&str>, revision| Range {
            prefix: "pods/".into(),
            after: after.map(Into::into),
            limit: 8,
            revision,
        };
        let first = store.list(page(None, None)).await.expect("a page");
        assert_eq!(
            (first.entries.len(), first.more, first.remaining, first.revision),
            (8, true, 12, 20)
        );
        store.write(delete("pods/a/09", Expect::Modified(10))).await.expect("it holds");
        store.write(put("pods/a/10", "new", Expect::Modified(11))).await.expect("it holds");
        create(&store, "pods/a/10b").await;
        let last = first.entries.last().expect("eight entries").key.clone();
        let second = store.list(page(Some(&last), Some(20))).await.expect("a page");
        let keys: Vec<&str> = second.entries.iter().map(|e| &*e.key).collect();
        assert_eq!(keys[..4], ["pods/a/08", "pods/a/09", "pods/a/10", "pods/a/11"]);
        assert_eq!(second.entries[2].value, value("pods/a/10"));
        assert_eq!((second.remaining, second.revision), (4, 20));
    }
}

#[tokio::test]
async fn a_watch_tells_the_past_and_then_the_present_without_a_gap() {
    for subject in subjects() {
        let store = subject.store();
        for n in 0..10 {
            create(&store, &format!("pods/a/{n}")).await;
            create(&store, &format!("leases/a/{n}")).await;
        }
        let mut watch = store.watch("pods/", 4).await.expect("a watch");
        store.write(delete("pods/a/0", Expect::Modified(1))).await.expect("it holds");
        let mut told = Vec::new();
        for _ in 0..9 {
            told.push(next_event(&mut watch).await);
        }
        let revisions: Vec<Revision> = told.iter().map(|t| t.0).collect();
        assert_eq!(revisions, [5, 7, 9, 11, 13, 15, 17, 19, 21]);
        assert_eq!(told[8], (21, EventKind::Deleted, "pods/a/0".to_owned()));
        if let Some(more) = watch.next().now_or_never() {
            assert!(
                matches!(more, Some(Ok(Notice::Progress(21)))),
                "no event is told twice: {more:?}"
            );
        }
    }
}

#[tokio::test]
async fn progress_tells_how_far_a_quiet_watch_has_come() {
    for subject in subjects() {
        let store = subject.store();
        create(&store, "pods/a/0").await;
        let mut watch = store.watch("nodes/", 0).await.expect("a watch");
        create(&store, "pods/a/1").await;
        loop {
            store.progress("nodes/");
            match next(&mut watch).await {
                Some(Ok(Notice::Progress(2))) => break,
                Some(Ok(Notice::Progress(1))) => {}
                other => panic!("no progress: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn compacted_and_future_revisions_are_refused() {
    for mut subject in subjects() {
        let store = subject.store();
        for n in 0..10 {
            create(&store, &format!("pods/a/{n}")).await;
        }
        store.write(delete("pods/a/3", Expect::Modified(4))).await.expect("it holds");
        store.compact(6).await.expect("compaction");
        drop(store);
        for reopened in [false, true] {
            if reopened {
                subject.reopen().await;
            }
            let store = subject.store();
            let at = |revision| Range { revision: Some(revision), ..all("pods/") };
            let compacted = store.list(at(5)).await;
            assert!(matches!(compacted, Err(StoreError::Compacted { asked: 5, oldest: 6 })));
            assert!(matches!(store.watch("", 5).await.err(), Some(StoreError::Compacted { .. })));
            assert_eq!(store.list(at(6)).await.expect("kept").entries.len(), 6);
            assert_eq!(store.list(at(10)).await.expect("kept").entries.len(), 10);
            assert_eq!(drain(&store, "pods/", 6).await.expect("kept").len(), 5);
            assert!(matches!(store.list(at(12)).await, Err(StoreError::Future { .. })));
            assert!(matches!(store.watch("", 12).await.err(), Some(StoreError::Future { .. })));
            assert!(matches!(store.compact(12).await, Err(StoreError::Future { .. })));
            store.compact(3).await.expect("nothing to do");
        }
    }
}

#[tokio::test]
async fn revisions_older_than_five_minutes_are_compacted() {
    for mut subject in subjects() {
        let store = subject.store();
        for n in 1..=40 {
            create(&store, &format!("pods/a/{n}")).await;
            subject.advance(Duration::from_secs(10)).await;
        }
        let old = drain(&store, "pods/", 7).await.expect_err("330 seconds old");
        assert!(old.contains("Compacted"), "{old}");
        assert_eq!(drain(&store, "pods/", 12).await.expect("280 seconds old").len(), 28);
    }
}

#[tokio::test]
async fn a_key_expires_with_an_event() {
    for mut subject in subjects() {
        let store = subject.store();
        let ttl = Some(Duration::from_secs(60));
        let event =
            |key: &str, expect| Write::Put { key: key.into(), value: value(key), expect, ttl };
        store.write(event("events/a", Expect::Absent)).await.expect("a new key");
        store.write(event("events/b", Expect::Absent)).await.expect("a new key");
        subject.advance(Duration::from_secs(40)).await;
        store.write(event("events/b", Expect::Modified(2))).await.expect("it holds");
        drop(store);
        subject.reopen().await;
        let store = subject.store();
        let mut watch = store.watch("events/", 3).await.expect("a watch");
        subject.advance(Duration::from_secs(30)).await;
        assert_eq!(next_event(&mut watch).await, (4, EventKind::Deleted, "events/a".to_owned()));
        assert_eq!(store.count("events/").await.expect("a count"), 1);
        subject.advance(Duration::from_secs(31)).await;
        assert_eq!(next_event(&mut watch).await, (5, EventKind::Deleted, "events/b".to_owned()));
        assert_eq!(store.count("events/").await.expect("a count"), 0);
    }
}

/// Random operations, the same on the model and on the engine.
struct Walk {
    rng: Rng,
    model: Model,
    engine: Embedded,
    seconds: u64,
}

impl Walk {
    fn key(&mut self) -> String {
        let kinds = ["pods", "nodes", "pods-x"];
        let kind = kinds[self.rng.below(3) as usize];
        format!("{kind}/{}/{}", self.rng.below(2), self.rng.below(6))
    }

    fn prefix(&mut self) -> String {
        let prefixes = ["", "p", "pods", "pods/", "pods/1/", "nodes/", "nodes/0/3", "none/"];
        prefixes[self.rng.below(prefixes.len() as u64) as usize].to_owned()
    }

    fn some_revision(&mut self) -> Revision {
        let newest = self.model.store.revision();
        (newest + 1).saturating_sub(self.rng.below(40))
    }

    /// A write whose expectation mostly holds.
    async fn a_write(&mut self) -> Write {
        let key = self.key();
        let there = self.model.store.get(&key).await.expect("the model reads");
        let expect = match (self.rng.below(8), there) {
            (0, _) => Expect::Modified(self.some_revision()),
            (1, _) | (_, None) => Expect::Absent,
            (_, Some(entry)) => Expect::Modified(entry.modified),
        };
        if self.rng.below(3) == 0 {
            return delete(&key, expect);
        }
        let text = format!("{key} {}", self.rng.below(1000));
        let ttl = (self.rng.below(5) == 0).then(|| Duration::from_secs(1 + self.rng.below(9)));
        Write::Put { key: key.as_str().into(), value: value(&text), expect, ttl }
    }

    async fn step(&mut self) {
        let (model, engine) = (self.model.store(), self.engine.store());
        match self.rng.below(20) {
            0..=8 => {
                let write = self.a_write().await;
                same(model.write(write.clone()).await, engine.write(write).await);
            }
            9..=10 => self.a_group().await,
            11..=13 => {
                let range = self.a_range().await;
                same_page(model.list(range.clone()).await, engine.list(range).await);
            }
            14..=16 => {
                let (prefix, after) = (self.prefix(), self.some_revision());
                let told = drain(&engine, &prefix, after).await;
                assert_eq!(drain(&model, &prefix, after).await, told, "watch {prefix} {after}");
            }
            17 => {
                let before = self.some_revision().saturating_sub(10);
                model.compact(before).await.expect("compaction");
                engine.compact(before).await.expect("compaction");
            }
            18 => {
                drop((model, engine));
                self.engine.reopen().await;
            }
            _ if self.seconds < 280 => {
                let by = 1 + self.rng.below(3);
                self.seconds += by;
                self.model.advance(Duration::from_secs(by)).await;
                self.engine.advance(Duration::from_secs(by)).await;
            }
            _ => {}
        }
        self.compare().await;
    }

    /// Several writes at once, so that they are judged against each other.
    async fn a_group(&mut self) {
        let mut writes = Vec::new();
        for _ in 0..2 + self.rng.below(8) {
            writes.push(self.a_write().await);
        }
        let (model, engine) = (self.model.store(), self.engine.store());
        let at_once =
            futures::future::join_all(writes.iter().map(|w| engine.write(w.clone()))).await;
        for (write, done) in writes.into_iter().zip(at_once) {
            same(model.write(write).await, done);
        }
    }

    async fn a_range(&mut self) -> Range {
        let prefix = self.prefix();
        let after = (self.rng.below(2) == 0).then(|| self.key());
        let after = after.filter(|key| key.starts_with(&prefix)).map(|key| key.as_str().into());
        let revision = (self.rng.below(3) > 0).then(|| self.some_revision());
        let limit = self.rng.below(6) as usize;
        Range { prefix: prefix.as_str().into(), after, limit, revision }
    }

    async fn compare(&mut self) {
        let (model, engine) = (self.model.store(), self.engine.store());
        assert_eq!(model.revision(), engine.revision());
        let prefix = self.prefix();
        let counts = (model.count(&prefix).await, engine.count(&prefix).await);
        assert_eq!(counts.0.expect("a count"), counts.1.expect("a count"), "count {prefix}");
        let key = self.key();
        same(model.get(&key).await, engine.get(&key).await);
    }
}

#[track_caller]
fn same<T: std::fmt::Debug>(model: Result<T, StoreError>, engine: Result<T, StoreError>) {
    assert_eq!(format!("{model:?}"), format!("{engine:?}"));
}

#[track_caller]
fn same_page(model: Result<Page, StoreError>, engine: Result<Page, StoreError>) {
    same(model, engine);
}

#[tokio::test]
async fn random_histories_are_the_same_on_the_engine_and_on_the_model() {
    let seeds = match std::env::var("CORACLE_SEED") {
        Ok(seed) => vec![seed.parse().expect("CORACLE_SEED is a number")],
        Err(_) => (1..=6).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let (model, engine) = (Model::new(), Embedded::new());
        let mut walk = Walk { rng: Rng::seeded(seed), model, engine, seconds: 0 };
        for _ in 0..400 {
            walk.step().await;
        }
    }
}
