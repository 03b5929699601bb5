//! Everything that a server can be told, read and checked before a port is bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apiserver::admission::default_tolerations::DefaultTolerationSeconds;
use crate::controllers::NodeLifecycleConfig;
use crate::scheduler::config::file;
use crate::scheduler::deschedule::{self, Goal};
use crate::scheduler::{Configuration, Descheduling, Packing};

/// The arguments of `coracle server`.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Where the server keeps its store, keys, kubeconfig and join-token
    #[arg(long, default_value = "coracle-data")]
    pub data_dir: PathBuf,
    /// Address and port of the API; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Where objects are kept
    #[arg(long, default_value = "redb")]
    pub store: String,
    /// Address that other machines reach the API at [default: that of --listen]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Further name or address for the server's certificate, repeatable
    #[arg(long = "tls-san")]
    pub tls_sans: Vec<String>,
    /// Domain of the cluster's Services
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Which nodes are preferred by how full they are
    #[arg(long, value_enum, default_value = "least-allocated")]
    pub scheduler_packing: PackingArg,
    /// A KubeSchedulerConfiguration: profiles, plugins and their arguments
    #[arg(long, value_name = "FILE", conflicts_with = "scheduler_packing")]
    pub scheduler_config: Option<PathBuf>,
    /// Move pods that should be elsewhere by now, within PodDisruptionBudgets
    #[arg(long, value_enum)]
    pub descheduler: Option<DeschedulerArg>,
    /// How often the descheduler looks
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub descheduler_interval_seconds: u64,
    /// How often nodes are looked at
    #[arg(long, default_value_t = 5)]
    pub node_monitor_period_seconds: u64,
    /// How long a node may be silent before its pods count as unreachable
    #[arg(long, default_value_t = 50)]
    pub node_monitor_grace_period_seconds: u64,
    /// How long pods stay on a node that is not ready, unless they say otherwise
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// How long pods stay on a node that is unreachable, unless they say otherwise
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// File that says which resources are sealed on disk, by which keys
    /// (Kubernetes' EncryptionConfiguration: aesgcm, identity)
    #[arg(long, value_name = "FILE")]
    pub encryption_config: Option<PathBuf>,
    /// File that says which requests are written to the audit log, and how much of them
    /// (audit.k8s.io/v1 Policy)
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// The audit log, one event a line
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// The audit log is begun anew at this size, in MiB; the old one is kept beside it
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// How many old audit logs are kept
    #[arg(long, default_value_t = 5)]
    pub audit_log_maxbackup: usize,
    /// End when standard input ends, as it does when the process that holds its other end dies
    #[arg(long, hide = true)]
    pub stop_at_stdin_eof: bool,
}

/// `--scheduler-packing`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum PackingArg {
    /// Spread pods over the emptiest nodes
    LeastAllocated,
    /// Fill nodes up, so that others stay free
    MostAllocated,
}

/// `--descheduler`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum DeschedulerArg {
    /// Empty nodes that are nearly empty, so that they can be switched off
    Pack,
    /// Let full nodes give to emptier ones
    Spread,
}

impl DeschedulerArg {
    fn goal(self) -> Goal {
        match self {
            Self::Pack => Goal::Pack,
            Self::Spread => Goal::Spread,
        }
    }
}

/// Why a server cannot be configured so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--store {given:?} is not known: this version keeps objects in redb (--store redb)")]
    Store { given: String },
    #[error(
        "--node-monitor-grace-period-seconds {grace} is not longer than \
         --node-monitor-period-seconds {period}: every node would be taken for dead"
    )]
    GracePeriod { grace: u64, period: u64 },
    #[error("--descheduler-interval-seconds 0: pods would be moved without end; give 1 or more")]
    DeschedulerInterval,
    #[error("--scheduler-config {}: {why}", file.display())]
    Scheduler { file: PathBuf, why: String },
    #[error("--{flag} {given} is negative: give a number of seconds, 0 for at once")]
    Toleration { flag: &'static str, given: i64 },
}

/// One server.
#[derive(Debug)]
pub struct ServerConfig {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub advertise: IpAddr,
    pub tls_sans: Vec<String>,
    pub cluster_domain: String,
    pub scheduling: Configuration,
    pub descheduling: Option<Descheduling>,
    pub node_lifecycle: NodeLifecycleConfig,
    pub tolerations: DefaultTolerationSeconds,
    pub encryption_config: Option<PathBuf>,
    pub audit: Option<AuditConfig>,
}

/// Where requests are written down.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    pub policy: PathBuf,
    pub log: PathBuf,
    pub bytes_max: u64,
    pub backups_max: usize,
}

impl ServerArgs {
    /// The configuration that these arguments mean.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag that cannot be used.
    pub fn parse(self) -> Result<ServerConfig, ConfigError> {
        if self.store != "redb" {
            return Err(ConfigError::Store { given: self.store });
        }
        if self.descheduler_interval_seconds == 0 {
            return Err(ConfigError::DeschedulerInterval);
        }
        let (period, grace) =
            (self.node_monitor_period_seconds, self.node_monitor_grace_period_seconds);
        if grace <= period {
            return Err(ConfigError::GracePeriod { grace, period });
        }
        let tolerations = DefaultTolerationSeconds {
            not_ready_seconds: self.default_not_ready_toleration_seconds,
            unreachable_seconds: self.default_unreachable_toleration_seconds,
        };
        for (flag, given) in [
            ("default-not-ready-toleration-seconds", tolerations.not_ready_seconds),
            ("default-unreachable-toleration-seconds", tolerations.unreachable_seconds),
        ] {
            if given < 0 {
                return Err(ConfigError::Toleration { flag, given });
            }
        }
        let advertise = self.advertise_address.unwrap_or(match self.listen.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        });
        let audit = self.audit_policy_file.zip(self.audit_log_path).map(|(policy, log)| {
            let bytes_max = self.audit_log_maxsize.saturating_mul(1024 * 1024);
            AuditConfig { policy, log, bytes_max, backups_max: self.audit_log_maxbackup }
        });
        Ok(ServerConfig {
            encryption_config: self.encryption_config,
            audit,
            data_dir: self.data_dir,
            listen: self.listen,
            advertise,
            tls_sans: self.tls_sans,
            cluster_domain: self.cluster_domain,
            scheduling: match self.scheduler_config {
                Some(file) => scheduling(&file)?,
                None => Configuration::packing(match self.scheduler_packing {
                    PackingArg::LeastAllocated => Packing::LeastAllocated,
                    PackingArg::MostAllocated => Packing::MostAllocated,
                }),
            },
            descheduling: self.descheduler.map(|descheduler| Descheduling {
                goal: descheduler.goal(),
                limits: deschedule::Limits::default(),
                every: Duration::from_secs(self.descheduler_interval_seconds),
            }),
            node_lifecycle: NodeLifecycleConfig {
                monitor_period: Duration::from_secs(period),
                grace_period: Duration::from_secs(grace),
                ..NodeLifecycleConfig::default()
            },
            tolerations,
        })
    }
}

/// The largest configuration of the scheduler that is read.
const SCHEDULING_MAX: u64 = 1024 * 1024;

fn scheduling(path: &Path) -> Result<Configuration, ConfigError> {
    let bad = |why: String| ConfigError::Scheduler { file: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > SCHEDULING_MAX {
        return Err(bad(format!("it is larger than {SCHEDULING_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    file::read(&text).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        server: ServerArgs,
    }

    fn parse(args: &[&str]) -> Result<ServerConfig, String> {
        let line = ["server"].iter().chain(args).copied();
        Line::try_parse_from(line)
            .expect("clap takes the flags")
            .server
            .parse()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_server_listens_on_loopback_unless_told_otherwise() {
        let config = parse(&[]).expect("the defaults");
        assert_eq!(config.listen.to_string(), "127.0.0.1:6443");
        let wide = parse(&["--listen", "0.0.0.0:1"]).expect("a configuration");
        assert_eq!(wide.advertise.to_string(), "127.0.0.1");
    }

    #[test]
    fn what_cannot_work_is_refused_by_the_name_of_its_flag() {
        let refused = |args: &[&str]| parse(args).expect_err("it is refused");
        assert!(refused(&["--store", "mysql"]).contains("--store \"mysql\""));
        let grace = ["--node-monitor-grace-period-seconds", "5"];
        assert!(refused(&grace).contains("--node-monitor-period-seconds 5"));
        let negative = ["--default-not-ready-toleration-seconds=-1"];
        assert!(refused(&negative).contains("--default-not-ready-toleration-seconds -1"));
    }
}
