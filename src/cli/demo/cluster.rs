//! The processes of the demo: one server, and workers that can be killed and started again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::addresses::Addresses;
use super::process::{self, Process};
use super::scratch::Scratch;
use crate::cli::top::Workers;

/// How long the server may take to come up.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a child may take to end by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(4);
/// How much of a log is shown when a child has failed.
const TAIL_LINES: usize = 15;

/// Settings under which a killed worker is missed within five seconds. A cluster in earnest is
/// more patient (50 s and five minutes): networks have hiccups.
const SERVER_FLAGS: &[&str] = &[
    "--node-monitor-period-seconds=1",
    "--node-monitor-grace-period-seconds=4",
    "--default-not-ready-toleration-seconds=1",
    "--default-unreachable-toleration-seconds=1",
];
const AGENT_FLAGS: &[&str] =
    &["--lease-duration-seconds=4", "--lease-renew-seconds=1", "--allow-file-images"];

/// A worker of the demo.
#[derive(Debug)]
struct Worker {
    address: IpAddr,
    /// `None` while it is killed.
    process: Option<Process>,
}

/// The demo's processes; dropping it kills those that [`Cluster::stop`] has not ended.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    server: Mutex<Option<Process>>,
    url: String,
    workers: Mutex<BTreeMap<String, Worker>>,
    _addresses: Addresses,
    // Last, so that it is removed when no process writes into it any more.
    scratch: Scratch,
}

impl Cluster {
    /// Starts the server, and returns once it serves.
    ///
    /// # Errors
    /// It ended or is too slow; its last words are part of the error.
    pub async fn start(scratch: Scratch, addresses: Addresses) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this executable")?;
        let data = scratch.path().join("server");
        std::fs::create_dir(&data)?;
        let mut args = vec![
            "server".to_owned(),
            format!("--data-dir={}", data.display()),
            "--listen=127.0.0.1:0".to_owned(),
        ];
        args.extend(SERVER_FLAGS.iter().map(|flag| (*flag).to_owned()));
        let mut server = Process::start(&program, &args, &scratch.path().join("server.log"))?;
        let url = ready(&mut server, &data.join("ready")).await?;
        let names = (1..).map(|n| format!("demo-worker-{n}"));
        let workers = names
            .zip(&addresses.all)
            .map(|(name, address)| (name, Worker { address: *address, process: None }));
        let workers = Mutex::new(workers.collect());
        let server = Mutex::new(Some(server));
        Ok(Self { program, server, url, workers, _addresses: addresses, scratch })
    }

    /// Where the API server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.scratch.path().join("server").join("kubeconfig")
    }

    /// The workers with the addresses on which they open NodePorts.
    pub fn addresses(&self) -> Vec<(String, IpAddr)> {
        self.workers.lock().iter().map(|(name, worker)| (name.clone(), worker.address)).collect()
    }

    /// The process ids of all children that run.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.server.lock().iter().filter_map(Process::id).collect();
        let workers = self.workers.lock();
        ids.extend(workers.values().filter_map(|w| w.process.as_ref()?.id()));
        ids
    }

    /// Starts the process of a worker that does not run.
    ///
    /// # Errors
    /// There is no such worker, it runs already, or it cannot be started.
    pub fn start_worker(&self, name: &str) -> anyhow::Result<()> {
        let mut workers = self.workers.lock();
        let worker = workers.get_mut(name).with_context(|| format!("no worker {name}"))?;
        if let Some(process) = &mut worker.process
            && process.ended().is_none()
        {
            bail!("{name} runs already");
        }
        let server = self.scratch.path().join("server");
        let address = worker.address;
        let mut args = vec![
            "agent".to_owned(),
            format!("--server={}", self.url),
            format!("--token-file={}", server.join("join-token").display()),
            format!("--node-name={name}"),
            format!("--data-dir={}", self.scratch.path().join(name).display()),
            format!("--listen={address}:0"),
            format!("--peer-listen={address}:0"),
            format!("--host-address={address}"),
        ];
        args.extend(AGENT_FLAGS.iter().map(|flag| (*flag).to_owned()));
        worker.process = Some(Process::start(&self.program, &args, &self.log_of(name))?);
        Ok(())
    }

    /// Starts all workers.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_workers(&self) -> anyhow::Result<()> {
        let names: Vec<String> = self.workers.lock().keys().cloned().collect();
        names.iter().try_for_each(|name| self.start_worker(name))
    }

    /// Kills a worker with SIGKILL, as a power cut would.
    ///
    /// # Errors
    /// There is no such worker, or it does not run.
    pub async fn kill_worker(&self, name: &str) -> anyhow::Result<()> {
        let process = {
            let mut workers = self.workers.lock();
            let worker = workers.get_mut(name).with_context(|| format!("no worker {name}"))?;
            worker.process.take().with_context(|| format!("{name} does not run"))?
        };
        process.kill().await;
        Ok(())
    }

    /// Tells when a child has ended that was not asked to.
    ///
    /// # Errors
    /// Which it was, and its last words.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_server()?;
        for (name, worker) in self.workers.lock().iter_mut() {
            if let Some(process) = &mut worker.process {
                still_runs(name, process)?;
            }
        }
        Ok(())
    }

    fn check_server(&self) -> anyhow::Result<()> {
        match self.server.lock().as_mut() {
            Some(server) => still_runs("the server", server),
            None => Ok(()),
        }
    }

    /// Workers that have ended by themselves, or were killed from outside, since the last call.
    /// From then on they count as killed: the cluster goes on without them.
    fn take_ended(&self) -> Vec<String> {
        let mut told = Vec::new();
        for (name, worker) in self.workers.lock().iter_mut() {
            let ended = worker.process.as_mut().and_then(Process::ended);
            if let Some(status) = ended {
                worker.process = None;
                told.push(format!("the worker process of {name} has ended ({status})"));
            }
        }
        told
    }

    /// Ends all children, the workers first.
    pub async fn stop(&self) {
        let processes: Vec<Process> =
            self.workers.lock().values_mut().filter_map(|worker| worker.process.take()).collect();
        join_all(processes.into_iter().map(|process| process.stop(STOP_PATIENCE))).await;
        let server = self.server.lock().take();
        if let Some(server) = server {
            server.stop(STOP_PATIENCE).await;
        }
    }

    /// The last lines of a worker's log.
    pub fn tail_of(&self, name: &str) -> String {
        process::tail(&self.log_of(name), TAIL_LINES)
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.scratch.path().join(format!("{name}.log"))
    }
}

impl Workers for Cluster {
    fn kill<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.kill_worker(node))
    }

    fn restart(&self, node: &str) -> anyhow::Result<()> {
        self.start_worker(node)
    }

    fn ended(&self) -> anyhow::Result<Vec<String>> {
        self.check_server()?;
        Ok(self.take_ended())
    }
}

fn still_runs(name: &str, process: &mut Process) -> anyhow::Result<()> {
    match process.ended() {
        None => Ok(()),
        Some(status) => {
            bail!("{name} ended ({status}); the end of its log:\n{}", process.tail(TAIL_LINES))
        }
    }
}

/// Waits for the file that the server writes when it serves, and reads its URL from it.
async fn ready(server: &mut Process, file: &Path) -> anyhow::Result<String> {
    let since = Instant::now();
    loop {
        // The line end comes last, so that half a line is not taken for the whole.
        if let Ok(text) = std::fs::read_to_string(file)
            && let Some(url) = text.strip_suffix('\n')
        {
            return Ok(url.to_owned());
        }
        still_runs("the server", server)?;
        if since.elapsed() > SERVER_PATIENCE {
            let tail = server.tail(TAIL_LINES);
            bail!("the server is not up after {SERVER_PATIENCE:?}; the end of its log:\n{tail}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
