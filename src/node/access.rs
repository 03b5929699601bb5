//! The way to the API server: who the agent is there, whom it trusts, and clients made of that.
//!
//! Certificates are renewed while the agent runs, so every client asks for the connection of the
//! moment: [`Access::client`] gives one that goes on over a renewal.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::config::AgentConfig;
use super::lease::ClientSource;
use crate::link::identity::{Identity, certificates_from_pem};

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("--kubeconfig {path}: {message}")]
    Kubeconfig { path: String, message: String },
    #[error("--server {server} is not a URL: {message}")]
    Server { server: String, message: String },
    #[error("cannot speak to the API server: {0}")]
    Client(String),
}

/// See the module.
pub struct Access {
    config: ArcSwap<kube::Config>,
    /// The CA that signs the API server and the nodes, where it is known.
    pub ca: Option<CertificateDer<'static>>,
    /// The node's client certificate, where it has one of its own.
    identity: ArcSwap<Option<Identity>>,
    current: Arc<ArcSwap<kube::Client>>,
}

fn with_identity(config: &mut kube::Config, identity: &Identity) {
    let auth = json!({
        "client-certificate-data": STANDARD.encode(&identity.certificate_pem),
        "client-key-data": STANDARD.encode(&identity.key_pem),
    });
    config.auth_info = serde_json::from_value(auth).expect("the fields are AuthInfo's own");
}

fn client_of(config: &kube::Config) -> Result<kube::Client, AccessError> {
    kube::Client::try_from(config.clone()).map_err(|e| AccessError::Client(e.to_string()))
}

/// A configuration for `server` that trusts `ca` and says nothing of who is asking.
pub fn anonymous(server: &str, ca: &CertificateDer<'static>) -> Result<kube::Config, AccessError> {
    let wrong = |message: String| AccessError::Server { server: server.to_owned(), message };
    let mut config = kube::Config::new(server.parse().map_err(|e| wrong(format!("{e}")))?);
    config.root_cert = Some(vec![ca.to_vec()]);
    config.auth_info = AuthInfo::default();
    Ok(config)
}

impl Access {
    /// As the node itself, joined by token.
    pub fn joined(
        server: &str,
        ca: CertificateDer<'static>,
        identity: Identity,
    ) -> Result<Self, AccessError> {
        let mut config = anonymous(server, &ca)?;
        with_identity(&mut config, &identity);
        Self::new(config, Some(ca), Some(identity))
    }

    /// As the kubeconfig says.
    pub async fn kubeconfig(path: &std::path::Path) -> Result<Self, AccessError> {
        let failed =
            |message: String| AccessError::Kubeconfig { path: path.display().to_string(), message };
        let file = Kubeconfig::read_from(path).map_err(|e| failed(e.to_string()))?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let config = config.map_err(|e| failed(e.to_string()))?;
        let ca = config.root_cert.as_ref().and_then(|all| all.first());
        let ca = ca.map(|der| CertificateDer::from(der.clone()));
        let identity = identity_of(&config.auth_info);
        Self::new(config, ca, identity)
    }

    fn new(
        config: kube::Config,
        ca: Option<CertificateDer<'static>>,
        identity: Option<Identity>,
    ) -> Result<Self, AccessError> {
        let current = Arc::new(ArcSwap::from_pointee(client_of(&config)?));
        Ok(Self {
            config: ArcSwap::from_pointee(config),
            ca,
            identity: ArcSwap::from_pointee(identity),
            current,
        })
    }

    /// The node's own certificate now.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.load().as_ref().clone()
    }

    /// Speaks with a new certificate from now on.
    pub fn renew(&self, identity: Identity) -> Result<(), AccessError> {
        let mut config = self.config.load().as_ref().clone();
        with_identity(&mut config, &identity);
        self.current.store(Arc::new(client_of(&config)?));
        self.config.store(Arc::new(config));
        self.identity.store(Arc::new(Some(identity)));
        Ok(())
    }

    /// A client that goes on over renewals. It belongs to the runtime that `self` was made on.
    pub fn client(&self) -> kube::Client {
        let current = Arc::clone(&self.current);
        let service = tower::service_fn(move |request| {
            let client = current.load_full();
            async move { client.send(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Makes clients of their own for other runtimes.
    pub fn source(self: &Arc<Self>) -> ClientSource {
        let access = Arc::clone(self);
        Arc::new(move || kube::Client::try_from(access.config.load().as_ref().clone()))
    }

    /// A client that shows the token in `file` and no certificate.
    pub fn with_token_file(&self, file: &std::path::Path) -> Result<kube::Client, AccessError> {
        let mut config = self.config.load().as_ref().clone();
        let auth = AuthInfo {
            token_file: Some(file.to_string_lossy().into_owned()),
            ..AuthInfo::default()
        };
        config.auth_info = auth;
        client_of(&config)
    }

    /// Host and port of the API server.
    pub fn server(&self) -> (String, u16) {
        let config = self.config.load();
        let url = &config.cluster_url;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, url.port_u16().unwrap_or(443))
    }
}

/// The client certificate of a kubeconfig's user.
fn identity_of(auth: &AuthInfo) -> Option<Identity> {
    let value = serde_json::to_value(auth).ok()?;
    let part = |data: &str, file: &str| -> Option<String> {
        if let Some(text) = value.get(data).and_then(|v| v.as_str()) {
            return String::from_utf8(STANDARD.decode(text).ok()?).ok();
        }
        std::fs::read_to_string(value.get(file)?.as_str()?).ok()
    };
    let certificate = part("client-certificate-data", "client-certificate")?;
    certificates_from_pem(&certificate).ok()?;
    Identity::new(certificate, part("client-key-data", "client-key")?).ok()
}

/// What the agent listens with and dials with follows the identity of the moment.
pub fn private_dir(config: &AgentConfig) -> std::path::PathBuf {
    config.data_dir.join("identity")
}
