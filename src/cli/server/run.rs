//! Putting a server together, from the disk up.
//!
//! ```text
//! port ─▶ keys ─▶ store ─▶ registry ─▶ auth ─▶ API ─▶ what every cluster has ─▶ files
//!                                       └─ in process ─▶ scheduler, controllers
//! stop: scheduler, controllers ─▶ connections drain ─▶ store closes
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::args::{AuditConfig, ServerConfig};
use super::encryption;
use super::files;
use super::images::ImagesOfCluster;
use crate::api::kinds::KindTable;
use crate::apiserver::admission::policy::{MutatingPolicies, ValidatingPolicies};
use crate::apiserver::admission::webhook::{
    Caller, ConversionWebhooks, MutatingWebhooks, ValidatingWebhooks, WebhookConfig,
};
use crate::apiserver::admission::{
    Plugin, certificate_requester, default_storage_class, limit_ranger, namespace_lifecycle,
    pod_security, priority, resource_quota, runtime_class, service_account, taint_nodes,
};
use crate::apiserver::aggregate::{self, Aggregator};
use crate::apiserver::allocate::{self, ServiceAllocator};
use crate::apiserver::audit::{self, Audit};
use crate::apiserver::auth::{Auth, AuthConfig, UserInfo};
use crate::apiserver::bootstrap::{self, BootstrapConfig};
use crate::apiserver::forwarded::Forwarded;
use crate::apiserver::listen::{self, ListenConfig};
use crate::apiserver::reach::Reach;
use crate::apiserver::registry::Hook;
use crate::apiserver::{ApiServer, ApiServerConfig, Limits, Registry, RegistryConfig, strategy};
use crate::base::clock::{SharedClock, SystemClock};
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;
use crate::client::in_process;
use crate::controllers::{self, ControllersConfig};
use crate::image;
use crate::link::identity::{
    Ca, Identity, IdentityRequest, ServiceAccountKey, ServingCertificate, Usage, private_dir,
    serving_names, signer,
};
use crate::link::tls::{ALPN_H2, ALPN_HTTP1, ALPN_TUNNEL, server_config};
use crate::link::tunnel::Tunnels;
use crate::scheduler::{self, SchedulerConfig};
use crate::store::Store;
use crate::store::redb::{self, RedbConfig, RedbStore};
use crate::store::sealed::SealedStore;

/// What the Service range is; `kubernetes` has its first address.
const SERVICE_CIDR: &str = "10.43.0.0/16";
const SERVICE_IP: &str = "10.43.0.1";
/// What agents take for the cluster's DNS address unless told otherwise.
const DNS_IP: &str = "10.43.0.10";
/// What stands for the API server inside the virtual network.
const VIRTUAL_ADDRESS: &str = "198.18.0.1:6443";
/// Connections past these wait to be accepted.
const CONNECTIONS_MAX: usize = 20_000;
/// How long running requests may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Longer than any server runs without a restart.
const FRONT_PROXY_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
const RENEW_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Runs a server until `shutdown`.
///
/// # Errors
/// What keeps it from starting, with what to do about it.
pub async fn run(config: ServerConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let (listener, address) = bind(config.listen).await?;
    private_dir(&config.data_dir).map_err(|error| {
        anyhow!("the data directory cannot be used: {error}; name a folder that can be written with --data-dir")
    })?;
    let keys = Keys::open(&config, &clock)?;
    let store = open_store(&config, &clock)?;
    let registry = registry(sealed(&config, &store).await?, &clock).await?;
    let tunnels = Tunnels::new();
    let images = open_images(&config)?;
    let server = api(&config, &registry, &keys, &tunnels, &images, &clock, &shutdown).await?;

    let url = format!("https://{}", SocketAddr::new(config.advertise, address.port()));
    let ca_pem = keys.ca.certificate_pem().to_owned();
    let bootstrap_config = BootstrapConfig {
        service_ip: SERVICE_IP.parse().expect("a literal address"),
        dns_ip: DNS_IP.parse().expect("a literal address"),
        virtual_address: VIRTUAL_ADDRESS.parse().expect("a literal address"),
        server_url: url.clone(),
        ca_pem: ca_pem.clone(),
        front_proxy_ca_pem: keys.front_proxy.certificate_pem().to_owned(),
    };
    bootstrap::reconcile(&registry, &bootstrap_config)
        .await
        .context("what every cluster has could not be made")?;
    let kubeconfig = files::write_kubeconfig(&config.data_dir, &keys.ca, &url)?;
    let join_token = files::write_join_token(&config.data_dir, &keys.ca, &registry).await?;

    let listening = ListenConfig {
        tls: server_config(
            keys.serving.clone(),
            keys.ca.certificate(),
            &[ALPN_H2, ALPN_HTTP1, ALPN_TUNNEL],
        )?,
        tunnels,
        connections_max: CONNECTIONS_MAX,
        drain: DRAIN,
    };
    let identity = files::identity(&config.data_dir)?;
    let acting = Shutdown::new();
    let actors = actors(&config, &server, &keys, &identity, &clock, &acting);
    let renewing = tokio::spawn(renew(keys.serving.clone(), acting.clone()));
    tokio::spawn(images.keep_clean(acting.clone()));
    let serving = tokio::spawn(listen::run(server.clone(), listener, listening, shutdown.clone()));
    server.set_ready();
    let ready = files::Ready::tell(&config.data_dir, &url)?;
    println!("coracle serves the Kubernetes API at {url}");
    println!("  kubeconfig: {}", kubeconfig.display());
    println!("  join token: {}", join_token.display());

    shutdown.cancelled().await;
    drop(ready);
    acting.cancel();
    for actor in actors {
        let _ = actor.await;
    }
    let _ = renewing.await;
    let _ = serving.await;
    store.close().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "--listen {address}: the port is in use; stop what listens there, or choose another \
             with --listen (port 0 takes a free one)"
        ),
        _ => anyhow::anyhow!("--listen {address}: {error}"),
    })?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// What the server proves itself and others with.
struct Keys {
    ca: Arc<Ca>,
    serving: Arc<ServingCertificate>,
    accounts: ServiceAccountKey,
    /// A CA apart: nobody else gets a certificate of it.
    front_proxy: Ca,
}

impl Keys {
    fn open(config: &ServerConfig, clock: &SharedClock) -> anyhow::Result<Self> {
        let dir = config.data_dir.join("pki");
        let ca = Arc::new(Ca::open_or_create(&dir, clock.clone())?);
        let listen = [config.listen.ip(), config.advertise];
        let names = serving_names(&listen, &config.cluster_domain, &config.tls_sans);
        let serving = ServingCertificate::open(ca.clone(), &dir, names, clock.clone())?;
        let accounts = ServiceAccountKey::open_or_create(&dir)?;
        let front_proxy = Ca::open_or_create(&dir.join("front-proxy"), clock.clone())?;
        Ok(Self { ca, serving, accounts, front_proxy })
    }

    /// By which the server proves itself to servers that extend it.
    fn proxy_identity(&self) -> anyhow::Result<Identity> {
        Ok(self.front_proxy.issue(&IdentityRequest {
            common_name: bootstrap::FRONT_PROXY.to_owned(),
            organizations: Vec::new(),
            sans: Vec::new(),
            usages: vec![Usage::DigitalSignature, Usage::ClientAuth],
            lifetime: FRONT_PROXY_LIFETIME,
        })?)
    }
}

fn open_store(config: &ServerConfig, clock: &SharedClock) -> anyhow::Result<Arc<RedbStore>> {
    let dir = config.data_dir.join("store");
    let settings = RedbConfig { clock: clock.clone(), ..RedbConfig::default() };
    Ok(redb::open(&dir, settings)?)
}

fn open_images(config: &ServerConfig) -> anyhow::Result<Arc<image::registry::Registry>> {
    let dir = config.data_dir.join("images");
    image::registry::Registry::open(&dir)
        .with_context(|| format!("the images in {} cannot be used", dir.display()))
}

/// The store as the registry sees it: what is to be sealed on disk is, all of it, from here on.
async fn sealed(config: &ServerConfig, store: &Arc<RedbStore>) -> anyhow::Result<Arc<dyn Store>> {
    let Some(file) = &config.encryption_config else { return Ok(store.clone()) };
    let store = SealedStore::new(store.clone(), encryption::read(file)?);
    let anew = store.reseal().await.context("what is stored could not be sealed anew")?;
    tracing::info!(anew, "sealed values were written anew");
    Ok(Arc::new(store))
}

fn rng() -> Rng {
    let mut seed = [0u8; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed)
        .expect("the system has randomness");
    Rng::seeded(u64::from_le_bytes(seed))
}

async fn registry(store: Arc<dyn Store>, clock: &SharedClock) -> anyhow::Result<Arc<Registry>> {
    let allocator = ServiceAllocator::new(SERVICE_CIDR.parse().expect("a literal range"), rng());
    let hooks: HashMap<String, Arc<dyn Hook>> =
        HashMap::from([("/services".to_owned(), allocator.clone() as Arc<dyn Hook>)]);
    let settings = RegistryConfig {
        store,
        kinds: KindTable::builtin(),
        strategies: strategy::strategies(),
        clock: clock.clone(),
        rng: rng(),
    };
    let registry = Registry::with_hooks(settings, hooks);
    allocate::load(&allocator, &registry).await.context("the Services could not be read")?;
    Ok(registry)
}

async fn api(
    config: &ServerConfig,
    registry: &Arc<Registry>,
    keys: &Keys,
    tunnels: &Arc<Tunnels>,
    images: &Arc<image::registry::Registry>,
    clock: &SharedClock,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<ApiServer>> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let auth = AuthConfig {
        registry: registry.clone(),
        key: keys.accounts.clone(),
        audiences: vec![issuer.clone(), "coracle".into()],
        issuer,
        clock: clock.clone(),
    };
    let auth = Auth::start(auth, shutdown.clone()).await.context("roles could not be read")?;
    let pods = Arc::new(Forwarded::new(tunnels.clone()));
    let reach = Arc::new(Reach::new(registry.clone(), Some(pods)));
    let aggregator = Aggregator::new(registry.clone(), reach.clone(), Some(keys.proxy_identity()?));
    tokio::spawn(aggregate::follow(aggregator.clone(), shutdown.clone()));
    let mut admission: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(registry.clone())),
        Arc::new(limit_ranger::LimitRanger::new(registry.clone())),
        Arc::new(service_account::ServiceAccount::new(registry.clone(), rng())),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(priority::Priority::new(registry.clone())),
        Arc::new(config.tolerations),
        Arc::new(runtime_class::RuntimeClass::new(registry.clone())),
        Arc::new(default_storage_class::DefaultStorageClass::new(registry.clone())),
        Arc::new(certificate_requester::CertificateRequester),
        Arc::new(pod_security::PodSecurity::new(registry.clone())),
    ];
    admission.extend(auth.admission);
    admission.extend(extensions(registry, &auth.authorizer, reach));
    // The last one: what another refuses is not charged.
    admission.push(Arc::new(resource_quota::ResourceQuota::new(registry.clone())));
    Ok(ApiServer::new(ApiServerConfig {
        registry: registry.clone(),
        authenticator: auth.authenticator,
        authorizer: auth.authorizer,
        admission,
        answers: auth.answers,
        nodes: tunnels.clone(),
        beside: vec![("/v2", Arc::new(ImagesOfCluster(images.clone())))],
        aggregator: Some(aggregator),
        audit: audit(config, clock)?,
        limits: Limits::default(),
    }))
}

fn audit(config: &ServerConfig, clock: &SharedClock) -> anyhow::Result<Option<Arc<Audit>>> {
    let Some(AuditConfig { policy, log, bytes_max, backups_max }) = &config.audit else {
        return Ok(None);
    };
    let told = || format!("--audit-policy-file {}", policy.display());
    let text = std::fs::read_to_string(policy).with_context(told)?;
    let source: serde_json::Value = serde_saphyr::from_str(&text).with_context(told)?;
    let policy = audit::Policy::parse(&source).with_context(told)?;
    let sink = audit::Sink::open(log, *bytes_max, *backups_max)
        .with_context(|| format!("--audit-log-path {}", log.display()))?;
    Ok(Some(Arc::new(Audit::new(policy, sink, clock.clone()))))
}

/// What the objects of the cluster itself have admission do: policies, and then webhooks.
fn extensions(
    registry: &Arc<Registry>,
    authorizer: &Arc<dyn crate::apiserver::auth::Authorizer>,
    reach: Arc<Reach>,
) -> Vec<Arc<dyn Plugin>> {
    let caller = Arc::new(Caller::new(reach));
    registry.set_converter(Arc::new(ConversionWebhooks::new(caller.clone(), registry)));
    let webhooks =
        WebhookConfig { registry: registry.clone(), authorizer: authorizer.clone(), caller };
    vec![
        Arc::new(MutatingPolicies::new(registry.clone(), authorizer.clone())),
        Arc::new(MutatingWebhooks::new(webhooks.clone())),
        Arc::new(ValidatingPolicies::new(registry.clone(), authorizer.clone())),
        Arc::new(ValidatingWebhooks::new(webhooks)),
    ]
}

struct CaSigner(Arc<Ca>);

impl controllers::Signer for CaSigner {
    fn sign(
        &self,
        csr_pem: &str,
        signer_name: &str,
        usages: &[String],
        seconds: u64,
    ) -> Result<String, String> {
        signer::sign(&self.0, csr_pem, signer_name, usages, seconds).map_err(|e| e.to_string())
    }
}

/// The scheduler and the controllers, as clients in this process.
fn actors(
    config: &ServerConfig,
    server: &Arc<ApiServer>,
    keys: &Keys,
    identity: &str,
    clock: &SharedClock,
    stop: &Shutdown,
) -> Vec<JoinHandle<()>> {
    let client = |name: &str, group: Option<&str>| {
        let user = UserInfo {
            name: name.to_owned(),
            groups: group.map(str::to_owned).into_iter().collect(),
            ..UserInfo::default()
        };
        in_process(server.router(), move |extensions| {
            extensions.insert(user.clone());
        })
    };
    let signer = Arc::new(CaSigner(keys.ca.clone()));
    let ca_pem = keys.ca.certificate_pem();
    let settings = ControllersConfig {
        node_lifecycle: config.node_lifecycle.clone(),
        // Names of one life of the server must not come again in the next.
        seed: rng().next_u64(),
        ..ControllersConfig::new(identity, clock.clone(), signer, ca_pem)
    };
    // Controllers create what no role names beforehand: every kind's dependents, custom ones too.
    let masters = Some(crate::link::identity::MASTERS_GROUP);
    let acting = client("system:kube-controller-manager", masters);
    let controllers = controllers::run(acting, settings, stop.clone());
    let scheduling = SchedulerConfig {
        configuration: config.scheduling.clone(),
        descheduling: config.descheduling,
        ..SchedulerConfig::new(identity)
    };
    let scheduler = scheduler::run(
        client("system:kube-scheduler", None),
        scheduling,
        clock.clone(),
        stop.clone(),
    );
    vec![tokio::spawn(controllers), tokio::spawn(scheduler)]
}

/// Replaces the serving certificate before it ends.
async fn renew(serving: Arc<ServingCertificate>, stop: Shutdown) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
        match serving.renew() {
            Ok(true) => tracing::info!("the serving certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the serving certificate was not renewed"),
        }
    }
}
