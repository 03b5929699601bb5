//! The client of registries (OCI Distribution Specification 1.1): which are asked for a name, in
//! which order, and what is told when none has it.
//!
//! ```text
//! the cluster's own ─▶ mirrors of the domain, in order ─▶ the domain itself
//! ```
//!
//! Who does not have an image, does not answer or gives what is wrong makes room for the next.

mod auth;
mod download;
mod http;
mod remote;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig as TlsConfig;

use super::keyring::Keyring;
use super::problem::Problem;
use super::reference::{CLUSTER_DOMAIN, DEFAULT_DOMAIN, Name};
use super::registries::{Registries, system_tls};
use http::Http;
pub use remote::Remote;

/// Docker's registry has another name than its images.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// Patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConfig {
    pub connect_timeout: Duration,
    /// How long an answer may take to begin, and to go on.
    pub idle_timeout: Duration,
    /// Tries in a row that bring nothing.
    pub tries_max: u32,
    /// The pause after the first of them; it doubles.
    pub first_pause: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            tries_max: 4,
            first_pause: Duration::from_millis(250),
        }
    }
}

/// Makes the TLS configuration of the moment: certificates are renewed.
pub type TlsSource = Arc<dyn Fn() -> Result<Arc<TlsConfig>, String> + Send + Sync>;

/// The cluster's own registry, as a node reaches it.
#[derive(Clone)]
pub struct ClusterRegistry {
    /// `HOST:PORT`.
    pub authority: String,
    pub tls: TlsSource,
}

/// Connections by what they trust.
pub(super) struct Hosts {
    registries: Registries,
    config: ClientConfig,
    known: Mutex<HashMap<String, Arc<Http>>>,
}

impl Hosts {
    /// The way to a host, by `HOST[:PORT]`.
    fn http(&self, authority: &str) -> Result<Arc<Http>, Problem> {
        let own = self.registries.host(authority).tls;
        let key = if own.is_some() { authority } else { "" };
        let mut known = self.known.lock();
        if let Some(http) = known.get(key) {
            return Ok(http.clone());
        }
        let tls = match own {
            Some(tls) => tls,
            None => system_tls().map_err(Problem::Refused)?,
        };
        let http = Arc::new(Http::new(tls, self.config));
        known.insert(key.to_owned(), http.clone());
        Ok(http)
    }
}

/// See the module.
pub struct Client {
    hosts: Arc<Hosts>,
    cluster: Option<ClusterRegistry>,
}

impl Client {
    pub fn new(
        registries: Registries,
        cluster: Option<ClusterRegistry>,
        config: ClientConfig,
    ) -> Self {
        let hosts = Hosts { registries, config, known: Mutex::default() };
        Self { hosts: Arc::new(hosts), cluster }
    }

    /// Who is to be asked for a name, in this order.
    pub fn remotes(&self, name: &Name, keyring: &Keyring) -> Vec<Result<Remote, Problem>> {
        let mut all = Vec::new();
        if let Some(cluster) = &self.cluster {
            let here = name.domain == cluster.authority;
            let repository = if here { name.repository.clone() } else { name.cluster_repository() };
            all.push(self.of_cluster(cluster, repository));
            if here {
                return all;
            }
        }
        if name.domain == CLUSTER_DOMAIN {
            return all;
        }
        if let Some(mirror) = self.hosts.registries.mirror(&name.domain) {
            let repository = mirror.repository(&name.repository);
            for endpoint in &mirror.endpoints {
                let remote = self.remote(endpoint, &repository, name, keyring);
                all.push(remote.map(|remote| remote.for_domain(&name.domain)));
            }
        }
        let host = if name.domain == DEFAULT_DOMAIN { DOCKER_HOST } else { &name.domain };
        let loopback = is_loopback(host) && self.hosts.registries.host(host).tls.is_none();
        let schemes: &[&str] = if loopback { &["https", "http"] } else { &["https"] };
        for scheme in schemes {
            let endpoint = format!("{scheme}://{host}");
            let remote = self.remote(&endpoint, &name.repository, name, keyring);
            let tried = loopback && *scheme == "https";
            all.push(remote.map(|remote| if tried { remote.tried_once() } else { remote }));
        }
        all
    }

    fn of_cluster(&self, cluster: &ClusterRegistry, repository: String) -> Result<Remote, Problem> {
        let tls = (cluster.tls)().map_err(Problem::Refused)?;
        let http = Arc::new(Http::new(tls, self.hosts.config));
        let base = format!("https://{}/v2", cluster.authority);
        Ok(Remote::new(&self.hosts, http, base, repository, Vec::new()).of_cluster())
    }

    fn remote(
        &self,
        endpoint: &str,
        repository: &str,
        name: &Name,
        keyring: &Keyring,
    ) -> Result<Remote, Problem> {
        let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut logins = keyring.logins(name);
        if authority != name.domain && !(name.domain == DEFAULT_DOMAIN && authority == DOCKER_HOST)
        {
            // A mirror is another's: the pod's secrets for the domain are not for its eyes.
            let there = Name { domain: authority.to_owned(), ..name.clone() };
            logins = keyring.logins(&there);
        }
        logins.extend(self.hosts.registries.host(authority).login);
        let http = self.hosts.http(authority)?;
        let base = if path.is_empty() { format!("{endpoint}/v2") } else { endpoint.to_owned() };
        Ok(Remote::new(&self.hosts, http, base, repository.to_owned(), logins))
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// What those that were asked said.
pub struct Problems {
    name: Name,
    all: Vec<(String, bool, Problem)>,
}

impl Problems {
    pub fn new(name: &Name) -> Self {
        Self { name: name.clone(), all: Vec::new() }
    }

    pub fn push(&mut self, remote: Option<&Remote>, problem: Problem) {
        let label = remote.map(Remote::label).unwrap_or_default();
        self.all.push((label, remote.is_some_and(Remote::is_cluster), problem));
    }

    /// All of it in one: the last is the registry that the name means; of the others, what is more
    /// than that they do not have it.
    pub fn told(self) -> Problem {
        let name = &self.name;
        let resolving = format!("failed to resolve reference \"{name}\"");
        let mut all = self.all;
        let Some((label, cluster, last)) = all.pop() else {
            return Problem::NotFound(format!(
                "{resolving}: this node knows no registry for {}",
                name.domain
            ));
        };
        if cluster && matches!(last, Problem::NotFound(_)) {
            return Problem::NotFound(format!(
                "{resolving}: {name}: not found in the cluster's registry: push it with `coracle \
                 push FILE {}:TAG`",
                name.cluster_repository()
            ));
        }
        // Plain http was tried for a registry on loopback that speaks no TLS.
        let twice = all.last().is_some_and(|(other, ..)| *other == label);
        if twice && matches!(last, Problem::Unreachable(_)) {
            all.pop();
        }
        let mut rest = String::new();
        for (label, cluster, problem) in &all {
            let who = if *cluster { "the cluster's registry" } else { label };
            match problem {
                Problem::NotFound(_) if *cluster => {
                    rest.push_str("; it is not in the cluster's registry either");
                }
                Problem::NotFound(_) => {}
                other => {
                    let _ = write!(rest, "; {who}: {other}");
                }
            }
        }
        let told = last.doing(&resolving);
        let with = |text: String| format!("{text}{rest}");
        match told {
            Problem::NotFound(text) => Problem::NotFound(with(text)),
            Problem::Denied(text) => Problem::Denied(with(text)),
            Problem::Unreachable(text) => Problem::Unreachable(with(text)),
            Problem::Refused(text) => Problem::Refused(with(text)),
            Problem::Disk(text) => Problem::Disk(text),
        }
    }
}
