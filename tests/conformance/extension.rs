//! Servers that extend the API: admission webhooks, and an API server behind an APIService. They
//! run in this process, over TLS with a CA of their own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle::base::clock::SystemClock;
use coracle::link::identity::{Ca, IdentityRequest, Usage};

use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::harness::{API_SERVICES, Api, MERGE, unique};

/// What a server was asked: method, path, headers, body.
struct Asked {
    path: String,
    headers: HeaderMap,
    body: Value,
}

struct Extension {
    port: u16,
    ca_bundle: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Extension {
    /// A server known by these names, which answers what `answer` makes of path and body.
    async fn start(
        names: &[&str],
        answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let ca = Ca::ephemeral(SystemClock::shared()).expect("a CA");
        let request = IdentityRequest {
            common_name: "extension".into(),
            organizations: Vec::new(),
            sans: names.iter().map(|&name| name.to_owned()).collect(),
            usages: vec![Usage::ServerAuth],
            lifetime: Duration::from_secs(3600),
        };
        let identity = ca.issue(&request).expect("a certificate");
        // Whoever asks shows a certificate of another CA; which one is not this server's matter.
        let chain = identity.chain();
        let key = identity.key();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener =
            tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, seen) = (Arc::new(answer), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, seen) = (acceptor.clone(), answer.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request: Request<Incoming>| {
                        let (answer, seen) = (answer.clone(), seen.clone());
                        async move {
                            let (parts, body) = request.into_parts();
                            let bytes = body.collect().await?.to_bytes();
                            let body = serde_json::from_slice(&bytes).unwrap_or_default();
                            let path = parts.uri.path().to_owned();
                            let (code, answer) = answer(&path, &body);
                            seen.lock().push(Asked { path, headers: parts.headers, body });
                            let response = Response::builder()
                                .status(code)
                                .header("content-type", "application/json")
                                .body(Full::new(Bytes::from(answer.to_string())));
                            Ok::<_, hyper::Error>(response.expect("a sound response"))
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca_bundle: STANDARD.encode(ca.certificate_pem()), asked }
    }

    fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port),
            "caBundle": self.ca_bundle})
    }
}

fn review(body: &Value, response: Value) -> Value {
    let mut response = response;
    response["uid"] = body["request"]["uid"].clone();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
}

/// Denies what carries a label, and adds a key to the data of what is left.
fn judge(path: &str, body: &Value) -> (u16, Value) {
    let object = &body["request"]["object"];
    let answer = match path {
        "/mutate" => {
            let data = if object["data"].is_object() {
                json!([])
            } else {
                json!([{"op": "add", "path": "/data", "value": {}}])
            };
            let mut patch = data.as_array().cloned().unwrap_or_default();
            patch.push(json!({"op": "add", "path": "/data/mutation-stage-1", "value": "yes"}));
            json!({"allowed": true, "patchType": "JSONPatch", "warnings": ["it was changed"],
                "patch": STANDARD.encode(Value::from(patch).to_string())})
        }
        "/broken" => return (500, json!("broken")),
        _ if object["metadata"]["labels"]["webhook-e2e"] == "disallow"
            || body["request"]["operation"] == "DELETE" =>
        {
            json!({"allowed": false, "status": {"code": 403,
                "message": "the configmap contains unwanted key and value"}})
        }
        _ => json!({"allowed": true}),
    };
    (200, review(body, answer))
}

const ROOT: &str = "/apis/admissionregistration.k8s.io/v1";

fn hook(label: &str, name: &str, client_config: Value) -> Value {
    json!({"name": format!("{name}.k8s.io"), "clientConfig": client_config,
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {label: "true"}},
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 10})
}

async fn marked(api: &Api, label: &str) -> String {
    let namespace = api.namespace("webhook").await;
    let patch = json!({"metadata": {"labels": {label: "true"}}});
    api.patch(&format!("/api/v1/namespaces/{namespace}"), MERGE, &patch).await.is(200);
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_change_and_refuse_objects() {
    let api = Api::connect().await;
    let label = unique("webhook");
    let maps = marked(&api, &label).await;
    let extension = Extension::start(&["127.0.0.1"], judge).await;
    let validating = json!({"metadata": {"name": label}, "webhooks": [
        hook(&label, "deny.validating", extension.client_config("/validate"))]});
    let mutating = json!({"metadata": {"name": label}, "webhooks": [
        hook(&label, "add.mutating", extension.client_config("/mutate"))]});
    api.post(&format!("{ROOT}/validatingwebhookconfigurations"), &validating).await.is(201);
    api.post(&format!("{ROOT}/mutatingwebhookconfigurations"), &mutating).await.is(201);

    let made = api.post(&maps, &json!({"metadata": {"name": "one"}})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.warnings(), ["299 - \"it was changed\""]);
    assert_eq!(made.body["data"], json!({"mutation-stage-1": "yes"}));
    let bad = json!({"metadata": {"name": "two", "labels": {"webhook-e2e": "disallow"}}});
    let refused = api.post(&maps, &bad).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "admission webhook \"deny.validating.k8s.io\" denied the request: the configmap contains \
         unwanted key and value"
    );
    let relabel = json!({"metadata": {"labels": {"webhook-e2e": "disallow"}}});
    assert_eq!(api.patch(&format!("{maps}/one"), MERGE, &relabel).await.code, 403);
    assert_eq!(api.delete(&format!("{maps}/one")).await.code, 403, "deletions are asked about");
    let dry = api.post(&format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "dry"}})).await;
    assert_eq!(dry.code, 201, "it has no side effects");
    {
        let asked = extension.asked.lock();
        let create = &asked.first().expect("it was asked").body["request"];
        assert_eq!(create["operation"], "CREATE");
        assert_eq!(create["resource"]["resource"], "configmaps");
        assert_eq!(create["requestKind"]["kind"], "ConfigMap");
        assert!(create["userInfo"]["groups"].to_string().contains("system:masters"));
        let delete = asked.iter().find(|a| a.body["request"]["operation"] == "DELETE");
        let delete = &delete.expect("it was asked").body["request"];
        assert!(delete["object"].is_null() && delete["oldObject"]["metadata"]["name"] == "one");
    }
    for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        api.delete(&format!("{ROOT}/{plural}/{label}")).await.is(200);
    }
    api.post(&maps, &bad).await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_gives_no_answer_fails_closed_or_open() {
    let api = Api::connect().await;
    let label = unique("webhook");
    let maps = marked(&api, &label).await;
    let extension = Extension::start(&["127.0.0.1"], judge).await;
    let path = format!("{ROOT}/validatingwebhookconfigurations");
    let mut broken = hook(&label, "broken.validating", extension.client_config("/broken"));
    broken["failurePolicy"] = "Fail".into();
    let configuration = |hook: &Value| json!({"metadata": {"name": label}, "webhooks": [hook]});
    api.post(&path, &configuration(&broken)).await.is(201);
    let refused = api.post(&maps, &json!({"metadata": {"name": "one"}})).await;
    assert_eq!(refused.code, 500);
    let says = "Internal error occurred: failed calling webhook \"broken.validating.k8s.io\": \
                failed to call webhook: Post";
    assert!(refused.message().starts_with(says), "{}", refused.message());
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    let one = format!("{path}/{label}");
    api.patch(&one, super::harness::JSON_PATCH, &ignore).await.is(200);
    api.post(&maps, &json!({"metadata": {"name": "one"}})).await.is(201);
    // Another name than that of the certificate is another server.
    let mut other = hook(&label, "other.validating", extension.client_config("/validate"));
    other["clientConfig"]["url"] = format!("https://localhost:{}/validate", extension.port).into();
    let replace = json!([{"op": "replace", "path": "/webhooks/0", "value": other}]);
    api.patch(&one, super::harness::JSON_PATCH, &replace).await.is(200);
    assert_eq!(api.post(&maps, &json!({"metadata": {"name": "two"}})).await.code, 500);
    api.delete(&one).await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn match_conditions_keep_webhooks_from_what_is_not_theirs() {
    let api = Api::connect().await;
    let label = unique("webhook");
    let maps = marked(&api, &label).await;
    let extension = Extension::start(&["127.0.0.1"], judge).await;
    let path = format!("{ROOT}/validatingwebhookconfigurations");
    let mut hook = hook(&label, "deny.validating", extension.client_config("/validate"));
    hook["matchConditions"] = json!([{"name": "skip-me",
        "expression": "!object.metadata.name.startsWith('skip') || \
            !authorizer.requestResource.check('create').allowed()"}]);
    let mut configuration = json!({"metadata": {"name": label}, "webhooks": [hook]});
    api.post(&path, &configuration).await.is(201);
    let bad =
        |name: &str| json!({"metadata": {"name": name, "labels": {"webhook-e2e": "disallow"}}});
    api.post(&maps, &bad("skip-me")).await.is(201);
    assert_eq!(api.post(&maps, &bad("other")).await.code, 403);
    api.delete(&format!("{path}/{label}")).await.is(200);
    configuration["webhooks"][0]["matchConditions"][0]["expression"] = "... [] bad".into();
    let refused = api.post(&path, &configuration).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("compilation failed"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_service_is_answered_by_its_service() {
    let api = Api::connect().await;
    let namespace = api.namespace("aggregator").await;
    let name = format!("extension.{namespace}.svc");
    let group = format!("{}.example.com", unique("wardle"));
    let own = group.clone();
    let extension = Extension::start(&[&name], move |path, _| {
        let version = format!("{own}/v1alpha1");
        match path.rsplit('/').next() {
            Some("v1alpha1") => (
                200,
                json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": version, "resources": [{"name": "flunders",
                    "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                    "verbs": ["create", "get", "list"]}]}),
            ),
            Some("flunders") => (
                200,
                json!({"kind": "FlunderList", "apiVersion": version,
                "metadata": {}, "items": [{"metadata": {"name": "one"}}]}),
            ),
            _ => (404, json!({"kind": "Status", "code": 404})),
        }
    })
    .await;
    let service = json!({"metadata": {"name": "extension"}, "spec": {"type": "ExternalName",
        "externalName": "localhost"}});
    let services = format!("/api/v1/namespaces/{namespace}/services");
    api.post(&services, &service).await.is(201);
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let object = json!({"metadata": {"name": format!("v1alpha1.{group}")}, "spec": {
        "group": group, "version": "v1alpha1", "groupPriorityMinimum": 2000,
        "versionPriority": 200, "caBundle": extension.ca_bundle,
        "service": {"name": "extension", "namespace": namespace, "port": extension.port}}});
    api.post(services, &object).await.is(201);
    let path = format!("{services}/v1alpha1.{group}");
    api.eventually(&path, |answer| {
        let conditions = answer.body["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Available" && c["status"] == "True")
    })
    .await;
    let root = format!("/apis/{group}/v1alpha1");
    assert_eq!(api.get(&root).await.is(200)["groupVersion"], format!("{group}/v1alpha1"));
    let flunders = format!("{root}/namespaces/{namespace}/flunders");
    let listed = api.get(&format!("{flunders}?limit=7")).await.is(200);
    assert_eq!(listed["items"][0]["metadata"]["name"], "one");
    let groups = api.get("/apis").await.is(200);
    assert!(groups["groups"].as_array().expect("groups").iter().any(|g| g["name"] == group));
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = api.send(Method::GET, "/apis", &accept, String::new()).await.is(200);
    let items = all["items"].as_array().expect("items");
    let found = items.iter().find(|item| item["metadata"]["name"] == group).expect("the group");
    assert_eq!(found["versions"][0]["resources"][0]["resource"], "flunders");
    let as_user = [
        ("impersonate-user", "ann"),
        ("impersonate-group", "system:masters"),
        ("x-remote-user", "root"),
    ];
    api.send(Method::GET, &flunders, &as_user, String::new()).await.is(200);
    {
        let asked = extension.asked.lock();
        let last = asked.last().expect("it was asked");
        assert_eq!(last.path, flunders);
        assert_eq!(last.headers["x-remote-user"], "ann");
        let groups: Vec<_> = last.headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["system:masters", "system:authenticated"]);
        assert!(last.headers.get("authorization").is_none());
    }
    let _alone = API_SERVICES.write().await;
    api.delete(&format!("/api/v1/namespaces/{namespace}/services/extension")).await.is(200);
    api.eventually(&path, |answer| {
        answer.body["status"]["conditions"][0]["reason"] == "ServiceNotFound"
    })
    .await;
    let gone = api.get(&flunders).await;
    assert_eq!(gone.code, 503, "{}", gone.body);
    api.delete(&path).await.is(200);
    assert_eq!(api.get(&root).await.code, 404);
}
