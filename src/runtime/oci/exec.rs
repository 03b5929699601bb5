//! Commands in a running container, through `runc exec`, which stays beside each and carries its
//! streams; and joining the streams of the container's own process, which its monitor holds.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio as Channel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::container::{Container, connect};
use super::monitor::{complaint, pid};
use super::{sys, wire};
use crate::runtime::workload::{ExecError, ExecResult};

/// Output that is kept of one stream where nobody takes it as it comes.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
const CHUNK: usize = 16 << 10;

/// What a command reads and where its output goes.
pub struct Streams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// None with a terminal: it has one output.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub tty: bool,
    /// Columns and rows of the terminal, the first ones at once.
    pub resizes: mpsc::Receiver<(u16, u16)>,
}

/// The files of one exec, removed with it; and the command itself, ended with it.
struct Running {
    dir: PathBuf,
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let number =
            fs::read_to_string(self.path("pid")).ok().and_then(|text| text.trim().parse().ok());
        // After an orderly end runc has removed the file, or the process is reaped by it.
        if let Some(pid) = number.and_then(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Container {
    /// `runc exec` of a command, not started yet.
    fn command(
        &self,
        args: &[String],
        tty: bool,
    ) -> Result<(Running, std::process::Command), ExecError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        let failed = |error: io::Error| ExecError::Failed(error.to_string());
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("exec-{}-{serial}", std::process::id()));
        fs::create_dir(&dir).map_err(failed)?;
        let running = Running { dir };
        let config = fs::read(self.dir.join("config.json")).map_err(failed)?;
        let mut config: Value =
            serde_json::from_slice(&config).map_err(|e| ExecError::Failed(e.to_string()))?;
        let mut process = config["process"].take();
        process["args"] = json!(args);
        process["terminal"] = json!(tty);
        if tty
            && let Some(env) = process["env"].as_array_mut()
            && !env.iter().any(|v| v.as_str().is_some_and(|v| v.starts_with("TERM=")))
        {
            env.push(json!("TERM=xterm"));
        }
        fs::write(running.path("process.json"), process.to_string()).map_err(failed)?;
        let mut command = std::process::Command::new(&self.tools.runc);
        command
            .arg("--root")
            .arg(&self.tools.runc_root)
            .arg("--log")
            .arg(running.path("log"))
            .args(["--log-format", "json", "exec", "--process"])
            .arg(running.path("process.json"))
            .arg("--pid-file")
            .arg(running.path("pid"))
            .arg(&self.id);
        Ok((running, command))
    }

    /// Runs a command and collects what it says.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec(self: &Arc<Self>, args: Vec<String>) -> Result<ExecResult, ExecError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (running, command) = self.command(&args, false)?;
        let mut child = spawn(command, Channel::null())?;
        let mut out = child.stdout.take().expect("it was piped");
        let mut err = child.stderr.take().expect("it was piped");
        let (a, b) = tokio::join!(keep(&mut out, &mut stdout), keep(&mut err, &mut stderr));
        a.and(b).map_err(|e| ExecError::Failed(e.to_string()))?;
        let code = finish(&running, &mut child, &args).await?;
        Ok(ExecResult { code, stdout, stderr })
    }

    /// Runs a command joined to `streams`; answers its exit code once all of its output was
    /// written. Dropping the future ends the command.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn exec_streams(
        self: &Arc<Self>,
        args: Vec<String>,
        streams: Streams,
    ) -> Result<i32, ExecError> {
        if streams.tty {
            return self.exec_terminal(args, streams).await;
        }
        let (running, command) = self.command(&args, false)?;
        let stdin = if streams.stdin.is_some() { Channel::piped() } else { Channel::null() };
        let mut child = spawn(command, stdin)?;
        if let (Some(mut from), Some(mut to)) = (streams.stdin, child.stdin.take()) {
            // It ends with its command: then nobody reads the pipe.
            tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
        }
        let out = child.stdout.take().expect("it was piped");
        let err = child.stderr.take().expect("it was piped");
        let (a, b) = tokio::join!(pour(out, streams.stdout), pour(err, streams.stderr));
        a.and(b).map_err(|e| ExecError::Failed(e.to_string()))?;
        finish(&running, &mut child, &args).await
    }

    async fn exec_terminal(
        self: &Arc<Self>,
        args: Vec<String>,
        streams: Streams,
    ) -> Result<i32, ExecError> {
        let failed = |error: io::Error| ExecError::Failed(error.to_string());
        let (running, mut command) = self.command(&args, true)?;
        let (master, slave) = sys::open_terminal().map_err(failed)?;
        // runc carries between this terminal and one of the container, which does the editing.
        sys::make_raw(slave.as_fd()).map_err(failed)?;
        let mut resizes = streams.resizes;
        if let Ok((columns, rows)) = resizes.try_recv() {
            let _ = sys::resize(master.as_fd(), columns, rows);
        }
        let end = || slave.try_clone().map_err(failed);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        sys::with_terminal(&mut command);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        drop((command, slave));
        let terminal = Arc::new(Terminal::new(master).map_err(failed)?);
        let resized = Arc::clone(&terminal);
        let typed = Arc::clone(&terminal);
        let input = async move {
            let Some(mut from) = streams.stdin else { return };
            let mut buffer = vec![0u8; CHUNK];
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                if typed.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
        };
        let sizes = async move {
            while let Some((columns, rows)) = resizes.recv().await {
                let _ = sys::resize(resized.0.get_ref().as_fd(), columns, rows);
            }
        };
        let aside = Aside(tokio::spawn(async move {
            tokio::join!(input, sizes);
        }));
        let mut output = streams.stdout;
        let mut buffer = vec![0u8; CHUNK];
        while let Ok(len @ 1..) = terminal.read(&mut buffer).await {
            if let Some(to) = &mut output {
                to.write_all(&buffer[..len]).await.map_err(failed)?;
                to.flush().await.map_err(failed)?;
            }
        }
        drop(aside);
        finish(&running, &mut child, &args).await
    }

    /// Joins `streams` to those of the container's own process until it ends.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub async fn attach(self: &Arc<Self>, streams: Streams) -> Result<i32, ExecError> {
        let failed = |error: io::Error| ExecError::Failed(error.to_string());
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        let Streams { stdin, mut stdout, mut stderr, mut resizes, .. } = streams;
        let stream = connect(&self.dir).await.map_err(failed)?;
        let (mut from, mut to) = stream.into_split();
        to.write_all(&wire::frame(wire::Kind::Attach, &[])).await.map_err(failed)?;
        let (frames, mut queued) = mpsc::channel::<Vec<u8>>(4);
        let typed = frames.clone();
        let input = async move {
            let Some(mut from) = stdin else { return };
            let mut buffer = vec![0u8; CHUNK];
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                let frame = wire::frame(wire::Kind::Stdin, &buffer[..len]);
                if typed.send(frame).await.is_err() {
                    return;
                }
            }
            let _ = typed.send(wire::frame(wire::Kind::StdinEnd, &[])).await;
        };
        let sizes = async move {
            while let Some((columns, rows)) = resizes.recv().await {
                let size = [columns.to_be_bytes(), rows.to_be_bytes()].concat();
                if frames.send(wire::frame(wire::Kind::Resize, &size)).await.is_err() {
                    return;
                }
            }
        };
        let send = async move {
            while let Some(frame) = queued.recv().await {
                if to.write_all(&frame).await.is_err() {
                    return;
                }
            }
            // The other direction goes on.
            std::future::pending::<()>().await;
        };
        let aside = Aside(tokio::spawn(async move {
            tokio::join!(input, sizes, send);
        }));
        let mut head = [0u8; 5];
        while from.read_exact(&mut head).await.is_ok() {
            let (kind, len) = wire::head(head).map_err(failed)?;
            let mut data = vec![0u8; len];
            from.read_exact(&mut data).await.map_err(failed)?;
            let to = match kind {
                wire::Kind::Stdout => &mut stdout,
                wire::Kind::Stderr => &mut stderr,
                wire::Kind::Exited => break,
                _ => continue,
            };
            if let Some(to) = to {
                to.write_all(&data).await.map_err(failed)?;
                to.flush().await.map_err(failed)?;
            }
        }
        drop(aside);
        let mut exit = self.exit();
        let exit = exit.wait_for(Option::is_some).await;
        exit.map(|exit| exit.as_ref().map_or(0, |e| e.code)).map_err(|_| ExecError::NotRunning)
    }
}

/// A task that ends with its guard.
struct Aside(tokio::task::JoinHandle<()>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn spawn(
    mut command: std::process::Command,
    stdin: Channel,
) -> Result<tokio::process::Child, ExecError> {
    command.stdin(stdin).stdout(Channel::piped()).stderr(Channel::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).spawn().map_err(|error| ExecError::Failed(error.to_string()))
}

/// The exit code of a command whose output has ended.
async fn finish(
    running: &Running,
    child: &mut tokio::process::Child,
    args: &[String],
) -> Result<i32, ExecError> {
    let status = child.wait().await.map_err(|error| ExecError::Failed(error.to_string()))?;
    // Reaped by runc: the number is nobody's any more.
    let _ = fs::remove_file(running.path("pid"));
    if let Some(complaint) = complaint(&running.path("log")).filter(|_| !status.success()) {
        let name = args.first().cloned().unwrap_or_default();
        let missing = ["executable file not found", "no such file or directory"];
        return Err(match missing.iter().any(|what| complaint.contains(what)) {
            true => ExecError::NotFound(name),
            false => ExecError::Failed(complaint),
        });
    }
    use std::os::unix::process::ExitStatusExt;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

async fn keep(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..len.min(room)]);
    }
}

async fn pour(
    mut from: impl AsyncRead + Unpin,
    to: Option<Box<dyn AsyncWrite + Send + Unpin>>,
) -> io::Result<()> {
    let Some(mut to) = to else {
        return tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop);
    };
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..len]).await?;
        to.flush().await?;
    }
}

/// The master's end of a terminal.
struct Terminal(AsyncFd<fs::File>);

impl Terminal {
    fn new(master: fs::File) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        let both = tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE;
        sys::watched(master, both).map(Self)
    }

    /// Its end is an error, which counts as the end.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::io::Read;
        self.0.async_io(tokio::io::Interest::READABLE, |mut file| file.read(buffer)).await
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        while !bytes.is_empty() {
            let write = |mut file: &fs::File| file.write(bytes);
            let len = self.0.async_io(tokio::io::Interest::WRITABLE, |file| write(file)).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }
}
