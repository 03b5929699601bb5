//! `sim`: a large cluster of hollow nodes on this machine, measured and shaken.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{duration, process};
use crate::base::shutdown::Shutdown;
use crate::sim::fault::FaultPlan;
use crate::sim::{self, SimConfig, Workload};

const NODES_MAX: usize = 20_000;
const PODS_MAX: usize = 1_000_000;
const FAULT_PLAN_MAX: u64 = 1 << 20;

/// What `sim` is asked.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// How many hollow nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub nodes: usize,
    /// How many pods
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub pods: usize,
    /// How the pods come about
    #[arg(long, value_enum, default_value = "deployments")]
    pub workload: WorkloadArg,
    /// Chooses the nodes and pods that faults meet
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// What goes wrong, and when (YAML)
    #[arg(long, value_name = "FILE")]
    pub fault_plan: Option<PathBuf>,
    /// How often a node renews its Lease
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub heartbeat: Duration,
    /// For how long heartbeats alone are measured; 0: not at all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub idle: Duration,
    /// How long all pods may take to be Ready
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    pub patience: Duration,
    /// Where the server keeps its store [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `--workload`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WorkloadArg {
    /// Deployments of up to 5,000 replicas
    Deployments,
    /// Pods without an owner
    Pods,
}

impl SimArgs {
    fn parse(self) -> Result<SimConfig, String> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(format!("--nodes {}: give 1 to {NODES_MAX}", self.nodes));
        }
        if self.pods > PODS_MAX {
            return Err(format!("--pods {}: give at most {PODS_MAX}", self.pods));
        }
        if self.heartbeat.is_zero() {
            return Err("--heartbeat 0: a node has to wait between two heartbeats".to_owned());
        }
        let faults = self.fault_plan.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(SimConfig {
            nodes: self.nodes,
            pods: self.pods,
            workload: match self.workload {
                WorkloadArg::Deployments => Workload::Deployments,
                WorkloadArg::Pods => Workload::Pods,
            },
            seed: self.seed,
            faults,
            heartbeat: self.heartbeat,
            idle: self.idle,
            patience: self.patience,
            data_dir: self.data_dir,
        })
    }
}

fn read(path: &Path) -> Result<FaultPlan, String> {
    let bad = |why: String| format!("--fault-plan {}: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > FAULT_PLAN_MAX {
        return Err(bad(format!("it is larger than {FAULT_PLAN_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    FaultPlan::read(&text).map_err(bad)
}

/// Simulates.
///
/// # Errors
/// What kept the simulation from coming to its end.
pub fn run(args: SimArgs) -> anyhow::Result<ExitCode> {
    let config = match args.parse() {
        Ok(config) => config,
        Err(error) => return Ok(super::bad_usage(&error)),
    };
    if std::env::var_os("CORACLE_LOG").is_some() {
        process::start_tracing();
    }
    let replay = format!("--seed {}", config.seed);
    process::block_on(async move {
        let shutdown = Shutdown::new();
        process::stop_on_signals(&shutdown)?;
        let wrong = sim::run(config, shutdown, |line| println!("{line}")).await?;
        for line in &wrong {
            println!("wrong: {line}");
        }
        if wrong.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        println!("to replay it, give the same arguments and {replay}");
        Ok(ExitCode::FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sim: SimArgs,
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_by_the_name_of_its_flag() {
        let refused = |args: &[&str]| {
            let line = Line::try_parse_from(["sim"].iter().chain(args).copied());
            line.expect("clap takes the flags").sim.parse().expect_err("it is refused")
        };
        assert!(refused(&["--nodes", "0"]).contains("--nodes 0"));
        assert!(refused(&["--pods", "9999999"]).contains("--pods 9999999"));
        assert!(refused(&["--heartbeat", "0"]).contains("--heartbeat 0"));
        assert!(refused(&["--fault-plan", "/none"]).contains("--fault-plan /none: "));
    }
}
