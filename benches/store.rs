//! The redb engine alone: durable writes beside the bare log, gets, lists, fan-out.
//!
//! `cargo bench --bench store`; `BENCH_SECONDS` changes how long each figure is measured.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{measured_for, ms, percentile, print_table, row};
use coracle::store::redb::{RedbConfig, RedbStore, open};
use coracle::store::{Expect, Notice, Range, Store, Value, Write};
use futures::StreamExt as _;

fn put(key: &str, expect: Expect) -> Write {
    let attrs = Bytes::from_static(b"app=web");
    let value = Value { bytes: Bytes::from(vec![b'x'; 1024]), attrs };
    Write::Put { key: key.into(), value, expect, ttl: None }
}

/// How many creates a second `clients` clients get acknowledged, and their median time.
async fn creates(store: &Arc<RedbStore>, clients: usize, round: &str) -> (f64, Duration) {
    let start = Instant::now();
    let until = start + measured_for();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (store, round) = (store.clone(), round.to_owned());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                while Instant::now() < until {
                    let key = format!("pods/{round}-{client}/{}", samples.len());
                    let before = Instant::now();
                    store.write(put(&key, Expect::Absent)).await.expect("a new key");
                    samples.push(before.elapsed());
                }
                samples
            })
        })
        .collect();
    let mut samples = Vec::new();
    for task in tasks {
        samples.extend(task.await.expect("a client"));
    }
    let rate = samples.len() as f64 / start.elapsed().as_secs_f64();
    (rate, percentile(&mut samples, 0.5))
}

async fn writes(store: &Arc<RedbStore>, dir: &std::path::Path) {
    let mut table =
        vec![row(["clients", "creates/s", "p50 ms", "bare log/s", "fdatasync p50 ms", "ratio"])];
    for clients in [1, 16, 64, 256] {
        let (bare, sync) = common::bare_log(dir, clients);
        let (rate, median) = creates(store, clients, &clients.to_string()).await;
        table.push(vec![
            clients.to_string(),
            format!("{rate:.0}"),
            ms(median),
            format!("{bare:.0}"),
            ms(sync),
            format!("{:.2}", rate / bare),
        ]);
    }
    println!("durable creates of 1 KiB, beside append + fdatasync by as many threads");
    print_table(&table);
}

async fn reads(store: &Arc<RedbStore>) {
    for n in 0..5000 {
        // Many at a time, since each is durable.
        if n % 250 == 0 {
            let some = (n..n + 250).map(|n| format!("nodes/{n:05}"));
            let some = some.map(|key| async move { store.write(put(&key, Expect::Absent)).await });
            futures::future::join_all(some).await;
        }
    }
    let start = Instant::now();
    let mut gets = 0u64;
    while start.elapsed() < measured_for() / 4 {
        for n in 0..1000 {
            let key = format!("nodes/{n:05}");
            std::hint::black_box(store.get(&key).await.expect("readable"));
            gets += 1;
        }
    }
    let gets = gets as f64 / start.elapsed().as_secs_f64();
    let mut lists = Vec::new();
    for _ in 0..50 {
        let range = Range { prefix: "nodes/".into(), after: None, limit: 0, revision: None };
        let before = Instant::now();
        let page = store.list(range).await.expect("readable");
        lists.push(before.elapsed());
        assert_eq!(page.entries.len(), 5000);
    }
    println!("gets/s on one task: {gets:.0}");
    println!("list of 5,000 entries, p50 ms: {}\n", ms(percentile(&mut lists, 0.5)));
}

/// Events a second that `watchers` watchers are told of the same kind.
async fn fan_out(store: &Arc<RedbStore>, watchers: usize) {
    const WRITES: usize = 2000;
    let from = store.revision();
    let told: Vec<_> = (0..watchers)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut watch = store.watch("leases/", from).await.expect("a watch");
                let mut told = 0;
                while told < WRITES {
                    match watch.next().await.expect("it goes on").expect("it goes on") {
                        Notice::Event(_) => told += 1,
                        Notice::Progress(_) => {}
                    }
                }
            })
        })
        .collect();
    let start = Instant::now();
    let writers = (0..64).map(|writer| async move {
        for n in (writer..WRITES).step_by(64) {
            store.write(put(&format!("leases/{n}"), Expect::Absent)).await.expect("a new key");
        }
    });
    futures::future::join_all(writers).await;
    let written = start.elapsed();
    futures::future::join_all(told).await;
    let delivered = (WRITES * watchers) as f64 / start.elapsed().as_secs_f64();
    println!(
        "fan-out to {watchers} watchers: {delivered:.0} events/s, {WRITES} writes in {} ms, all \
         told after {} ms",
        ms(written),
        ms(start.elapsed())
    );
}

#[tokio::main]
async fn main() {
    let dir = common::scratch();
    let store = open(&dir.path().join("store"), RedbConfig::default()).expect("a new store");
    println!("resident with an empty store: {:.1} MiB\n", common::resident_mib());
    writes(&store, dir.path()).await;
    reads(&store).await;
    for watchers in [1, 100, 1000] {
        fan_out(&store, watchers).await;
    }
    store.close().await;
    let before = Instant::now();
    let store = open(&dir.path().join("store"), RedbConfig::default()).expect("it opens again");
    let file = dir.path().join("store/store.redb").metadata().expect("the file").len();
    println!("\nreopening {} MiB took {} ms", file >> 20, ms(before.elapsed()));
    store.close().await;
}
