//! What is answered to questions, in Kubernetes' words.

use http::Method;
use serde_json::{Value, json};

use crate::apiserver::auth::UserInfo;
use crate::apiserver::auth::tests::{AUDIENCE, Cluster, Who, admin, node, user};

async fn ask(cluster: &Cluster, who: &UserInfo, kind: &str, spec: &Value) -> (u16, Value) {
    let group = match kind {
        "TokenReview" | "SelfSubjectReview" => "authentication.k8s.io",
        _ => "authorization.k8s.io",
    };
    let plural = format!("{}s", kind.to_lowercase());
    let path = match kind {
        "LocalSubjectAccessReview" => format!("/apis/{group}/v1/namespaces/default/{plural}"),
        _ => format!("/apis/{group}/v1/{plural}"),
    };
    let question = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
    let question = if kind == "SelfSubjectReview" {
        json!({"apiVersion": format!("{group}/v1"), "kind": kind})
    } else {
        question
    };
    cluster.send(Who::User(who.clone()), Method::POST, &path, &question).await
}

#[tokio::test]
async fn a_review_says_whether_and_why() {
    let cluster = Cluster::bootstrapped().await;
    cluster.bind("view", "", json!({"kind": "Group", "name": "auditors"})).await;
    let list = |resource: &str| json!({"verb": "list", "resource": resource});
    let about = |resource: &str| json!({"user": "bob", "groups": ["auditors"], "resourceAttributes": list(resource)});
    let (code, answer) = ask(&cluster, &admin(), "SubjectAccessReview", &about("pods")).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)), "{answer}");
    let reason = answer["status"]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("RBAC: allowed by ClusterRoleBinding \"bound-"), "{reason}");
    assert!(reason.ends_with("of ClusterRole \"view\" to Group \"auditors\""), "{reason}");
    let (_, answer) = ask(&cluster, &admin(), "SubjectAccessReview", &about("secrets")).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
    let (_, answer) = ask(&cluster, &admin(), "SelfSubjectAccessReview", &path).await;
    assert_eq!(answer["status"]["allowed"], true);
    let (_, answer) = ask(&cluster, &user("eve", &[]), "SelfSubjectAccessReview", &path).await;
    assert_eq!(answer["status"]["allowed"], false);
    let (code, _) = ask(&cluster, &user("eve", &[]), "SubjectAccessReview", &about("pods")).await;
    assert_eq!(code, 403, "who asks about others needs leave");
}

#[tokio::test]
async fn a_review_that_asks_nothing_sound_is_refused() {
    let cluster = Cluster::bootstrapped().await;
    let pods = json!({"verb": "list", "resource": "pods", "namespace": "other"});
    let path = json!({"verb": "get", "path": "/"});
    let kind = "SubjectAccessReview";
    for (spec, words) in [
        (
            json!({"user": "a"}),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            json!({"user": "a", "resourceAttributes": pods, "nonResourceAttributes": path}),
            "cannot be specified in combination with resourceAttributes",
        ),
        (json!({"resourceAttributes": pods}), "at least one of user or group must be specified"),
    ] {
        let (code, answer) = ask(&cluster, &admin(), kind, &spec).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 422 && message.contains(words), "{code} {message}");
    }
    let spec = json!({"user": "a", "resourceAttributes": pods});
    let (code, answer) = ask(&cluster, &admin(), "LocalSubjectAccessReview", &spec).await;
    let words = "spec.resourceAttributes.namespace must match namespace: default";
    assert_eq!((code, &answer["message"]), (400, &json!(words)));
}

#[tokio::test]
async fn the_rules_of_a_user_are_listed() {
    let cluster = Cluster::bootstrapped().await;
    cluster.bind("view", "default", json!({"kind": "User", "name": "alice"})).await;
    let (alice, spec) = (user("alice", &[]), json!({"namespace": "default"}));
    let (code, answer) = ask(&cluster, &alice, "SelfSubjectRulesReview", &spec).await;
    assert_eq!(code, 201, "{answer}");
    let rules = answer["status"]["resourceRules"].to_string();
    assert!(rules.contains("\"pods\"") && !rules.contains("\"secrets\""), "{rules}");
    assert_eq!(answer["status"]["incomplete"], false);
    let (_, answer) = ask(&cluster, &admin(), "SelfSubjectRulesReview", &spec).await;
    let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    assert_eq!(answer["status"]["resourceRules"][0], everything);
    let (_, answer) = ask(&cluster, &node("a"), "SelfSubjectRulesReview", &spec).await;
    assert_eq!(answer["status"]["incomplete"], true);
    let (code, _) = ask(&cluster, &alice, "SelfSubjectRulesReview", &json!({})).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn one_may_ask_who_one_is() {
    let cluster = Cluster::bootstrapped().await;
    let (code, answer) =
        ask(&cluster, &user("alice", &["dev"]), "SelfSubjectReview", &Value::Null).await;
    let info = json!({"username": "alice", "groups": ["dev", "system:authenticated"]});
    assert_eq!((code, &answer["status"]["userInfo"]), (201, &info));
}

#[tokio::test]
async fn a_token_is_reviewed_for_an_audience() {
    let cluster = Cluster::bootstrapped().await;
    cluster.account("default", "robot").await;
    let review = |spec: Value| {
        let cluster = &cluster;
        async move { ask(cluster, &admin(), "TokenReview", &spec).await }
    };
    let (_, answer) = cluster.token("robot", &json!({"audiences": ["vault", AUDIENCE]})).await;
    let token = answer["status"]["token"].clone();
    let (code, answer) = review(json!({"token": token})).await;
    let status = &answer["status"];
    assert_eq!((code, &status["authenticated"]), (201, &json!(true)), "{answer}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        status["user"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(status["audiences"], json!([AUDIENCE]));
    let (_, answer) = review(json!({"token": token, "audiences": ["vault", "other"]})).await;
    assert_eq!(answer["status"]["audiences"], json!(["vault"]));
    let (_, answer) = review(json!({"token": token, "audiences": ["other"]})).await;
    assert_eq!(answer["status"]["authenticated"], Value::Null);
    let words = format!(
        "token audiences [\"vault\" {AUDIENCE:?}] is invalid for the target audiences [\"other\"]"
    );
    assert_eq!(answer["status"]["error"], words);
    let (_, answer) = review(json!({"token": "nonsense"})).await;
    assert_eq!(answer["status"]["error"], "invalid bearer token");
    let (code, _) = review(json!({"token": ""})).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_token_is_handed_out_as_it_was_asked_for() {
    let cluster = Cluster::bootstrapped().await;
    let account = cluster.account("default", "robot").await;
    let (code, answer) = cluster.token("robot", &json!({"audiences": ["vault"]})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["kind"], "TokenRequest");
    assert_eq!(answer["metadata"]["name"], "robot");
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:00Z");
    let token = answer["status"]["token"].as_str().expect("a token");
    let claims = cluster.config.key.verify(token).expect("signed");
    assert_eq!(claims["aud"], json!(["vault"]));
    assert_eq!(claims["iss"], AUDIENCE);
    assert_eq!(claims["sub"], "system:serviceaccount:default:robot");
    let said = &claims["kubernetes.io"];
    assert_eq!(said["serviceaccount"], json!({"name": "robot", "uid": account["metadata"]["uid"]}));
    assert_eq!(said["namespace"], "default");
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused() {
    let cluster = Cluster::bootstrapped().await;
    cluster.account("default", "robot").await;
    cluster.account("default", "default").await;
    cluster.pod("p", "n").await;
    let to = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    let other = json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment",
        "name": "d"}});
    for (account, spec, code, words) in [
        ("nobody", json!({}), 404, "serviceaccounts \"nobody\" not found"),
        (
            "robot",
            json!({"expirationSeconds": 599}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            "robot",
            json!({"expirationSeconds": (1i64 << 32) + 1}),
            422,
            "may not specify a duration larger than 2^32 seconds",
        ),
        ("default", to("Pod", "q", ""), 404, "pods \"q\" not found"),
        (
            "robot",
            to("Pod", "p", ""),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different \
             serviceaccount name.",
        ),
        (
            "default",
            to("Pod", "p", "x"),
            409,
            "the UID in the bound object reference (x) does not match the UID in record. The \
             object might have been deleted and then recreated",
        ),
        ("robot", to("Secret", "q", ""), 404, "secrets \"q\" not found"),
        ("robot", to("Node", "q", ""), 404, "nodes \"q\" not found"),
        ("robot", other, 400, "cannot bind token to object of type apps/v1, Kind=Deployment"),
    ] {
        let (told, answer) = cluster.token(account, &spec).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(told == code && message.contains(words), "{told} {message}");
    }
}
