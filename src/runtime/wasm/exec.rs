//! `exec`: a further program in the context of a running workload, with its files, environment,
//! network and memory limit.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::outcome::Outcome;
use super::running::Running;
use super::state::Context;
use super::stdio::Stdin;
use super::{ArtifactKind, command};
use crate::runtime::spec::{Exit, LogSink, Stdio};
use crate::runtime::workload::{ExecError, ExecResult};

/// What the toolbox knows.
const APPLETS: [&str; 10] =
    ["cat", "echo", "env", "false", "ls", "nc", "nslookup", "sleep", "true", "wget"];

/// Output that is kept of one stream.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

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

impl Running {
    /// See [`crate::runtime::Workload::exec`].
    pub async fn exec(self: &Arc<Self>, args: Vec<String>) -> Result<ExecResult, ExecError> {
        let collect = Arc::new(Collect::default());
        let exit = self.exec_into(args, collect.clone()).await?;
        let (stdout, stderr) = std::mem::take(&mut *collect.streams.lock());
        Ok(ExecResult { code: exit.code, stdout, stderr })
    }

    /// See [`crate::runtime::Workload::exec_into`].
    pub async fn exec_into(
        self: &Arc<Self>,
        args: Vec<String>,
        output: Arc<dyn LogSink>,
    ) -> Result<Exit, ExecError> {
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        let name = args.first().map(String::as_str).unwrap_or_default();
        let (path, digest) = self.program(name)?;
        let failed = |error: &dyn std::fmt::Display| ExecError::Failed(error.to_string());
        let code = self.runtime.artifacts.get(&path, &digest).await.map_err(|e| failed(&e))?;
        let slot = self.runtime.command_slot().await.map_err(|e| failed(&e))?;
        let stdin = Stdin::default();
        stdin.end();
        let context = Context {
            args,
            env: self.context.env.clone(),
            working_dir: self.context.working_dir.clone(),
            files: self.context.files.clone(),
            stdin,
            logs: output,
            network: self.context.network.clone(),
            memory: self.context.memory.clone(),
            sockets: Mutex::default(),
        };
        let started_at = Timestamp::now();
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
        Ok(Exit {
            code: outcome.code,
            reason: outcome.reason,
            message: outcome.message,
            started_at,
            finished_at: Timestamp::now(),
        })
    }

    /// The artifact that `name` means here.
    fn program(&self, name: &str) -> Result<(std::path::PathBuf, String), ExecError> {
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
        let own = self.spec.args.first().is_some_and(|own| base(own) == base(name));
        if own && !name.is_empty() && self.kind != ArtifactKind::HttpHandler {
            return Ok((self.spec.artifact.clone(), self.spec.digest.clone()));
        }
        match &self.runtime.config.toolbox {
            Some(toolbox) if APPLETS.contains(&base(name).as_str()) => {
                Ok((toolbox.path.clone(), toolbox.digest.clone()))
            }
            _ => Err(ExecError::NotFound(name.to_string())),
        }
    }
}
