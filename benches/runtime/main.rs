//! What the runtime promises, measured: armed pods, requests a second, and neighbours.
//!
//! `cargo bench --bench runtime -- [armed] [distinct] [requests] [neighbours]`, all by default. For
//! the comparison, `WASMTIME` names a `wasmtime` 48 (`cargo install wasmtime-cli`).

mod guest;
mod load;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle::net::{
    Endpoint, Fabric, FabricConfig, Namespace, NamespaceSpec, Protocol, ServicePort, ServiceTable,
};
use coracle::runtime::{
    Compiler, Limits, LogSink, Runtime, RuntimeConfig, Stdio as Stream, Workload, WorkloadSpec,
};
use sha2::{Digest, Sha256};

const PODS: u32 = 2000;
const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(5);

struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("compile-artifact") => return coracle::runtime::compile::child_main(),
        Some("load") => {
            load::child(&args[1..]);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let chosen: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let runs = |name: &str| chosen.is_empty() || chosen.iter().any(|arg| *arg == name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runs("armed") {
        runtime.block_on(armed("armed, one digest", 1));
    }
    if runs("distinct") {
        runtime.block_on(armed("armed, distinct digests", PODS));
    }
    if runs("requests") {
        requests(&runtime);
    }
    if runs("neighbours") {
        neighbours(&runtime);
    }
    ExitCode::SUCCESS
}

/// A node of the bench's own.
struct Node {
    dir: PathBuf,
    fabric: Arc<Fabric>,
    runtime: Arc<Runtime>,
}

impl Node {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
        let mut config = RuntimeConfig::new(dir.join("state"));
        config.compiler = Compiler {
            program: std::env::current_exe().expect("this program"),
            args: vec!["compile-artifact".to_string()],
        };
        let runtime = Runtime::new(config).expect("a runtime");
        Self { dir, fabric: Fabric::new(FabricConfig::new("bench")), runtime }
    }

    fn namespace(&self, pod: u32) -> Arc<Namespace> {
        let ip = IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + pod));
        let (uid, name) = (format!("uid-{pod}"), format!("pod-{pod}"));
        self.fabric.attach(NamespaceSpec::new(uid, ip, "default", name))
    }

    fn file(&self, wasm: &[u8]) -> (PathBuf, String) {
        let hex = hex::encode(Sha256::digest(wasm));
        let path = self.dir.join(format!("{hex}.wasm"));
        std::fs::write(&path, wasm).expect("written");
        (path, format!("sha256:{hex}"))
    }

    fn spec(&self, pod: u32, artifact: PathBuf, digest: String) -> WorkloadSpec {
        WorkloadSpec {
            label: format!("default/pod-{pod}/app"),
            artifact,
            digest,
            args: vec!["app".to_string()],
            env: vec![("POD_NAME".to_string(), format!("pod-{pod}"))],
            working_dir: None,
            mounts: Vec::new(),
            limits: Limits { memory_bytes_max: Some(64 << 20), cpu_millis_max: None },
            http_ports: vec![8080],
            network: self.namespace(pod),
            logs: Arc::new(NoLog),
            stdio: Default::default(),
        }
    }

    /// A Service with a NodePort before these pods.
    fn node_port(&self, pods: &[u32]) -> String {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let endpoint = |pod: &u32| Endpoint {
            ip: IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + pod)),
            port: 8080,
            ready: true,
            hostname: None,
            node: Some("bench".to_string()),
        };
        self.fabric.set_service(ServiceTable {
            namespace: "default".to_string(),
            name: "web".to_string(),
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 99).into()],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(port),
                endpoints: pods.iter().map(endpoint).collect(),
            }],
            ..ServiceTable::default()
        });
        format!("127.0.0.1:{port}")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Arms [`PODS`] http pods of so many digests.
async fn armed(what: &str, digests: u32) {
    let node = Node::new();
    let artifacts: Vec<(PathBuf, String)> =
        (0..digests).map(|n| node.file(&guest::lean_handler(n))).collect();
    let start = Instant::now();
    let compile = futures::stream::iter(artifacts.clone()).map(|(path, digest)| {
        let runtime = node.runtime.clone();
        async move { runtime.prepare(&path, &digest).await.expect("compiled") }
    });
    use futures::StreamExt;
    compile.buffer_unordered(2).count().await;
    let compiled = start.elapsed();
    // As after a restart of the node: compiled, not loaded.
    let mut config = RuntimeConfig::new(node.dir.join("state"));
    config.compiler.program = PathBuf::from("/nonexistent");
    let mut node = node;
    node.runtime = Runtime::new(config).expect("a runtime");
    let before = resident_kib();
    let start = Instant::now();
    let mut pods: Vec<Workload> = Vec::new();
    for pod in 0..PODS {
        let (path, digest) = artifacts[(pod % digests) as usize].clone();
        let spec = node.spec(pod, path, digest);
        pods.push(node.runtime.start(spec).await.expect("armed"));
    }
    let armed = start.elapsed();
    let resident = resident_kib() - before;
    let loaded = node.runtime.artifacts_loaded();
    println!(
        "{what}: {PODS} pods in {armed:?} ({:.0} µs a pod), {:.1} KiB resident a pod, \
         {loaded} artifacts loaded; compiling took {compiled:?}",
        armed.as_micros() as f64 / f64::from(PODS),
        resident as f64 / f64::from(PODS),
    );
}

fn hello() -> &'static [u8] {
    include_bytes!("../../wasm-samples/hello-http/hello-http.wasm")
}

/// Requests a second through a NodePort and a Service to two pods, beside `wasmtime serve`.
fn requests(runtime: &tokio::runtime::Runtime) {
    for (what, wasm) in [("hello-http", hello().to_vec()), ("lean handler", guest::lean_handler(0))]
    {
        let node = runtime.block_on(async { Node::new() });
        let (path, digest) = node.file(&wasm);
        let _pods: Vec<Workload> = (0..2)
            .map(|pod| {
                let spec = node.spec(pod, path.clone(), digest.clone());
                runtime.block_on(node.runtime.start(spec)).expect("armed")
            })
            .collect();
        let address = node.node_port(&[0, 1]);
        load::wait_for(&address);
        report(&format!("{what}, NodePort"), &address);
        through_service(what, &node, runtime);
        serve_with_wasmtime(what, &path, &[]);
        let pooled = [
            "-O",
            "pooling-allocator=y",
            "-O",
            "pooling-pagemap-scan=y",
            "-O",
            "pooling-memory-keep-resident=262144",
            "-O",
            "pooling-table-keep-resident=16384",
        ];
        serve_with_wasmtime(what, &path, &pooled);
    }
}

fn report(what: &str, address: &str) {
    load::run(address, CONNECTIONS, Duration::from_secs(1));
    let load = load::run(address, CONNECTIONS, TIME);
    println!(
        "{what}: {:.0} requests/s, p50 {} µs, p99 {} µs, {} failed ({CONNECTIONS} connections)",
        load.per_second, load.p50_us, load.p99_us, load.failed
    );
}

/// The same from a third pod, by the Service's name, as its `wasi:http` requests go.
fn through_service(what: &str, node: &Node, runtime: &tokio::runtime::Runtime) {
    let pod = node.namespace(2);
    let until = Instant::now() + TIME;
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let pod = pod.clone();
            runtime.spawn(async move {
                let (mut micros, mut failed) = (Vec::new(), 0);
                while Instant::now() < until {
                    let start = Instant::now();
                    match ask(&pod).await {
                        Some(()) => micros.push(start.elapsed().as_micros() as u64),
                        None => failed += 1,
                    }
                }
                (micros, failed)
            })
        })
        .collect();
    let (mut micros, mut failed) = (Vec::new(), 0);
    for caller in callers {
        let (own, bad) = runtime.block_on(caller).expect("a caller");
        micros.extend(own);
        failed += bad;
    }
    micros.sort_unstable();
    let at = |part: f64| micros.get((micros.len() as f64 * part) as usize).copied().unwrap_or(0);
    println!(
        "{what}, Service: {:.0} requests/s, p50 {} µs, p99 {} µs, {failed} failed \
         ({CONNECTIONS} callers in one pod)",
        micros.len() as f64 / TIME.as_secs_f64(),
        at(0.5),
        at(0.99)
    );
}

async fn ask(pod: &Namespace) -> Option<()> {
    let request = http::Request::get("http://web.default/").body(coracle::net::empty());
    let answer = pod.request(request.expect("a request")).await.ok()?;
    let whole = http_body_util::BodyExt::collect(answer.into_body()).await;
    whole.ok().map(|_| ())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve_with_wasmtime(what: &str, wasm: &Path, flags: &[&str]) {
    let Some(wasmtime) = std::env::var_os("WASMTIME") else {
        println!("{what}, wasmtime serve: skipped, since WASMTIME names none");
        return;
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let child = Command::new(wasmtime)
        .args(["serve", "-S", "cli", "--addr", &address])
        .args(flags)
        .arg(wasm)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("wasmtime starts");
    let _server = Server(child);
    load::wait_for(&address);
    let flags = if flags.is_empty() { "defaults".to_string() } else { "pool flags".to_string() };
    report(&format!("{what}, wasmtime serve ({flags})"), &address);
}

/// Fifty busy loops, and another pod's answers.
fn neighbours(runtime: &tokio::runtime::Runtime) {
    let node = runtime.block_on(async { Node::new() });
    let (path, digest) = node.file(hello());
    let spec = node.spec(0, path, digest);
    let _web = runtime.block_on(node.runtime.start(spec)).expect("armed");
    let address = node.node_port(&[0]);
    load::wait_for(&address);
    let alone = load::run(&address, 1, TIME);
    let spin = include_bytes!("../../wasm-samples/spin/spin.wasm");
    let (path, digest) = node.file(spin);
    let _spinning: Vec<Workload> = (1..=50)
        .map(|pod| {
            let spec = node.spec(pod, path.clone(), digest.clone());
            runtime.block_on(node.runtime.start(spec)).expect("started")
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let beside = load::run(&address, 1, TIME);
    println!(
        "beside 50 busy loops: p50 {} µs, p99 {} µs, {:.0} requests/s on one connection \
         (alone: p50 {} µs, p99 {} µs)",
        beside.p50_us, beside.p99_us, beside.per_second, alone.p50_us, alone.p99_us
    );
}
