//! Everything that an agent can be told, read and checked in one place.
//!
//! [`AgentArgs`] is what the command line spells; [`AgentConfig`] is what the agent runs with. A
//! value that cannot be used is refused here, before anything is started, with the flag that
//! carries it and what would be right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

use crate::image::{ClientConfig, Registries, SignaturePolicy};

/// The version that the agent reports as its kubelet's.
pub const KUBELET_VERSION: &str = concat!("v1.37.0+coracle.", env!("CARGO_PKG_VERSION"));

/// Where the API server is, and how the agent proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAccess {
    /// Join by token: the agent asks for its certificate itself.
    Join {
        /// `https://host:port`
        server: String,
        /// `K10<sha256 of the CA certificate>::<id>.<secret>`
        token: String,
    },
    /// A kubeconfig, as for a node of any other Kubernetes cluster.
    Kubeconfig(PathBuf),
}

/// How often the agent says that it lives, and for how long that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    pub duration: Duration,
    pub renew_every: Duration,
}

impl Default for LeaseSettings {
    /// As the kubelet: 40 s, renewed every 10 s.
    fn default() -> Self {
        Self { duration: Duration::from_secs(40), renew_every: Duration::from_secs(10) }
    }
}

/// How container logs are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    pub file_bytes_max: u64,
    /// The current file included.
    pub files_max: usize,
    /// A longer line is written as several partial ones.
    pub line_bytes_max: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { file_bytes_max: 10 << 20, files_max: 5, line_bytes_max: 16 << 10 }
    }
}

/// Unused images are removed once the disk is fuller than `high_percent`, until it is no fuller than
/// `low_percent`, as the kubelet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    pub high_percent: u8,
    pub low_percent: u8,
    /// An image that was asked for within this time stays.
    pub age_min: Duration,
    pub every: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            age_min: Duration::from_secs(120),
            every: Duration::from_secs(300),
        }
    }
}

/// One agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub node_name: String,
    /// All that the agent keeps lies below it, readable by its user alone.
    pub data_dir: PathBuf,
    pub access: ApiAccess,
    /// Where the kubelet's HTTPS API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other nodes reach this one's pods; port 0 takes a free one.
    pub peer_listen: SocketAddr,
    /// The address that the Node object shows as InternalIP.
    pub node_ip: IpAddr,
    pub labels: BTreeMap<String, String>,
    /// Put on the Node when it registers, not afterwards.
    pub taints: Vec<Taint>,
    pub pods_max: u32,
    /// Thousandths of a core, where it is not what the machine has.
    pub cpu_millis: Option<u64>,
    /// Where it is not what the machine has.
    pub memory_bytes: Option<u64>,
    /// Whether `file:` images may be used.
    pub allow_file_images: bool,
    /// hostPath volumes are allowed at and below these.
    pub host_paths: Vec<PathBuf>,
    /// Mirrors, and how registries are spoken to.
    pub registries: Registries,
    /// Patience with registries.
    pub image_client: ClientConfig,
    /// When unused images are removed.
    pub image_gc: ImageGc,
    /// Whose signature images need.
    pub signatures: SignaturePolicy,
    pub cluster_domain: String,
    pub cluster_dns: IpAddr,
    pub lease: LeaseSettings,
    /// How often the Node's status is written when nothing changed.
    pub status_every: Duration,
    pub logs: LogSettings,
    /// Where NodePorts and hostPorts are opened on this machine.
    pub host_address: IpAddr,
}

impl AgentConfig {
    /// A node with the defaults that the command line has.
    pub fn new(node_name: impl Into<String>, data_dir: PathBuf, access: ApiAccess) -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            node_name: node_name.into(),
            data_dir,
            access,
            listen: SocketAddr::new(loopback, 10250),
            peer_listen: SocketAddr::new(loopback, 0),
            node_ip: loopback,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pods_max: 4000,
            cpu_millis: None,
            memory_bytes: None,
            allow_file_images: false,
            host_paths: Vec::new(),
            registries: Registries::default(),
            image_client: ClientConfig::default(),
            image_gc: ImageGc::default(),
            signatures: SignaturePolicy::default(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10)),
            lease: LeaseSettings::default(),
            status_every: Duration::from_secs(60),
            logs: LogSettings::default(),
            host_address: loopback,
        }
    }

    /// Refuses what cannot work, naming the flag.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_name(&self.node_name)?;
        if let ApiAccess::Join { server, token } = &self.access {
            if !server.starts_with("https://") {
                return Err(ConfigError::Server { given: server.clone() });
            }
            if !token.contains("::") {
                return Err(ConfigError::Token);
            }
        }
        if self.lease.renew_every >= self.lease.duration {
            return Err(ConfigError::Lease {
                every: self.lease.renew_every.as_secs(),
                duration: self.lease.duration.as_secs(),
            });
        }
        let gc = self.image_gc;
        if gc.low_percent > gc.high_percent || gc.high_percent > 100 {
            return Err(ConfigError::ImageGc { high: gc.high_percent, low: gc.low_percent });
        }
        if let Some(relative) = self.host_paths.iter().find(|p| !p.is_absolute()) {
            return Err(ConfigError::HostPath { given: relative.display().to_string() });
        }
        Ok(())
    }
}

/// Why an agent cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "--node-name {given:?} is not a DNS name: use lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253 characters"
    )]
    NodeName { given: String },
    #[error(
        "the machine has no usable hostname ({given:?}): give the node a name with --node-name"
    )]
    Hostname { given: String },
    #[error("--server {given:?} is not an https URL: give it as https://HOST:PORT")]
    Server { given: String },
    #[error(
        "--token is not a join token: it looks like K10<hash>::<id>.<secret>, and the server keeps it in its data directory as join-token"
    )]
    Token,
    #[error(
        "no way to the API server: give --server URL and --token TOKEN (or --token-file FILE), or --kubeconfig FILE"
    )]
    Access,
    #[error("cannot read --token-file {path}: {message}")]
    TokenFile { path: String, message: String },
    #[error("--node-label {given:?} is not KEY=VALUE")]
    Label { given: String },
    #[error(
        "--register-with-taints {given:?} is not KEY=VALUE:EFFECT or KEY:EFFECT, with the effect NoSchedule, PreferNoSchedule or NoExecute"
    )]
    Taint { given: String },
    #[error(
        "--image-gc-low-threshold {low} and --image-gc-high-threshold {high} are percents of the disk, the low one not above the high one"
    )]
    ImageGc { high: u8, low: u8 },
    #[error("--image-policy {why}")]
    ImagePolicy { why: String },
    #[error("--private-registry {why}")]
    Registries { why: String },
    #[error("--allow-host-path {given:?} is not an absolute path")]
    HostPath { given: String },
    #[error(
        "--lease-renew-seconds {every} is not shorter than --lease-duration-seconds {duration}: the node would be taken for dead between two renewals"
    )]
    Lease { every: u64, duration: u64 },
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
        && name.starts_with(plain)
        && name.ends_with(plain);
    fits.then_some(()).ok_or_else(|| ConfigError::NodeName { given: name.to_owned() })
}

/// What the command line spells.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// URL of the API server, as https://HOST:PORT
    #[arg(long, conflicts_with = "kubeconfig")]
    pub server: Option<String>,
    /// Join token, as the server wrote it into its data directory
    #[arg(long)]
    pub token: Option<String>,
    /// File that holds the join token
    #[arg(long, conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Join any Kubernetes cluster with this kubeconfig instead of a token
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the Node [default: the hostname]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Where the agent keeps its identity, images, logs and volumes
    #[arg(long, default_value = "coracle-agent")]
    pub data_dir: PathBuf,
    /// Address and port of the kubelet API
    #[arg(long, default_value = "127.0.0.1:10250")]
    pub listen: SocketAddr,
    /// Address and port for other nodes
    #[arg(long, default_value = "127.0.0.1:0")]
    pub peer_listen: SocketAddr,
    /// InternalIP of the Node [default: that of --peer-listen]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Address on which NodePorts and hostPorts are opened
    #[arg(long, default_value = "127.0.0.1")]
    pub host_address: IpAddr,
    /// KEY=VALUE, repeatable
    #[arg(long = "node-label")]
    pub node_labels: Vec<String>,
    /// KEY=VALUE:EFFECT, repeatable
    #[arg(long = "register-with-taints")]
    pub taints: Vec<String>,
    /// Most pods on this node
    #[arg(long, default_value_t = 4000)]
    pub max_pods: u32,
    /// Thousandths of a core that pods may have [default: what the machine has]
    #[arg(long)]
    pub cpu_millis: Option<u64>,
    /// MiB that pods may have [default: what the machine has]
    #[arg(long)]
    pub memory_mib: Option<u64>,
    /// Allow images that are files of this machine (file:/…)
    #[arg(long)]
    pub allow_file_images: bool,
    /// Allow hostPath volumes at and below this path, repeatable
    #[arg(long = "allow-host-path")]
    pub host_paths: Vec<PathBuf>,
    /// Mirrors, credentials and TLS of image registries, in the form of k3s' registries.yaml
    #[arg(long)]
    pub private_registry: Option<PathBuf>,
    /// Whose signature images need: rules with cosign's public keys
    #[arg(long)]
    pub image_policy: Option<PathBuf>,
    /// How long a registry may be silent before the pull is tried again
    #[arg(long, default_value_t = 30)]
    pub image_pull_idle_seconds: u64,
    /// Percent of the disk above which unused images are removed
    #[arg(long, default_value_t = 85)]
    pub image_gc_high_threshold: u8,
    /// Percent of the disk down to which unused images are removed
    #[arg(long, default_value_t = 80)]
    pub image_gc_low_threshold: u8,
    /// An image that was used within this time is not removed
    #[arg(long, default_value_t = 120)]
    pub image_gc_min_age_seconds: u64,
    /// How often the disk is looked at for images to remove
    #[arg(long, default_value_t = 300)]
    pub image_gc_period_seconds: u64,
    /// Domain of the cluster's Services
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Address of the cluster's DNS
    #[arg(long, default_value = "10.43.0.10")]
    pub cluster_dns: IpAddr,
    /// How long the node counts as alive after a renewal
    #[arg(long, default_value_t = 40)]
    pub lease_duration_seconds: u64,
    /// How often the node renews its Lease
    #[arg(long, default_value_t = 10)]
    pub lease_renew_seconds: u64,
    /// How often the Node's status is written when nothing changed
    #[arg(long, default_value_t = 60)]
    pub node_status_seconds: u64,
}

impl AgentArgs {
    /// The configuration that these arguments mean.
    pub fn parse(self) -> Result<AgentConfig, ConfigError> {
        let node_name = match self.node_name {
            Some(name) => name,
            None => hostname()?,
        };
        let access = access(self.server, self.token, self.token_file, self.kubeconfig)?;
        let registries = match &self.private_registry {
            Some(path) => Registries::load(path).map_err(|why| ConfigError::Registries { why })?,
            None => Registries::default(),
        };
        let signatures = match &self.image_policy {
            Some(path) => {
                SignaturePolicy::load(path).map_err(|why| ConfigError::ImagePolicy { why })?
            }
            None => SignaturePolicy::default(),
        };
        let config = AgentConfig {
            registries,
            signatures,
            image_client: ClientConfig {
                idle_timeout: Duration::from_secs(self.image_pull_idle_seconds.max(1)),
                ..ClientConfig::default()
            },
            image_gc: ImageGc {
                high_percent: self.image_gc_high_threshold,
                low_percent: self.image_gc_low_threshold,
                age_min: Duration::from_secs(self.image_gc_min_age_seconds),
                every: Duration::from_secs(self.image_gc_period_seconds.max(1)),
            },
            listen: self.listen,
            peer_listen: self.peer_listen,
            node_ip: self.node_ip.unwrap_or(match self.peer_listen.ip() {
                ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                ip => ip,
            }),
            host_address: self.host_address,
            labels: self.node_labels.iter().map(|l| label(l)).collect::<Result<_, _>>()?,
            taints: self.taints.iter().map(|t| taint(t)).collect::<Result<_, _>>()?,
            pods_max: self.max_pods,
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_mib.map(|mib| mib << 20),
            allow_file_images: self.allow_file_images,
            host_paths: self.host_paths,
            cluster_domain: self.cluster_domain,
            cluster_dns: self.cluster_dns,
            lease: LeaseSettings {
                duration: Duration::from_secs(self.lease_duration_seconds),
                renew_every: Duration::from_secs(self.lease_renew_seconds),
            },
            status_every: Duration::from_secs(self.node_status_seconds),
            ..AgentConfig::new(node_name, self.data_dir, access)
        };
        config.check()?;
        Ok(config)
    }
}

fn access(
    server: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
) -> Result<ApiAccess, ConfigError> {
    if let Some(path) = kubeconfig {
        return Ok(ApiAccess::Kubeconfig(path));
    }
    let token = match (token, token_file) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(&path).map_err(|e| ConfigError::TokenFile {
                path: path.display().to_string(),
                message: e.to_string(),
            })?;
            Some(read.trim().to_owned())
        }
        (None, None) => None,
    };
    match (server, token) {
        (Some(server), Some(token)) => {
            let server = server.trim_end_matches('/').to_owned();
            Ok(ApiAccess::Join { server, token })
        }
        _ => Err(ConfigError::Access),
    }
}

fn hostname() -> Result<String, ConfigError> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    check_name(&name).map_err(|_| ConfigError::Hostname { given: name.clone() })?;
    Ok(name)
}

fn label(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ConfigError::Label { given: text.to_owned() }),
    }
}

fn taint(text: &str) -> Result<Taint, ConfigError> {
    let wrong = || ConfigError::Taint { given: text.to_owned() };
    let (pair, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) || pair.is_empty() {
        return Err(wrong());
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()).filter(|v| !v.is_empty()),
        effect: effect.to_owned(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn parse(args: &[&str]) -> Result<AgentConfig, ConfigError> {
        let line = ["agent"].iter().chain(args).copied();
        Line::try_parse_from(line).expect("clap takes the flags").agent.parse()
    }

    #[test]
    fn a_join_needs_only_server_token_and_name() {
        let config =
            parse(&["--server", "https://a:6443/", "--token", "K10ab::x.y", "--node-name", "w1"])
                .expect("a whole configuration");
        let access =
            ApiAccess::Join { server: "https://a:6443".to_owned(), token: "K10ab::x.y".to_owned() };
        assert_eq!(config.access, access);
        assert_eq!(config.pods_max, 4000);
    }

    #[test]
    fn what_cannot_work_is_refused_by_the_name_of_its_flag() {
        let join = ["--server", "https://a:1", "--token", "K10a::b.c", "--node-name", "w"];
        let with = |more: &[&str]| {
            let args: Vec<&str> = join.iter().chain(more).copied().collect();
            parse(&args).expect_err("it is refused").to_string()
        };
        assert!(with(&["--node-label", "x"]).contains("--node-label \"x\""));
        assert!(with(&["--register-with-taints", "a=b:Never"]).contains("NoExecute"));
        assert!(with(&["--allow-host-path", "data"]).contains("not an absolute path"));
        assert!(with(&["--lease-renew-seconds", "40"]).contains("--lease-duration-seconds 40"));
        assert!(
            parse(&["--node-name", "w"]).expect_err("no server").to_string().contains("--server")
        );
        let upper = parse(&["--server", "https://a:1", "--token", "a::b", "--node-name", "W_1"]);
        assert!(upper.expect_err("a bad name").to_string().contains("--node-name \"W_1\""));
        let plain = parse(&["--server", "http://a:1", "--token", "a::b", "--node-name", "w"]);
        assert!(plain.expect_err("not https").to_string().contains("https://HOST:PORT"));
    }

    #[test]
    fn taints_are_read_as_kubectl_spells_them() {
        let read = taint("edge=yes:NoExecute").expect("a taint");
        assert_eq!((read.key.as_str(), read.value.as_deref()), ("edge", Some("yes")));
        assert_eq!(taint("edge:NoSchedule").expect("a taint").value, None);
    }
}
