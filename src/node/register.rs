//! The Node object: registered once, its status written when something changed and every so often.
//!
//! Only what is the kubelet's is written, by patches that merge: labels, resources and conditions
//! of others stay.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as ApiNode;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::admit;
use super::agent::Node;
use super::config::AgentConfig;
use super::machine::{Machine, architecture, node_info};
use super::resources::Amounts;
use super::tables::{PEER_ADDRESS, node_route};
use crate::base::clock::rfc3339_seconds;
use crate::client::Key;
use crate::client::informer::{Builder, Source};
use crate::client::rest::{self, Ignored, Patch};
use crate::image::Listed;

/// Kept free of pods, as the kubelet's hard eviction threshold.
const MEMORY_RESERVED: u64 = 100 << 20;

/// Of the images of a node, so many are told, and so many names of each: the kubelet's own limits.
const IMAGES_MAX: usize = 50;
const IMAGE_NAMES_MAX: usize = 5;

/// Where this agent is reached, once its listeners are open.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints {
    /// The kubelet API.
    pub kubelet_port: u16,
    /// The link for other nodes.
    pub peer: SocketAddr,
}

/// Capacity and allocatable as quantities, and allocatable as amounts.
pub struct Resources {
    pub capacity: BTreeMap<String, String>,
    pub allocatable: BTreeMap<String, String>,
    pub amounts: Amounts,
}

/// What the node has for pods.
pub fn resources(config: &AgentConfig, machine: &Machine) -> Resources {
    let cpu = config.cpu_millis.unwrap_or(machine.cpu_millis);
    let memory = config.memory_bytes.unwrap_or(machine.memory_bytes);
    let for_pods = match config.memory_bytes {
        Some(memory) => memory,
        None => memory.saturating_sub(MEMORY_RESERVED),
    };
    let table = |memory: u64| {
        let cpu =
            if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") };
        [
            ("cpu", cpu),
            ("memory", format!("{}Ki", memory >> 10)),
            ("ephemeral-storage", format!("{}Ki", machine.disk_bytes >> 10)),
            ("pods", config.pods_max.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    };
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let amounts = [
        ("cpu", whole(cpu)),
        ("memory", whole(for_pods)),
        ("ephemeral-storage", whole(machine.disk_bytes)),
        ("pods", i64::from(config.pods_max)),
    ];
    Resources {
        capacity: table(memory),
        allocatable: table(for_pods),
        amounts: amounts.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

fn labels(config: &AgentConfig, containers: bool) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", std::env::consts::OS),
        ("coracle.dev/runtime", "wasm"),
        ("coracle.dev/runtime-wasm", "true"),
        ("coracle.dev/runtime-runc", if containers { "true" } else { "false" }),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(config.labels.clone());
    labels
}

/// A condition that keeps its transition time while it does not change.
fn condition(
    before: Option<&ApiNode>,
    kind: &str,
    status: bool,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> Value {
    let status = if status { "True" } else { "False" };
    let old = before.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
    let same = old.and_then(|all| all.iter().find(|c| c.type_ == kind && c.status == status));
    let since = same.and_then(|c| c.last_transition_time.as_ref());
    let now = rfc3339_seconds(now);
    let since = since.map_or_else(|| json!(now), |t| json!(t));
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since,
    })
}

fn conditions(
    before: Option<&ApiNode>,
    machine: &Machine,
    network: bool,
    no_containers: Option<&str>,
    now: Timestamp,
) -> Vec<Value> {
    let containers = match no_containers {
        None => ("RuncFound", "container images run through runc"),
        Some(why) => ("RuncMissing", why),
    };
    let ready = match network {
        true => ("KubeletReady", "kubelet is posting ready status"),
        false => {
            ("KubeletNotReady", "container runtime network not ready: the node has no podCIDR yet")
        }
    };
    let memory = match machine.memory_pressure() {
        true => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        false => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    };
    let disk = match machine.disk_pressure() {
        true => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        false => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    let pids = ("KubeletHasSufficientPID", "kubelet has sufficient PID available");
    vec![
        condition(before, "MemoryPressure", machine.memory_pressure(), memory, now),
        condition(before, "DiskPressure", machine.disk_pressure(), disk, now),
        condition(before, "PIDPressure", false, pids, now),
        condition(before, "Ready", network, ready, now),
        condition(before, "ContainersSupported", no_containers.is_none(), containers, now),
    ]
}

/// The whole status of this node.
pub fn status(
    config: &AgentConfig,
    endpoints: Endpoints,
    before: Option<&ApiNode>,
    machine: &Machine,
    network: bool,
    no_containers: Option<&str>,
    now: Timestamp,
) -> Value {
    let resources = resources(config, machine);
    json!({
        "capacity": resources.capacity,
        "allocatable": resources.allocatable,
        "conditions": conditions(before, machine, network, no_containers, now),
        "addresses": [
            {"type": "InternalIP", "address": config.node_ip.to_string()},
            {"type": "Hostname", "address": config.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": endpoints.kubelet_port}},
        "nodeInfo": node_info(),
    })
}

/// `status.images`, the largest first.
fn images(all: &[Listed]) -> Value {
    let shown = all.iter().filter(|image| !image.names.is_empty()).take(IMAGES_MAX);
    shown
        .map(|image| {
            let names = &image.names[..image.names.len().min(IMAGE_NAMES_MAX)];
            json!({"names": names, "sizeBytes": image.size})
        })
        .collect()
}

/// Makes the Node be there with this node's labels and annotation.
async fn register(node: &Node, endpoints: Endpoints) -> Result<(), kube::Error> {
    let config = &node.config;
    let path = rest::cluster_object::<ApiNode>(&config.node_name);
    let metadata = json!({
        "name": config.node_name,
        "labels": labels(config, node.containers.is_some()),
        "annotations": {PEER_ADDRESS: endpoints.peer.to_string()},
    });
    match rest::found(rest::get::<ApiNode>(&node.client, &path).await)? {
        Some(_) => {
            let body = json!({"metadata": metadata});
            rest::patch::<Ignored>(&node.client, &path, Patch::Strategic, &body).await.map(drop)
        }
        None => {
            let machine = Machine::read(&config.data_dir);
            let lacking = node.no_containers.as_deref();
            let body = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": metadata,
                "spec": {"taints": config.taints},
                "status": status(config, endpoints, None, &machine, false, lacking, node.clock.now()),
            });
            let all = rest::all::<ApiNode>();
            match rest::create::<Ignored>(&node.client, &all, &body).await {
                Err(error) if !rest::is_already_exists(&error) => Err(error),
                _ => Ok(()),
            }
        }
    }
}

async fn write_status(
    node: &Node,
    endpoints: Endpoints,
    before: Option<&ApiNode>,
) -> Result<(), kube::Error> {
    let config = &node.config;
    let network = node.addresses.lock().range().is_some();
    let machine = Machine::read(&config.data_dir);
    let lacking = node.no_containers.as_deref();
    let now = node.clock.now();
    let mut status = status(config, endpoints, before, &machine, network, lacking, now);
    status["images"] = images(&node.images.list());
    let path = format!("{}/status", rest::cluster_object::<ApiNode>(&config.node_name));
    let body = json!({"status": status});
    rest::patch::<Ignored>(&node.client, &path, Patch::Strategic, &body).await.map(drop)
}

/// Takes over what the Node object says of this node: its range of addresses, its labels.
fn learn(node: &Node, seen: &ApiNode) {
    if let Some(range) = node_route(seen).and_then(|route| route.pod_cidrs.first().copied()) {
        let mut addresses = node.addresses.lock();
        if addresses.range() != Some(range) {
            addresses.set_range(range);
            node.store.put("range", &range.to_string());
            tracing::info!(%range, "the node has its range of pod addresses");
        }
        drop(addresses);
    }
    // The node's own route makes its namespace known to the network.
    if let Some(route) = node_route(seen) {
        node.fabric.set_node(route);
    }
    let mut allocatable = node.allocatable.clone();
    let stated = seen.status.as_ref().and_then(|s| s.allocatable.as_ref());
    for (name, quantity) in stated.into_iter().flatten() {
        allocatable.entry(name.clone()).or_insert_with(|| super::resources::amount(name, quantity));
    }
    node.facts.store(Arc::new(admit::Facts {
        name: node.config.node_name.clone(),
        labels: seen.metadata.labels.clone().unwrap_or_default(),
        allocatable,
    }));
}

/// Registers the node and keeps its status until the shutdown.
pub async fn run(node: Arc<Node>, endpoints: Endpoints) {
    let shutdown = node.shutdown.clone();
    let only = format!("metadata.name={}", node.config.node_name);
    let changed = Arc::new(Notify::new());
    let own = Builder::new(Source::all::<ApiNode>().fields(only), Some)
        .start(node.client.clone(), shutdown.clone());
    let (weak, told) = (Arc::downgrade(&node), Arc::clone(&changed));
    own.on_change(move |change| {
        let Some(node) = weak.upgrade() else { return };
        match change.new {
            Some(seen) => {
                let had = node.addresses.lock().range().is_some();
                learn(&node, seen);
                let blank = seen.status.as_ref().and_then(|s| s.node_info.as_ref());
                let blank = blank.is_none_or(|info| info.kubelet_version.is_empty());
                if blank || had != node.addresses.lock().range().is_some() {
                    told.notify_one();
                }
            }
            None => told.notify_one(),
        }
    });
    let key = Key::new("", node.config.node_name.clone());
    let mut registered = false;
    loop {
        let mut pause = node.config.status_every;
        let result = async {
            if !registered || (own.is_synced() && own.get(&key).is_none()) {
                register(&node, endpoints).await?;
            }
            write_status(&node, endpoints, own.get(&key).as_deref()).await
        };
        match result.await {
            Ok(()) if !registered => {
                registered = true;
                tracing::info!(node = node.config.node_name, "the node is registered");
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "the node's status could not be written");
                pause = pause.min(Duration::from_secs(2));
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = changed.notified() => {}
        }
    }
}

/// The range of addresses that the store remembers.
pub fn restore(node: &Node) {
    let range = node.store.get::<String>("range").and_then(|text| text.parse().ok());
    if let Some(range) = range {
        node.addresses.lock().set_range(range);
    }
}

/// An address that others can dial for one that is listened on.
pub fn reachable(listening: SocketAddr, node_ip: IpAddr) -> SocketAddr {
    match listening.ip().is_unspecified() {
        true => SocketAddr::new(node_ip, listening.port()),
        false => listening,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::ApiAccess;

    fn config() -> AgentConfig {
        let access = ApiAccess::Kubeconfig("/nowhere".into());
        AgentConfig::new("w1", "/tmp".into(), access)
    }

    const MACHINE: Machine = Machine {
        cpu_millis: 4000,
        memory_bytes: 8 << 30,
        memory_available: 4 << 30,
        disk_bytes: 100 << 30,
        disk_available: 50 << 30,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_772_600_000 + second).expect("a time")
    }

    const ENDPOINTS: Endpoints = Endpoints {
        kubelet_port: 10250,
        peer: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000),
    };

    #[test]
    fn resources_are_the_machines_unless_the_configuration_says_otherwise() {
        let found = resources(&config(), &MACHINE);
        assert_eq!(found.capacity["cpu"], "4");
        assert_eq!(found.capacity["memory"], "8388608Ki");
        assert_eq!(found.allocatable["memory"], "8286208Ki");
        assert_eq!(found.amounts["pods"], 4000);
        let given = AgentConfig { cpu_millis: Some(1500), memory_bytes: Some(1 << 30), ..config() };
        let found = resources(&given, &MACHINE);
        assert_eq!(found.allocatable["cpu"], "1500m");
        assert_eq!(found.allocatable["memory"], "1048576Ki");
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let first = status(&config(), ENDPOINTS, None, &MACHINE, false, None, at(0));
        let seen: ApiNode = serde_json::from_value(json!({"status": first})).expect("a node");
        let ready = |status: &Value| {
            let all = status["conditions"].as_array().expect("conditions").clone();
            all.into_iter().find(|c| c["type"] == "Ready").expect("ready")
        };
        assert_eq!(ready(&first)["reason"], "KubeletNotReady");
        let same = status(&config(), ENDPOINTS, Some(&seen), &MACHINE, false, None, at(60));
        assert_eq!(ready(&same)["lastTransitionTime"], ready(&first)["lastTransitionTime"]);
        assert_ne!(ready(&same)["lastHeartbeatTime"], ready(&first)["lastHeartbeatTime"]);
        let now = status(&config(), ENDPOINTS, Some(&seen), &MACHINE, true, None, at(60));
        assert_eq!(ready(&now)["status"], "True");
        assert_ne!(ready(&now)["lastTransitionTime"], ready(&first)["lastTransitionTime"]);
    }

    #[test]
    fn the_status_reads_as_a_node_status() {
        let text = status(&config(), ENDPOINTS, None, &MACHINE, true, None, at(0));
        let node: ApiNode = serde_json::from_value(json!({"status": text})).expect("a node");
        let status = node.status.expect("a status");
        let info = status.node_info.expect("node info");
        assert!(info.kubelet_version.starts_with("v1.37.0+coracle"));
        assert_eq!(info.operating_system, "linux");
        let port = status.daemon_endpoints.and_then(|d| d.kubelet_endpoint).map(|e| e.port);
        assert_eq!(port, Some(10250));
    }
}
