//! Guests, well-behaved and hostile, in a runtime with a network of its own.

mod commands;
mod hostile;
mod http;
mod streams;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ::http::Request;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::net::{Fabric, FabricConfig, Namespace, NamespaceSpec};
use crate::runtime::{
    Exit, Limits, LogSink, Mount, Runtime, RuntimeConfig, StartError, Stdio, StdioSpec, Toolbox,
    Workload, WorkloadSpec,
};

/// Long enough for a debug build on a busy machine; what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps all that was written.
#[derive(Default)]
pub struct Log(Mutex<Vec<u8>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl LogSink for Log {
    fn write(&self, _stream: Stdio, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

/// A node: a runtime, a network, a directory.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub fabric: Arc<Fabric>,
    pub runtime: Arc<Runtime>,
    pods: AtomicU8,
}

impl Node {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = RuntimeConfig::for_tests(dir.path().join("state"));
        config.threads = Some(2);
        let (path, digest) = file(dir.path(), sample("toolbox"));
        config.toolbox = Some(Toolbox { path, digest });
        change(&mut config);
        let fabric = Fabric::new(FabricConfig::new("node"));
        let runtime = Runtime::new(config).expect("a runtime");
        Self { dir, fabric, runtime, pods: AtomicU8::new(1) }
    }

    /// A pod's namespace.
    pub fn namespace(&self) -> Arc<Namespace> {
        let pod = self.pods.fetch_add(1, Ordering::Relaxed);
        let ip = IpAddr::from(Ipv4Addr::new(10, 128, 0, pod));
        let spec = NamespaceSpec::new(format!("uid-{pod}"), ip, "default", format!("pod-{pod}"));
        self.fabric.attach(spec)
    }

    /// A workload of these bytes, in a pod of its own.
    pub fn spec(&self, name: &str, wasm: &[u8]) -> (WorkloadSpec, Arc<Log>) {
        let (artifact, digest) = file(self.dir.path(), wasm);
        let logs = Arc::new(Log::default());
        let spec = WorkloadSpec {
            label: format!("default/{name}/app"),
            artifact,
            digest,
            args: vec![name.to_string()],
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            limits: Limits::default(),
            http_ports: Vec::new(),
            network: self.namespace(),
            logs: logs.clone(),
            stdio: StdioSpec::default(),
        };
        (spec, logs)
    }

    /// A workload of a sample.
    pub fn sample(&self, name: &str) -> (WorkloadSpec, Arc<Log>) {
        self.spec(name, sample(name))
    }

    pub async fn start(&self, spec: WorkloadSpec) -> Workload {
        let started = tokio::time::timeout(PATIENCE, self.runtime.start(spec)).await;
        started.expect("in time").expect("started")
    }

    pub async fn start_error(&self, spec: WorkloadSpec) -> StartError {
        let started = tokio::time::timeout(PATIENCE, self.runtime.start(spec)).await;
        match started.expect("in time") {
            Ok(_) => panic!("it started"),
            Err(error) => error,
        }
    }

    /// Starts it and waits for its end.
    pub async fn run(&self, spec: WorkloadSpec) -> Exit {
        wait(&self.start(spec).await).await
    }

    /// GETs a URL as the node itself would.
    pub async fn get(&self, url: &str) -> (u16, String) {
        let request = Request::get(url).body(crate::net::empty()).expect("a request");
        let answer = tokio::time::timeout(PATIENCE, self.fabric.host().request(request)).await;
        let answer = answer.expect("in time").expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub fn mkdir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    }
}

pub async fn wait(workload: &Workload) -> Exit {
    tokio::time::timeout(PATIENCE, workload.wait()).await.expect("it ends")
}

/// Waits until the log says so.
pub async fn until_logged(log: &Log, text: &str) {
    for _ in 0..PATIENCE.as_millis() / 10 {
        if log.text().contains(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{text:?} was never logged, but {:?}", log.text());
}

pub fn mount(host: PathBuf, guest: &str, read_only: bool) -> Mount {
    Mount { host, guest: guest.to_string(), read_only }
}

pub fn env(spec: &mut WorkloadSpec, name: &str, value: &str) {
    spec.env.push((name.to_string(), value.to_string()));
}

pub fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("valid text")
}

fn file(dir: &std::path::Path, wasm: &[u8]) -> (PathBuf, String) {
    let hex = hex::encode(Sha256::digest(wasm));
    let path = dir.join(format!("{hex}.wasm"));
    std::fs::write(&path, wasm).expect("written");
    (path, format!("sha256:{hex}"))
}

fn sample(name: &str) -> &'static [u8] {
    macro_rules! bytes {
        ($($name:literal),*) => {
            match name {
                $($name => include_bytes!(
                    concat!("../../../../wasm-samples/", $name, "/", $name, ".wasm")
                ),)*
                _ => panic!("no sample {name}"),
            }
        };
    }
    bytes!("batch", "counter-tcp", "greeter", "hello-http", "memhog", "spin", "toolbox", "udp-echo")
}
