//! How this node speaks to registries: mirrors, credentials and TLS, in the form of k3s'
//! `registries.yaml`, which users know.
//!
//! ```yaml
//! mirrors:
//!   docker.io:                                  # or "*", for all that are not named
//!     endpoint: ["https://mirror.example:5000", "http://10.0.0.2:5000"]
//!     rewrite: {"^library/(.*)": "hub/$1"}
//! configs:
//!   "mirror.example:5000":
//!     auth: {username: u, password: p}
//!     tls: {ca_file: /etc/ca.pem, cert_file: /etc/me.pem, key_file: /etc/me.key}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use regex::Regex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Deserialize;

use super::keyring::{Auth, Login};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: BTreeMap<String, MirrorFile>,
    configs: BTreeMap<String, HostFile>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct MirrorFile {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct HostFile {
    auth: Option<Auth>,
    tls: TlsFile,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct TlsFile {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// Where else images of a domain are found.
#[derive(Debug, Clone, Default)]
pub struct Mirror {
    /// `https://HOST[:PORT][/PATH]`, in the order in which they are asked.
    pub endpoints: Vec<String>,
    rewrite: Vec<(Regex, String)>,
}

impl Mirror {
    /// What a repository is called there.
    pub fn repository(&self, repository: &str) -> String {
        let rule = self.rewrite.iter().find(|(pattern, _)| pattern.is_match(repository));
        match rule {
            Some((pattern, to)) => pattern.replace(repository, to.as_str()).into_owned(),
            None => repository.to_owned(),
        }
    }
}

/// How one host is spoken to.
#[derive(Clone, Default)]
pub struct Host {
    pub login: Option<Login>,
    /// Where it is not what the system trusts.
    pub tls: Option<Arc<ClientConfig>>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    hosts: BTreeMap<String, Host>,
}

impl std::fmt::Debug for Registries {
    /// Tells nothing that is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts: Vec<&String> = self.hosts.keys().collect();
        f.debug_struct("Registries").field("mirrors", &self.mirrors).field("hosts", &hosts).finish()
    }
}

impl Registries {
    /// Reads a file.
    ///
    /// # Errors
    /// What in it cannot be used.
    pub fn load(path: &Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    /// # Errors
    /// What in it cannot be used.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut read = Self::default();
        let numbered = Regex::new(r"\$(\d+)").expect("a literal");
        for (domain, mirror) in file.mirrors {
            let named = |why: String| format!("mirrors: {domain:?}: {why}");
            for endpoint in &mirror.endpoint {
                check_endpoint(endpoint).map_err(named)?;
            }
            let rewrite = mirror.rewrite.into_iter().map(|(pattern, to)| {
                let pattern = Regex::new(&pattern).map_err(|error| error.to_string())?;
                // `$1` next to letters would be another name.
                Ok((pattern, numbered.replace_all(&to, "$${$1}").into_owned()))
            });
            let rewrite = rewrite.collect::<Result<_, String>>().map_err(named)?;
            let endpoints =
                mirror.endpoint.iter().map(|e| e.trim_end_matches('/').to_owned()).collect();
            read.mirrors.insert(domain, Mirror { endpoints, rewrite });
        }
        for (host, config) in file.configs {
            let named = |why: String| format!("configs: {host:?}: {why}");
            let login = config.auth.map(Auth::login).transpose().map_err(named)?;
            let tls = tls(&config.tls).map_err(named)?;
            read.hosts.insert(host, Host { login, tls });
        }
        Ok(read)
    }

    /// The mirror of a domain.
    pub fn mirror(&self, domain: &str) -> Option<&Mirror> {
        self.mirrors.get(domain).or_else(|| self.mirrors.get("*"))
    }

    /// What is said of a host, by `HOST[:PORT]`.
    pub fn host(&self, authority: &str) -> Host {
        self.hosts.get(authority).cloned().unwrap_or_default()
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let uri: Uri = endpoint.parse().map_err(|error| format!("endpoint {endpoint:?}: {error}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => Err(format!("endpoint {endpoint:?} is not http://HOST:PORT or https://HOST:PORT")),
    }
}

fn tls(file: &TlsFile) -> Result<Option<Arc<ClientConfig>>, String> {
    if file.ca_file.is_none() && file.cert_file.is_none() && !file.insecure_skip_verify {
        return Ok(None);
    }
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, String> {
        let bytes = read(path)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match all {
            Ok(all) if !all.is_empty() => Ok(all),
            _ => Err(format!("{} holds no certificates in PEM", path.display())),
        }
    };
    let mut roots = system_roots();
    if let Some(path) = &file.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let identity = match (&file.cert_file, &file.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|error| format!("{}: {error}", key.display()))?;
            Some((chain, key))
        }
        (None, None) => None,
        _ => return Err("tls needs cert_file and key_file, or neither".to_owned()),
    };
    client_config(roots, identity, file.insecure_skip_verify).map(Some)
}

type Proof = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_config(
    roots: RootCertStore,
    identity: Option<Proof>,
    insecure: bool,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let config = match identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// What the system trusts.
///
/// # Errors
/// What rustls says.
pub(super) fn system_tls() -> Result<Arc<ClientConfig>, String> {
    client_config(system_roots(), None, false)
}

/// `insecure_skip_verify`: whoever answers is believed.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_k3s_is_read() {
        let read = Registries::parse(
            "
mirrors:
  docker.io:
    endpoint: [\"https://mirror.example:5000/\", \"http://10.0.0.2\"]
    rewrite: {\"^library/(.*)\": \"hub/$1-x\"}
  \"*\": {endpoint: [\"http://cache:1\"]}
configs:
  \"mirror.example:5000\":
    auth: {username: u, password: p}
    tls: {insecure_skip_verify: true}
",
        )
        .expect("read");
        let docker = read.mirror("docker.io").expect("named");
        assert_eq!(docker.endpoints, ["https://mirror.example:5000", "http://10.0.0.2"]);
        assert_eq!(docker.repository("library/nginx"), "hub/nginx-x");
        assert_eq!(docker.repository("a/b"), "a/b");
        assert_eq!(read.mirror("ghcr.io").expect("any").endpoints, ["http://cache:1"]);
        let host = read.host("mirror.example:5000");
        assert!(host.tls.is_some() && host.login.is_some());
        assert!(read.host("other").login.is_none());
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_place() {
        for (text, expected) in [
            ("mirrors: {a: {endpoint: [\"ftp://x\"]}}", "\"ftp://x\""),
            ("mirrors: {a: {rewrite: {\"(\": x}}}", "mirrors: \"a\""),
            ("configs: {a: {tls: {ca_file: /none}}}", "/none"),
            ("configs: {a: {tls: {cert_file: /x, insecure_skip_verify: true}}}", "key_file"),
            ("configs: {a: {auth: {}}}", "configs: \"a\""),
            ("mirror: {}", "mirror"),
        ] {
            let told = Registries::parse(text).expect_err(text);
            assert!(told.contains(expected), "{told}");
        }
    }
}
