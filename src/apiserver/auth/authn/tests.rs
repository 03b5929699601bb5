//! What each credential is worth, and when it stops being worth it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::auth::tests::{AUDIENCE, Cluster, Who, admin};
use crate::apiserver::auth::{Credentials, UserInfo};
use crate::link::identity::{Ca, IdentityRequest, ServiceAccountKey, Usage};
use http::Method;

async fn bearer(cluster: &Cluster, token: &str) -> Result<UserInfo, u16> {
    let credentials = Credentials { certificate: None, bearer: Some(token.to_owned()) };
    match cluster.auth.authenticator.authenticate(&credentials).await {
        Ok(user) => Ok(user.expect("a token is no anonymous request")),
        Err(error) => {
            assert_eq!(error.message, "Unauthorized", "what was wrong is not told");
            Err(error.reason.code())
        }
    }
}

async fn issue(cluster: &Cluster, spec: &Value) -> String {
    let (code, answer) = cluster.token("robot", spec).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

fn bound(kind: &str, object: &Value) -> Value {
    json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind,
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"]}})
}

/// With the account `robot` and a pod `p` of it on the node `n`.
async fn cluster() -> (Cluster, Value) {
    let cluster = Cluster::bootstrapped().await;
    cluster.account("default", "robot").await;
    cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let pod = cluster
        .put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"nodeName": "n", "serviceAccountName": "robot",
                "containers": [{"name": "c", "image": "i"}]}}))
        .await;
    (cluster, pod)
}

#[tokio::test]
async fn a_token_says_who_the_account_is_and_where_its_pod_runs() {
    let (cluster, pod) = cluster().await;
    let user = bearer(&cluster, &issue(&cluster, &bound("Pod", &pod)).await).await.expect("valid");
    assert_eq!(user.name, "system:serviceaccount:default:robot");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
    let robot = cluster.registry.get(("", "serviceaccounts"), "default", "robot").await;
    assert_eq!(json!(user.uid), robot.expect("read").expect("there")["metadata"]["uid"]);
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")][0].clone();
    assert_eq!(extra("pod-name"), "p");
    assert_eq!(json!(extra("pod-uid")), pod["metadata"]["uid"]);
    assert_eq!(extra("node-name"), "n");
    assert!(extra("credential-id").starts_with("JTI="), "{}", extra("credential-id"));
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let (cluster, _) = cluster().await;
    let token = issue(&cluster, &json!({"expirationSeconds": 600})).await;
    assert!(bearer(&cluster, &token).await.is_ok());
    cluster.advance(600 + 60);
    assert!(bearer(&cluster, &token).await.is_ok(), "clocks may differ by a minute");
    cluster.advance(1);
    assert_eq!(bearer(&cluster, &token).await, Err(401));
}

#[tokio::test]
async fn a_token_of_a_pod_lives_longer_than_it_should_be_used() {
    let (cluster, pod) = cluster().await;
    let mut spec = bound("Pod", &pod);
    spec["expirationSeconds"] = json!(3607);
    let token = issue(&cluster, &spec).await;
    cluster.advance(24 * 3600);
    assert!(bearer(&cluster, &token).await.is_ok());
    spec["audiences"] = json!(["vault"]);
    let (_, answer) = cluster.token("robot", &spec).await;
    let other = answer["status"]["token"].as_str().expect("a token");
    let claims = cluster.config.key.verify(other).expect("signed");
    assert_eq!(claims["exp"].as_i64(), claims["iat"].as_i64().map(|at| at + 3607));
}

#[tokio::test]
async fn a_token_is_for_its_audiences() {
    let (cluster, _) = cluster().await;
    for (audiences, expected) in [
        (json!([]), true),
        (json!([AUDIENCE]), true),
        (json!(["vault", "coracle"]), true),
        (json!(["vault"]), false),
    ] {
        let token = issue(&cluster, &json!({"audiences": audiences})).await;
        assert_eq!(bearer(&cluster, &token).await.is_ok(), expected, "{audiences}");
    }
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let (cluster, pod) = cluster().await;
    let secret = cluster
        .put(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "default"}}))
        .await;
    let node = cluster.registry.get(("", "nodes"), "", "n").await.expect("read").expect("there");
    for (kind, plural, namespace, object) in [
        ("Secret", "secrets", "default", secret),
        ("Pod", "pods", "default", pod),
        ("Node", "nodes", "", node),
    ] {
        let token = issue(&cluster, &bound(kind, &object)).await;
        assert!(bearer(&cluster, &token).await.is_ok(), "{kind}");
        let name = object["metadata"]["name"].as_str().expect("a name");
        cluster.registry.delete(("", plural), namespace, name).await.expect("deleted");
        assert_eq!(bearer(&cluster, &token).await, Err(401), "{kind}");
        let mut again = json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}, "spec": object["spec"]});
        if kind == "Secret" {
            again.as_object_mut().expect("an object").remove("spec");
        }
        cluster.put(again).await;
        assert_eq!(bearer(&cluster, &token).await, Err(401), "another {kind} of that name");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let (cluster, _) = cluster().await;
    let token = issue(&cluster, &json!({})).await;
    let of = ("", "serviceaccounts");
    assert!(cluster.registry.delete(of, "default", "robot").await.expect("deleted"));
    assert_eq!(bearer(&cluster, &token).await, Err(401));
    cluster.account("default", "robot").await;
    assert_eq!(bearer(&cluster, &token).await, Err(401), "another account of that name");
}

#[tokio::test]
async fn a_token_that_another_key_signed_or_another_issuer_wrote_is_worth_nothing() {
    let (cluster, _) = cluster().await;
    let token = issue(&cluster, &json!({})).await;
    let claims = cluster.config.key.verify(&token).expect("signed");
    let theirs = ServiceAccountKey::ephemeral().expect("a key").sign(&claims).expect("signed");
    assert_eq!(bearer(&cluster, &theirs).await, Err(401));
    for (claim, value) in [
        ("iss", json!("https://elsewhere")),
        ("nbf", json!(cluster.now().as_second() + 61)),
        ("kubernetes.io", json!({"namespace": "default"})),
    ] {
        let mut other = claims.clone();
        other[claim] = value;
        let forged = cluster.config.key.sign(&other).expect("signed");
        assert_eq!(bearer(&cluster, &forged).await, Err(401), "{claim}");
    }
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let cut = format!("{head}.{}", &signature[..signature.len() - 4]);
    for broken in [cut.as_str(), head, "", "a.b.c", "abcdef.0123456789abcdef"] {
        assert_eq!(bearer(&cluster, broken).await, Err(401), "{broken}");
    }
}

#[tokio::test]
async fn a_bootstrap_token_lets_a_machine_join() {
    use base64::Engine;
    let cluster = Cluster::bootstrapped().await;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    cluster
        .put(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "data": {
                "token-id": encoded("abcdef"), "token-secret": encoded("0123456789abcdef"),
                "usage-bootstrap-authentication": encoded("true"),
                "expiration": encoded("2026-01-01T01:00:00Z"),
            },
        }))
        .await;
    let user = bearer(&cluster, "abcdef.0123456789abcdef").await.expect("valid");
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(user.groups, ["system:bootstrappers"]);
    assert_eq!(bearer(&cluster, "abcdef.0123456789abcdee").await, Err(401));
    assert_eq!(bearer(&cluster, "abcdee.0123456789abcdef").await, Err(401));
    let token = Who::Token("abcdef.0123456789abcdef");
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    assert_eq!(cluster.get(token.clone(), requests).await, 200);
    assert_eq!(cluster.get(token, "/api/v1/nodes").await, 403);
    cluster.advance(3600);
    assert_eq!(bearer(&cluster, "abcdef.0123456789abcdef").await, Err(401), "it has expired");
}

#[tokio::test]
async fn a_certificate_names_user_and_groups_for_its_time() {
    let cluster = Cluster::bootstrapped().await;
    let ca = Ca::ephemeral(cluster.config.clock.clone()).expect("a CA");
    let certificate = |name: &str, groups: &[&str]| {
        let identity = ca.issue(&IdentityRequest {
            common_name: name.to_owned(),
            organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
            sans: Vec::new(),
            usages: vec![Usage::DigitalSignature, Usage::ClientAuth],
            lifetime: Duration::from_secs(3600),
        });
        identity.expect("issued").chain()[0].to_vec()
    };
    let alice = certificate("alice", &["dev"]);
    let credentials = Credentials { certificate: Some(alice.clone()), bearer: None };
    for _ in 0..2 {
        let user = cluster.auth.authenticator.authenticate(&credentials).await.expect("valid");
        let user = user.expect("somebody");
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("alice", &["dev".into()][..]));
        let id = &user.extra["authentication.kubernetes.io/credential-id"][0];
        assert!(id.starts_with("X509SHA256="), "{id}");
    }
    let root = certificate("root", &["system:masters"]);
    assert_eq!(cluster.get(Who::Certificate(root), "/api/v1/nodes").await, 200);
    assert_eq!(cluster.get(Who::Certificate(alice.clone()), "/api/v1/nodes").await, 403);
    let nobody = certificate("", &["system:masters"]);
    assert_eq!(cluster.get(Who::Certificate(nobody), "/api/v1/nodes").await, 401);
    cluster.advance(3601);
    assert_eq!(cluster.get(Who::Certificate(alice), "/version").await, 401, "it has expired");
}

#[tokio::test]
async fn who_brings_nothing_is_nobody_and_no_error() {
    let cluster = Cluster::empty().await;
    let nothing = Credentials::default();
    let user = cluster.auth.authenticator.authenticate(&nothing).await.expect("no error");
    assert_eq!(user, None);
    let (code, _) = cluster.send(Who::User(admin()), Method::GET, "/version", &Value::Null).await;
    assert_eq!(code, 200);
}
