//! What the server leaves in its data directory for people and agents: `kubeconfig`, `join-token`,
//! and `ready`, which holds the URL of the API while the server serves it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::api::status::Reason;
use crate::apiserver::Registry;
use crate::link::identity::{
    Ca, IdentityError, IdentityRequest, JoinToken, MASTERS_GROUP, Usage, kubeconfig, write_private,
    write_public,
};

const ADMIN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// What a joining agent's bootstrap token makes it a member of, besides `system:bootstrappers`.
const BOOTSTRAP_GROUPS: &str = "system:bootstrappers:coracle";

/// Writes a kubeconfig whose client certificate is an administrator's. Each start makes a new
/// certificate; those handed out before stay valid until their own end.
///
/// # Errors
/// What making the certificate or writing the file says.
pub fn write_kubeconfig(dir: &Path, ca: &Ca, url: &str) -> Result<PathBuf, IdentityError> {
    let admin = ca.issue(&IdentityRequest {
        common_name: "coracle-admin".into(),
        organizations: vec![MASTERS_GROUP.into()],
        sans: Vec::new(),
        usages: vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth],
        lifetime: ADMIN_LIFETIME,
    })?;
    let path = dir.join("kubeconfig");
    let text = kubeconfig(url, "coracle", "coracle-admin", ca.certificate_pem(), &admin);
    write_private(&path, text.as_bytes())?;
    Ok(path)
}

/// Writes the join token, the one from before if it still holds.
///
/// # Errors
/// What the registry or the disk says.
pub async fn write_join_token(dir: &Path, ca: &Ca, registry: &Registry) -> anyhow::Result<PathBuf> {
    let path = dir.join("join-token");
    let kept = std::fs::read_to_string(&path).ok().and_then(|text| text.parse::<JoinToken>().ok());
    let kept = kept.filter(|token| token.ca_sha256 == ca.sha256());
    let token = kept.unwrap_or_else(|| JoinToken::generate(&ca.sha256()));
    let encode = |text: &str| STANDARD.encode(text);
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {
            "name": format!("bootstrap-token-{}", token.id),
            "namespace": "kube-system",
        },
        "data": {
            "token-id": encode(&token.id),
            "token-secret": encode(&token.secret),
            "usage-bootstrap-authentication": encode("true"),
            "auth-extra-groups": encode(BOOTSTRAP_GROUPS),
            "description": encode("Lets agents join; the server keeps it in its join-token file"),
        },
    });
    match registry.create(("", "secrets"), "kube-system", secret).await {
        Err(error) if error.reason != Reason::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    write_private(&path, token.to_string().as_bytes())?;
    Ok(path)
}

/// The file that tells where a running server is; removed when the value goes.
pub struct Ready(PathBuf);

impl Ready {
    /// Tells that the API is served at `url`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn tell(dir: &Path, url: &str) -> Result<Self, IdentityError> {
        let path = dir.join("ready");
        write_public(&path, format!("{url}\n").as_bytes())?;
        Ok(Self(path))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Who this server is among those that may schedule and control: kept, so that a server that comes
/// back after a crash takes its own Leases up again instead of waiting for them to run out.
///
/// # Errors
/// What the disk says.
pub fn identity(dir: &Path) -> Result<String, IdentityError> {
    let path = dir.join("server-id");
    if let Ok(kept) = std::fs::read_to_string(&path)
        && !kept.trim().is_empty()
    {
        return Ok(kept.trim().to_owned());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let mut bytes = [0u8; 6];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the system has randomness");
    let made = format!("{host}_{}", hex::encode(bytes));
    write_public(&path, made.as_bytes())?;
    Ok(made)
}
