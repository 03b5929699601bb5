//! A real cluster for a test: server and agents as processes of the built binary, on free ports of
//! loopback, with all their files in one temporary directory.
#![allow(dead_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster. Its processes end with it.
pub struct Cluster {
    dir: tempfile::TempDir,
    /// Whether the server's folder is a disk of its own.
    mounted: bool,
    server: Option<Child>,
    server_args: Vec<String>,
    agents: Vec<Option<Child>>,
    agent_args: Vec<String>,
}

impl Cluster {
    /// A server that is ready, and no agent.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further flags for the server.
    pub fn start_with(server_args: &[&str]) -> Self {
        let mut cluster = Self::not_started(server_args);
        cluster.start_server("127.0.0.1:0");
        cluster
    }

    fn not_started(server_args: &[&str]) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            mounted: false,
            server: None,
            server_args: server_args.iter().map(|&a| a.to_owned()).collect(),
            agents: Vec::new(),
            agent_args: Vec::new(),
        }
    }

    /// A server whose data directory is a disk of its own, of so many bytes. Needs root.
    pub fn start_on_disk_of(bytes: u64) -> Self {
        let mut cluster = Self::not_started(&[]);
        std::fs::create_dir(cluster.server_dir()).expect("a folder");
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(cluster.server_dir());
        assert!(mount.status().expect("mount").success(), "a disk of its own (as root)");
        cluster.mounted = true;
        cluster.start_server("127.0.0.1:0");
        cluster
    }

    /// A server and `count` agents whose nodes, `node-0` and so on, are Ready.
    pub fn with_agents(count: usize) -> Self {
        let mut cluster = Self::start();
        for index in 0..count {
            cluster.start_agent(index);
        }
        cluster.wait_for_nodes(count);
        cluster
    }

    /// Further flags for agents that are started from now on.
    pub fn agents_get(&mut self, args: &[&str]) {
        self.agent_args = args.iter().map(|&a| a.to_owned()).collect();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn server_dir(&self) -> PathBuf {
        self.path().join("server")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.server_dir().join("kubeconfig")
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        let ready = std::fs::read_to_string(self.server_dir().join("ready"));
        ready.expect("the server is ready").trim().to_owned()
    }

    fn coracle(&self, log: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path().join(log))
            .expect("a log file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts the server and waits until it is ready.
    pub fn start_server(&mut self, listen: &str) {
        let child = self
            .coracle("server.log")
            .args(["server", "--listen", listen, "--data-dir"])
            .arg(self.server_dir())
            .args(&self.server_args)
            .spawn()
            .expect("the binary starts");
        self.server = Some(child);
        let ready = self.server_dir().join("ready");
        let mut server = self.server.take().expect("just set");
        eventually("the server is ready", || {
            if let Ok(Some(status)) = server.try_wait() {
                panic!("the server ended ({status}): {}", self.log("server.log"));
            }
            std::fs::read_to_string(&ready).is_ok_and(|text| text.ends_with('\n')).then_some(())
        });
        self.server = Some(server);
    }

    /// SIGKILL, as a crash.
    pub fn kill_server(&mut self) {
        kill(self.server.take());
        let _ = std::fs::remove_file(self.server_dir().join("ready"));
    }

    /// Starts an agent whose node is `node-INDEX`.
    pub fn start_agent(&mut self, index: usize) {
        let name = format!("node-{index}");
        let child = self
            .coracle(&format!("{name}.log"))
            .args(["agent", "--server", &self.url(), "--token-file"])
            .arg(self.server_dir().join("join-token"))
            .args(["--node-name", &name, "--listen", "127.0.0.1:0", "--allow-file-images"])
            .arg("--data-dir")
            .arg(self.path().join(&name))
            .args(&self.agent_args)
            .spawn()
            .expect("the binary starts");
        self.agents.resize_with(self.agents.len().max(index + 1), || None);
        self.agents[index] = Some(child);
    }

    /// SIGKILL, as a crash.
    pub fn kill_agent(&mut self, index: usize) {
        kill(self.agents[index].take());
    }

    /// Process id of an agent.
    pub fn agent_pid(&self, index: usize) -> u32 {
        self.agents[index].as_ref().expect("the agent runs").id()
    }

    /// Process id of the server.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    pub fn wait_for_nodes(&self, count: usize) {
        eventually("the nodes are Ready", || {
            let nodes = self.kubectl(&["get", "nodes", "--no-headers"]);
            (nodes.text.matches(" Ready ").count() == count).then_some(())
        });
    }

    /// What a process wrote.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Runs kubectl, as the cluster's administrator.
    pub fn kubectl(&self, args: &[&str]) -> Told {
        self.kubectl_with(args, "", &[])
    }

    /// The same with standard input and environment.
    pub fn kubectl_with(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> Told {
        let mut command = self.kubectl_command(args);
        command.envs(env.iter().copied());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed (tests/run.sh does it)");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A kubectl that reads no input may have ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Told::of(&child.wait_with_output().expect("kubectl ends"))
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.path());
        command
    }

    /// What kubectl prints when it succeeds, as it must.
    pub fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, "")
    }

    pub fn ok_with(&self, args: &[&str], input: &str) -> String {
        let told = self.kubectl_with(args, input, &[]);
        assert!(told.succeeded, "kubectl {args:?}: {}", told.text);
        told.text
    }

    /// What kubectl prints when it fails, as it must.
    pub fn refused(&self, args: &[&str], input: &str) -> String {
        let told = self.kubectl_with(args, input, &[]);
        assert!(!told.succeeded, "kubectl {args:?} should fail: {}", told.text);
        told.text
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> String {
        self.ok_with(&["apply", "-f", "-"], manifests)
    }

    /// Waits for what a jsonpath of an object shows.
    pub fn wait_for(&self, object: &str, path: &str, wanted: &str) {
        let template = format!("jsonpath={{{path}}}");
        let end = Instant::now() + PATIENCE;
        loop {
            let shown = self.kubectl(&["get", object, "-o", &template]).text;
            if shown.trim() == wanted {
                return;
            }
            let whole = || self.kubectl(&["describe", object]).text;
            assert!(
                Instant::now() < end,
                "{object}: {path} is {shown:?}, not {wanted:?}\n{}",
                whole()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for a Deployment's rollout.
    pub fn rolled_out(&self, deployment: &str) {
        let told = self.kubectl(&["rollout", "status", deployment, "--timeout=90s"]);
        assert!(
            told.succeeded,
            "{}\n{}",
            told.text,
            self.kubectl(&["get", "pods,events", "-A", "-o", "wide"]).text
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.path()).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".log") {
                    let log = self.log(&name);
                    let last: Vec<&str> = log.lines().rev().take(30).collect();
                    eprintln!("--- {name}");
                    last.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
        }
        for agent in &mut self.agents {
            kill(agent.take());
        }
        kill(self.server.take());
        if self.mounted {
            let _ = Command::new("umount").arg(self.server_dir()).status();
        }
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What a command said.
pub struct Told {
    pub succeeded: bool,
    pub code: Option<i32>,
    /// Standard output, then standard error.
    pub text: String,
}

impl Told {
    pub fn of(output: &Output) -> Self {
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        Self {
            succeeded: output.status.success(),
            code: output.status.code(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    let what = what.to_owned();
    let mut ask = ask;
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
