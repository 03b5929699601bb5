//! Pods on a whole node: real images, runtime, network, volumes and store; only the API server is
//! a table that the test fills.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::addresses::Addresses;
use super::admit;
use super::agent::{self, Node, WRITES_MAX};
use super::config::{AgentConfig, ApiAccess};
use super::logs::{LogOptions, LogReader, Logs};
use super::pod::worker::{Beginning, Update, Worker};
use super::sources::Sources;
use super::store::NodeStore;
use super::tokens::Tokens;
use crate::base::clock::SystemClock;
use crate::base::shutdown::Shutdown;
use crate::client::events::Recorder;
use crate::client::testing::{self, Asked};
use crate::image::{Images, Policy};
use crate::net::{Fabric, FabricConfig};
use crate::runtime::{Runtime, RuntimeConfig};

const HELLO: &str = "coracle.dev/samples/hello-http:v1";
const PATIENCE: Duration = Duration::from_secs(60);

/// An API server of objects that the test puts in.
#[derive(Default)]
struct Api {
    objects: Mutex<HashMap<String, Value>>,
    asked: Mutex<Vec<Asked>>,
    away: AtomicBool,
}

impl Api {
    fn answer(&self, asked: Asked) -> Response<Body> {
        if self.away.load(Ordering::Relaxed) {
            return testing::failure(503, "ServiceUnavailable");
        }
        self.asked.lock().push(asked.clone());
        if asked.query.contains("watch=") {
            let open = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
            return Response::new(Body::from_stream(open));
        }
        match asked.method.as_str() {
            "GET" => {
                let name = asked.query.split("metadata.name%3D").nth(1);
                let name = name.and_then(|n| n.split('&').next()).unwrap_or_default();
                let found = self.objects.lock().get(&format!("{}/{name}", asked.path)).cloned();
                let items: Vec<Value> = found.into_iter().collect();
                testing::json(
                    200,
                    &json!({
                        "kind": "List", "apiVersion": "v1",
                        "metadata": {"resourceVersion": "1"}, "items": items,
                    }),
                )
            }
            "POST" if asked.path.ends_with("/token") => testing::json(
                201,
                &json!({
                    "status": {"token": "JWT", "expirationTimestamp": "2099-01-01T00:00:00Z"},
                }),
            ),
            _ => testing::json(200, &asked.body),
        }
    }

    fn statuses(&self) -> Vec<Value> {
        let asked = self.asked.lock();
        let patches = asked.iter().filter(|a| a.method == "PATCH" && a.path.ends_with("/status"));
        patches.map(|a| a.body["status"].clone()).collect()
    }

    fn deleted(&self) -> bool {
        self.asked.lock().iter().any(|a| a.method == "DELETE")
    }

    fn events(&self) -> Vec<(String, String)> {
        let asked = self.asked.lock();
        let told = asked.iter().filter(|a| a.path.ends_with("/events"));
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        told.map(|a| (text(&a.body["reason"]), text(&a.body["message"]))).collect()
    }
}

async fn node(dir: &Path, api: &Arc<Api>) -> Arc<Node> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock = SystemClock::shared();
    let shutdown = Shutdown::new();
    let served = Arc::clone(api);
    let client = testing::client(move |asked| {
        let api = Arc::clone(&served);
        async move { api.answer(asked) }
    });
    let mut config =
        AgentConfig::new("w1", dir.to_owned(), ApiAccess::Kubeconfig("/nowhere".into()));
    config.allow_file_images = true;
    let store = Arc::new(NodeStore::open(dir).expect("a store"));
    let images = Images::new(&dir.join("images"), Policy { allow_file: true, ..Policy::default() })
        .expect("images");
    let runtime = RuntimeConfig {
        toolbox: super::run::toolbox(&images).await,
        ..RuntimeConfig::for_tests(dir.join("runtime"))
    };
    let mut addresses = Addresses::default();
    addresses.set_range("10.128.0.0/24".parse().expect("a range"));
    let host = config.node_name.clone();
    let fabric = Fabric::new(FabricConfig::new("w1"));
    fabric.set_node(crate::net::NodeRoute {
        name: "w1".to_owned(),
        pod_cidrs: vec!["10.128.0.0/24".parse().expect("a range")],
        peer_addr: None,
    });
    Arc::new(Node {
        recorder: Recorder::start(
            client.clone(),
            "kubelet",
            &host,
            clock.clone(),
            shutdown.clone(),
        ),
        fabric,
        logs: Logs::new(dir.join("pods"), config.logs, clock.clone()),
        sources: Sources::new(client.clone(), Arc::clone(&store), shutdown.clone()),
        tokens: Tokens::new(client.clone(), Arc::clone(&store), clock.clone()),
        addresses: Mutex::new(addresses),
        services: ArcSwap::default(),
        allocatable: super::resources::Amounts::new(),
        facts: ArcSwap::from_pointee(admit::Facts::default()),
        workers: Mutex::default(),
        writes: Semaphore::new(WRITES_MAX),
        runtime: Runtime::new(runtime).expect("a runtime"),
        config,
        clock,
        client,
        containers: None,
        no_containers: None,
        host_network: std::sync::OnceLock::new(),
        images,
        layers: Arc::new(crate::image::Layers::open(&dir.join("layers")).expect("a store")),
        store,
        shutdown,
    })
}

fn pod(uid: &str, spec: Value) -> Arc<Pod> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{uid}"), "namespace": "ns", "uid": uid,
                     "labels": {"app": "x"}},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn begin(node: &Arc<Node>, pod: &Arc<Pod>) {
    let handle = Worker::start(node, Arc::clone(pod), Beginning::Fresh);
    node.workers.lock().insert(pod.metadata.uid.clone().expect("a uid"), handle);
}

/// The status of a pod once `fits` says so.
async fn until(node: &Node, uid: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let handle = node.workers.lock().get(uid).cloned();
            if let Some(handle) = handle {
                last = json!(handle.view.lock().status.as_deref());
                if fits(&last) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never {what}: {last:#}");
    last
}

fn ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

async fn get(node: &Node, url: &str) -> (u16, String) {
    let request = Request::get(url).body(crate::net::empty()).expect("a request");
    let response = node.fabric.host().request(request).await.expect("an answer");
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (code, String::from_utf8_lossy(&body).into_owned())
}

fn read_log(node: &Node, uid: &str, options: LogOptions) -> String {
    let dir = node.logs.pod_dir("ns", &format!("pod-{uid}"), uid).join("app");
    let mut reader = LogReader::open(dir, None, options).expect("a log");
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = reader.read_some() {
        text.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_pod_serves_and_goes_away_when_it_is_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    let node = node(dir.path(), &api).await;
    let pod = pod(
        "u1",
        json!({"containers": [{
            "name": "app", "image": HELLO,
            "ports": [{"containerPort": 9000}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {"httpGet": {"port": 9000, "path": "/"}},
        }]}),
    );
    begin(&node, &pod);
    let status = until(&node, "u1", "ready", ready).await;
    let ip = status["podIP"].as_str().expect("an address");
    let (code, body) = get(&node, &format!("http://{ip}:9000/")).await;
    assert_eq!((code, body.as_str()), (200, "Hello from pod-u1\n"));
    let (_, env) = get(&node, &format!("http://{ip}:9000/env")).await;
    assert!(env.contains(&format!("POD_IP={ip}\n")) && env.contains("HOSTNAME=pod-u1"), "{env}");
    assert_eq!(status["phase"], "Running");
    assert!(container(&status)["containerID"].as_str().is_some_and(|id| id.starts_with("wasm://")));

    let mut leaving = pod.as_ref().clone();
    leaving.metadata.deletion_grace_period_seconds = Some(30);
    leaving.metadata.deletion_timestamp = Some(crate::client::meta::time(node.clock.now()));
    let handle = node.workers.lock().get("u1").cloned().expect("a worker");
    handle.updates.send_replace(Update::Pod(Arc::new(leaving)));
    let gone = tokio::time::timeout(PATIENCE, async {
        while !node.workers.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    gone.await.expect("the worker ends");
    assert!(api.deleted());
    let last = api.statuses().pop().expect("a status");
    assert!(container(&last)["state"]["terminated"].is_object(), "{last:#}");
    assert!(!dir.path().join("volumes/u1").exists());
    assert!(!node.logs.pod_dir("ns", "pod-u1", "u1").exists());
    let reasons: Vec<String> = api.events().into_iter().map(|(reason, _)| reason).collect();
    for expected in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.iter().any(|r| r == expected), "no {expected} in {reasons:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_reads_its_volume_and_its_exit_code_and_log_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    api.objects.lock().insert(
        "/api/v1/namespaces/ns/configmaps/cfg".to_owned(),
        json!({
            "metadata": {"name": "cfg", "namespace": "ns", "resourceVersion": "1"},
            "data": {"config": "limit=100\nexit=3\n"},
        }),
    );
    let node = node(dir.path(), &api).await;
    let pod = pod(
        "u2",
        json!({
            "restartPolicy": "Never",
            "containers": [{
                "name": "app", "image": "coracle.dev/samples/batch:v1",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": "cfg", "mountPath": "/etc/batch"},
                                 {"name": "out", "mountPath": "/out"}],
            }],
            "volumes": [{"name": "cfg", "configMap": {"name": "cfg"}}, {"name": "out", "emptyDir": {}}],
        }),
    );
    begin(&node, &pod);
    let status = until(&node, "u2", "over", |s| s["phase"] == "Failed").await;
    let ended = &container(&status)["state"]["terminated"];
    assert_eq!(ended["exitCode"], 3, "{status:#}");
    assert_eq!(ended["reason"], "Error");
    assert_eq!(ended["message"], "25 primes up to 100\n");
    assert_eq!(read_log(&node, "u2", LogOptions::default()), "25 primes up to 100\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_config_map_is_an_event_and_the_pod_waits_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    let node = node(dir.path(), &api).await;
    let pod = pod(
        "u3",
        json!({
            "containers": [{"name": "app", "image": HELLO,
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]}],
        }),
    );
    begin(&node, &pod);
    let status = until(&node, "u3", "refused", |s| {
        container(s)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let status = status.await;
    let message = &container(&status)["state"]["waiting"]["message"];
    assert_eq!(message, "configmap \"none\" not found");
    assert_eq!(status["phase"], "Pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_cannot_run_say_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    let node = node(dir.path(), &api).await;
    let corrupt = dir.path().join("corrupt.wasm");
    std::fs::write(&corrupt, b"\0asm\x01\0\0\0garbage").expect("written");
    let table = [
        ("a", format!("file:{}", corrupt.display()), "CreateContainerError"),
        ("b", "file:/no/such/file.wasm".to_owned(), "ErrImagePull"),
        ("c", "UPPER CASE".to_owned(), "InvalidImageName"),
    ];
    for (uid, image, expected) in table {
        begin(&node, &pod(uid, json!({"containers": [{"name": "app", "image": image}]})));
        until(&node, uid, expected, |s| container(s)["state"]["waiting"]["reason"] == expected)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_killed_brings_its_pods_back_without_the_api_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    let first = node(dir.path(), &api).await;
    api.objects.lock().insert(
        "/api/v1/namespaces/ns/secrets/sec".to_owned(),
        json!({
            "metadata": {"name": "sec", "namespace": "ns", "resourceVersion": "1"},
            "data": {"pass": "aHVudGVyMg=="},
        }),
    );
    let pod = pod(
        "u4",
        json!({"containers": [{
            "name": "app", "image": HELLO,
            "env": [{"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pass"}}}],
        }]}),
    );
    begin(&first, &pod);
    let before = until(&first, "u4", "ready", ready).await;
    first.store.flush();
    // Killed: nothing of it gets to run any more.
    first.shutdown.cancel();
    first.workers.lock().clear();
    drop(first);
    // Its tasks hold the store until they see the end.
    while NodeStore::open(dir.path()).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    api.away.store(true, Ordering::Relaxed);
    let second = node(dir.path(), &api).await;
    assert_eq!(agent::restore(&second), 1);
    let after = until(&second, "u4", "ready again", ready).await;
    assert_eq!(after["podIP"], before["podIP"]);
    assert_eq!(container(&after)["restartCount"], 1);
    let ended = &container(&after)["lastState"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("Error")));
    let ip = after["podIP"].as_str().expect("an address");
    let (code, env) = get(&second, &format!("http://{ip}:8080/env")).await;
    assert!(code == 200 && env.contains("PASS=hunter2"), "{env}");

    // Back in reach, the server is told what happened meanwhile.
    api.asked.lock().clear();
    api.away.store(false, Ordering::Relaxed);
    let told = tokio::time::timeout(PATIENCE, async {
        while !api.statuses().iter().any(|s| container(s)["restartCount"] == 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    told.await.expect("the status arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_probes_run_applets_and_a_failing_one_restarts_the_container() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Arc::new(Api::default());
    let node = node(dir.path(), &api).await;
    let pod = pod(
        "u5",
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app", "image": HELLO,
                "readinessProbe": {"exec": {"command": ["ls", "/data"]}},
                "livenessProbe": {"exec": {"command": ["ls", "/data/absent"]},
                                  "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 5},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }),
    );
    begin(&node, &pod);
    until(&node, "u5", "ready", ready).await;
    until(&node, "u5", "restarted", |s| container(s)["restartCount"].as_u64() >= Some(1)).await;
    let told = api.events();
    let killing = told.iter().find(|(reason, _)| reason == "Killing").map(|(_, m)| m.as_str());
    assert_eq!(killing, Some("Container app failed liveness probe, will be restarted"));
}
