//! The cluster as a whole when parts of it die.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Cluster, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};

async fn client(cluster: &Cluster) -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    kube::Client::try_from(config.expect("a configuration")).expect("a client")
}

/// Many clients write while the server is killed: what was acknowledged is there after the restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_a_killed_server() {
    let mut cluster = Cluster::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let (maps, stop) = (maps.clone(), stop.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("w{writer}-{number}");
                    let map = ConfigMap {
                        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                        ..ConfigMap::default()
                    };
                    match maps.create(&PostParams::default(), &map).await {
                        Ok(_) => acknowledged.push(name),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let listen = cluster.url().replace("https://", "");
    cluster.kill_server();
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer"));
    }
    assert!(acknowledged.len() > 50, "some load: {}", acknowledged.len());
    cluster.start_server(&listen);
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let found = maps.list(&ListParams::default()).await.expect("a list");
    let found: BTreeSet<String> =
        found.items.into_iter().filter_map(|map| map.metadata.name).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !found.contains(*name)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: a
        image: coracle.dev/samples/hello-http:v1
        ports: [{containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
";

#[test]
fn pods_of_a_killed_worker_run_elsewhere() {
    let mut cluster = Cluster::start_with(&[
        "--node-monitor-period-seconds=1",
        "--node-monitor-grace-period-seconds=4",
        "--default-not-ready-toleration-seconds=1",
        "--default-unreachable-toleration-seconds=1",
    ]);
    cluster.agents_get(&["--lease-duration-seconds=4", "--lease-renew-seconds=1"]);
    cluster.start_agent(0);
    cluster.start_agent(1);
    cluster.wait_for_nodes(2);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    let places = cluster.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={..nodeName}"]);
    assert!(places.contains("node-0") && places.contains("node-1"), "spread: {places}");
    cluster.kill_agent(0);
    eventually("the node is marked down", || {
        let nodes = cluster.ok(&["get", "node", "node-0", "--no-headers"]);
        nodes.contains("NotReady").then_some(())
    });
    let taints = cluster.ok(&["get", "node", "node-0", "-o", "jsonpath={.spec.taints[*].key}"]);
    assert!(taints.contains("node.kubernetes.io/unreachable"), "{taints}");
    eventually("all pods run on the other node", || {
        let selector = "--field-selector=status.phase=Running,spec.nodeName=node-1";
        let told = cluster.ok(&["get", "pods", "-l", "app=web", selector, "--no-headers"]);
        (told.matches("1/1").count() == 4).then_some(())
    });
    cluster.start_agent(0);
    cluster.wait_for_nodes(2);
}

#[test]
fn workers_go_on_without_the_server_and_a_restarted_one_takes_over_at_once() {
    let mut cluster = Cluster::with_agents(1);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    cluster.ok(&["expose", "deploy", "web", "--type=NodePort", "--port=80", "--target-port=8080"]);
    let port = cluster.ok(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let answers = || {
        let address = format!("127.0.0.1:{port}");
        std::net::TcpStream::connect(address).is_ok_and(|mut stream| {
            use std::io::{Read, Write};
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let asked = stream.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
            let mut said = String::new();
            asked.is_ok() && stream.read_to_string(&mut said).is_ok() && said.contains("200")
        })
    };
    eventually("the node port answers", || answers().then_some(()));
    let listen = cluster.url().replace("https://", "");
    cluster.kill_server();
    for _ in 0..20 {
        assert!(answers(), "pods serve while the server is away");
    }
    cluster.start_server(&listen);
    cluster.ok(&["scale", "deploy", "web", "--replicas=6"]);
    cluster.wait_for("deploy/web", ".status.readyReplicas", "6");
    let restarts = cluster.ok(&["get", "pods", "-o", "jsonpath={..restartCount}"]);
    assert!(restarts.split_whitespace().all(|count| count == "0"), "{restarts}");
}
