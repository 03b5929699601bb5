//! The everyday verbs, as the binary a user runs, against an API served without TLS on loopback
//! over a store in memory; beside kubectl where both must print the same.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use serde_json::{Value, json};

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

/// A kubelet whose containers all printed the query that was asked of it.
struct Echo;

#[async_trait]
impl NodeDialer for Echo {
    async fn request(
        &self,
        _: &str,
        request: http::Request<coracle::link::Body>,
    ) -> Result<http::Response<coracle::link::Body>, coracle::apiserver::nodes::DialError> {
        let told = format!("first\n{}\n", request.uri());
        let body =
            http_body_util::BodyExt::map_err(
                http_body_util::Full::from(told),
                |never| match never {},
            );
        Ok(http::Response::new(http_body_util::BodyExt::boxed_unsync(body)))
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

struct Cluster {
    url: String,
    home: tempfile::TempDir,
    registry: Arc<Registry>,
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
        for name in ["default", "other"] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            registry.create(("", "namespaces"), "", namespace).await.expect("a namespace");
        }
        let server = ApiServer::new(ApiServerConfig {
            registry: registry.clone(),
            authenticator: Arc::new(Anyone),
            authorizer: Arc::new(Anyone),
            admission: Vec::new(),
            answers: HashMap::new(),
            nodes: Arc::new(Echo),
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
        let home = tempfile::tempdir().expect("a temporary folder");
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: c, cluster: {{server: \"{url}\"}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: test, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(home.path().join("kubeconfig"), kubeconfig).expect("it is written");
        Self { url, home, registry }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn run(&self, program: &str, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(program);
        command.args(args);
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = command.spawn().expect("the program is installed");
            let mut stdin = child.stdin.take().expect("a pipe");
            // A program that wants no input may have closed it.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            let output = child.wait_with_output().expect("the program ends");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ended {
                code: output.status.code().unwrap_or(-1),
                out: text(&output.stdout),
                err: text(&output.stderr),
            }
        })
        .await
        .expect("the thread ends")
    }

    /// What the verb prints; it must succeed.
    async fn ok(&self, args: &[&str], input: &str) -> String {
        let ended = self.run(env!("CARGO_BIN_EXE_coracle"), args, input).await;
        assert_eq!(ended.code, 0, "coracle {args:?}: {ended:?}");
        ended.out
    }

    /// What the verb says of its failure, which must have this exit code.
    async fn fails(&self, code: i32, args: &[&str], input: &str) -> String {
        let ended = self.run(env!("CARGO_BIN_EXE_coracle"), args, input).await;
        assert_eq!(ended.code, code, "coracle {args:?}: {ended:?}");
        ended.err
    }

    /// Both programs must print the same.
    async fn same(&self, args: &[&str]) -> String {
        // An age may become a second older between the two.
        let mut tries = 0;
        let (ours, theirs) = loop {
            let ours = self.run(env!("CARGO_BIN_EXE_coracle"), args, "").await;
            let theirs = self.run("kubectl", args, "").await;
            tries += 1;
            if ours.out == theirs.out || tries == 5 {
                break (ours, theirs);
            }
        };
        assert_eq!(ours.out, theirs.out, "{args:?}\n{}{}", ours.err, theirs.err);
        assert_eq!(ours.err, theirs.err, "{args:?}");
        assert_eq!(ours.code == 0, theirs.code == 0, "{args:?}: {ours:?} {theirs:?}");
        ours.out
    }

    async fn object(&self, resource: (&str, &str), name: &str) -> Value {
        let args = ["get", resource.0, name, "-o", "json", "-n", resource.1];
        serde_json::from_str(&self.ok(&args, "").await).expect("it is JSON")
    }
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: a, image: coracle.dev/samples/hello-http:v1}
      - {name: b, image: coracle.dev/samples/hello-http:v1}
";

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec:
  nodeName: n1
  containers: [{name: a, image: one}, {name: b, image: two}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_creates_configures_and_leaves_unchanged() {
    let cluster = Cluster::start().await;
    let apply = ["apply", "-f", "-"];
    assert_eq!(
        cluster.ok(&["apply", "-f", "-", "--dry-run=server"], DEPLOYMENT).await,
        "deployment.apps/web created (server dry run)\n"
    );
    assert_eq!(
        cluster.ok(&["apply", "-f", "-", "--dry-run=client"], DEPLOYMENT).await,
        "deployment.apps/web created (dry run)\n"
    );
    assert_eq!(cluster.ok(&apply, DEPLOYMENT).await, "deployment.apps/web created\n");
    assert_eq!(cluster.ok(&apply, DEPLOYMENT).await, "deployment.apps/web unchanged\n");
    cluster.ok(&["scale", "deploy/web", "--replicas=4"], "").await;
    let without_b = DEPLOYMENT.replace("      - {name: b", "#");
    assert_eq!(cluster.ok(&apply, &without_b).await, "deployment.apps/web configured\n");
    let object = cluster.object(("deploy", "default"), "web").await;
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    assert_eq!(containers.map(Vec::len), Some(1), "what the manifest no longer says is gone");
    assert_eq!(object["spec"]["replicas"], 4, "what it never said stays");
    // kubectl and this take turns on one object.
    let theirs = cluster.run("kubectl", &apply, &without_b).await;
    assert_eq!(theirs.out, "deployment.apps/web unchanged\n", "{}", theirs.err);
    let theirs = cluster.run("kubectl", &apply, DEPLOYMENT).await;
    assert_eq!(theirs.out, "deployment.apps/web configured\n", "{}", theirs.err);
    assert_eq!(cluster.ok(&apply, DEPLOYMENT).await, "deployment.apps/web unchanged\n");
    let ours = cluster.object(("deploy", "default"), "web").await;
    let kept = &ours["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(kept.as_str().is_some_and(|k| k.starts_with("{\"apiVersion\":\"apps/v1\"")), "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_tells_where_a_manifest_is_wrong_and_applies_the_others() {
    let cluster = Cluster::start().await;
    let bad_kind = "apiVersion: apps/v1\nkind: Deploymnet\nmetadata: {name: x}\n";
    let unknown = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  foo: 3\n  selector");
    let all = format!("{bad_kind}---\n{unknown}---\n{POD}");
    let ended = cluster.run(env!("CARGO_BIN_EXE_coracle"), &["apply", "-f", "-"], &all).await;
    assert_eq!(ended.code, 1);
    assert_eq!(ended.out, "pod/p created\n");
    assert!(
        ended.err.contains("\"STDIN:1\": no matches for kind \"Deploymnet\"")
            && ended.err.contains("did you mean \"Deployment\"?"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("Error from server (BadRequest): error when creating \"STDIN:5\"")
            && ended.err.contains("unknown field \"spec.foo\""),
        "{}",
        ended.err
    );
    let told = cluster.fails(1, &["apply", "-f", "-"], "a: [\n").await;
    assert!(told.contains("STDIN:") && told.contains("malformed YAML"), "{told}");
    let told = cluster.fails(1, &["apply", "-f", "no.yaml"], "").await;
    assert_eq!(told, "error: the path \"no.yaml\" does not exist\n");
    let elsewhere = POD.replace("{name: p,", "{name: p, namespace: other,");
    let told = cluster.fails(1, &["apply", "-n", "default", "-f", "-"], &elsewhere).await;
    assert!(told.contains("You must pass '--namespace=other'"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_prints_what_kubectl_prints() {
    let cluster = Cluster::start().await;
    cluster.same(&["get", "pods"]).await;
    cluster.ok(&["apply", "-f", "-"], &format!("{DEPLOYMENT}---\n{POD}")).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {
        "text": "one\ntwo\n", "long": "word ".repeat(40), "yes": "yes", "n": "12", "q": "a: 'b'",
        "html": "<&>", "tail": "x\n\n", "colon": "a:b", "tab": "a\tb", "empty": ""}});
    cluster.ok(&["apply", "-n", "other", "-f", "-"], &config.to_string()).await;
    let lines: &[&[&str]] = &[
        &["get", "pods"],
        &["get", "po", "p", "-o", "wide"],
        &["get", "pods", "-A", "--show-labels"],
        &["get", "pods,deploy"],
        &["get", "all"],
        &["get", "deploy", "--no-headers"],
        &["get", "pod/p", "deploy/web", "-o", "name"],
        &["get", "pods", "-l", "app in (web)", "-o", "name"],
        &["get", "pods", "-l", "app=none"],
        &["get", "pods", "--field-selector", "spec.nodeName=n1", "-o", "name"],
        &["get", "deploy", "web", "-o", "yaml"],
        &["get", "deploy", "web", "-o", "json"],
        &["get", "pods", "-o", "yaml"],
        &["get", "pods,deploy", "-o", "json"],
        &["get", "-n", "other", "configmap", "c", "-o", "yaml"],
        &["get", "-n", "other", "cm/c", "-o", "json"],
        &["get", "pods", "-o", "jsonpath={.items[*].spec.containers[?(@.name==\"b\")].image}"],
        &["get", "pod", "p", "-o", "jsonpath={range .spec.containers[*]}{.name}{\"\\n\"}{end}"],
        &["get", "pods", "missing"],
        &["get", "ns"],
        &["get", "pods", "-n", "other"],
    ];
    for args in lines {
        cluster.same(args).await;
    }
    let told = cluster.fails(1, &["get", "pdos"], "").await;
    assert_eq!(
        told,
        "error: the server doesn't have a resource type \"pdos\"; did you mean \"pods\"?\n"
    );
    let told = cluster.fails(2, &["get", "pods", "pod/a"], "").await;
    assert!(told.contains("no need to specify a resource type"), "{told}");
    cluster.fails(2, &["get", "pods", "-o", "xml"], "").await;
    cluster.fails(2, &["get"], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_prints_changes_and_ends_when_nobody_reads() {
    let cluster = Cluster::start().await;
    let mut child = cluster
        .command(env!("CARGO_BIN_EXE_coracle"))
        .args(["get", "cm", "-w", "-o", "name"])
        .spawn()
        .expect("the binary runs");
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    let mut names = Vec::new();
    for name in ["a", "b"] {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        cluster.registry.create(("", "configmaps"), "default", config).await.expect("created");
        let (line, rest) = tokio::task::spawn_blocking(move || (lines.next(), lines))
            .await
            .expect("the thread ends");
        lines = rest;
        names.push(line.expect("a line").expect("it is text"));
    }
    assert_eq!(names, ["configmap/a", "configmap/b"]);
    drop(lines);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    cluster.registry.create(("", "configmaps"), "default", config).await.expect("created");
    let status = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().expect("it is our child") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().expect("it is our child");
        child.wait().expect("it was killed");
        None
    })
    .await
    .expect("the thread ends");
    assert_eq!(status.and_then(|s| s.code()), Some(0), "a closed output ends it quietly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_takes_objects_away_and_waits() {
    let cluster = Cluster::start().await;
    let manifests = format!("{DEPLOYMENT}---\n{}", POD.replace("  nodeName: n1\n", ""));
    cluster.ok(&["apply", "-f", "-"], &manifests).await;
    assert_eq!(
        cluster.ok(&["delete", "-f", "-"], &manifests).await,
        "deployment.apps \"web\" deleted\npod \"p\" deleted\n"
    );
    let told = cluster.fails(1, &["delete", "pod", "p"], "").await;
    assert_eq!(told, "Error from server (NotFound): pods \"p\" not found\n");
    cluster.ok(&["delete", "pod", "p", "--ignore-not-found"], "").await;
    let told = cluster.fails(2, &["delete", "pods"], "").await;
    assert!(told.contains("no name was specified"), "{told}");
    // A pod on a node stays until the node says that it ended; by force it goes at once.
    cluster.ok(&["apply", "-f", "-"], POD).await;
    let told = cluster.fails(1, &["delete", "pod/p", "--timeout=300ms"], "").await;
    assert!(told.contains("timed out waiting for pod/p to be gone"), "{told}");
    let forced = ["delete", "pod", "p", "--grace-period=0", "--force"];
    assert_eq!(cluster.ok(&forced, "").await, "pod \"p\" force deleted\n");
    cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    let by_label = ["delete", "deploy", "-l", "app=web", "--dry-run=server"];
    assert_eq!(
        cluster.ok(&by_label, "").await,
        "deployment.apps \"web\" deleted (server dry run)\n"
    );
    assert_eq!(
        cluster.ok(&["delete", "deploy", "--all"], "").await,
        "deployment.apps \"web\" deleted\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_are_scaled_paused_and_restarted() {
    let cluster = Cluster::start().await;
    cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    let scaled = cluster.ok(&["scale", "deploy", "web", "--replicas", "3"], "").await;
    assert_eq!(scaled, "deployment.apps/web scaled\n");
    let only = ["scale", "deploy/web", "--replicas=1", "--current-replicas=2"];
    let told = cluster.fails(1, &only, "").await;
    assert!(told.contains("Expected replicas to be 2, was 3"), "{told}");
    let paused = cluster.ok(&["rollout", "pause", "deploy/web"], "").await;
    assert_eq!(paused, "deployment.apps/web paused\n");
    let told = cluster.fails(1, &["rollout", "restart", "deploy/web"], "").await;
    assert!(told.contains("can't restart paused deployment"), "{told}");
    let resumed = cluster.ok(&["rollout", "resume", "deploy/web"], "").await;
    assert_eq!(resumed, "deployment.apps/web resumed\n");
    let restarted = cluster.ok(&["rollout", "restart", "deploy/web"], "").await;
    assert_eq!(restarted, "deployment.apps/web restarted\n");
    let object = cluster.object(("deploy", "default"), "web").await;
    assert_eq!(object["spec"]["replicas"], 3);
    let annotations = &object["spec"]["template"]["metadata"]["annotations"];
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string(), "{annotations}");
    cluster.same(&["rollout", "status", "deploy/web", "--watch=false"]).await;
    let told = cluster.fails(1, &["rollout", "status", "deploy/web", "--timeout=200ms"], "").await;
    assert!(told.contains("timed out waiting for the rollout"), "{told}");
    let told = cluster.fails(1, &["scale", "cm/x", "--replicas=1"], "").await;
    assert!(told.contains("configmaps cannot be scaled"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_back_to_a_revision() {
    let cluster = Cluster::start().await;
    cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    let owner = cluster.object(("deploy", "default"), "web").await;
    for (revision, image) in [("1", "old"), ("2", "coracle.dev/samples/hello-http:v1")] {
        let hash = format!("h{revision}");
        let labels = json!({"app": "web", "pod-template-hash": hash});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("web-{revision}"), "labels": labels,
                "annotations": {"deployment.kubernetes.io/revision": revision,
                    "kubernetes.io/change-cause": format!("cause {revision}")},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
                    "uid": owner["metadata"]["uid"], "controller": true}]},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "a", "image": image}]}}}});
        cluster.registry.create(("apps", "replicasets"), "default", set).await.expect("created");
    }
    let history = cluster.ok(&["rollout", "history", "deploy/web"], "").await;
    let theirs = cluster.run("kubectl", &["rollout", "history", "deploy/web"], "").await;
    assert_eq!(history.replace(' ', ""), theirs.out.replace(' ', ""), "{}", theirs.err);
    let told = cluster.fails(1, &["rollout", "undo", "deploy/web", "--to-revision=7"], "").await;
    assert!(told.contains("unable to find specified revision 7"), "{told}");
    let undone = cluster.ok(&["rollout", "undo", "deploy/web"], "").await;
    assert_eq!(undone, "deployment.apps/web rolled back\n");
    let template = cluster.object(("deploy", "default"), "web").await["spec"]["template"].take();
    assert_eq!(template["spec"]["containers"][0]["image"], "old");
    assert_eq!(template["metadata"]["labels"], json!({"app": "web"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_when_the_state_is_reached() {
    let cluster = Cluster::start().await;
    cluster.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    let late = ["wait", "deploy/web", "--for=condition=Available", "--timeout=200ms"];
    let told = cluster.fails(1, &late, "").await;
    assert!(told.contains("timed out waiting for the condition on deployment"), "{told}");
    let replicas = ["wait", "deploy/web", "--for=jsonpath={.spec.replicas}=2", "--timeout=20s"];
    let scale = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.ok(&["scale", "deploy/web", "--replicas=2"], "").await
    };
    let (met, _) = tokio::join!(cluster.ok(&replicas, ""), scale);
    assert_eq!(met, "deployment.apps/web condition met\n");
    let gone = ["wait", "deploy/web", "--for=delete", "--timeout=20s"];
    let delete = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.ok(&["delete", "deploy/web"], "").await
    };
    tokio::join!(cluster.ok(&gone, ""), delete);
    let told = cluster.fails(1, &["wait", "pod/no", "--for=condition=Ready"], "").await;
    assert_eq!(told, "Error from server (NotFound): pods \"no\" not found\n");
    cluster.fails(2, &["wait", "pod/no", "--for=nonsense"], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_ask_the_node_for_what_was_asked() {
    let cluster = Cluster::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.registry.create(("", "nodes"), "", node).await.expect("a node");
    cluster.ok(&["apply", "-f", "-"], &format!("{POD}---\n{DEPLOYMENT}")).await;
    let args = ["logs", "p", "-c", "b", "--tail=5", "--since=1m", "--timestamps"];
    let told = cluster.ok(&args, "").await;
    let asked = told.lines().nth(1).unwrap_or_default();
    assert!(told.starts_with("first\n") && asked.contains("/b"), "{told}");
    for part in ["tailLines=5", "sinceSeconds=60", "timestamps=true"] {
        assert!(asked.contains(part), "{asked}");
    }
    let ended = cluster.run(env!("CARGO_BIN_EXE_coracle"), &["logs", "deploy/web"], "").await;
    assert_eq!(ended.err, "Defaulted container \"a\" out of: a, b\n", "{}", ended.out);
    let told = cluster.ok(&["logs", "-l", "app=web", "--prefix", "--all-containers"], "").await;
    assert!(told.contains("[pod/p/a] first\n") && told.contains("[pod/p/b] first\n"), "{told}");
    let told = cluster.fails(1, &["logs", "p", "-c", "x"], "").await;
    assert!(told.contains("container x is not valid for pod p: it has a, b"), "{told}");
    let told = cluster.fails(1, &["logs", "missing"], "").await;
    assert_eq!(told, "Error from server (NotFound): pods \"missing\" not found\n");
    cluster.fails(2, &["logs"], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_shows_fields_and_events() {
    let cluster = Cluster::start().await;
    cluster.ok(&["apply", "-f", "-"], POD).await;
    let pod = cluster.object(("pod", "default"), "p").await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default",
            "uid": pod["metadata"]["uid"]},
        "type": "Normal", "reason": "Pulled", "message": "Container image was pulled",
        "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:00Z",
        "count": 1, "source": {"component": "kubelet"}});
    cluster.registry.create(("", "events"), "default", event).await.expect("an event");
    let told = cluster.ok(&["describe", "pod", "p"], "").await;
    for part in ["Name:         p\n", "Node Name:", "Pulled", "Container image was pulled"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!told.contains("last-applied-configuration"), "{told}");
    let told = cluster.fails(1, &["describe", "pod/missing"], "").await;
    assert_eq!(told, "Error from server (NotFound): pods \"missing\" not found\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_there_is_told() {
    let cluster = Cluster::start().await;
    let told = cluster.fails(1, &["get", "pods", "--kubeconfig", "nowhere"], "").await;
    assert!(told.contains("there is no kubeconfig nowhere"), "{told}");
    let told = cluster.fails(1, &["get", "pods", "--context", "nowhere"], "").await;
    assert!(told.contains("context \"nowhere\" does not exist: the kubeconfig has test"), "{told}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let kubeconfig = std::fs::read_to_string(cluster.home.path().join("kubeconfig"));
    let kubeconfig = kubeconfig.expect("it is there");
    let refused = kubeconfig.replace(&cluster.url, &format!("http://{address}"));
    std::fs::write(cluster.home.path().join("refused"), refused).expect("it is written");
    let told = cluster.fails(1, &["get", "pods", "--kubeconfig", "refused"], "").await;
    let words = format!(
        "The connection to the server {address} was refused - did you specify the right host or \
         port?"
    );
    assert!(told.contains(&words), "{told}");
    std::fs::create_dir(cluster.home.path().join("coracle-data")).expect("it is made");
    std::fs::write(cluster.home.path().join("coracle-data/kubeconfig"), kubeconfig)
        .expect("it is written");
    let mut command = cluster.command(env!("CARGO_BIN_EXE_coracle"));
    command.args(["get", "ns", "-o", "name"]).env_remove("KUBECONFIG");
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let output = output.expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "namespace/default\nnamespace/other\n");
}
