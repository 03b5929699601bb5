//! `exec` and `attach`: a further program in the context of a running workload, with its files,
//! environment, network and memory limit; and the streams of the workload itself.
//!
//! ```text
//!  client's stdin ──▶ [ line discipline, with a terminal ] ──▶ stdin of the guest
//!                             │ echo
//!  client's stdout ◀──────────┴── pipe ◀── stdout of the guest
//!  client's stderr ◀───────────── pipe ◀── stderr of the guest
//! ```
//!
//! **Invariant:** who drops the future of an exec ends its program; who drops that of an attach
//! leaves the workload as it was.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::builtin::{self, Builtin};
use super::outcome::{INTERRUPTED, Outcome};
use super::pipe::Pipe;
use super::running::Running;
use super::state::Context;
use super::stdio::{Outputs, Stdin, Tap};
use super::tty::{self, LineDiscipline};
use super::{ArtifactKind, command};
use crate::runtime::spec::{Exit, ExitReason, LogSink, Stdio};
use crate::runtime::workload::{ExecError, ExecResult, Input, Screen, Streams};

/// What the toolbox knows.
const APPLETS: [&str; 10] =
    ["cat", "echo", "env", "false", "ls", "nc", "nslookup", "sleep", "true", "wget"];

/// Output that is kept of one stream.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// What is carried at once.
const PIECE: usize = 32 << 10;
/// A guest waits so long for one who is attached and does not take its output.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// Keeps the beginning of what is written.
#[derive(Default)]
struct Collect {
    streams: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl LogSink for Collect {
    fn write(&self, stream: Stdio, bytes: &[u8]) {
        let mut streams = self.streams.lock();
        let kept = match stream {
            Stdio::Stdout => &mut streams.0,
            Stdio::Stderr => &mut streams.1,
        };
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// What a name means in a container.
enum Program {
    Artifact { path: std::path::PathBuf, digest: String },
    Builtin(Builtin),
}

impl Running {
    /// See [`crate::runtime::Workload::exec`].
    pub async fn exec(self: &Arc<Self>, args: Vec<String>) -> Result<ExecResult, ExecError> {
        let collect = Arc::new(Collect::default());
        let stdin = Stdin::default();
        stdin.end();
        let outputs = Outputs::logged(collect.clone(), false);
        let exit = self.execute(args, stdin, outputs).await?;
        let (stdout, stderr) = std::mem::take(&mut *collect.streams.lock());
        Ok(ExecResult { code: exit.code, stdout, stderr })
    }

    /// See [`crate::runtime::Workload::exec_with`].
    pub async fn exec_with(
        self: &Arc<Self>,
        args: Vec<String>,
        streams: Streams,
    ) -> Result<Exit, ExecError> {
        let Streams { stdin: typed, stdout, stderr, tty } = streams;
        let tap = tap(stdout.is_some(), stderr.is_some(), tty);
        let stdin = Stdin::new(tty);
        let outputs = Outputs::tapped(tap.clone(), tty);
        let _left = Left { tap: tap.clone(), stdin: Some(stdin.clone()) };
        let interrupted = CancellationToken::new();
        let run = async {
            let exit = tokio::select! {
                exit = self.execute(args, stdin.clone(), outputs.clone()) => exit,
                () = interrupted.cancelled() => Ok(interruption()),
            };
            if let Err(error @ ExecError::NotFound(_)) = &exit {
                outputs.write(Stdio::Stderr, format!("{error}\n").as_bytes());
            }
            tap.finish();
            exit
        };
        let typing = Typing { to: &stdin, echo: tap.stdout.as_ref(), tty, ends: true };
        let typing = async {
            if typing.take(typed).await == Typed::Interrupt {
                interrupted.cancel();
            }
            std::future::pending::<()>().await;
        };
        let err = tap.stderr.as_ref().filter(|_| stderr.is_some());
        let shown = async {
            tokio::join!(
                show(tap.stdout.as_ref(), stdout, tty, None),
                show(err, stderr, false, None)
            )
        };
        tokio::select! {
            (exit, _) = async { tokio::join!(run, shown) } => exit,
            () = typing => unreachable!("it waits for ever"),
        }
    }

    /// See [`crate::runtime::Workload::attach`].
    pub async fn attach(self: &Arc<Self>, streams: Streams) -> Result<Exit, ExecError> {
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        let Streams { stdin: typed, stdout, stderr, tty: asked_tty } = streams;
        let spec = self.spec.stdio;
        let tap = tap(stdout.is_some(), stderr.is_some(), spec.tty || asked_tty);
        let typed = typed.filter(|_| spec.stdin);
        let ends = spec.stdin_once && typed.is_some();
        let stdin = self.context.stdin.clone();
        self.context.outputs.attach(tap.clone());
        let _left = Left { tap: tap.clone(), stdin: ends.then(|| stdin.clone()) };
        let mut ended = self.exit();
        let run = async {
            let exit = ended.wait_for(Option::is_some).await;
            tap.finish();
            match exit {
                Ok(exit) => exit.clone().ok_or(ExecError::NotRunning),
                Err(_) => Err(ExecError::NotRunning),
            }
        };
        let typing = Typing { to: &stdin, echo: tap.stdout.as_ref(), tty: spec.tty, ends };
        let typing = async {
            // Where the spec has no stdin, what is typed goes nowhere.
            if spec.stdin && typing.take(typed).await == Typed::Interrupt {
                self.finish(Outcome::of_code(INTERRUPTED));
            }
            std::future::pending::<()>().await;
        };
        let err = tap.stderr.as_ref().filter(|_| stderr.is_some());
        let shown = async {
            tokio::join!(
                show(tap.stdout.as_ref(), stdout, spec.tty, Some(STALLED_MAX)),
                show(err, stderr, false, Some(STALLED_MAX))
            )
        };
        tokio::select! {
            (exit, _) = async { tokio::join!(run, shown) } => exit,
            () = typing => unreachable!("it waits for ever"),
        }
    }

    /// Runs a program with these streams until it ends.
    async fn execute(
        self: &Arc<Self>,
        mut args: Vec<String>,
        stdin: Stdin,
        outputs: Arc<Outputs>,
    ) -> Result<Exit, ExecError> {
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        let started_at = Timestamp::now();
        let outcome = loop {
            let name = args.first().map(String::as_str).unwrap_or_default();
            match self.program(name) {
                Ok(Program::Builtin(builtin)) => {
                    break self.serve(builtin, args, stdin, outputs).await?;
                }
                Ok(Program::Artifact { path, digest }) => {
                    break self.call((path, digest), args, stdin, outputs).await?;
                }
                Err(ExecError::NotFound(name)) if base(&name) == "sh" => {
                    match builtin::simple_command(&args) {
                        // Its own name in it would lead here again.
                        Ok(words) if base(&words[0]) != "sh" => args = words,
                        Ok(_) => return Err(ExecError::NotFound(name)),
                        Err(problem) => {
                            outputs.write(Stdio::Stderr, format!("{problem}\n").as_bytes());
                            break Outcome::of_code(2);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Exit {
            code: outcome.code,
            reason: outcome.reason,
            message: outcome.message,
            started_at,
            finished_at: Timestamp::now(),
        })
    }

    /// Runs a wasm program.
    async fn call(
        self: &Arc<Self>,
        (path, digest): (std::path::PathBuf, String),
        args: Vec<String>,
        stdin: Stdin,
        outputs: Arc<Outputs>,
    ) -> Result<Outcome, ExecError> {
        let failed = |error: &dyn std::fmt::Display| ExecError::Failed(error.to_string());
        let code = self.runtime.artifacts.get(&path, &digest).await.map_err(|e| failed(&e))?;
        let slot = self.runtime.command_slot().await.map_err(|e| failed(&e))?;
        let context = Context {
            args,
            env: self.context.env.clone(),
            working_dir: self.context.working_dir.clone(),
            files: self.context.files.clone(),
            stdin,
            outputs: outputs.clone(),
            network: self.context.network.clone(),
            memory: self.context.memory.clone(),
            sockets: Mutex::default(),
        };
        let stop = self.stop.clone();
        let guest = self.tasks.track_future(async move {
            let outcome = tokio::select! {
                outcome = command::run(&code, &context) => Some(outcome),
                () = stop.cancelled() => None,
            };
            drop(slot);
            outcome
        });
        let task = self.runtime.executor.spawn(self.meter.clone(), guest);
        let outcome: Outcome = match task.await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Err(ExecError::NotRunning),
            Err(error) => return Err(failed(&error)),
        };
        if outcome.oom() {
            self.finish(outcome.clone());
        }
        if !outcome.message.is_empty() {
            outputs.write(Stdio::Stderr, format!("{}\n", outcome.message).as_bytes());
        }
        Ok(outcome)
    }

    /// Runs a command of the worker's own.
    async fn serve(
        self: &Arc<Self>,
        builtin: Builtin,
        args: Vec<String>,
        stdin: Stdin,
        outputs: Arc<Outputs>,
    ) -> Result<Outcome, ExecError> {
        let (files, dir) = (self.context.files.clone(), self.context.working_dir.clone());
        let mut console = builtin::Console::new(stdin.pipe.clone(), outputs);
        let done = tokio::task::spawn_blocking(move || {
            let tree = files.tree(dir.as_deref()).map_err(|error| error.to_string())?;
            Ok::<i32, String>(builtin::run(builtin, &args, &tree, &mut console))
        });
        tokio::select! {
            done = done => match done {
                Ok(Ok(code)) => Ok(Outcome::of_code(code)),
                Ok(Err(problem)) => Err(ExecError::Failed(problem)),
                Err(error) => Err(ExecError::Failed(error.to_string())),
            },
            () = self.stop.cancelled() => Err(ExecError::NotRunning),
        }
    }

    /// What `name` means here.
    fn program(&self, name: &str) -> Result<Program, ExecError> {
        let own = self.spec.args.first().is_some_and(|own| base(own) == base(name));
        if own && !name.is_empty() && self.kind != ArtifactKind::HttpHandler {
            let (path, digest) = (self.spec.artifact.clone(), self.spec.digest.clone());
            return Ok(Program::Artifact { path, digest });
        }
        match &self.runtime.config.toolbox {
            Some(toolbox) if APPLETS.contains(&base(name)) => {
                Ok(Program::Artifact { path: toolbox.path.clone(), digest: toolbox.digest.clone() })
            }
            _ => match Builtin::named(base(name)) {
                Some(builtin) => Ok(Program::Builtin(builtin)),
                None => Err(ExecError::NotFound(name.to_string())),
            },
        }
    }
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn interruption() -> Exit {
    Exit {
        code: INTERRUPTED,
        reason: ExitReason::Error,
        message: String::new(),
        started_at: Timestamp::now(),
        finished_at: Timestamp::now(),
    }
}

/// The pipes of a client; with a terminal both outputs are one.
fn tap(stdout: bool, stderr: bool, tty: bool) -> Tap {
    let stdout = stdout.then(Pipe::default);
    let stderr = if tty { stdout.clone() } else { stderr.then(Pipe::default) };
    Tap { stdout, stderr }
}

/// What is left behind by a client that goes: nobody takes the output, and no more is typed.
struct Left {
    tap: Tap,
    stdin: Option<Stdin>,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.tap.abandon();
        if let Some(stdin) = &self.stdin {
            stdin.end();
        }
    }
}

/// How typing ended.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    End,
    Interrupt,
}

/// Where what a client types goes.
struct Typing<'a> {
    to: &'a Stdin,
    echo: Option<&'a Pipe>,
    tty: bool,
    /// The end of what is typed is the end of the guest's input.
    ends: bool,
}

impl Typing<'_> {
    async fn take(&self, typed: Option<Input>) -> Typed {
        let ended = match typed {
            Some(typed) => self.pump(typed).await,
            None => Typed::End,
        };
        if self.ends {
            self.to.end();
        }
        ended
    }

    async fn pump(&self, mut typed: Input) -> Typed {
        let mut buffer = BytesMut::new();
        let mut line = LineDiscipline::default();
        loop {
            buffer.reserve(PIECE);
            let read = typed.read_buf(&mut buffer).await;
            if !matches!(read, Ok(1..)) {
                return Typed::End;
            }
            let bytes = buffer.split().freeze();
            if !self.tty {
                if self.to.pipe.write(bytes).await.is_err() {
                    return Typed::End;
                }
                continue;
            }
            let keys = line.take(&bytes);
            if let Some(echo) = self.echo {
                // A screen that is gone needs no echo.
                let _ = echo.write(Bytes::from(keys.echo)).await;
            }
            if !keys.input.is_empty() && self.to.pipe.write(keys.input.into()).await.is_err() {
                return Typed::End;
            }
            if keys.interrupted {
                return Typed::Interrupt;
            }
            if keys.ended {
                self.to.end();
                return Typed::End;
            }
        }
    }
}

/// Carries output to a client until its end.
async fn show(pipe: Option<&Pipe>, screen: Option<Screen>, tty: bool, patience: Option<Duration>) {
    let (Some(pipe), Some(mut screen)) = (pipe, screen) else { return };
    while let Some(bytes) = pipe.read(PIECE).await {
        let bytes = if tty { Bytes::from(tty::shown(&bytes)) } else { bytes };
        let written = async {
            screen.write_all(&bytes).await?;
            screen.flush().await
        };
        let written = match patience {
            Some(patience) => tokio::time::timeout(patience, written)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
            None => written.await,
        };
        if written.is_err() {
            pipe.abandon();
            return;
        }
    }
    // The client may have gone first.
    let _ = screen.shutdown().await;
}
