//! The command line: parses it once, wires the components, runs them.
//!
//! | command | is |
//! |---|---|
//! | [`server`] | the control plane: store, API server, scheduler, controllers |
//! | [`agent`] | a worker |
//!
//! Exit codes: 0, 1 failed, 2 bad usage.

mod agent;
mod process;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::shutdown::Shutdown;

/// Kubernetes for WebAssembly, light enough for an edge box.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, propagate_version = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane: API server, scheduler, controllers and store
    Server(server::ServerArgs),
    /// Run a worker that joins a cluster
    Agent(agent::Args),
    /// Compile one module; agents start this for themselves
    #[command(hide = true)]
    CompileArtifact,
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let line = Line::parse();
    let ran = match line.command {
        Command::CompileArtifact => return crate::runtime::compile::child_main(),
        Command::Server(args) => serve(args),
        Command::Agent(args) => work(args),
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
