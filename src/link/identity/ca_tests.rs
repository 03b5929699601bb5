use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::clock::{Clock, FakeClock, SystemClock};
use crate::link::identity::{CertificateRequest, ServingCertificate, serving_names};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn node_request() -> IdentityRequest {
    IdentityRequest {
        common_name: "system:node:a".into(),
        organizations: vec!["system:nodes".into()],
        sans: Vec::new(),
        usages: vec![Usage::ClientAuth],
        lifetime: DAY,
    }
}

#[test]
fn the_ca_on_disk_is_found_again_and_its_key_is_private() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("pki");
    let first = Ca::open_or_create(&dir, SystemClock::shared()).expect("a CA");
    let second = Ca::open_or_create(&dir, SystemClock::shared()).expect("the CA");
    assert_eq!(first.sha256(), second.sha256());
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
}

#[test]
fn half_a_ca_is_refused_and_names_the_missing_file() {
    let dir = tempfile::tempdir().expect("a folder");
    Ca::open_or_create(dir.path(), SystemClock::shared()).expect("a CA");
    std::fs::remove_file(dir.path().join("ca.key")).expect("removed");
    let error = Ca::open_or_create(dir.path(), SystemClock::shared()).expect_err("half a CA");
    assert!(error.to_string().contains("ca.key"), "{error}");
}

#[test]
fn an_expired_ca_says_when_it_expired() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a time"));
    Ca::open_or_create(dir.path(), clock.clone()).expect("a CA");
    clock.advance(DAY * 3660);
    let error = Ca::open_or_create(dir.path(), clock).expect_err("an expired CA");
    assert!(error.to_string().contains("expired at 2035-12-30"), "{error}");
}

#[test]
fn an_issued_certificate_says_what_was_asked() {
    let ca = Ca::ephemeral(SystemClock::shared()).expect("a CA");
    let mut request = node_request();
    request.sans = vec!["worker.local".into(), "10.0.0.7".into()];
    let identity = ca.issue(&request).expect("an identity");
    let facts = identity.facts();
    assert_eq!(facts.node(), Some("a"));
    assert_eq!(facts.dns_names, ["worker.local"]);
    assert_eq!(facts.ips, ["10.0.0.7".parse::<std::net::IpAddr>().expect("an IP")]);
    assert!(facts.client_auth && !facts.server_auth);
}

#[test]
fn two_organizations_are_two_groups_and_three_are_refused() {
    let ca = Ca::ephemeral(SystemClock::shared()).expect("a CA");
    let mut request = node_request();
    request.organizations = vec!["dev".into(), "ops".into()];
    let identity = ca.issue(&request).expect("an identity");
    assert_eq!(identity.facts().organizations, ["dev", "ops"]);
    request.organizations.push("qa".into());
    let error = ca.issue(&request).expect_err("three organizations");
    assert!(error.to_string().contains("at most 2 organizations"), "{error}");
}

#[test]
fn a_signed_request_keeps_its_subject_and_gets_only_the_usages_given() {
    let ca = Ca::ephemeral(SystemClock::shared()).expect("a CA");
    let sans = ["10.0.0.7".to_owned()];
    let request = CertificateRequest::new("system:node:a", &["system:nodes"], &sans);
    let request = request.expect("a request");
    let pem = ca.sign_csr(&request.request_pem, &[Usage::ServerAuth], DAY).expect("signed");
    let identity = Identity::new(pem, request.key_pem).expect("certificate and key belong");
    assert_eq!(identity.facts().node(), Some("a"));
    assert_eq!(identity.facts().ips.len(), 1);
    assert!(identity.facts().server_auth && !identity.facts().client_auth);
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let request = CertificateRequest::new("alice", &[], &[]).expect("a request");
    let body: String = request.request_pem.lines().filter(|l| !l.starts_with("---")).collect();
    let mut der =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("base64");
    let at = der.windows(5).position(|w| w == b"alice").expect("the name is in it");
    der[at..at + 5].copy_from_slice(b"admin");
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let forged =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    let error = read_request(&forged).expect_err("a forged request");
    assert!(error.to_string().contains("signature"), "{error}");
}

#[test]
fn garbage_is_no_request() {
    for text in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(matches!(read_request(text), Err(IdentityError::Unreadable { .. })), "{text}");
    }
}

#[test]
fn a_certificate_outside_its_time_is_told() {
    let clock = FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a time"));
    let ca = Ca::ephemeral(clock.clone()).expect("a CA");
    let identity = ca.issue(&node_request()).expect("an identity");
    assert!(identity.facts().check_validity(clock.now()).is_ok());
    clock.advance(DAY * 2);
    let error = identity.facts().check_validity(clock.now()).expect_err("expired");
    assert!(error.to_string().contains("\"system:node:a\" expired at 2026-01-02"), "{error}");
}

#[test]
fn the_serving_certificate_is_kept_until_it_ages_or_its_names_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a time"));
    let ca = Arc::new(Ca::ephemeral(clock.clone()).expect("a CA"));
    let names = serving_names(&["192.168.1.9".parse().expect("an IP")], "cluster.local", &[]);
    let open = |names: &[String]| {
        let serving =
            ServingCertificate::open(ca.clone(), dir.path(), names.to_vec(), clock.clone());
        serving.expect("a serving certificate")
    };
    let serving = open(&names);
    let first = serving.identity().certificate_pem.clone();
    assert_eq!(open(&names).identity().certificate_pem, first);
    assert!(!serving.renew().expect("nothing to do"));
    let identity = serving.identity();
    let dns = &identity.facts().dns_names;
    assert!(dns.contains(&"kubernetes.default.svc.cluster.local".to_owned()), "{dns:?}");

    let more = [names.clone(), vec!["edge.example".into()]].concat();
    assert_ne!(open(&more).identity().certificate_pem, first);

    clock.advance(DAY * 300);
    assert!(serving.renew().expect("renewed"));
    assert_ne!(serving.identity().certificate_pem, first);
}
