//! Joining a cluster by token, and keeping the certificates that came of it.
//!
//! ```text
//!  identity on disk, still valid? ──yes──▶ use it
//!        │ no
//!  fetch the server's CA ──its hash is the token's?──no──▶ refuse, having sent nothing
//!        │ yes
//!  CertificateSigningRequest with the token ──▶ wait for the certificate ──▶ keep it (0600)
//!        │
//!  renew with the certificate itself when a third of its time is left
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::access::{Access, AccessError, anonymous, private_dir};
use super::config::AgentConfig;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::rest;
use crate::link::identity::{Ca, CertificateRequest, Identity, IdentityError, IdentityRequest};
use crate::link::identity::{JoinToken, Usage};
use crate::link::tls::fetch_ca;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How long a request for a certificate waits before it is made anew.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Why the node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(
        "the server refused the join token ({0}); take the newest from join-token in the server's data directory"
    )]
    Refused(String),
    #[error("the certificate request {name} was denied: {message}")]
    Denied { name: String, message: String },
    #[error("nobody signed the certificate request {name} within a minute")]
    NotSigned { name: String },
    #[error("the API server did not take the certificate request: {0}")]
    Api(String),
    #[error("the agent was told to end")]
    Ended,
}

impl JoinError {
    /// Whether trying again later may help.
    fn passes(&self) -> bool {
        match self {
            Self::Api(_) | Self::NotSigned { .. } => true,
            // The server could not be reached; a token for another cluster stays wrong.
            Self::Identity(error) => matches!(error, IdentityError::Crypto { .. }),
            _ => false,
        }
    }
}

fn user(node: &str) -> String {
    format!("system:node:{node}")
}

/// `HOST:PORT` and host of a server's URL.
fn address(server: &str) -> (String, String) {
    let rest = server.trim_start_matches("https://");
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let whole = match authority.ends_with(']') || !authority.contains(':') {
        true => format!("{authority}:443"),
        false => authority.to_owned(),
    };
    (whole, host)
}

/// Joins, or takes up the identity that an earlier join left; waits for a server that is not there.
pub async fn join(
    config: &AgentConfig,
    server: &str,
    token: &str,
    clock: &SharedClock,
    shutdown: &Shutdown,
) -> Result<Access, JoinError> {
    let dir = private_dir(config);
    let token: JoinToken = token.parse()?;
    if let Some(access) = kept(config, server, &dir, &token, clock)? {
        return Ok(access);
    }
    let mut pause = Duration::from_millis(500);
    loop {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return Err(JoinError::Ended),
            tried = enrol(config, server, &dir, &token) => tried,
        };
        match tried {
            Ok(access) => return Ok(access),
            Err(error) if error.passes() => {
                tracing::warn!(server, %error, "not joined yet; trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(JoinError::Ended),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// The identity of an earlier join, if it is this node's, of this cluster, and has not expired.
fn kept(
    config: &AgentConfig,
    server: &str,
    dir: &Path,
    token: &JoinToken,
    clock: &SharedClock,
) -> Result<Option<Access>, JoinError> {
    let Some(identity) = Identity::load(dir, "client")? else { return Ok(None) };
    let Ok(pem) = std::fs::read_to_string(dir.join("ca.crt")) else { return Ok(None) };
    let Some(ca) = crate::link::identity::certificates_from_pem(&pem)?.into_iter().next() else {
        return Ok(None);
    };
    let same = identity.facts().common_name == user(&config.node_name);
    if !same || token.verify_ca(&ca).is_err() {
        tracing::info!("the kept identity is another node's or another cluster's; joining anew");
        return Ok(None);
    }
    if let Err(error) = identity.facts().check_validity(clock.now()) {
        tracing::warn!(%error, "the kept certificate cannot be used; joining anew");
        return Ok(None);
    }
    Ok(Some(Access::joined(server, ca, identity)?))
}

async fn enrol(
    config: &AgentConfig,
    server: &str,
    dir: &Path,
    token: &JoinToken,
) -> Result<Access, JoinError> {
    let (address, host) = address(server);
    let ca = fetch_ca(&address, &host, token).await?;
    let mut with_token = anonymous(server, &ca)?;
    let auth = json!({"token": token.bearer()});
    with_token.auth_info = serde_json::from_value(auth).expect("the field is AuthInfo's own");
    let client = kube::Client::try_from(with_token)
        .map_err(|e| JoinError::Access(AccessError::Client(e.to_string())))?;
    let request = CertificateRequest::new(&user(&config.node_name), &["system:nodes"], &[])?;
    let usages = ["digital signature", Usage::ClientAuth.as_str()];
    let identity = sign(&client, "node-csr", CLIENT_SIGNER, &usages, request).await?;
    identity.save(dir, "client")?;
    crate::link::identity::write_public(&dir.join("ca.crt"), pem(&ca).as_bytes())?;
    tracing::info!(server, node = config.node_name, "joined the cluster");
    Ok(Access::joined(server, ca, identity)?)
}

fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).expect("base64")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Has a request signed through the API.
async fn sign(
    client: &kube::Client,
    prefix: &str,
    signer: &str,
    usages: &[&str],
    request: CertificateRequest,
) -> Result<Identity, JoinError> {
    let digest = hex::encode(Sha256::digest(&request.request_pem));
    let name = format!("{prefix}-{}", &digest[..32]);
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(&request.request_pem),
            "signerName": signer, "usages": usages,
        },
    });
    let failed = |error: kube::Error| match rest::code(&error) {
        Some(401 | 403) => JoinError::Refused(error.to_string()),
        _ => JoinError::Api(error.to_string()),
    };
    let all = rest::all::<CertificateSigningRequest>();
    rest::create::<rest::Ignored>(client, &all, &body).await.map_err(failed)?;
    let path = rest::cluster_object::<CertificateSigningRequest>(&name);
    let signed = async {
        loop {
            let seen: CertificateSigningRequest = rest::get(client, &path).await.map_err(failed)?;
            let status = seen.status.unwrap_or_default();
            if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
                return Ok(String::from_utf8_lossy(&certificate.0).into_owned());
            }
            let bad = |kind: &str| matches!(kind, "Denied" | "Failed");
            if let Some(no) = status.conditions.into_iter().flatten().find(|c| bad(&c.type_)) {
                let message = no.message.or(no.reason).unwrap_or_default();
                return Err(JoinError::Denied { name: name.clone(), message });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(SIGNED_WITHIN, signed).await {
        Ok(certificate) => Ok(Identity::new(certificate?, request.key_pem)?),
        Err(_) => Err(JoinError::NotSigned { name }),
    }
}

/// The names that the kubelet API's certificate carries.
fn serving_sans(config: &AgentConfig) -> Vec<String> {
    let mut sans = vec![config.node_name.clone(), config.node_ip.to_string()];
    let listen = config.listen.ip();
    if !listen.is_unspecified() && listen != config.node_ip {
        sans.push(listen.to_string());
    }
    sans
}

/// The certificate of the kubelet API: the kept one, a newly signed one, or, where nobody signs,
/// one of the node's own making.
pub async fn serving(
    config: &AgentConfig,
    client: &kube::Client,
    clock: &SharedClock,
) -> Result<Identity, JoinError> {
    let dir = private_dir(config);
    if let Some(kept) = Identity::load(&dir, "serving")?
        && kept.facts().common_name == user(&config.node_name)
        && !kept.wants_renewal(clock.now())
    {
        return Ok(kept);
    }
    match request_serving(config, client).await {
        Ok(identity) => {
            identity.save(&dir, "serving")?;
            Ok(identity)
        }
        Err(error) => {
            tracing::warn!(%error, "nobody signed the kubelet API's certificate; it signs its own");
            let ca = Ca::ephemeral(clock.clone())?;
            Ok(ca.issue(&IdentityRequest {
                common_name: user(&config.node_name),
                organizations: vec!["system:nodes".to_owned()],
                sans: serving_sans(config),
                usages: vec![Usage::ServerAuth],
                lifetime: Duration::from_secs(365 * 24 * 3600),
            })?)
        }
    }
}

async fn request_serving(
    config: &AgentConfig,
    client: &kube::Client,
) -> Result<Identity, JoinError> {
    let name = user(&config.node_name);
    let request = CertificateRequest::new(&name, &["system:nodes"], &serving_sans(config))?;
    let usages = ["digital signature", Usage::ServerAuth.as_str()];
    let signing = sign(client, "serving-csr", SERVING_SIGNER, &usages, request);
    // The agent does not wait for this one: a cluster that does not sign it still has a node.
    match tokio::time::timeout(Duration::from_secs(10), signing).await {
        Ok(signed) => signed,
        Err(_) => Err(JoinError::NotSigned { name: "for the kubelet API".to_owned() }),
    }
}

/// Renews the client certificate when its time comes, until the shutdown.
pub async fn keep(
    config: AgentConfig,
    access: Arc<Access>,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
        let due = access.identity().is_some_and(|i| i.wants_renewal(clock.now()));
        if !due {
            continue;
        }
        let renewed = async {
            let request =
                CertificateRequest::new(&user(&config.node_name), &["system:nodes"], &[])?;
            let usages = ["digital signature", Usage::ClientAuth.as_str()];
            let client = access.client();
            let identity = sign(&client, "node-csr", CLIENT_SIGNER, &usages, request).await?;
            identity.save(&private_dir(&config), "client")?;
            access.renew(identity)?;
            Ok::<_, JoinError>(())
        };
        match renewed.await {
            Ok(()) => tracing::info!("the node's certificate was renewed"),
            Err(error) => tracing::warn!(%error, "the node's certificate was not renewed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_gives_address_and_name() {
        let table = [
            ("https://127.0.0.1:6443", "127.0.0.1:6443", "127.0.0.1"),
            ("https://api.example.com", "api.example.com:443", "api.example.com"),
            ("https://[::1]:6443/x", "[::1]:6443", "::1"),
            ("https://[::1]", "[::1]:443", "::1"),
        ];
        for (url, whole, host) in table {
            assert_eq!(address(url), (whole.to_owned(), host.to_owned()), "{url}");
        }
    }
}
