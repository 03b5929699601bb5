//! The server and an agent, as processes of the built binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle::link::identity::{Ca, IdentityRequest, MASTERS_GROUP, Usage};
use coracle::link::tls::{ALPN_HTTP1, client_config};

use crate::common;
use crate::wire::Target;

pub struct Cluster {
    dir: tempfile::TempDir,
    server: Child,
    agent: Option<Child>,
}

fn coracle(log: PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    let log = std::fs::File::create(log).expect("a log file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("in vain: {what}");
}

impl Cluster {
    pub fn start() -> Self {
        let dir = common::scratch();
        let server = coracle(dir.path().join("server.log"))
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("server"))
            .spawn()
            .expect("the server starts");
        let ready = dir.path().join("server/ready");
        wait("the server is ready", || ready.exists().then_some(()));
        Self { dir, server, agent: None }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn url(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("server/ready"));
        text.expect("the server is ready").trim().to_owned()
    }

    pub fn start_agent(&mut self) {
        let agent = coracle(self.dir.path().join("agent.log"))
            .args(["agent", "--server", &self.url(), "--token-file"])
            .arg(self.dir.path().join("server/join-token"))
            .args(["--node-name", "bench", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.dir.path().join("agent"))
            .spawn()
            .expect("the agent starts");
        self.agent = Some(agent);
        wait("the node is Ready", || {
            let log = std::fs::read_to_string(self.dir.path().join("agent.log")).ok()?;
            log.contains("range of pod addresses").then_some(())
        });
    }

    /// The API, as an administrator.
    pub fn target(&self) -> Target {
        let clock = coracle::base::clock::SystemClock::shared();
        let ca = Ca::open_or_create(&self.dir.path().join("server/pki"), clock).expect("the CA");
        let admin = ca.issue(&IdentityRequest {
            common_name: "bench".into(),
            organizations: vec![MASTERS_GROUP.into()],
            sans: Vec::new(),
            usages: vec![Usage::ClientAuth],
            lifetime: Duration::from_secs(3600),
        });
        let admin = admin.expect("a certificate");
        let tls = client_config(ca.certificate(), Some(&admin), &[ALPN_HTTP1]);
        let address = self.url().replace("https://", "").parse().expect("an address");
        Target { address, tls: tls.expect("a configuration") }
    }

    pub fn server_mib(&self) -> f64 {
        resident_mib(self.server.id())
    }

    pub fn agent_mib(&self) -> f64 {
        resident_mib(self.agent.as_ref().expect("it was started").id())
    }
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib / 1024.0
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
