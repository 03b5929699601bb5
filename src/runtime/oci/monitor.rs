//! One small process a container, so that containers outlive the agent: it starts the container
//! through runc, writes its log, waits for its end as its parent, and leaves word of it on disk.
//!
//! ```text
//!  agent ── job on stdin ──▶ monitor ── runc run --detach ──▶ container
//!        ◀─ one line ───────┘   │ ▲                              │ stdout, stderr or a terminal
//!        ◀─ monitor.sock ───────┘ └──────────────────────────────┘
//!  DIR/started.json   pid and time, once it runs
//!  DIR/exit.json      written last, when the log is whole
//! ```
//! A killed agent takes none of this with it; the next one connects to the sockets that it finds.

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions};
use serde::{Deserialize, Serialize};

use super::cgroup::Groups;
use super::spec::Ended;
use super::wire::{self, Kind};
use super::{sandbox, sys};
use crate::runtime::spec::{LogSink, Stdio};

/// The hidden subcommand.
pub const COMMAND: &str = "container-monitor";
/// A job larger than this is a mistake.
const JOB_BYTES_MAX: u64 = 1 << 20;
/// How long what a dead container's descendants may still write is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long one who is attached may take no output before it is let go.
const PATIENCE: Duration = Duration::from_secs(10);
const CHUNK: usize = 32 << 10;

/// What a monitor is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub runc: PathBuf,
    /// Where runc keeps its state.
    pub runc_root: PathBuf,
    /// The container's directory and bundle.
    pub dir: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub unified_cgroups: bool,
    /// For whoever opens the log.
    pub log: serde_json::Value,
}

/// What a monitor tells on its standard output, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Started(Started),
    Failed(String),
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: u32,
    pub at: Timestamp,
}

/// A container's log, opened by whoever knows how it is written.
pub struct Log {
    pub sink: Arc<dyn LogSink>,
    /// Nothing more will be written.
    pub finish: Box<dyn FnOnce() + Send>,
}

/// The whole of the hidden subcommand `container-monitor`.
pub fn child_main(open: impl FnOnce(&serde_json::Value) -> io::Result<Log>) -> ExitCode {
    let mut text = String::new();
    let read = io::stdin().take(JOB_BYTES_MAX).read_to_string(&mut text);
    let Some(job) = read.ok().and_then(|_| serde_json::from_str::<Job>(&text).ok()) else {
        eprintln!("{COMMAND} is started by the agent only");
        return ExitCode::from(2);
    };
    match run(&job, open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&Told::Failed(error.to_string()));
            clean_up(&job);
            ExitCode::FAILURE
        }
    }
}

fn tell(told: &Told) {
    let line = serde_json::to_string(told).expect("plain data");
    // The agent may have died meanwhile; the container runs all the same.
    let _ = writeln!(io::stdout(), "{line}");
}

fn run(job: &Job, open: impl FnOnce(&serde_json::Value) -> io::Result<Log>) -> io::Result<()> {
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Sockets are named from here: their paths may not be long.
    std::env::set_current_dir(&job.dir)?;
    let log = open(&job.log)?;
    let listener = UnixListener::bind(wire::SOCKET)?;
    let (stdio, outputs) = start(job)?;
    let pid = fs::read_to_string("pid")?;
    let pid: u32 = pid.trim().parse().map_err(io::Error::other)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let groups = Groups::of(&groups, job.unified_cgroups);
    let started = Started { pid, at: Timestamp::now() };
    write_whole("started.json", &serde_json::to_vec(&started)?)?;
    tell(&Told::Started(started.clone()));

    let shared = Arc::new(Shared {
        attached: Mutex::default(),
        watching: Mutex::default(),
        stdin: Mutex::new(stdio.stdin),
        terminal: stdio.terminal,
        stdin_once: job.stdin_once,
    });
    let served = Arc::clone(&shared);
    std::thread::spawn(move || serve(&served, &listener));
    let (done, outputs_done) = mpsc::channel::<()>();
    for (stream, mut from) in outputs {
        let (shared, sink, done) = (Arc::clone(&shared), Arc::clone(&log.sink), done.clone());
        std::thread::spawn(move || {
            carry(stream, &mut from, &*sink, &shared);
            drop(done);
        });
    }
    drop(done);
    let code = wait_for(pid)?;
    // Ends when the last of the threads has dropped its end.
    let _ = outputs_done.recv_timeout(LAST_WORDS);
    (log.finish)();
    let ended = Ended {
        code,
        oom: groups.is_some_and(|groups| groups.oom_kills() > 0),
        started_at: started.at,
        finished_at: Timestamp::now(),
    };
    write_whole("exit.json", &serde_json::to_vec(&ended)?)?;
    shared.broadcast(Kind::Exited, &[]);
    let end = wire::frame(Kind::Exited, &[]);
    for watcher in shared.watching.lock().iter_mut() {
        let _ = watcher.write_all(&end);
    }
    clean_up(job);
    Ok(())
}

/// A file appears whole or not at all.
fn write_whole(name: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = format!("{name}.tmp");
    fs::write(&tmp, bytes)?;
    fs::rename(tmp, name)
}

/// The container is gone: runc forgets it, its root is unmounted.
fn clean_up(job: &Job) {
    let _ = Command::new(&job.runc)
        .arg("--root")
        .arg(&job.runc_root)
        .args(["delete", "--force", &job.id])
        .stdin(Channel::null())
        .stdout(Channel::null())
        .stderr(Channel::null())
        .status();
    sandbox::unmount_below(&job.dir);
}

struct StdioEnds {
    stdin: Option<File>,
    terminal: Option<File>,
}

type Outputs = Vec<(Stdio, File)>;

fn file(end: impl Into<OwnedFd>) -> File {
    File::from(end.into())
}

/// Starts the container; gives this process's ends of its streams.
fn start(job: &Job) -> io::Result<(StdioEnds, Outputs)> {
    let mut command = Command::new(&job.runc);
    command
        .arg("--root")
        .arg(&job.runc_root)
        .args(["--log", "runc.log", "--log-format", "json", "run", "--detach"])
        .args(["--pid-file", "pid", "--bundle"])
        .arg(&job.dir)
        .current_dir(&job.dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    if job.tty {
        let console = UnixListener::bind("console.sock")?;
        command.args(["--console-socket", "console.sock", &job.id]);
        command.stdin(Channel::null()).stdout(Channel::null()).stderr(Channel::null());
        run_runc(&mut command)?;
        let terminal = receive_terminal(&console)?;
        let _ = fs::remove_file("console.sock");
        let stdin = if job.stdin { Some(terminal.try_clone()?) } else { None };
        let outputs = vec![(Stdio::Stdout, terminal.try_clone()?)];
        return Ok((StdioEnds { stdin, terminal: Some(terminal) }, outputs));
    }
    command.arg(&job.id);
    let stdin = match job.stdin {
        true => {
            let (theirs, ours) = io::pipe()?;
            command.stdin(theirs);
            Some(file(ours))
        }
        false => {
            command.stdin(Channel::null());
            None
        }
    };
    let (out, out_end) = io::pipe()?;
    let (err, err_end) = io::pipe()?;
    command.stdout(out_end).stderr(err_end);
    let ran = run_runc(&mut command);
    // The command holds the container's ends, which would keep the pipes open.
    drop(command);
    ran?;
    let outputs = vec![(Stdio::Stdout, file(out)), (Stdio::Stderr, file(err))];
    Ok((StdioEnds { stdin, terminal: None }, outputs))
}

fn run_runc(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(complaint(Path::new("runc.log")).unwrap_or_else(|| status.to_string())))
}

/// The last error in a log of runc.
pub fn complaint(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = io::BufReader::new(File::open(log).ok()?).lines().map_while(Result::ok);
    let lines = lines.filter_map(|line| serde_json::from_str::<Line>(&line).ok());
    let errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal"));
    errors.last().map(|line| line.msg)
}

/// The master's end of the terminal that runc made.
fn receive_terminal(console: &UnixListener) -> io::Result<File> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (connection, _) = console.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); 128];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 256];
    let mut parts = [io::IoSliceMut::new(&mut name)];
    recvmsg(&connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(File::from(descriptor));
        }
    }
    Err(io::Error::other("runc sent no terminal"))
}

/// Reaps until the container's first process has ended.
fn wait_for(pid: u32) -> io::Result<i32> {
    loop {
        let (ended, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(found)) => found,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if ended.as_raw_nonzero().get().unsigned_abs() != pid {
            continue;
        }
        return Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        });
    }
}

struct Shared {
    /// Who wants the output, and who the end alone.
    attached: Mutex<Vec<UnixStream>>,
    watching: Mutex<Vec<UnixStream>>,
    stdin: Mutex<Option<File>>,
    terminal: Option<File>,
    stdin_once: bool,
}

impl Shared {
    /// Tells all who are attached.
    fn broadcast(&self, kind: Kind, data: &[u8]) {
        let mut attached = self.attached.lock();
        if attached.is_empty() {
            return;
        }
        let frame = wire::frame(kind, data);
        attached.retain_mut(|stream| stream.write_all(&frame).is_ok());
    }

    /// Serves one connection until its end.
    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        while let Some((kind, data)) = wire::read(&mut stream)? {
            match kind {
                Kind::Attach => self.attached.lock().push(stream.try_clone()?),
                Kind::Watch => self.watching.lock().push(stream.try_clone()?),
                Kind::Stdin => {
                    // Cloned, so that a container that does not read blocks only this one.
                    let stdin = self.stdin.lock().as_ref().map(File::try_clone).transpose()?;
                    if let Some(mut stdin) = stdin
                        && stdin.write_all(&data).is_err()
                    {
                        *self.stdin.lock() = None;
                    }
                }
                Kind::StdinEnd if self.stdin_once => match self.terminal.as_ref() {
                    // A terminal has no end: it is told by a key.
                    Some(terminal) => (&*terminal).write_all(&[4])?,
                    None => *self.stdin.lock() = None,
                },
                Kind::Resize => {
                    if let (Some(terminal), [a, b, c, d]) = (&self.terminal, data.as_slice()) {
                        let (columns, rows) = ([*a, *b], [*c, *d]);
                        let _ = sys::resize(
                            terminal.as_fd(),
                            u16::from_be_bytes(columns),
                            u16::from_be_bytes(rows),
                        );
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn serve(shared: &Arc<Shared>, listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // One who breaks off is of no concern to the container.
            let _ = shared.serve(stream);
        });
    }
}

/// Carries one output to the log and to all who are attached.
fn carry(stream: Stdio, from: &mut File, sink: &dyn LogSink, shared: &Shared) {
    let kind = match stream {
        Stdio::Stdout => Kind::Stdout,
        Stdio::Stderr => Kind::Stderr,
    };
    let mut buffer = vec![0u8; CHUNK];
    loop {
        // A terminal whose other end is closed answers with an error, which is its end.
        let len = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        sink.write(stream, &buffer[..len]);
        shared.broadcast(kind, &buffer[..len]);
    }
}

/// A process id as the kernel takes it.
pub fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}
