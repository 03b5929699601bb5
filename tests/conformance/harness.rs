//! One server for all tests of this file, as a process of the built binary, without any node: what
//! Kubernetes' conformance suite asks of the API alone is asked over the wire.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    dir: PathBuf,
    /// The server ends when this does: with the tests.
    _stdin: ChildStdin,
    _child: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();
/// A namespace does not go while an API service is away: who takes one away writes here, who waits
/// for a namespace to go reads.
pub static API_SERVICES: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
static NAMES: AtomicU32 = AtomicU32::new(0);

fn server() -> &'static Server {
    SERVER.get_or_init(|| {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conformance");
        let dir = root.join(std::process::id().to_string());
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder for the server");
        let log = std::fs::File::create(dir.join("server.log")).expect("a log file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(["server", "--listen", "127.0.0.1:0", "--stop-at-stdin-eof", "--data-dir"])
            .arg(dir.join("server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let ready = dir.join("server/ready");
        let end = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&ready).is_ok_and(|text| text.ends_with('\n')) {
            assert!(Instant::now() < end, "the server is not ready: see {}", dir.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        let stdin = child.stdin.take().expect("a pipe");
        Server { dir, _stdin: stdin, _child: child }
    })
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body, of an answer that must have this code.
    #[track_caller]
    pub fn is(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn warnings(&self) -> Vec<&str> {
        let all = self.headers.get_all(http::header::WARNING).iter();
        all.filter_map(|warning| warning.to_str().ok()).collect()
    }
}

/// A watch that runs.
pub struct Watch {
    lines: futures::stream::BoxStream<'static, Value>,
}

impl Watch {
    /// The next event.
    pub async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(PATIENCE, self.lines.next()).await;
        next.expect("an event in time").expect("the watch goes on")
    }

    /// The next event that is one of these.
    pub async fn until(&mut self, wanted: impl Fn(&str, &Value) -> bool) -> Value {
        loop {
            let event = self.next().await;
            if wanted(event["type"].as_str().unwrap_or_default(), &event["object"]) {
                return event["object"].clone();
            }
        }
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(500), self.lines.next()).await.is_err()
    }
}

/// A client of the server, its administrator.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

impl Api {
    pub async fn connect() -> Self {
        let server = tokio::task::spawn_blocking(server).await.expect("the server starts");
        let file = kube::config::Kubeconfig::read_from(server.dir.join("server/kubeconfig"));
        let file = file.expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
        let mut config = config.expect("a configuration");
        // Each answer is what a test is about, also one that says to come again.
        config.default_retry = false;
        Self { client: kube::Client::try_from(config).expect("a client") }
    }

    /// For those who speak to the server in their own way.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.into_bytes())).expect("a sound request");
        let response = self.client.send(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], String::new()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        let json = [("content-type", JSON)];
        self.send(Method::POST, path, &json, object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        let json = [("content-type", JSON)];
        self.send(Method::PUT, path, &json, object.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        let headers = [("content-type", kind)];
        self.send(Method::PATCH, path, &headers, patch.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], String::new()).await
    }

    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        let json = [("content-type", JSON)];
        self.send(Method::DELETE, path, &json, options.to_string()).await
    }

    /// The items of a list.
    pub async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.get(path).await.is(200);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let sign = if path.contains('?') { '&' } else { '?' };
        let request = Request::get(format!("{path}{sign}watch=true")).body(Body::empty());
        let response = self.client.send(request.expect("a sound request")).await;
        let response = response.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Watch { lines: lines(response.into_body().into_data_stream()) }
    }

    /// A namespace of the test's own.
    pub async fn namespace(&self, base: &str) -> String {
        let name = unique(base);
        let labels = json!({"e2e-framework": base});
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        self.post("/api/v1/namespaces", &namespace).await.is(201);
        // No pod is taken before.
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        self.eventually(&account, |answer| answer.code == 200).await;
        name
    }

    /// Asks until what is answered is as wanted.
    pub async fn eventually(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer.body;
            }
            assert!(
                Instant::now() < end,
                "{path} is never as wanted: {} {}",
                answer.code,
                answer.body
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The lines of a stream as JSON.
fn lines(
    frames: http_body_util::BodyDataStream<Body>,
) -> futures::stream::BoxStream<'static, Value> {
    futures::stream::unfold((Vec::new(), frames), |(mut buffer, mut frames)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(end + 1);
                let line = serde_json::from_slice(&buffer).expect("a line of JSON");
                return Some((line, (rest, frames)));
            }
            buffer.extend_from_slice(&frames.next().await?.ok()?);
        }
    })
    .boxed()
}

/// A name that no other test has.
pub fn unique(base: &str) -> String {
    format!("{base}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Runs kubectl as the administrator; what it prints, and whether it succeeded.
pub fn kubectl(args: &[&str], input: &str) -> (bool, String) {
    let server = server();
    let mut child = Command::new("kubectl")
        .args(args)
        .env("KUBECONFIG", server.dir.join("server/kubeconfig"))
        .env("HOME", &server.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is installed (tests/run.sh does it)");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A kubectl that reads no input may have ended already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The names of objects.
pub fn names(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// What the suite does with most kinds that it only stores.
pub struct Operations<'a> {
    /// As `/apis/apps/v1`.
    pub api: &'a str,
    pub plural: &'a str,
    pub kind: &'a str,
    pub namespace: Option<&'a str>,
    /// Without metadata.
    pub template: Value,
    pub has_status: bool,
    /// What is written into the status: one element more in this list of it.
    pub status_list: &'a str,
}

impl Operations<'_> {
    fn collection(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{}/namespaces/{namespace}/{}", self.api, self.plural),
            None => format!("{}/{}", self.api, self.plural),
        }
    }

    /// Discovery, create, get, list, watch, patch, update, status, delete, deletecollection.
    pub async fn walk(&self, api: &Api) {
        self.discovery(api).await;
        let all = self.collection();
        let label = unique("special");
        let mut object = self.template.clone();
        object["metadata"] = json!({"generateName": "e2e-example-", "labels": {"special": label}});
        api.post(&all, &object).await.is(201);
        api.post(&all, &object).await.is(201);
        let made = api.post(&all, &object).await.is(201);
        let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
        let one = format!("{all}/{name}");
        let read = api.get(&one).await.is(200);
        assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
        let selected = format!("{all}?labelSelector=special%3D{label}");
        let list = api.get(&selected).await.is(200);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(3));
        let everywhere = format!("{}/{}?labelSelector=special%3D{label}", self.api, self.plural);
        assert_eq!(api.items(&everywhere).await.len(), 3, "across namespaces");
        let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
        let mut watch = api.watch(&format!("{selected}&resourceVersion={version}")).await;
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        let patched = api.patch(&one, MERGE, &patch).await.is(200);
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        let mut update = patched;
        update["metadata"]["annotations"]["updated"] = "true".into();
        let updated = api.put(&one, &update).await.is(200);
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        watch
            .until(|kind, object| {
                assert_eq!(kind, "MODIFIED");
                object["metadata"]["annotations"]["updated"] == "true"
            })
            .await;
        if self.has_status {
            self.status(api, &one, &made).await;
        }
        api.delete(&one).await.is(200);
        assert_eq!(api.get(&one).await.code, 404);
        assert_eq!(api.items(&selected).await.len(), 2);
        api.delete(&selected).await.is(200);
        assert_eq!(api.items(&selected).await.len(), 0);
    }

    async fn discovery(&self, api: &Api) {
        let (root, version) = self.api.rsplit_once('/').expect("a version");
        if let Some(group) = root.strip_prefix("/apis/") {
            let groups = api.get("/apis").await.is(200);
            let found = groups["groups"].as_array().expect("groups").iter();
            let found = found.clone().find(|g| g["name"] == group).expect("the group").clone();
            let served = found["versions"].as_array().expect("versions").iter();
            assert!(served.clone().any(|v| v["version"] == version), "{found}");
            let own = api.get(root).await.is(200);
            assert_eq!(own["name"], group);
        }
        let resources = api.get(self.api).await.is(200);
        let resources = resources["resources"].as_array().expect("resources").clone();
        let has = |name: String| resources.iter().any(|r| r["name"] == name);
        assert!(has(self.plural.to_owned()), "{resources:?}");
        assert_eq!(has(format!("{}/status", self.plural)), self.has_status);
    }

    async fn status(&self, api: &Api, one: &str, made: &Value) {
        let path = format!("{one}/status");
        let read = api.get(&path).await.is(200);
        assert_eq!(read["kind"], self.kind);
        assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
        let now = "2026-01-01T00:00:00Z";
        let condition = |name: &str| {
            json!({"type": name, "status": "False", "reason": "E2E", "message": "Set from a test",
                "lastTransitionTime": now})
        };
        let patch = json!({"status": {self.status_list: [condition("PatchStatusFailed")]}});
        let patched = api.patch(&path, MERGE, &patch).await.is(200);
        let has = |object: &Value, name: &str| {
            let list = object["status"][self.status_list].as_array().cloned().unwrap_or_default();
            list.iter().any(|c| c["type"] == name)
        };
        assert!(has(&patched, "PatchStatusFailed"), "{patched}");
        let mut update = api.get(one).await.is(200);
        let list = update["status"][self.status_list].as_array_mut().expect("the list");
        list.push(condition("StatusUpdateFailed"));
        let updated = api.put(&path, &update).await.is(200);
        assert!(has(&updated, "StatusUpdateFailed"), "{updated}");
    }
}
