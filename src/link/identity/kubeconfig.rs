//! A kubeconfig that needs nothing besides itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Identity;

/// The text of a kubeconfig for `server` (`https://HOST:PORT`) with the CA and the client
/// certificate embedded. Names are plain words: `cluster` and `user` go in as they are.
pub fn kubeconfig(
    server: &str,
    cluster: &str,
    user: &str,
    ca_pem: &str,
    identity: &Identity,
) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster}\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n  \
           user:\n    \
             client-certificate-data: {certificate}\n    \
             client-key-data: {key}\n\
         contexts:\n\
         - name: {cluster}\n  \
           context:\n    \
             cluster: {cluster}\n    \
             user: {user}\n\
         current-context: {cluster}\n\
         preferences: {{}}\n"
    )
}
