//! Client libraries as their users use them: create a Deployment, watch it become ready, read logs,
//! delete it.

mod common;

use common::Cluster;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams, WatchEvent, WatchParams};

fn deployment() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "counter"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "counter"}},
            "template": {
                "metadata": {"labels": {"app": "counter"}},
                "spec": {"containers": [{
                    "name": "a",
                    "image": "coracle.dev/samples/udp-echo:v1",
                }]},
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_creates_watches_reads_logs_and_deletes() {
    let cluster = Cluster::with_agents(1);
    let file = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let made = serde_json::from_value(deployment()).expect("a Deployment");
    let made = deployments.create(&PostParams::default(), &made).await.expect("created");
    let version = made.metadata.resource_version.expect("a version");
    let watch = WatchParams::default().fields("metadata.name=counter").timeout(60);
    let mut events = deployments.watch(&watch, &version).await.expect("a watch").boxed();
    loop {
        match events.try_next().await.expect("an event").expect("ready before the watch ends") {
            WatchEvent::Modified(seen)
                if seen.status.as_ref().and_then(|s| s.ready_replicas) == Some(2) =>
            {
                break;
            }
            WatchEvent::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let found = pods.list(&ListParams::default().labels("app=counter")).await.expect("pods");
    assert_eq!(found.items.len(), 2);
    let name = found.items[0].metadata.name.clone().expect("a name");
    let log = pods.logs(&name, &LogParams::default()).await.expect("logs");
    assert!(log.contains("7007"), "it says where it listens: {log:?}");
    let stream = pods.log_stream(&name, &LogParams { follow: true, ..LogParams::default() }).await;
    let mut lines = stream.expect("a stream").lines();
    assert!(lines.try_next().await.expect("a line").is_some());
    let deleted = deployments.delete("counter", &DeleteParams::foreground()).await;
    deleted.expect("deleted");
    common::eventually("its pods are gone", || {
        (cluster.ok(&["get", "pods", "-o", "name"]).is_empty()).then_some(())
    });
}

#[test]
fn the_python_client_creates_watches_reads_logs_and_deletes() {
    let cluster = Cluster::with_agents(1);
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python/bin/python");
    let script = cluster.path().join("client.py");
    let text = format!(
        "
from kubernetes import client, config, watch
config.load_kube_config({config:?})
apps, core = client.AppsV1Api(), client.CoreV1Api()
made = apps.create_namespaced_deployment('default', {body})
print('created', made.metadata.name)
w = watch.Watch()
for event in w.stream(apps.list_namespaced_deployment, 'default', timeout_seconds=60):
    if event['object'].status.ready_replicas == 2:
        print('ready')
        w.stop()
pods = core.list_namespaced_pod('default', label_selector='app=counter').items
print('pods', len(pods), pods[0].status.phase)
print('log', core.read_namespaced_pod_log(pods[0].metadata.name, 'default'))
scaled = apps.patch_namespaced_deployment_scale('counter', 'default', {{'spec': {{'replicas': 1}}}})
print('scaled', scaled.spec.replicas)
apps.delete_namespaced_deployment('counter', 'default')
try:
    apps.read_namespaced_deployment('counter', 'default')
except client.ApiException as e:
    print('gone', e.status)
",
        config = cluster.kubeconfig().display().to_string(),
        body = deployment(),
    );
    std::fs::write(&script, text).expect("a script");
    let output = std::process::Command::new(python)
        .arg(&script)
        .output()
        .expect("the Python client is installed (tests/run.sh does it)");
    let told = common::Told::of(&output);
    assert!(told.succeeded, "{}", told.text);
    for part in ["created counter", "ready", "pods 2 Running", "7007", "scaled 1", "gone 404"] {
        assert!(told.text.contains(part), "{part}: {}", told.text);
    }
}
