//! Objects as an unmodified kubectl sees them: explained, applied, patched, shown in tables,
//! refused in Kubernetes' words. The API is served without TLS on loopback, over a store in
//! memory.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Extension;
use coracle::api::kinds::KindTable;
use coracle::api::status::ApiError;
use coracle::apiserver::auth::{
    Attributes, Authenticator, Authorizer, Credentials, Decision, UserInfo,
};
use coracle::apiserver::nodes::NodeDialer;
use coracle::apiserver::{ApiServer, ApiServerConfig, Limits, Registry, RegistryConfig, strategy};
use coracle::base::clock::SystemClock;
use coracle::base::rng::Rng;
use coracle::store::memory::MemoryStore;
use serde_json::json;

struct Anyone;

#[async_trait]
impl Authenticator for Anyone {
    async fn authenticate(&self, _: &Credentials) -> Result<Option<UserInfo>, ApiError> {
        Ok(Some(UserInfo { name: "admin".into(), ..UserInfo::default() }))
    }
}

#[async_trait]
impl Authorizer for Anyone {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow
    }
}

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn request(
        &self,
        node: &str,
        _: http::Request<coracle::link::Body>,
    ) -> Result<http::Response<coracle::link::Body>, coracle::apiserver::nodes::DialError> {
        panic!("nobody dials {node} here")
    }
}

/// An API server on a port of its own, and a kubectl that knows it.
struct Cluster {
    url: String,
    home: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let registry = Registry::new(RegistryConfig {
            store: Arc::new(MemoryStore::new()),
            kinds: KindTable::builtin(),
            strategies: strategy::strategies(),
            clock: SystemClock::shared(),
            rng: Rng::seeded(1),
        });
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        registry.create(("", "namespaces"), "", namespace).await.expect("a namespace");
        let server = ApiServer::new(ApiServerConfig {
            registry,
            authenticator: Arc::new(Anyone),
            authorizer: Arc::new(Anyone),
            admission: Vec::new(),
            answers: HashMap::new(),
            nodes: Arc::new(NoNodes),
            beside: Vec::new(),
            aggregator: None,
            audit: None,
            limits: Limits::default(),
        });
        server.set_ready();
        let user = UserInfo { name: "admin".into(), ..UserInfo::default() };
        let router = server.router().layer(Extension(user));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, home: tempfile::tempdir().expect("a temporary folder") }
    }

    /// What kubectl prints, and whether it succeeded.
    async fn kubectl(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new("kubectl");
        command
            .args(["--server", &self.url])
            .args(args)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = command.spawn().expect("kubectl is installed (see tests/run.sh)");
            let mut stdin = child.stdin.take().expect("a pipe");
            stdin.write_all(input.as_bytes()).expect("kubectl reads its input");
            drop(stdin);
            let output = child.wait_with_output().expect("kubectl ends");
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        })
        .await
        .expect("the thread ends")
    }

    async fn ok(&self, args: &[&str], input: &str) -> String {
        let (succeeded, text) = self.kubectl(args, input).await;
        assert!(succeeded, "kubectl {args:?}: {text}");
        text
    }

    async fn refused(&self, args: &[&str], input: &str) -> String {
        let (succeeded, text) = self.kubectl(args, input).await;
        assert!(!succeeded, "kubectl {args:?} should fail: {text}");
        text
    }
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: a, image: coracle.dev/samples/hello-http:v1}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_every_field() {
    let cluster = Cluster::start().await;
    let told = cluster.ok(&["explain", "deployment.spec.template"], "").await;
    assert!(told.contains("FIELD: template <PodTemplateSpec>"), "{told}");
    assert!(told.contains("Template describes the pods that will be created."), "{told}");
    let told = cluster.ok(&["explain", "pod.spec.containers.ports", "--recursive"], "").await;
    assert!(told.contains("containerPort\t<integer> -required-"), "{told}");
    let told = cluster.ok(&["explain", "service.spec.ports.targetPort"], "").await;
    assert!(told.contains("<IntOrString>"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_patches_and_shows() {
    let cluster = Cluster::start().await;
    assert_eq!(
        cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await,
        "deployment.apps/web created\n"
    );
    assert_eq!(
        cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await,
        "deployment.apps/web unchanged\n"
    );
    let more = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replicas: 3\n  selector");
    assert_eq!(cluster.ok(&["apply", "-f", "-"], &more).await, "deployment.apps/web configured\n");
    let row = cluster.ok(&["get", "deploy", "web", "-o", "wide", "--no-headers"], "").await;
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..4], ["web", "0/3", "0", "0"]);
    assert_eq!(words[5..], ["a", "coracle.dev/samples/hello-http:v1", "app=web"]);
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"i"}]}}}}"#;
    cluster.ok(&["patch", "deploy", "web", "-p", patch], "").await;
    let path = "jsonpath={.spec.template.spec.containers[*].name}/{.metadata.generation}";
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", path], "").await, "b a/3");
    cluster.ok(&["scale", "deploy", "web", "--replicas", "5"], "").await;
    let path = "jsonpath={.spec.replicas} {.spec.strategy.rollingUpdate.maxSurge}";
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", path], "").await, "5 25%");
    cluster.ok(&["label", "deploy", "web", "tier=front"], "").await;
    let named = cluster.ok(&["get", "deploy", "-l", "tier in (front)", "-o", "name"], "").await;
    assert_eq!(named, "deployment.apps/web\n");
    cluster.ok(&["delete", "deploy", "web"], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_is_refused_in_the_words_of_kubernetes() {
    let cluster = Cluster::start().await;
    let unknown = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  foo: 3\n  selector");
    let told = cluster.refused(&["apply", "-f", "-"], &unknown).await;
    assert!(told.contains("strict decoding error: unknown field \"spec.foo\""), "{told}");
    let told = cluster.ok(&["apply", "--validate=warn", "-f", "-"], &unknown).await;
    assert!(told.contains("Warning: unknown field \"spec.foo\""), "{told}");
    let wrong = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replicas: x\n  selector");
    let told = cluster.refused(&["create", "-f", "-"], &wrong).await;
    let words = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
                 unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32";
    assert!(told.contains(words), "{told}");
    let no_image = DEPLOYMENT.replace(", image: coracle.dev/samples/hello-http:v1", "");
    let told = cluster.refused(&["create", "-f", "-"], &no_image.replace("web", "bad")).await;
    let words = "The Deployment \"bad\" is invalid: spec.template.spec.containers[0].image: \
                 Required value";
    assert!(told.contains(words), "{told}");
    let other = r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#;
    let told = cluster.refused(&["patch", "deploy", "web", "-p", other], "").await;
    assert!(told.contains("field is immutable"), "{told}");
    let told = cluster.refused(&["get", "pods", "--field-selector", "spec.foo=a"], "").await;
    assert!(told.contains("field label not supported: spec.foo"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_with_bodies_in_protobuf() {
    let cluster = Cluster::start().await;
    for (args, created) in [
        ("create deployment web --image=x --replicas=2 --port=80", "deployment.apps/web"),
        ("create namespace team", "namespace/team"),
        ("create configmap cm --from-literal=a=b", "configmap/cm"),
        ("create secret generic s --from-literal=a=b", "secret/s"),
        ("create serviceaccount robot", "serviceaccount/robot"),
        ("create role r --verb=get --resource=pods", "role.rbac.authorization.k8s.io/r"),
        (
            "create rolebinding rb --role=r --serviceaccount=default:robot",
            "rolebinding.rbac.authorization.k8s.io/rb",
        ),
        ("create job j --image=x -- run me", "job.batch/j"),
        ("create cronjob cj --image=x --schedule=0/5****", "cronjob.batch/cj"),
        ("create quota q --hard=pods=2,cpu=500m", "resourcequota/q"),
        ("create service nodeport np --tcp=80:http", "service/np"),
        ("create ingress i --rule=a.b/c*=np:80", "ingress.networking.k8s.io/i"),
        (
            "create poddisruptionbudget p --selector=a=b --min-available=50%",
            "poddisruptionbudget.policy/p",
        ),
        ("create priorityclass pc --value=7", "priorityclass.scheduling.k8s.io/pc"),
    ] {
        let args: Vec<String> =
            args.split(' ').map(|word| word.replace("0/5****", "*/5 * * * *")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(cluster.ok(&args, "").await, format!("{created} created\n"));
    }
    for (args, expected) in [
        (["deploy", "web", "jsonpath={.spec.replicas}/{.spec.strategy.type}"], "2/RollingUpdate"),
        (["cm", "cm", "jsonpath={.data}"], r#"{"a":"b"}"#),
        (["secret", "s", "jsonpath={.data.a} {.type}"], "Yg== Opaque"),
        (["quota", "q", "jsonpath={.spec.hard}"], r#"{"cpu":"500m","pods":"2"}"#),
        (["svc", "np", "jsonpath={.spec.ports[0].targetPort} {.spec.type}"], "http NodePort"),
        (["job", "j", "jsonpath={.spec.template.spec.containers[0].command}"], r#"["run","me"]"#),
        (["pdb", "p", "jsonpath={.spec.minAvailable}"], "50%"),
        (["cronjob", "cj", "jsonpath={.spec.schedule}"], "*/5 * * * *"),
        (["pc", "pc", "jsonpath={.value}"], "7"),
    ] {
        let [kind, name, path] = args;
        assert_eq!(cluster.ok(&["get", kind, name, "-o", path], "").await, expected);
    }
    let told = cluster.refused(&["create", "deployment", "Bad_Name", "--image=x"], "").await;
    assert!(told.contains("a lowercase RFC 1123"), "{told}");
    cluster.ok(&["expose", "deploy", "web", "--port", "80"], "").await;
    cluster.ok(&["autoscale", "deploy", "web", "--max", "3"], "").await;
}

const PROTOBUF: &str = coracle::api::proto::MEDIA_TYPE;

/// A request with its headers; answers the status, the content type and the body.
async fn ask(
    cluster: &Cluster,
    method: &str,
    path: &str,
    (accept, content_type): (&str, &str),
    body: Vec<u8>,
) -> (u16, String, Vec<u8>) {
    use http_body_util::{BodyExt, Full};
    let executor = hyper_util::rt::TokioExecutor::new();
    let client = hyper_util::client::legacy::Client::builder(executor).build_http();
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", cluster.url))
        .header("accept", accept)
        .header("content-type", content_type)
        .body(Full::new(bytes::Bytes::from(body)))
        .expect("a request");
    let response = client.request(request).await.expect("an answer");
    let status = response.status().as_u16();
    let content_type = response.headers()["content-type"].to_str().expect("text").to_owned();
    let body = response.into_body().collect().await.expect("a body").to_bytes().to_vec();
    (status, content_type, body)
}

fn json_of(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_lists_and_errors_are_told_in_protobuf_to_who_accepts_it() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"},
    });
    let encoded = |value: &serde_json::Value| {
        coracle::api::proto::encode(value).expect("it has a form in protobuf").to_vec()
    };
    let sent = encoded(&map);
    let (status, kind, created) = ask(&cluster, "POST", maps, (PROTOBUF, PROTOBUF), sent).await;
    assert_eq!((status, kind.as_str()), (201, PROTOBUF));
    let one = format!("{maps}/a");
    for path in [maps, &one, "/api/v1/namespaces/default/configmaps/missing"] {
        let plain = ("application/json", "");
        let (code, _, body) = ask(&cluster, "GET", path, plain, Vec::new()).await;
        let either = "application/vnd.kubernetes.protobuf,application/json;q=0.9";
        let (status, kind, told) = ask(&cluster, "GET", path, (either, ""), Vec::new()).await;
        assert_eq!((status, kind.as_str()), (code, PROTOBUF), "{path}");
        assert_eq!(told, encoded(&json_of(&body)), "{path}");
        if path == one {
            assert_eq!(told, created);
        }
    }
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, kind, told) = ask(&cluster, "GET", maps, (&partial, ""), Vec::new()).await;
    assert_eq!(kind, PROTOBUF);
    assert!(told.windows(25).any(|w| w == b"PartialObjectMetadataList"), "{told:?}");
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(ask(&cluster, "GET", maps, (table, ""), Vec::new()).await.0, 406);
    assert_eq!(ask(&cluster, "GET", "/apis", (PROTOBUF, ""), Vec::new()).await.0, 406);
    let plain = ("application/json", "text/x");
    let (status, _, told) = ask(&cluster, "POST", maps, plain, b"x".to_vec()).await;
    assert_eq!(status, 415);
    let words = "accepted media types include: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf";
    assert!(json_of(&told)["message"].as_str().expect("text").contains(words));
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "x"}});
    let (status, _, _) =
        ask(&cluster, "DELETE", &one, (PROTOBUF, PROTOBUF), encoded(&options)).await;
    assert_eq!(status, 409);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    let (status, kind, _) =
        ask(&cluster, "DELETE", &one, (PROTOBUF, PROTOBUF), encoded(&options)).await;
    assert_eq!((status, kind.as_str()), (200, PROTOBUF));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_in_protobuf_is_a_stream_of_frames() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.ok(&["create", "configmap", name], "").await;
    }
    let path = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1";
    let plain = ("application/json", "");
    let (_, _, lines) = ask(&cluster, "GET", path, plain, Vec::new()).await;
    let accept = format!("{PROTOBUF};stream=watch,application/json;stream=watch");
    let (status, kind, frames) = ask(&cluster, "GET", path, (&accept, ""), Vec::new()).await;
    assert_eq!((status, kind.as_str()), (200, coracle::api::proto::STREAM_MEDIA_TYPE));
    let events: Vec<serde_json::Value> =
        lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(json_of).collect();
    assert_eq!(events.len(), 2);
    let expected: Vec<u8> = events
        .iter()
        .flat_map(|e| coracle::api::proto::frame(e["type"].as_str().expect("a type"), &e["object"]))
        .flatten()
        .collect();
    assert_eq!(frames, expected);
}
