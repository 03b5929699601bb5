//! Which requests are approved without asking anyone, which are signed, which are forgotten
//! (`pkg/controller/certificates`).
//!
//! **Invariant:** a node gets certificates for itself alone: its own name, and addresses that its
//! Node object tells, never a name by which the API server or a Service is known.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::api::core::v1::Node;

use super::request::Names;
use crate::client::meta::timestamp;

pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Somebody else's turn, or over.
    Nothing,
    /// Nobody need be asked; the message says why.
    Approve(&'static str),
    /// It is approved: sign it.
    Sign,
    /// It is old enough to go.
    Forget,
    /// It names a node that is not registered yet: look again when it is.
    Wait,
    /// It breaks a rule of its signer.
    Fail(String),
}

fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition> {
    let status = request.status.as_ref()?;
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn has_certificate(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    status.and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// Whether the request has been there long enough.
fn is_old(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let hours = |n: i64| n * 3600;
    let since = |kind: &str| {
        let condition = condition(request, kind)?;
        condition.last_update_time.as_ref().map(|at| now.as_second() - timestamp(at).as_second())
    };
    let decided = ["Approved", "Denied", "Failed"].iter().filter_map(|kind| since(kind)).min();
    if let Some(age) = decided {
        return age > hours(1);
    }
    let created = request.metadata.creation_timestamp.as_ref();
    created.is_some_and(|at| now.as_second() - timestamp(at).as_second() > hours(24))
}

/// What to do with the request. `names` are those in it, or why it could not be read; `node` gives
/// the Node of a name.
pub fn plan(
    request: &CertificateSigningRequest,
    names: &Result<Names, String>,
    node: impl Fn(&str) -> Option<Node>,
    now: Timestamp,
) -> Action {
    if is_old(request, now) {
        return Action::Forget;
    }
    if has_certificate(request)
        || condition(request, "Denied").is_some()
        || condition(request, "Failed").is_some()
    {
        return Action::Nothing;
    }
    let spec = &request.spec;
    let known = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&spec.signer_name.as_str());
    if condition(request, "Approved").is_some() {
        if !known {
            return Action::Nothing;
        }
        return match names {
            Err(error) => Action::Fail(error.clone()),
            Ok(names) => match broken_rule(spec, names) {
                Some(rule) => Action::Fail(rule),
                None => Action::Sign,
            },
        };
    }
    let Ok(names) = names else { return Action::Nothing };
    if !known || broken_rule(spec, names).is_some() {
        return Action::Nothing;
    }
    approval(spec, names, node)
}

fn groups(spec: &CertificateSigningRequestSpec) -> &[String] {
    spec.groups.as_deref().unwrap_or_default()
}

fn approval(
    spec: &CertificateSigningRequestSpec,
    names: &Names,
    node: impl Fn(&str) -> Option<Node>,
) -> Action {
    let own = spec.username.as_deref() == Some(names.common_name.as_str())
        && groups(spec).iter().any(|group| group == NODES);
    match spec.signer_name.as_str() {
        KUBELET_CLIENT if own => Action::Approve(
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        ),
        KUBELET_CLIENT if groups(spec).iter().any(|group| group == BOOTSTRAPPERS) => {
            Action::Approve("Auto approving kubelet client certificate after SubjectAccessReview.")
        }
        KUBELET_SERVING if own => {
            let name = names.common_name.trim_start_matches("system:node:");
            match node(name) {
                _ if only_self(names, name) => {
                    Action::Approve("Auto approving the node's own serving certificate.")
                }
                None => Action::Wait,
                Some(node) if serves(names, name, &node) => {
                    Action::Approve("Auto approving the node's own serving certificate.")
                }
                Some(_) => Action::Nothing,
            }
        }
        _ => Action::Nothing,
    }
}

/// Whether nothing is named but the node itself and loopback.
fn only_self(names: &Names, node: &str) -> bool {
    let dns = names.dns.iter().all(|name| name == node || name == "localhost");
    dns && !is_reserved(node) && names.ips.iter().all(IpAddr::is_loopback)
}

/// A name by which something else than a node is known.
fn is_reserved(name: &str) -> bool {
    name == "kubernetes"
        || name.starts_with("kubernetes.")
        || name.ends_with(".svc")
        || name.contains(".svc.")
        || name.contains('*')
}

/// Whether the names are those of the node.
fn serves(names: &Names, name: &str, node: &Node) -> bool {
    let addresses: Vec<String> = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .map(|address| address.address.clone())
        .collect();
    let dns = names.dns.iter().all(|dns| {
        !is_reserved(dns) && (dns == name || dns == "localhost" || addresses.contains(dns))
    });
    dns && names.ips.iter().all(|ip| ip.is_loopback() || addresses.contains(&ip.to_string()))
}

/// The rule of its signer that a request breaks, in words.
fn broken_rule(spec: &CertificateSigningRequestSpec, names: &Names) -> Option<String> {
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let only = |allowed: &[&str], needed: &str| {
        usages.contains(&needed) && usages.iter().all(|usage| allowed.contains(usage))
    };
    let node_subject =
        names.organizations == [NODES] && names.common_name.starts_with("system:node:");
    let broken = match spec.signer_name.as_str() {
        CLIENT => {
            if !usages.contains(&"client auth") || usages.contains(&"server auth") {
                Some("usages must include \"client auth\" and not \"server auth\"")
            } else if names.organizations.iter().any(|group| group == "system:masters") {
                Some("the organization system:masters is not given out")
            } else {
                None
            }
        }
        KUBELET_CLIENT | KUBELET_SERVING if !node_subject => {
            Some("the subject must be O=system:nodes, CN=system:node:NAME")
        }
        KUBELET_CLIENT
            if !only(&["client auth", "digital signature", "key encipherment"], "client auth") =>
        {
            Some("usages must be \"client auth\", \"digital signature\", \"key encipherment\"")
        }
        KUBELET_CLIENT if !names.dns.is_empty() || !names.ips.is_empty() || names.others > 0 => {
            Some("a client certificate has no alternative names")
        }
        KUBELET_SERVING
            if !only(&["server auth", "digital signature", "key encipherment"], "server auth") =>
        {
            Some("usages must be \"server auth\", \"digital signature\", \"key encipherment\"")
        }
        KUBELET_SERVING if (names.dns.is_empty() && names.ips.is_empty()) || names.others > 0 => {
            Some("a serving certificate has DNS names or IP addresses and no others")
        }
        _ => None,
    };
    broken.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::time;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn request(signer: &str, user: &str, group: &str, usages: Value) -> CertificateSigningRequest {
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "csr"},
            "spec": {"signerName": signer, "username": user, "groups": [group], "usages": usages,
                "request": ""}}))
        .expect("a request");
        request.metadata.creation_timestamp = Some(time(at(0)));
        request
    }

    fn client_usages() -> Value {
        json!(["digital signature", "client auth"])
    }

    fn serving_usages() -> Value {
        json!(["digital signature", "server auth"])
    }

    fn node_names() -> Names {
        Names {
            common_name: "system:node:one".to_owned(),
            organizations: vec![NODES.to_owned()],
            ..Names::default()
        }
    }

    fn planned(request: &CertificateSigningRequest, names: Names) -> Action {
        let node = |name: &str| {
            (name == "one").then(|| {
                serde_json::from_value(json!({"metadata": {"name": "one"}, "status": {"addresses":
                    [{"type": "InternalIP", "address": "192.0.2.7"},
                     {"type": "Hostname", "address": "kubernetes.default.svc"}]}}))
                .expect("a Node")
            })
        };
        plan(request, &Ok(names), node, at(10))
    }

    #[test]
    fn nodes_and_bootstrappers_get_client_certificates() {
        let own = request(KUBELET_CLIENT, "system:node:one", NODES, client_usages());
        assert!(matches!(planned(&own, node_names()), Action::Approve(_)));
        let joining = request(KUBELET_CLIENT, "system:bootstrap:x", BOOTSTRAPPERS, client_usages());
        assert!(matches!(planned(&joining, node_names()), Action::Approve(_)));
        let other = request(KUBELET_CLIENT, "system:node:two", NODES, client_usages());
        assert_eq!(planned(&other, node_names()), Action::Nothing);
        let someone = request(KUBELET_CLIENT, "jane", "users", client_usages());
        assert_eq!(planned(&someone, node_names()), Action::Nothing);
        let server = request(KUBELET_CLIENT, "system:node:one", NODES, serving_usages());
        assert_eq!(planned(&server, node_names()), Action::Nothing);
    }

    #[test]
    fn a_serving_certificate_names_only_the_node() {
        let own = request(KUBELET_SERVING, "system:node:one", NODES, serving_usages());
        let with = |dns: &[&str], ips: &[[u8; 4]]| Names {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ips: ips.iter().map(|ip| IpAddr::from(*ip)).collect(),
            ..node_names()
        };
        let approved = |names| matches!(planned(&own, names), Action::Approve(_));
        assert!(approved(with(&["one"], &[[192, 0, 2, 7], [127, 0, 0, 1]])));
        assert!(!approved(with(&["one"], &[[10, 43, 0, 1]])));
        assert!(!approved(with(&["kubernetes.default.svc"], &[])), "not even if its Node says so");
        assert!(!approved(with(&["two"], &[])));
    }

    #[test]
    fn a_serving_request_of_an_unregistered_node_waits() {
        let user = "system:node:new";
        let own = request(KUBELET_SERVING, user, NODES, serving_usages());
        let names = Names {
            common_name: user.to_owned(),
            ips: vec![IpAddr::from([192, 0, 2, 9])],
            ..node_names()
        };
        assert_eq!(planned(&own, names), Action::Wait);
    }

    #[test]
    fn only_what_is_approved_and_keeps_the_rules_is_signed() {
        let mut approved = request(CLIENT, "jane", "users", client_usages());
        let condition = |kind: &str| {
            json!({"conditions": [{"type": kind, "status": "True",
                "lastUpdateTime": "1970-01-01T00:00:05Z"}]})
        };
        approved.status = serde_json::from_value(condition("Approved")).expect("a status");
        let jane = Names { common_name: "jane".to_owned(), ..Names::default() };
        assert_eq!(planned(&approved, jane.clone()), Action::Sign);
        let root = Names { organizations: vec!["system:masters".to_owned()], ..jane };
        assert!(matches!(planned(&approved, root), Action::Fail(_)));
        approved.spec.signer_name = "example.com/other".to_owned();
        assert_eq!(planned(&approved, node_names()), Action::Nothing);
        approved.status = serde_json::from_value(condition("Denied")).expect("a status");
        assert_eq!(planned(&approved, node_names()), Action::Nothing);
        let old = plan(&approved, &Ok(node_names()), |_| None, at(3700));
        assert_eq!(old, Action::Forget);
    }
}
