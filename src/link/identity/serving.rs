//! The API server's serving certificate: kept on disk, made anew when it nears its end, when the
//! names under which the server is reached change, or when the CA is another.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Ca, Identity, IdentityError, IdentityRequest, Usage};
use crate::base::clock::SharedClock;

const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The names under which the API server is reached: from this machine, at the addresses it
/// listens on, by `kubernetes.default` from pods (its ClusterIP and the virtual address behind
/// it), and by the machine's name.
pub fn serving_names(listen: &[IpAddr], cluster_domain: &str, extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "10.43.0.1", "198.18.0.1"]
        .into_iter()
        .chain(["kubernetes", "kubernetes.default", "kubernetes.default.svc"])
        .map(str::to_owned)
        .collect();
    names.push(format!("kubernetes.default.svc.{cluster_domain}"));
    let concrete = listen.iter().filter(|ip| !ip.is_unspecified());
    names.extend(concrete.map(ToString::to_string));
    names.extend(extra.iter().cloned());
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        names.push(host);
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// A serving certificate that can be replaced while the server runs.
pub struct ServingCertificate {
    current: ArcSwap<CertifiedKey>,
    identity: ArcSwap<Identity>,
    ca: Arc<Ca>,
    dir: PathBuf,
    names: Vec<String>,
    clock: SharedClock,
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ServingCertificate {
    /// Loads `apiserver.crt` and `apiserver.key` from `dir`, or issues them.
    ///
    /// # Errors
    /// What [`Ca::issue`] and [`Identity::save`] answer.
    pub fn open(
        ca: Arc<Ca>,
        dir: &Path,
        names: Vec<String>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, IdentityError> {
        let kept = Identity::load(dir, "apiserver").unwrap_or_else(|error| {
            tracing::warn!(%error, "replacing the serving certificate");
            None
        });
        let usable = kept.filter(|identity| fits(identity, &ca, &names, &clock));
        let identity = match usable {
            Some(identity) => identity,
            None => issue(&ca, dir, &names)?,
        };
        let current = ArcSwap::from(certified(&identity)?);
        let identity = ArcSwap::from_pointee(identity);
        Ok(Arc::new(Self { current, identity, ca, dir: dir.to_owned(), names, clock }))
    }

    /// What is served now.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Replaces the certificate when less than a third of its lifetime is left; answers whether
    /// it did. Connections that are open keep theirs. To be called once in a while.
    ///
    /// # Errors
    /// What [`Ca::issue`] and [`Identity::save`] answer; the old one stays.
    pub fn renew(&self) -> Result<bool, IdentityError> {
        if !self.identity.load().wants_renewal(self.clock.now()) {
            return Ok(false);
        }
        let identity = issue(&self.ca, &self.dir, &self.names)?;
        self.current.store(certified(&identity)?);
        self.identity.store(Arc::new(identity));
        Ok(true)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The chain carries the CA itself, so that an agent that knows only the CA's hash (from its join
/// token) finds it in the handshake.
fn issue(ca: &Ca, dir: &Path, names: &[String]) -> Result<Identity, IdentityError> {
    let leaf = ca.issue(&IdentityRequest {
        common_name: "kube-apiserver".into(),
        organizations: Vec::new(),
        sans: names.to_vec(),
        usages: vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth],
        lifetime: LIFETIME,
    })?;
    let chain = format!("{}{}", leaf.certificate_pem, ca.certificate_pem());
    let identity = Identity::new(chain, leaf.key_pem)?;
    identity.save(dir, "apiserver")?;
    Ok(identity)
}

fn fits(identity: &Identity, ca: &Ca, names: &[String], clock: &SharedClock) -> bool {
    let facts = identity.facts();
    let mut found: Vec<String> = facts.ips.iter().map(ToString::to_string).collect();
    found.extend(facts.dns_names.iter().cloned());
    let same = found.len() == names.len() && names.iter().all(|name| found.contains(name));
    let ours = identity.chain().last() == Some(ca.certificate());
    same && ours && !identity.wants_renewal(clock.now())
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, IdentityError> {
    let key = rustls::crypto::ring::sign::any_supported_type(&identity.key())
        .map_err(|error| IdentityError::unreadable("the private key", error))?;
    Ok(Arc::new(CertifiedKey::new(identity.chain(), key)))
}
