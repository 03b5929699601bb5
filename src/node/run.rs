//! Putting an agent together, in the order in which a pod may need its parts.
//!
//! ```text
//!  check ─▶ lock data_dir ─▶ join (or the kept identity) ─▶ listeners ─▶ fabric, runtime, store
//!        ─▶ tables, range and pods that the store remembers, without the API server
//!        ─▶ Node, Lease, Services, pods of the API server; kubelet API, tunnel, node link
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::access::{Access, AccessError};
use super::addresses::Addresses;
use super::admit;
use super::agent::{self, Node, WRITES_MAX};
use super::api::{self, listen};
use super::config::{AgentConfig, ApiAccess, ConfigError};
use super::join::{self, JoinError};
use super::lease::Heartbeat;
use super::logs::Logs;
use super::machine::Machine;
use super::register::{self, Endpoints, reachable, resources};
use super::sources::Sources;
use super::store::{NodeStore, StoreError, write_private};
use super::tokens::{Tokens, of_account};
use super::{image_gc, peers, tables};
use crate::base::clock::{SharedClock, SystemClock};
use crate::base::shutdown::Shutdown;
use crate::client::events::Recorder;
use crate::image::{ClusterRegistry, Images, Layers, Policy, PullPolicy, PullRequest};
use crate::link::tls::{
    ALPN_H2, ALPN_HTTP1, ALPN_TUNNEL, client_config, pod_client_config, server_config_with,
};
use crate::link::tunnel::{self, TunnelConfig};
use crate::net::{Fabric, FabricConfig, VirtualTarget};
use crate::runtime::oci::Containers;
use crate::runtime::{Runtime, RuntimeConfig, RuntimeError, Toolbox};

/// What stands for the API server inside the virtual network.
const API_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1)), 6443);

/// Where the applets of `exec` come from.
const TOOLBOX: &str = "coracle.dev/samples/toolbox:v1";

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the data directory {path} cannot be used: {message}; name a folder that can be written with --data-dir"
    )]
    DataDir { path: String, message: String },
    #[error(
        "another agent uses the data directory {path}; give each agent its own with --data-dir"
    )]
    InUse { path: String },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("the kubelet API cannot be served: {0}")]
    Tls(String),
    #[error("the node's heartbeat cannot run: {0}")]
    Heartbeat(std::io::Error),
}

/// Runs an agent until `shutdown`. Its pods are left as they are, to be recovered by the next
/// agent on the same data directory.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> Result<(), AgentError> {
    config.check()?;
    let _lock = lock(&config.data_dir)?;
    let clock = SystemClock::shared();
    let kubelet = listen::open(config.listen, "the kubelet API", "--listen").await?;
    let peer = listen::open(config.peer_listen, "other nodes", "--peer-listen").await?;
    let access = match access(&config, &clock, &shutdown).await {
        Err(AgentError::Join(JoinError::Ended)) => return Ok(()),
        other => Arc::new(other?),
    };
    // Everything of the agent ends with this, also when one of its parts does not start.
    let ended = shutdown.child_token();
    let result = serve(config, clock, access, kubelet, peer, ended.clone()).await;
    ended.cancel();
    result
}

async fn access(
    config: &AgentConfig,
    clock: &SharedClock,
    shutdown: &Shutdown,
) -> Result<Access, AgentError> {
    match &config.access {
        ApiAccess::Join { server, token } => {
            Ok(join::join(config, server, token, clock, shutdown).await?)
        }
        ApiAccess::Kubeconfig(path) => Ok(Access::kubeconfig(path).await?),
    }
}

/// Makes the data directory and keeps other agents off it for as long as the file is held.
fn lock(dir: &Path) -> Result<std::fs::File, AgentError> {
    use std::os::unix::fs::DirBuilderExt;
    let path = dir.display().to_string();
    let failed =
        |e: std::io::Error| AgentError::DataDir { path: path.clone(), message: e.to_string() };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = options.open(dir.join("agent.lock")).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(AgentError::InUse { path }),
    }
}

fn fabric(config: &AgentConfig, access: &Arc<Access>, clock: &SharedClock) -> Arc<Fabric> {
    let mut fabric = FabricConfig::new(config.node_name.clone());
    fabric.cluster_domain = config.cluster_domain.clone();
    fabric.dns_ip = config.cluster_dns;
    fabric.node_port_addresses = vec![config.host_address];
    fabric.tls = access.ca.as_ref().and_then(|ca| match pod_client_config(ca) {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::error!(%error, "pods cannot speak https");
            None
        }
    });
    fabric.peers = Some(Arc::new(peers::Dialer(Arc::clone(access))));
    fabric.clock = Arc::clone(clock);
    // Nodes begin their turns among endpoints at different places.
    fabric.seed = config.node_name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31) + u64::from(b));
    Fabric::new(fabric)
}

/// The applets that `exec` finds, from the guests that this program carries.
pub(super) async fn toolbox(images: &Images) -> Option<Toolbox> {
    match images.resolve(&PullRequest::new(TOOLBOX, PullPolicy::IfNotPresent)).await {
        Ok(found) => {
            images.pin(&found.digest);
            let module = found.module()?.clone();
            Some(Toolbox { path: module.path, digest: module.digest })
        }
        Err(error) => {
            tracing::warn!(%error, "exec has no applets");
            None
        }
    }
}

/// The registry of the server that the agent joined; a kubeconfig's server has none.
fn cluster_registry(config: &AgentConfig, access: &Arc<Access>) -> Option<ClusterRegistry> {
    let joined = matches!(config.access, ApiAccess::Join { .. });
    let ca = access.ca.clone().filter(|_| joined)?;
    let (host, port) = access.server();
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let access = Arc::clone(access);
    let tls = move || {
        client_config(&ca, access.identity().as_ref(), &[ALPN_HTTP1]).map_err(|e| e.to_string())
    };
    Some(ClusterRegistry { authority: format!("{host}:{port}"), tls: Arc::new(tls) })
}

async fn assemble(
    config: AgentConfig,
    clock: SharedClock,
    access: &Arc<Access>,
    shutdown: Shutdown,
) -> Result<Arc<Node>, AgentError> {
    let dir = config.data_dir.clone();
    let unusable = |e: std::io::Error| AgentError::DataDir {
        path: dir.display().to_string(),
        message: e.to_string(),
    };
    let client = access.client();
    let store = Arc::new(NodeStore::open(&dir)?);
    let policy = Policy {
        allow_file: config.allow_file_images,
        registries: config.registries.clone(),
        cluster: cluster_registry(&config, access),
        client: config.image_client,
        signatures: config.signatures.clone(),
    };
    let (containers, no_containers) = match Containers::detect(&dir.join("containers")) {
        Ok(found) => (Some(Arc::new(found)), None),
        Err(why) => {
            tracing::info!(why, "this node runs no container images");
            (None, Some(why))
        }
    };
    let images = Images::new(&dir.join("images"), policy).map_err(unusable)?;
    let layers = Layers::open(&dir.join("layers")).map_err(unusable)?;
    let runtime = RuntimeConfig {
        toolbox: toolbox(&images).await,
        ..RuntimeConfig::new(dir.join("runtime"))
    };
    let runtime = Runtime::new(runtime)?;
    let amounts = resources(&config, &Machine::read(&dir)).amounts;
    let facts = admit::Facts {
        name: config.node_name.clone(),
        labels: config.labels.clone(),
        allocatable: amounts.clone(),
    };
    let host = config.node_name.clone();
    Ok(Arc::new(Node {
        recorder: Recorder::start(
            client.clone(),
            "kubelet",
            &host,
            Arc::clone(&clock),
            shutdown.clone(),
        ),
        fabric: fabric(&config, access, &clock),
        logs: Logs::new(dir.join("pods"), config.logs, Arc::clone(&clock)),
        sources: Sources::new(client.clone(), Arc::clone(&store), shutdown.clone()),
        tokens: Tokens::new(client.clone(), Arc::clone(&store), Arc::clone(&clock)),
        addresses: Mutex::new(Addresses::default()),
        services: ArcSwap::default(),
        allocatable: amounts,
        facts: ArcSwap::from_pointee(facts),
        workers: Mutex::default(),
        writes: Semaphore::new(WRITES_MAX),
        config,
        clock,
        client,
        runtime,
        containers,
        no_containers,
        host_network: OnceLock::new(),
        images,
        layers: Arc::new(layers),
        store,
        shutdown,
    }))
}

async fn serve(
    config: AgentConfig,
    clock: SharedClock,
    access: Arc<Access>,
    kubelet: tokio::net::TcpListener,
    peer: tokio::net::TcpListener,
    shutdown: Shutdown,
) -> Result<(), AgentError> {
    let local = |listener: &tokio::net::TcpListener| {
        listener.local_addr().expect("a bound listener has an address")
    };
    let endpoints = Endpoints {
        kubelet_port: local(&kubelet).port(),
        peer: reachable(local(&peer), config.node_ip),
    };
    let node = assemble(config, Arc::clone(&clock), &access, shutdown.clone()).await?;
    node.fabric.set_virtual(API_SERVER, virtual_target(&access).await);
    tables::restore(&node);
    register::restore(&node);
    let restored = agent::restore(&node);
    tracing::info!(pods = restored, "the agent has taken up the pods that it knew");

    let heartbeat = Heartbeat {
        node_name: node.config.node_name.clone(),
        settings: node.config.lease,
        client: access.source(),
        clock: Arc::clone(&clock),
        shutdown: shutdown.clone(),
    };
    let heartbeat = heartbeat.start().map_err(AgentError::Heartbeat)?;
    let keep =
        join::keep(node.config.clone(), Arc::clone(&access), clock.clone(), shutdown.clone());
    tokio::spawn(keep);
    tokio::spawn(register::run(Arc::clone(&node), endpoints));
    tokio::spawn(agent::tell_host_ports(Arc::clone(&node)));
    tokio::spawn(image_gc::run(Arc::clone(&node)));
    tokio::spawn(network(Arc::clone(&node), Arc::clone(&access)));
    let taking =
        peers::serve(peer, Arc::clone(&access), Arc::clone(&node.fabric), shutdown.clone());
    tokio::spawn(taking);
    let router = api::router(Arc::clone(&node));
    open_tunnel(&node, &access, &router);
    tokio::spawn(kubelet_port(Arc::clone(&node), Arc::clone(&access), kubelet, router));

    agent::dispatch(Arc::clone(&node)).await;
    // What the workers still had to save is saved; their guests end with the process.
    let store = Arc::clone(&node.store);
    let _ = tokio::task::spawn_blocking(move || {
        store.flush();
        let _ = heartbeat.join();
    })
    .await;
    Ok(())
}

/// Where the virtual address of the API server leads: to the server that the agent itself uses.
async fn virtual_target(access: &Access) -> VirtualTarget {
    let (host, port) = access.server();
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    match found.ok().and_then(|mut all| all.next()) {
        Some(address) => VirtualTarget::Host(address),
        None => {
            tracing::warn!(host, "the API server's name is not known; pods cannot reach it");
            VirtualTarget::Host(SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), port))
        }
    }
}

/// Answers the API server's requests on the connection that the agent dials.
fn open_tunnel(node: &Arc<Node>, access: &Arc<Access>, router: &axum::Router) {
    let joined = matches!(node.config.access, ApiAccess::Join { .. });
    let Some(ca) = access.ca.clone().filter(|_| joined) else { return };
    let (host, port) = access.server();
    let access = Arc::clone(access);
    let first = client_config(&ca, access.identity().as_ref(), &[ALPN_TUNNEL]);
    let Ok(first) = first else {
        return tracing::error!("the node's certificate cannot be used for the tunnel");
    };
    let tls = move || {
        let now = client_config(&ca, access.identity().as_ref(), &[ALPN_TUNNEL]);
        now.unwrap_or_else(|_| Arc::clone(&first))
    };
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let config = TunnelConfig {
        address: format!("{bracketed}:{port}"),
        server_name: host,
        tls: Box::new(tls),
        first_wait: Duration::from_millis(200),
        seed: u64::from(port),
    };
    let service = listen::tunnel_service(router);
    tokio::spawn(tunnel::serve(config, service, node.shutdown.clone()));
}

/// Serves the kubelet port once its certificate is there.
async fn kubelet_port(
    node: Arc<Node>,
    access: Arc<Access>,
    listener: tokio::net::TcpListener,
    router: axum::Router,
) {
    let shutdown = node.shutdown.clone();
    let made = async {
        let identity = join::serving(&node.config, &node.client, &node.clock).await;
        let identity = identity.map_err(|e| e.to_string())?;
        let ca = access.ca.clone().ok_or("the cluster's CA is not known")?;
        server_config_with(&identity, &ca, &[ALPN_H2, ALPN_HTTP1]).map_err(|e| e.to_string())
    };
    let made: Result<_, String> = tokio::select! {
        () = shutdown.cancelled() => return,
        made = made => made,
    };
    match made {
        Ok(tls) => listen::serve(listener, tls, router, shutdown).await,
        Err(error) => tracing::error!(error, "the kubelet API is not served on its port"),
    }
}

/// Keeps the network's tables with the token of `coracle-net`.
async fn network(node: Arc<Node>, access: Arc<Access>) {
    let shutdown = node.shutdown.clone();
    let file = super::access::private_dir(&node.config).join("net-token");
    let mut running = false;
    let mut pause = Duration::from_millis(300);
    loop {
        let now = node.clock.now();
        let asked = of_account(&node.client, &node.clock, "kube-system", "coracle-net").await;
        let wait = match asked {
            Ok((token, renew_at)) => {
                if let Err(error) = save(&file, &token) {
                    tracing::error!(%error, "the token of the network cannot be kept");
                }
                let left = Duration::try_from(renew_at.duration_since(now));
                left.unwrap_or_default().max(Duration::from_secs(10))
            }
            Err(error) => {
                tracing::warn!(%error, "no token for kube-system/coracle-net; Services are not updated until there is one");
                pause = (pause * 2).min(Duration::from_secs(30));
                pause
            }
        };
        if !running && file.exists() {
            match access.with_token_file(&file) {
                Ok(client) => {
                    running = true;
                    tokio::spawn(tables::run(Arc::clone(&node), client));
                }
                Err(error) => tracing::error!(%error, "the network has no client"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn save(file: &Path, token: &str) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write_private(file, token.as_bytes())
}
