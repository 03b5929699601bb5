//! The command line: parses it once, wires the components, runs them.
//!
//! | command | is |
//! |---|---|
//! | [`server`] | the control plane: store, API server, scheduler, controllers |
//! | [`agent`] | a worker |
//! | [`verbs`] | `apply`, `get`, `describe`, `delete`, `logs`, `exec`, `cp`, `port-forward`, `scale`, … |
//! | [`images`] | `push`, `images`: the cluster's registry |
//! | [`demo`] | both, as processes of this machine, with something to look at |
//! | [`top`] | the live view of any cluster |
//! | [`sim`] | thousands of hollow nodes on this machine |
//!
//! Exit codes: 0, 1 failed, 2 bad usage.

mod agent;
mod demo;
pub mod images;
mod process;
mod server;
mod sim;
mod top;

pub mod call;
pub mod connect;
pub mod duration;
pub mod failure;
pub mod jsonpath;
pub mod manifest;
pub mod out;
pub mod resources;
pub mod table;
pub mod verbs;
pub mod yaml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::shutdown::Shutdown;

/// Kubernetes for WebAssembly, light enough for an edge box.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, propagate_version = true)]
struct Line {
    #[command(flatten)]
    connection: connect::ConnectionArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane: API server, scheduler, controllers and store
    Server(server::ServerArgs),
    /// Run a worker that joins a cluster
    Agent(Box<agent::Args>),
    /// Run a whole cluster on this machine, and look at it
    Demo(demo::DemoArgs),
    /// Watch a cluster in the terminal
    Top,
    /// Simulate a large cluster: a real server, hollow nodes, faults; print what it took
    Sim(sim::SimArgs),
    /// Compile one module; agents start this for themselves
    #[command(hide = true)]
    CompileArtifact,
    /// Watch over one container; agents start this for themselves
    #[command(hide = true)]
    ContainerMonitor,
    /// Hold the processes of one pod together; agents start this for themselves
    #[command(hide = true)]
    ContainerPause,
    #[command(flatten)]
    Verb(Box<verbs::Verb>),
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let line = Line::parse();
    let ran = match line.command {
        Command::CompileArtifact => return crate::runtime::compile::child_main(),
        Command::ContainerMonitor => {
            return crate::runtime::oci::monitor::child_main(crate::node::logs::open_outside);
        }
        Command::ContainerPause => return crate::runtime::oci::pause::child_main(),
        Command::Server(args) => serve(args),
        Command::Agent(args) => work(*args),
        Command::Demo(args) => demo::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Top => top::top(line.connection.kubeconfig.as_deref()),
        Command::Verb(verb) => process::block_on(verbs::run(*verb, line.connection)),
    };
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("coracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: server::ServerArgs) -> anyhow::Result<ExitCode> {
    let stdin = args.stop_at_stdin_eof;
    let config = match args.parse() {
        Ok(config) => config,
        Err(error) => return Ok(bad_usage(&error)),
    };
    process::start_tracing();
    process::block_on(async move {
        let shutdown = Shutdown::new();
        process::stop_on_signals(&shutdown)?;
        if stdin {
            process::stop_at_stdin_eof(&shutdown);
        }
        server::run(config, shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn work(args: agent::Args) -> anyhow::Result<ExitCode> {
    let stdin = args.stop_at_stdin_eof;
    let config = match args.agent.parse() {
        Ok(config) => config,
        Err(error) => return Ok(bad_usage(&error)),
    };
    process::start_tracing();
    process::block_on(async move {
        let shutdown = Shutdown::new();
        process::stop_on_signals(&shutdown)?;
        if stdin {
            process::stop_at_stdin_eof(&shutdown);
        }
        crate::node::run(config, shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn bad_usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("coracle: {error}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn the_cluster_is_named_before_or_behind_the_verb() {
        for line in ["coracle -n x get pods", "coracle get pods -n x", "coracle get -n x pods"] {
            let read = Line::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(read.connection.namespace.as_deref(), Some("x"), "{line}");
        }
        let line = ["coracle", "rollout", "status", "deploy/web", "--context", "c"];
        let read = Line::try_parse_from(line).expect("it is read");
        assert_eq!(read.connection.context.as_deref(), Some("c"));
    }

    #[test]
    fn an_agents_kubeconfig_is_its_own() {
        let read = Line::try_parse_from(["coracle", "agent", "--kubeconfig", "f"]).expect("read");
        let Command::Agent(args) = read.command else { panic!("an agent was asked for") };
        assert_eq!(args.agent.kubeconfig.as_deref(), Some(std::path::Path::new("f")));
    }
}
