//! Everything else that clients take for granted.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

/// The ServiceAccount by which every node's network reads what the node itself may not.
pub const NETWORK_ACCOUNT: (&str, &str) = ("kube-system", "coracle-net");

/// The name in the certificate by which this server proves itself to those that extend it.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// What the objects depend on.
#[derive(Debug, Clone)]
pub struct BootstrapConfig {
    /// `spec.clusterIP` of `default/kubernetes`: the first address of the Service CIDR.
    pub service_ip: IpAddr,
    /// Where the nodes answer DNS: `spec.clusterIP` of `kube-system/kube-dns`.
    pub dns_ip: IpAddr,
    /// Where every pod reaches the API server; not an address of any machine.
    pub virtual_address: SocketAddr,
    /// The URL that `kube-public/cluster-info` tells.
    pub server_url: String,
    /// The CA that signs client certificates, and the server's, PEM.
    pub ca_pem: String,
    /// The CA of the certificate by which this server proves itself to those that extend it, PEM.
    pub front_proxy_ca_pem: String,
}

/// The objects, in an order in which they can be created.
pub fn objects(config: &BootstrapConfig) -> Vec<Value> {
    let mut all: Vec<Value> = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    all.extend(priority_classes());
    all.extend(runtime_classes());
    all.extend(kubernetes_service(config));
    all.push(dns_service(config));
    all.push(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NETWORK_ACCOUNT.1, "namespace": NETWORK_ACCOUNT.0},
    }));
    all.push(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": config.ca_pem,
            "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
            "requestheader-client-ca-file": config.front_proxy_ca_pem,
            "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
            "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
            "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
            "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
        },
    }));
    all.extend(api_services());
    all.push(cluster_info(config));
    all
}

/// The groups and versions that this server serves itself.
fn api_services() -> Vec<Value> {
    let table = crate::api::kinds::KindTable::builtin();
    let mut all = Vec::new();
    for group in table.groups() {
        for (index, version) in group.versions.iter().enumerate() {
            let priority = 1000 - i64::try_from(index).unwrap_or(0);
            all.push(json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {
                    "name": format!("{version}.{}", group.group),
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": {
                    "group": group.group,
                    "version": version,
                    "groupPriorityMinimum": crate::api::kinds::group_priority(&group.group),
                    "versionPriority": priority,
                },
            }));
        }
    }
    all
}

fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, what: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": format!("Used for system critical pods that must {what}"),
        })
    };
    let cluster = "run in the cluster, but can be moved to another node if necessary.";
    let node = "not be moved from their current node.";
    vec![
        class("system-cluster-critical", 2_000_000_000, cluster),
        class("system-node-critical", 2_000_001_000, node),
    ]
}

/// What a pod's containers run in. Without a class, and by `auto`, it is what the image is for.
fn runtime_classes() -> Vec<Value> {
    let class = |name: &str, label: Option<&str>| {
        let mut class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name},
            "handler": name,
        });
        if let Some(label) = label {
            class["scheduling"] = json!({"nodeSelector": {label: "true"}});
        }
        class
    };
    vec![
        class("auto", None),
        class("wasm", Some("coracle.dev/runtime-wasm")),
        class("runc", Some("coracle.dev/runtime-runc")),
    ]
}

/// `default/kubernetes`, which has no selector: its endpoint is the API server, at an address that
/// every node's network connects to the server that the node itself uses.
fn kubernetes_service(config: &BootstrapConfig) -> Vec<Value> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let (ip, port) = (config.virtual_address.ip(), config.virtual_address.port());
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.service_ip,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": ip}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    vec![service, endpoints, slice]
}

/// `kube-system/kube-dns`, where clients look for the resolver's address. It has neither selector
/// nor endpoints: every node answers at that address itself.
fn dns_service(config: &BootstrapConfig) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.dns_ip,
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

/// A kubeconfig without credentials, by which a joining client finds the cluster and its CA.
fn cluster_info(config: &BootstrapConfig) -> Value {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(&config.ca_pem);
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "",
            "cluster": {"certificate-authority-data": ca, "server": config.server_url},
        }],
        "contexts": [],
        "users": [],
        "current-context": "",
    });
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig.to_string()},
    })
}
