//! One simulation, from the first byte on disk to the table.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::SimConfig;
use super::check;
use super::fault::{self, Fault, Kind};
use super::figures::{Table, fdatasync, ms, percentile, seconds};
use super::hollow::{Fleet, Node};
use super::load;
use super::probe::{self, Samples};
use super::server::Server;
use super::wire::Connection;
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long nodes may take to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(900);
/// Descriptors besides the connections of nodes.
const DESCRIPTORS: u64 = 1024;

/// Runs a simulation, and prints its table line by line to `say`. Answers what did not hold.
///
/// # Errors
/// What kept it from coming to its end.
pub async fn run(
    config: SimConfig,
    shutdown: Shutdown,
    mut say: impl FnMut(String),
) -> anyhow::Result<Vec<String>> {
    raise_descriptors(config.nodes)?;
    let scratch = match &config.data_dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            None
        }
        None => Some(scratch_dir()?),
    };
    let dir = match (&config.data_dir, &scratch) {
        (Some(dir), _) => dir.clone(),
        (None, Some(scratch)) => scratch.0.clone(),
        (None, None) => bail!("there is no directory for the server"),
    };
    let sync = fdatasync(&dir)?;
    let server = Server::start(&dir).await?;
    let stop = shutdown.child_token();
    let mut simulation = Simulation::new(config, server, stop);
    let mut table = Table::default();
    let ran = tokio::select! {
        () = shutdown.cancelled() => Err(anyhow::anyhow!("it was told to end")),
        ran = simulation.run(&mut table, &mut say) => ran,
    };
    simulation.stop.cancel();
    simulation.tasks.shutdown().await;
    table.add("fdatasync of 1 KiB, p50", ms(sync));
    table.add("server's memory", format!("{:.0} MiB", simulation.server.resident_mib()));
    simulation.server.stop().await;
    table.lines().into_iter().for_each(&mut say);
    ran
}

/// A directory that is removed at the end.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn scratch_dir() -> anyhow::Result<Scratch> {
    let path = std::env::temp_dir().join(format!("coracle-sim-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    Ok(Scratch(path))
}

/// Every node is a connection; the server process inherits the limit.
fn raise_descriptors(nodes: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = nodes as u64 * 2 + DESCRIPTORS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        setrlimit(Resource::Nofile, limit)?;
    }
    if limit.current.is_some_and(|current| current < nodes as u64 + DESCRIPTORS / 2) {
        bail!(
            "{nodes} nodes need about {wanted} open files, and this user may have {}: raise the \
             limit (ulimit -n) or ask for fewer --nodes",
            limit.current.unwrap_or(0)
        );
    }
    Ok(())
}

struct Simulation {
    config: SimConfig,
    server: Server,
    fleet: Arc<Fleet>,
    nodes: Vec<Arc<Node>>,
    rng: Rng,
    stop: Shutdown,
    tasks: JoinSet<()>,
    samples: Arc<Mutex<Samples>>,
}

impl Simulation {
    fn new(config: SimConfig, server: Server, stop: Shutdown) -> Self {
        let fleet = Fleet::new(
            server.endpoint.clone(),
            server.token.bearer(),
            config.heartbeat,
            stop.clone(),
        );
        Self {
            rng: Rng::seeded(config.seed),
            nodes: (0..config.nodes).map(Node::new).collect(),
            fleet: Arc::new(fleet),
            config,
            server,
            stop,
            tasks: JoinSet::new(),
            samples: Arc::default(),
        }
    }

    async fn run(
        &mut self,
        table: &mut Table,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<Vec<String>> {
        let admin = self.server.connect().await?;
        load::namespace(&admin).await?;
        self.join(table, say).await?;
        self.heartbeats(table, say).await;
        let probing = probe::run(
            self.server.endpoint.clone(),
            self.server.admin().clone(),
            self.samples.clone(),
            self.stop.clone(),
        );
        self.tasks.spawn(probing);
        self.pods(&admin, table, say).await?;
        self.settle(table, say).await
    }

    async fn join(
        &mut self,
        table: &mut Table,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<()> {
        let (start, wanted) = (Instant::now(), self.config.nodes);
        for node in &self.nodes {
            let rng = Rng::seeded(self.rng.next_u64());
            self.tasks.spawn(node.clone().run(self.fleet.clone(), rng));
        }
        let ready = || self.fleet.tally.ready_nodes.load(Ordering::Relaxed);
        while ready() < wanted {
            if start.elapsed() > JOIN_PATIENCE {
                bail!("only {} of {wanted} nodes joined; see the server's log", ready());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let took = start.elapsed();
        say(format!("{wanted} nodes joined in {}", seconds(took)));
        let rate = wanted as f64 / took.as_secs_f64();
        table.add("nodes joined (CSR, TLS, registered)", format!("{rate:.0} /s"));
        Ok(())
    }

    /// What the server costs while nothing but heartbeats happens.
    async fn heartbeats(&mut self, table: &mut Table, say: &mut impl FnMut(String)) {
        if self.config.idle.is_zero() {
            return;
        }
        // What joining left behind is done before.
        tokio::time::sleep(self.config.idle / 4).await;
        let beats = || self.fleet.tally.heartbeats.load(Ordering::Relaxed);
        let (start, cpu, before) = (Instant::now(), self.server.cpu_seconds(), beats());
        tokio::time::sleep(self.config.idle).await;
        let took = start.elapsed().as_secs_f64();
        let share = 100.0 * (self.server.cpu_seconds() - cpu) / took;
        let rate = (beats() - before) as f64 / took;
        say(format!("{rate:.0} heartbeats/s cost the server {share:.1} % of a core"));
        table.add(
            format!("{} nodes' heartbeats, server's share of a core", self.config.nodes),
            format!("{share:.1} % ({rate:.0} /s)"),
        );
    }

    async fn pods(
        &mut self,
        admin: &Connection,
        table: &mut Table,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<()> {
        let wanted = self.config.pods;
        if wanted == 0 {
            return Ok(());
        }
        let (start, cpu) = (Instant::now(), self.server.cpu_seconds());
        let creating = {
            let (admin, workload) = (admin.clone(), self.config.workload);
            tokio::spawn(async move { load::create(&admin, workload, wanted).await })
        };
        let mut faults = self.config.faults.0.clone().into_iter().peekable();
        let no_faults = faults.peek().is_none();
        let progress = |fleet: &Fleet| fleet.tally.ready.load(Ordering::Relaxed);
        while progress(&self.fleet) < wanted || faults.peek().is_some() {
            while let Some(fault) = faults.next_if(|fault| fault.after <= start.elapsed()) {
                say(format!("{} after the start: {:?}", seconds(start.elapsed()), fault.kind));
                self.break_something(fault).await?;
            }
            if start.elapsed() > self.config.patience {
                let ready = progress(&self.fleet);
                let bound = self.fleet.tally.bound.load(Ordering::Relaxed);
                bail!("only {bound} of {wanted} pods were bound and {ready} Ready in time");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // With faults the creation may have lost its connection; what matters is what came of it.
        match creating.await? {
            Err(error) if no_faults => return Err(error),
            _ => {}
        }
        self.pod_figures(start, table, say);
        if no_faults {
            // A server that was killed took its count with it.
            let each = (self.server.cpu_seconds() - cpu) / wanted as f64;
            table.add("server's processor time a pod", ms(Duration::from_secs_f64(each.max(0.0))));
        }
        Ok(())
    }

    fn pod_figures(&self, start: Instant, table: &mut Table, say: &mut impl FnMut(String)) {
        let wanted = self.config.pods;
        let seen: Vec<_> = self.fleet.tally.pods.lock().values().cloned().collect();
        let last = |of: &dyn Fn(&super::hollow::Seen) -> Option<Instant>| {
            let latest = seen.iter().filter_map(of).max();
            latest.map_or(Duration::ZERO, |at| at - start)
        };
        let (bound, ready) = (last(&|s| Some(s.bound)), last(&|s| s.ready));
        let mut starts: Vec<Duration> =
            seen.iter().filter_map(|s| Some(s.ready? - s.bound)).collect();
        let rate = seen.len() as f64 / bound.as_secs_f64();
        say(format!("{wanted} pods bound in {}, Ready in {}", seconds(bound), seconds(ready)));
        table.add(
            format!("{wanted} pods created, scheduled and bound"),
            format!("{rate:.0} /s (all in {})", seconds(bound)),
        );
        table.add("  … and all Ready", seconds(ready));
        table.add("bound to Ready, p99", ms(percentile(&mut starts, 0.99)));
        let mut samples = self.samples.lock();
        table.add("single object read meanwhile, p99", ms(percentile(&mut samples.gets, 0.99)));
        table.add("single object written, p99", ms(percentile(&mut samples.patches, 0.99)));
        *samples = Samples::default();
    }

    async fn break_something(&mut self, fault: Fault) -> anyhow::Result<()> {
        let chosen = fault::choose(&mut self.rng, self.nodes.len(), fault.share);
        match fault.kind {
            Kind::Disconnect => chosen.iter().for_each(|at| self.nodes[*at].cut.notify_one()),
            Kind::Silence { lasts } => {
                let nodes: Vec<Arc<Node>> =
                    chosen.iter().map(|at| self.nodes[*at].clone()).collect();
                for node in &nodes {
                    node.silent.store(true, Ordering::Relaxed);
                    node.cut.notify_one();
                }
                self.tasks.spawn(async move {
                    tokio::time::sleep(lasts).await;
                    nodes.iter().for_each(|node| node.silent.store(false, Ordering::Relaxed));
                });
            }
            Kind::DeletePods => {
                let connection = self.server.connect().await?;
                let pods = check::pods(&connection).await?;
                let chosen = fault::choose(&mut self.rng, pods.len(), fault.share);
                let names = chosen.iter().map(|at| &pods[*at].metadata.name);
                load::delete(&connection, names).await?;
            }
            Kind::CrashServer => self.server.crash().await?,
        }
        Ok(())
    }

    /// Waits until all is as it was asked for, and tells what is not.
    async fn settle(
        &mut self,
        table: &mut Table,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<Vec<String>> {
        let (start, wanted) = (Instant::now(), self.config.pods);
        let wrong = loop {
            // The connection may be one to a server that was killed.
            let connection = self.server.connect().await?;
            let pods = check::pods(&connection).await?;
            let wrong = check::violations(&pods, &self.nodes, &self.fleet.tally);
            if check::at_rest(&pods, wanted) && wrong.is_empty() {
                break wrong;
            }
            if start.elapsed() > self.config.patience {
                let mut wrong = wrong;
                wrong.push(format!("{} of {wanted} pods are there", pods.len()));
                break wrong;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        if !self.config.faults.0.is_empty() {
            table.add("at rest again after the faults", seconds(start.elapsed()));
        }
        let (mut gets, mut patches) = {
            let samples = self.samples.lock();
            (samples.gets.clone(), samples.patches.clone())
        };
        if gets.len() > 100 {
            table.add("single object read at rest, p99", ms(percentile(&mut gets, 0.99)));
            table.add("single object written at rest, p99", ms(percentile(&mut patches, 0.99)));
        }
        let tally = &self.fleet.tally;
        let late = tally.late_heartbeats.load(Ordering::Relaxed);
        table.add("heartbeats later than their period", late.to_string());
        table.add("connections made anew", tally.reconnects.load(Ordering::Relaxed).to_string());
        say(match wrong.len() {
            0 => "every node was told of exactly its pods; no pod was given to two".to_owned(),
            n => format!("{n} things are wrong"),
        });
        Ok(wrong)
    }
}
