//! Signing for the well-known signers of `certificates.k8s.io`: who may have which subject and
//! which usages is the signer's rule, whoever approved the request.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>

use std::time::Duration;

use super::{Ca, IdentityError, NODE_PREFIX, NODES_GROUP, Requested, Usage, read_request};

/// Client certificates that the API server takes.
pub const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of nodes.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of nodes.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

const SHORTEST: Duration = Duration::from_secs(600);

/// Signs `csr_pem` in the name of `signer_name`, for `usages` (the API's words), valid for
/// `seconds` (at least ten minutes). Answers PEM.
///
/// # Errors
/// [`IdentityError::Refused`] when the signer's rules do not allow what is asked.
pub fn sign(
    ca: &Ca,
    csr_pem: &str,
    signer_name: &str,
    usages: &[String],
    seconds: u64,
) -> Result<String, IdentityError> {
    let asked = read_request(csr_pem)?;
    let usages: Vec<Usage> = usages.iter().map(|u| u.parse()).collect::<Result<_, _>>()?;
    check(&asked, signer_name, &usages).map_err(IdentityError::Refused)?;
    ca.sign_csr(csr_pem, &usages, Duration::from_secs(seconds).max(SHORTEST))
}

/// What a signer of this name does not sign, in Kubernetes' words where it has them.
///
/// # Errors
/// The reason, for people.
pub fn check(asked: &Requested, signer_name: &str, usages: &[Usage]) -> Result<(), String> {
    match signer_name {
        KUBE_APISERVER_CLIENT => {
            exact_usages(usages, Usage::ClientAuth)?;
            if asked.organizations.iter().any(|o| o == super::MASTERS_GROUP) {
                return Err("subject organization system:masters is not allowed".into());
            }
            Ok(())
        }
        KUBELET_CLIENT => {
            node_subject(asked)?;
            exact_usages(usages, Usage::ClientAuth)?;
            if asked.dns_names.is_empty() && asked.ips.is_empty() {
                Ok(())
            } else {
                Err("DNS and IP subjectAltNames are not allowed".into())
            }
        }
        KUBELET_SERVING => {
            node_subject(asked)?;
            exact_usages(usages, Usage::ServerAuth)?;
            if asked.dns_names.is_empty() && asked.ips.is_empty() {
                return Err("at least one DNS or IP subjectAltName is required".into());
            }
            Ok(())
        }
        other => Err(format!("signer {other:?} does not sign here")),
    }
}

fn node_subject(asked: &Requested) -> Result<(), String> {
    if asked.organizations != [NODES_GROUP] {
        return Err("subject organization is not system:nodes".into());
    }
    if asked.common_name.strip_prefix(NODE_PREFIX).is_none_or(str::is_empty) {
        return Err("subject common name does not begin with system:node:".into());
    }
    if !asked.emails.is_empty() || !asked.uris.is_empty() {
        return Err("email and URI subjectAltNames are not allowed".into());
    }
    Ok(())
}

/// `purpose` must be there; besides it only what a handshake needs.
fn exact_usages(usages: &[Usage], purpose: Usage) -> Result<(), String> {
    let allowed = [purpose, Usage::DigitalSignature, Usage::KeyEncipherment];
    let only = usages.iter().all(|usage| allowed.contains(usage));
    if only && usages.contains(&purpose) {
        return Ok(());
    }
    let found: Vec<&str> = usages.iter().map(|usage| usage.as_str()).collect();
    Err(format!("usages did not match: expected {:?}, found {found:?}", purpose.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;
    use crate::link::identity::{CertificateRequest, Identity};

    fn signed(
        name: &str,
        org: &str,
        sans: &[&str],
        signer: &str,
        usage: &str,
    ) -> Result<Identity, String> {
        let ca = Ca::ephemeral(SystemClock::shared()).expect("a CA");
        let sans: Vec<String> = sans.iter().map(|&s| s.to_owned()).collect();
        let request = CertificateRequest::new(name, &[org], &sans).expect("a request");
        let usages = ["digital signature".to_owned(), usage.to_owned()];
        let pem = sign(&ca, &request.request_pem, signer, &usages, 3600);
        let pem = pem.map_err(|error| error.to_string())?;
        Ok(Identity::new(pem, request.key_pem).expect("they belong together"))
    }

    #[test]
    fn a_node_gets_its_client_and_its_serving_certificate() {
        let client = signed("system:node:a", "system:nodes", &[], KUBELET_CLIENT, "client auth");
        assert_eq!(client.expect("signed").facts().node(), Some("a"));
        let serving =
            signed("system:node:a", "system:nodes", &["127.0.0.1"], KUBELET_SERVING, "server auth");
        assert!(serving.expect("signed").facts().server_auth);
    }

    #[test]
    fn what_a_signer_does_not_sign_is_refused_with_the_reason() {
        let cases = [
            ("alice", "system:nodes", KUBELET_CLIENT, "client auth", "common name"),
            ("system:node:a", "dev", KUBELET_CLIENT, "client auth", "organization"),
            ("system:node:a", "system:nodes", KUBELET_CLIENT, "server auth", "usages"),
            ("system:node:a", "system:nodes", KUBELET_SERVING, "server auth", "subjectAltName"),
            ("eve", "system:masters", KUBE_APISERVER_CLIENT, "client auth", "system:masters"),
            ("eve", "dev", "example.com/mine", "client auth", "example.com/mine"),
        ];
        for (name, org, signer, usage, expected) in cases {
            let error = signed(name, org, &[], signer, usage).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
