//! Compiling, in a child process: what a hostile module does to the compiler stays there.
//!
//! The parent starts its own program again, with the parameters in one environment variable; the
//! child sets limits on itself before it reads a byte of the module. Memory, processor time, the
//! size of the result and the wall clock are bounded; passing a bound is [`PrepareError::TooBig`]
//! of that module and nobody else's.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::config::{CompileLimits, Compiler};
use super::error::PrepareError;
use super::wasm::engine::{AddressSpace, compile_engine};
use super::wasm::recognize::{Form, form};

/// Carries a [`Job`] as JSON to the child.
const JOB: &str = "CORACLE_COMPILE_JOB";

/// A module larger than this is not even read.
const MODULE_BYTES_MAX: u64 = 256 << 20;

/// So much of what the child says is kept.
const SAID_BYTES_MAX: u64 = 16 << 10;

const EXIT_INVALID: u8 = 3;
const EXIT_NOT_WASM: u8 = 4;
const EXIT_IO: u8 = 5;

/// What a child is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    module: PathBuf,
    /// Is made, and must not exist.
    output: PathBuf,
    address_space: AddressSpace,
    memory_bytes: u64,
    cpu_seconds: u64,
    file_bytes: u64,
}

/// The whole of the hidden subcommand `compile-artifact`.
pub fn child_main() -> ExitCode {
    ExitCode::from(child_code())
}

fn child_code() -> u8 {
    let job = std::env::var(JOB).ok().and_then(|json| serde_json::from_str::<Job>(&json).ok());
    let Some(job) = job else {
        eprintln!("compile-artifact is started by the agent only");
        return 2;
    };
    match run(&job) {
        Ok(()) => 0,
        Err((code, message)) => {
            eprintln!("{message}");
            code
        }
    }
}

fn run(job: &Job) -> Result<(), (u8, String)> {
    let io = |error: io::Error| (EXIT_IO, error.to_string());
    limit(job).map_err(io)?;
    let mut bytes = Vec::new();
    File::open(&job.module)
        .and_then(|file| file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        return Err((EXIT_NOT_WASM, "larger than 256 MiB".to_string()));
    }
    let form = form(&bytes).map_err(|problem| (EXIT_NOT_WASM, problem))?;
    let engine = compile_engine(job.address_space).map_err(|e| (EXIT_IO, format!("{e:#}")))?;
    let compiled = match form {
        Form::Module => engine.precompile_module(&bytes),
        Form::Component => engine.precompile_component(&bytes),
    };
    let compiled = compiled.map_err(|error| (EXIT_INVALID, format!("{error:#}")))?;
    let mut output = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&job.output)
        .map_err(io)?;
    output.write_all(&compiled).and_then(|()| output.sync_data()).map_err(io)
}

fn limit(job: &Job) -> io::Result<()> {
    let set = |resource, most: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    set(Resource::As, job.memory_bytes)?;
    set(Resource::Cpu, job.cpu_seconds)?;
    set(Resource::Fsize, job.file_bytes)?;
    set(Resource::Core, 0)?;
    set(Resource::Nofile, 64)?;
    // The pods that run already come first.
    let _ = rustix::process::nice(10);
    Ok(())
}

/// Compiles `module` into `output` in a child process.
///
/// # Errors
/// `NotWasm`, `Invalid`, `TooBig`, `Compiler`.
pub(super) async fn compile(
    compiler: &Compiler,
    limits: &CompileLimits,
    address_space: AddressSpace,
    module: &Path,
    output: &Path,
) -> Result<(), PrepareError> {
    let job = Job {
        module: module.to_path_buf(),
        output: output.to_path_buf(),
        address_space,
        memory_bytes: limits.memory_bytes,
        cpu_seconds: limits.cpu_seconds,
        file_bytes: limits.file_bytes,
    };
    let job = serde_json::to_string(&job).map_err(|e| PrepareError::Compiler(e.to_string()))?;
    let broken = |error: io::Error| PrepareError::Compiler(error.to_string());
    let mut child = Command::new(&compiler.program)
        .args(&compiler.args)
        .env_clear()
        .env(JOB, job)
        // Every thread's arena counts against the address space.
        .env("RAYON_NUM_THREADS", "2")
        .env("MALLOC_ARENA_MAX", "2")
        .envs(
            std::env::var_os("LLVM_PROFILE_FILE")
                .map(|file| (OsStr::new("LLVM_PROFILE_FILE"), file)),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    let stderr = child.stderr.take().expect("it was piped");
    let finished = async {
        let mut said = Vec::new();
        let mut stderr = stderr.take(SAID_BYTES_MAX);
        stderr.read_to_end(&mut said).await?;
        tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
        Ok((child.wait().await?, String::from_utf8_lossy(&said).trim().to_string()))
    };
    match tokio::time::timeout(limits.timeout, finished).await {
        Ok(Ok((status, said))) => judge(status, &said, limits),
        Ok(Err(error)) => Err(broken(error)),
        Err(_) => Err(PrepareError::TooBig(format!("more than {:?}", limits.timeout))),
    }
}

fn judge(status: ExitStatus, said: &str, limits: &CompileLimits) -> Result<(), PrepareError> {
    const SIGXCPU: i32 = rustix::process::Signal::XCPU.as_raw();
    const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();
    const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
    let too_big = |what: String| Err(PrepareError::TooBig(what));
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if code == i32::from(EXIT_INVALID) => {
            Err(PrepareError::Invalid(said.to_string()))
        }
        (Some(code), _) if code == i32::from(EXIT_NOT_WASM) => {
            Err(PrepareError::NotWasm(said.to_string()))
        }
        (_, Some(SIGXCPU | SIGKILL)) => {
            too_big(format!("more than {} s of processor time", limits.cpu_seconds))
        }
        (_, Some(SIGXFSZ)) => {
            too_big(format!("its code is larger than {} MiB", limits.file_bytes >> 20))
        }
        _ if said.contains("memory allocation of") || said.contains("Cannot allocate memory") => {
            too_big(format!("more than {} MiB of memory", limits.memory_bytes >> 20))
        }
        _ => Err(PrepareError::Compiler(format!("{status}: {}", last_lines(said)))),
    }
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
pub(super) mod tests {
    /// Not a test of its own: [`crate::runtime::RuntimeConfig::for_tests`] starts the test program
    /// with this one alone, to have a child process that compiles.
    #[test]
    fn child() {
        if std::env::var_os(super::JOB).is_some() {
            std::process::exit(i32::from(super::child_code()));
        }
    }
}
