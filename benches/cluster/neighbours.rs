//! Fifty busy loops on a node: another pod's answers through a NodePort, and the node's Lease.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load;
use crate::processes::Cluster;
use crate::wire::{Connection, Target};

const LOOPS: usize = 50;
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/bench";
/// Long enough for a few renewals.
const TIME: Duration = Duration::from_secs(35);

fn pod(name: &str, sample: &str) -> Vec<u8> {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": sample}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "a",
                "image": format!("coracle.dev/samples/{sample}:v1"),
                "ports": [{"containerPort": 8080}],
            }],
        },
    })
    .to_string()
    .into_bytes()
}

pub async fn run() {
    let mut cluster = Cluster::start();
    cluster.start_agent();
    let target = cluster.target();
    let mut connection = Connection::open(&target).await;
    let address = expose(&mut connection).await;
    create(&mut connection, pod("web", "hello-http")).await;
    load::wait_for(&address);
    let alone = measure(&address).await;
    for n in 0..LOOPS {
        create(&mut connection, pod(&format!("spin-{n}"), "spin")).await;
    }
    running(&mut connection, LOOPS).await;
    let renewals = tokio::spawn(renewals(target.clone()));
    let beside = measure(&address).await;
    let (count, longest) = renewals.await.expect("the watcher of the Lease");
    println!(
        "beside {LOOPS} busy loops, through the NodePort: {:.0} requests/s, p50 {} µs, p99 {} µs, {} failed (alone: \
         p50 {} µs, p99 {} µs); the node's Lease was renewed {count} times, at most {:.1} s apart\n",
        beside.per_second,
        beside.p50_us,
        beside.p99_us,
        beside.failed,
        alone.p50_us,
        alone.p99_us,
        longest.as_secs_f64()
    );
}

async fn create(connection: &mut Connection, pod: Vec<u8>) {
    let (code, body) = connection.ask("POST", crate::PODS, pod).await;
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
}

/// A NodePort before the pod `web`.
async fn expose(connection: &mut Connection) -> String {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "hello-http"},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    let services = "/api/v1/namespaces/default/services";
    let (code, body) = connection.ask("POST", services, service.to_string().into_bytes()).await;
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
    let service: Value = serde_json::from_slice(&body).expect("a Service");
    format!("127.0.0.1:{}", service["spec"]["ports"][0]["nodePort"])
}

async fn running(connection: &mut Connection, count: usize) {
    let path = format!("{}?labelSelector=app%3Dspin", crate::PODS);
    for _ in 0..600 {
        let (_, body) = connection.ask("GET", &path, Vec::new()).await;
        let list: Value = serde_json::from_slice(&body).expect("a list");
        let pods = list["items"].as_array().expect("items");
        if pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the busy loops do not run");
}

async fn measure(address: &str) -> load::Load {
    let address = address.to_owned();
    let load = tokio::task::spawn_blocking(move || load::run(&address, 1, TIME));
    load.await.expect("the load")
}

/// How often the node's Lease was renewed within [`TIME`], and the longest time between.
async fn renewals(target: Target) -> (usize, Duration) {
    let mut connection = Connection::open(&target).await;
    let (mut seen, mut count, mut longest) = (Value::Null, 0, Duration::ZERO);
    let (mut since, end) = (Instant::now(), Instant::now() + TIME);
    while Instant::now() < end {
        let (_, body) = connection.ask("GET", LEASE, Vec::new()).await;
        let lease: Value = serde_json::from_slice(&body).expect("the Lease");
        if lease["spec"]["renewTime"] != seen {
            if !seen.is_null() {
                count += 1;
                longest = longest.max(since.elapsed());
            }
            seen = lease["spec"]["renewTime"].clone();
            since = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (count, longest)
}
