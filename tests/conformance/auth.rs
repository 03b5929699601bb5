//! sig-auth: certificates, service accounts, reviews.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::harness::{Api, MERGE, STRATEGIC, names, unique};

fn request_pem() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["e2e.example.com".into()]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "e2e.example.com");
    let request = params.serialize_request(&key).expect("a request");
    request.pem().expect("its PEM")
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

#[tokio::test]
async fn signing_requests_support_the_api_operations() {
    let api = Api::connect().await;
    let signer = format!("example.com/e2e-{}", unique("csr"));
    let template = json!({"metadata": {"generateName": "e2e-example-csr-"}, "spec": {
        "request": STANDARD.encode(request_pem()), "signerName": signer,
        "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"]}});
    for subresource in ["", "/approval", "/status"] {
        let resources = api.get("/apis/certificates.k8s.io/v1").await.is(200);
        let wanted = format!("certificatesigningrequests{subresource}");
        let all = resources["resources"].as_array().expect("resources");
        assert!(all.iter().any(|r| r["name"] == wanted), "{wanted}");
    }
    api.post(REQUESTS, &template).await.is(201);
    api.post(REQUESTS, &template).await.is(201);
    let made = api.post(REQUESTS, &template).await.is(201);
    let name = made["metadata"]["name"].as_str().expect("a name");
    let one = format!("{REQUESTS}/{name}");
    let read = api.get(&one).await.is(200);
    assert_eq!(read["spec"]["expirationSeconds"], 3600);
    let selected = format!("{REQUESTS}?fieldSelector=spec.signerName%3D{signer}");
    let list = api.get(&selected).await.is(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(3));
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let by_name =
        format!("{REQUESTS}?fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
    let mut watch = api.watch(&by_name).await;
    let annotate = |key: &str| json!({"metadata": {"annotations": {key: "true"}}});
    let mut patched = api.patch(&one, MERGE, &annotate("patched")).await.is(200);
    patched["metadata"]["annotations"]["updated"] = "true".into();
    api.put(&one, &patched).await.is(200);
    watch.until(|_, object| object["metadata"]["annotations"]["updated"] == "true").await;
    let approval = format!("{one}/approval");
    assert_eq!(api.get(&approval).await.is(200)["metadata"]["uid"], made["metadata"]["uid"]);
    let mut patch = annotate("patchedapproval");
    patch["status"] =
        json!({"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]});
    let mut patched = api.patch(&approval, MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "ApprovalPatch");
    assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
    patched["status"]["conditions"].as_array_mut().expect("conditions").push(json!({
        "type": "Approved", "status": "True", "reason": "E2E", "message": "Set from an e2e test"}));
    let updated = api.put(&approval, &patched).await.is(200);
    assert_eq!(updated["status"]["conditions"][1]["type"], "Approved");
    let status = format!("{one}/status");
    assert_eq!(api.get(&status).await.is(200)["kind"], "CertificateSigningRequest");
    let own = rcgen::generate_simple_self_signed(vec!["e2e.example.com".into()]);
    let certificate = STANDARD.encode(own.expect("a certificate").cert.pem());
    let mut patch = annotate("patchedstatus");
    patch["status"] = json!({"certificate": certificate});
    let mut patched = api.patch(&status, MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["certificate"], certificate.as_str());
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let conditions = patched["status"]["conditions"].as_array_mut().expect("conditions");
    conditions.push(json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from an e2e test"}));
    let count = conditions.len();
    let updated = api.put(&status, &patched).await.is(200);
    let conditions = updated["status"]["conditions"].as_array().expect("conditions");
    assert_eq!(conditions.len(), count);
    assert_eq!(conditions[count - 1]["type"], "StatusUpdate");
    api.delete(&one).await.is(200);
    assert_eq!(api.get(&one).await.code, 404);
    assert_eq!(api.items(&selected).await.len(), 2);
    api.delete(&selected).await.is(200);
    assert_eq!(api.items(&selected).await.len(), 0);
}

#[tokio::test]
async fn a_service_account_lives_and_its_token_is_known() {
    let api = Api::connect().await;
    let namespace = api.namespace("svcaccounts").await;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let label = unique("testserviceaccount");
    let mut watch = api.watch(&accounts).await;
    let account =
        json!({"metadata": {"name": label, "labels": {"test-serviceaccount-static": label}}});
    api.post(&accounts, &account).await.is(201);
    watch.until(|kind, object| kind == "ADDED" && object["metadata"]["name"] == *label).await;
    let one = format!("{accounts}/{label}");
    let patch = json!({"automountServiceAccountToken": false});
    let patched = api.patch(&one, STRATEGIC, &patch).await.is(200);
    assert_eq!(patched["automountServiceAccountToken"], false);
    watch.until(|kind, object| kind == "MODIFIED" && object["metadata"]["name"] == *label).await;
    let mut object = api.get(&one).await.is(200);
    object["automountServiceAccountToken"] = true.into();
    assert_eq!(api.put(&one, &object).await.is(200)["automountServiceAccountToken"], true);
    let everywhere =
        format!("/api/v1/serviceaccounts?labelSelector=test-serviceaccount-static%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": 3600}});
    let token = api.post(&format!("{one}/token"), &request).await.is(201);
    let token = token["status"]["token"].as_str().expect("a token").to_owned();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token}});
    let review = api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.is(201);
    assert_eq!(review["status"]["authenticated"], true, "{review}");
    let wanted = format!("system:serviceaccount:{namespace}:{label}");
    assert_eq!(review["status"]["user"]["username"], wanted);
    api.delete(&format!("{accounts}?labelSelector=test-serviceaccount-static%3D{label}"))
        .await
        .is(200);
    watch.until(|kind, object| kind == "DELETED" && object["metadata"]["name"] == *label).await;
}

#[tokio::test]
async fn every_namespace_has_the_root_certificate() {
    let api = Api::connect().await;
    let namespace = api.namespace("svcaccounts").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt");
    let map = api.eventually(&path, |answer| answer.code == 200).await;
    assert!(map["data"]["ca.crt"].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")));
    api.delete(&path).await.is(200);
    api.eventually(&path, |answer| answer.code == 200).await;
    let mut map = api.get(&path).await.is(200);
    map["data"] = json!({"": ""});
    let spoilt = json!({"data": {"ca.crt": ""}});
    api.patch(&path, MERGE, &spoilt).await.is(200);
    api.eventually(&path, |answer| {
        answer.body["data"]["ca.crt"].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE"))
    })
    .await;
}

#[tokio::test]
async fn subjects_are_reviewed() {
    let api = Api::connect().await;
    let namespace = api.namespace("subjectreview").await;
    let account = json!({"metadata": {"name": "e2e"}});
    api.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await.is(201);
    let user = format!("system:serviceaccount:{namespace}:e2e");
    let attributes = json!({"verb": "list", "resource": "configmaps", "namespace": namespace,
        "version": "v1"});
    let root = "/apis/authorization.k8s.io/v1";
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes}});
    let answer = api.post(&format!("{root}/subjectaccessreviews"), &review).await.is(201);
    assert_eq!(answer["status"]["allowed"], false);
    let mut local = review.clone();
    local["kind"] = "LocalSubjectAccessReview".into();
    local["metadata"] = json!({"namespace": namespace});
    let path = format!("{root}/namespaces/{namespace}/localsubjectaccessreviews");
    assert_eq!(api.post(&path, &local).await.is(201)["status"]["allowed"], false);
    let as_user = [("impersonate-user", user.as_str()), ("content-type", "application/json")];
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let refused = api.send(Method::GET, &maps, &as_user[..1], String::new()).await;
    assert_eq!(refused.code, 403);
    let own = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    let path = format!("{root}/selfsubjectaccessreviews");
    let answer = api.send(Method::POST, &path, &as_user, own.to_string()).await.is(201);
    assert_eq!(answer["status"]["allowed"], false);
    let binding = json!({"metadata": {"name": "e2e"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "e2e", "namespace": namespace}]});
    let bindings =
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    api.post(&bindings, &binding).await.is(201);
    for _ in 0..50 {
        let answer = api.post(&format!("{root}/subjectaccessreviews"), &review).await.is(201);
        if answer["status"]["allowed"] == true {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the binding is never seen");
}

#[tokio::test]
async fn collections_of_service_accounts_hold_the_default_one() {
    let api = Api::connect().await;
    let namespace = api.namespace("svcaccounts").await;
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let found = api
        .eventually(&path, |answer| {
            let items: Vec<Value> = answer.body["items"].as_array().cloned().unwrap_or_default();
            names(&items).contains(&"default".to_owned())
        })
        .await;
    assert_eq!(found["kind"], "ServiceAccountList");
}
