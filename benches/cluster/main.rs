//! What the server and an agent promise as processes, over TLS: creates, gets, lists, watches, pods.
//!
//! `cargo bench --bench cluster -- [idle] [api] [pods] [neighbours]`, all by default; `BENCH_SECONDS` changes how
//! long each figure is measured. The load shares the machine's cores with what it measures.

#[path = "../common/mod.rs"]
mod common;
#[path = "../runtime/load.rs"]
mod load;
mod neighbours;
mod peer;
mod processes;
mod wire;

use std::time::{Duration, Instant};

use common::{measured_for, ms, percentile, print_table, row};
use processes::Cluster;
use serde_json::json;
use wire::{Connection, Target};

const LISTED: usize = 5000;
const WATCHERS: usize = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("bare") => return peer::child(&args[1..]),
        Some("load") => return load::child(&args[1..]),
        _ => {}
    }
    let chosen: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let runs = |name: &str| chosen.is_empty() || chosen.iter().any(|arg| *arg == name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runs("idle") {
        runtime.block_on(idle());
    }
    if runs("api") {
        runtime.block_on(api());
    }
    if runs("pods") {
        runtime.block_on(pods());
    }
    if runs("neighbours") {
        runtime.block_on(neighbours::run());
    }
}

/// Resident memory of a server and an agent that have nothing to do.
async fn idle() {
    let mut cluster = Cluster::start();
    cluster.start_agent();
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!(
        "idle: server {:.1} MiB, agent {:.1} MiB resident\n",
        cluster.server_mib(),
        cluster.agent_mib()
    );
}

async fn api() {
    let cluster = Cluster::start();
    let target = cluster.target();
    creates(&target, cluster.dir()).await;
    gets(&target, cluster.dir()).await;
    list(&target).await;
    watch(&target).await;
    println!("server after all this: {:.1} MiB resident\n", cluster.server_mib());
}

fn config_map(name: &str) -> Vec<u8> {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"value": "x".repeat(900)},
    })
    .to_string()
    .into_bytes()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn creates(target: &Target, dir: &std::path::Path) {
    let mut table =
        vec![row(["clients", "creates/s", "p50 ms", "p99 ms", "bare log/s", "sync ms", "ratio"])];
    for clients in [1, 16, 64] {
        let (bare, sync) = common::bare_log(dir, clients);
        let until = Instant::now() + measured_for();
        let start = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let target = target.clone();
                tokio::spawn(async move {
                    let mut connection = Connection::open(&target).await;
                    let mut samples = Vec::new();
                    while Instant::now() < until {
                        let name = format!("c{clients}-{client}-{}", samples.len());
                        let before = Instant::now();
                        let (code, _) = connection.ask("POST", MAPS, config_map(&name)).await;
                        assert_eq!(code, 201);
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
        table.push(vec![
            clients.to_string(),
            format!("{rate:.0}"),
            ms(percentile(&mut samples, 0.5)),
            ms(percentile(&mut samples, 0.99)),
            format!("{bare:.0}"),
            ms(sync),
            format!("{:.2}", rate / bare),
        ]);
    }
    println!("durable creates of 1 KiB over TLS, beside append + fdatasync by as many threads");
    print_table(&table);
}

/// Requests a second of 32 connections that ask for `path` again and again.
async fn rate(target: &Target, path: &str) -> (f64, Duration, Duration) {
    let until = Instant::now() + measured_for();
    let start = Instant::now();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (target, path) = (target.clone(), path.to_owned());
            tokio::spawn(async move {
                let mut connection = Connection::open(&target).await;
                let mut samples = Vec::new();
                while Instant::now() < until {
                    let before = Instant::now();
                    let (code, _) = connection.ask("GET", &path, Vec::new()).await;
                    assert_eq!(code, 200);
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
    (rate, percentile(&mut samples, 0.5), percentile(&mut samples, 0.99))
}

async fn gets(target: &Target, dir: &std::path::Path) {
    let mut connection = Connection::open(target).await;
    let (code, _) = connection.ask("POST", MAPS, config_map("got")).await;
    assert_eq!(code, 201);
    let path = format!("{MAPS}/got");
    let (_, body) = connection.ask("GET", &path, Vec::new()).await;
    let bare = peer::Bare::start(dir, &body);
    let mut table = vec![row(["what", "gets/s", "p50 ms", "p99 ms"])];
    let (bare_rate, p50, p99) = rate(&bare.target, "/").await;
    table.push(vec!["bare hyper + TLS".into(), format!("{bare_rate:.0}"), ms(p50), ms(p99)]);
    let (ours, p50, p99) = rate(target, &path).await;
    table.push(vec!["coracle".into(), format!("{ours:.0}"), ms(p50), ms(p99)]);
    println!("gets of {} bytes, 32 connections: ratio {:.2}", body.len(), ours / bare_rate);
    print_table(&table);
}

fn pod(name: &str) -> Vec<u8> {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            // Nobody schedules these.
            "schedulerName": "nobody",
            "containers": [{
                "name": "a",
                "image": "coracle.dev/samples/hello-http:v1",
                "env": [{"name": "A", "value": "b"}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
    .to_string()
    .into_bytes()
}

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn create_pods(target: &Target, count: usize, make: fn(&str) -> Vec<u8>) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|client| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut connection = Connection::open(&target).await;
                for n in (client..count).step_by(64) {
                    let (code, body) = connection.ask("POST", PODS, make(&format!("p{n}"))).await;
                    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a client");
    }
    start.elapsed()
}

async fn list(target: &Target) {
    let took = create_pods(target, LISTED, pod).await;
    println!("{:.0} pod creates/s at 64 clients", LISTED as f64 / took.as_secs_f64());
    let mut connection = Connection::open(target).await;
    let (mut samples, mut bytes) = (Vec::new(), 0);
    for _ in 0..20 {
        let before = Instant::now();
        let (code, body) = connection.ask("GET", PODS, Vec::new()).await;
        samples.push(before.elapsed());
        assert_eq!(code, 200);
        bytes = body.len();
    }
    println!(
        "list of {LISTED} pods ({} KiB): p50 {} ms, p99 {} ms\n",
        bytes >> 10,
        ms(percentile(&mut samples, 0.5)),
        ms(percentile(&mut samples, 0.99))
    );
}

/// From the moment a write is sent until the last of the watchers has its event.
async fn watch(target: &Target) {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    for _ in 0..WATCHERS {
        let connection = Connection::open(target).await;
        let path = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dwatched");
        let told = told.clone();
        tokio::spawn(connection.watch(path, told));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut connection = Connection::open(target).await;
    let mut samples = Vec::new();
    let (code, _) = connection.ask("POST", MAPS, config_map("watched")).await;
    assert_eq!(code, 201);
    for _ in 0..WATCHERS {
        hears.recv().await.expect("an event");
    }
    for n in 0..200 {
        let patch = json!({"data": {"n": n.to_string()}}).to_string().into_bytes();
        let before = Instant::now();
        let path = format!("{MAPS}/watched");
        let (code, _) = connection.ask("PATCH", &path, patch).await;
        assert_eq!(code, 200);
        let mut last = before;
        for _ in 0..WATCHERS {
            last = last.max(hears.recv().await.expect("an event"));
        }
        samples.push(last - before);
    }
    println!(
        "a durable write told to {WATCHERS} watchers: p50 {} ms, p99 {} ms\n",
        ms(percentile(&mut samples, 0.5)),
        ms(percentile(&mut samples, 0.99))
    );
}

fn http_pod(name: &str) -> Vec<u8> {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "a",
                "image": "coracle.dev/samples/hello-http:v1",
                "ports": [{"containerPort": 8080}],
            }],
        },
    })
    .to_string()
    .into_bytes()
}

async fn pods() {
    let mut cluster = Cluster::start();
    cluster.start_agent();
    let target = cluster.target();
    let (told, mut ready) = tokio::sync::mpsc::unbounded_channel();
    let watcher = Connection::open(&target).await;
    tokio::spawn(watcher.watch_ready(format!("{PODS}?watch=1"), told));
    let mut connection = Connection::open(&target).await;
    let mut samples = Vec::new();
    for n in 0..60 {
        let name = format!("one-{n}");
        let before = Instant::now();
        let (code, _) = connection.ask("POST", PODS, http_pod(&name)).await;
        assert_eq!(code, 201);
        while ready.recv().await.expect("a pod") != name {}
        // The first few find nothing compiled.
        if n >= 10 {
            samples.push(before.elapsed());
        }
        connection.ask("DELETE", &format!("{PODS}/{name}"), Vec::new()).await;
    }
    println!(
        "apply → Ready of an http pod, code in the cache: p50 {} ms, p99 {} ms",
        ms(percentile(&mut samples, 0.5)),
        ms(percentile(&mut samples, 0.99))
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = cluster.agent_mib();
    let start = Instant::now();
    create_pods(&target, 2000, http_pod).await;
    let created = start.elapsed();
    let mut count = 0;
    while count < 2000 {
        if ready.recv().await.expect("a pod").starts_with('p') {
            count += 1;
        }
    }
    println!(
        "2,000 http pods on one agent: created in {} ms, all Ready after {} ms; agent {:.1} MiB \
         ({:.1} KiB a pod), server {:.1} MiB\n",
        ms(created),
        ms(start.elapsed()),
        cluster.agent_mib(),
        (cluster.agent_mib() - before) * 1024.0 / 2000.0,
        cluster.server_mib()
    );
}
