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
