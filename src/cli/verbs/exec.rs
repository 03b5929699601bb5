//! `exec`: a command in a container, with its streams joined to those of this process.

use std::io::IsTerminal;

use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::pod;
use super::target::{name_of, namespace_of};
use crate::cli::call::{Connection, escape};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::stream::client::{self, RemoteCommand};
use crate::stream::remote::{Asked, Outcome};
use crate::stream::upgrade::{Purpose, V4, V5};
use crate::stream::websocket::ChannelWriter;
use crate::stream::{Reader, TerminalSize};

/// What `exec` is asked.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// POD, or KIND/NAME of a workload
    #[arg(value_name = "POD|KIND/NAME")]
    pub object: String,
    /// The command and its arguments, behind `--`
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<String>,
    /// Hand this program's input to the command
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// The command runs at a terminal: this one
    #[arg(short, long)]
    pub tty: bool,
    /// The container [default: the annotated one, or the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Print nothing but what the command prints
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs a command in a container.
///
/// # Errors
/// Bad usage, no server, no such pod; [`Failure::Ended`] where the command failed.
pub async fn run(args: &ExecArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let (pod, _) = pod::named(connection, &args.object, out).await?;
    let container = match (&args.container, args.quiet) {
        (None, true) => {
            // Which one was chosen is not told.
            let mut nowhere = Out::new(Box::new(std::io::sink()), Box::new(std::io::sink()));
            pod::container(&pod, None, &mut nowhere)?
        }
        (asked, _) => pod::container(&pod, asked.as_deref(), out)?,
    };
    let mut tty = args.tty;
    if tty && !(args.stdin && std::io::stdin().is_terminal()) {
        out.note("Unable to use a TTY - input is not a terminal or the right kind of file")?;
        tty = false;
    }
    let asked = Asked { stdin: args.stdin, stdout: true, stderr: !tty, tty };
    out.flush()?;
    let command = start(connection, &pod, &container, &args.command, asked).await?;
    let raw = RawTerminal::set(tty)?;
    let ended = join(command, tty).await;
    drop(raw);
    match ended? {
        Outcome::Success => Ok(()),
        Outcome::Exit(code) => Err(Failure::Ended(code)),
        Outcome::Failed(message) => Err(Failure::other(message)),
    }
}

/// Starts a command in a container.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn start(
    connection: &Connection,
    pod: &Value,
    container: &str,
    command: &[String],
    asked: Asked,
) -> Result<RemoteCommand, Failure> {
    let mut query = vec![format!("container={}", escape(container))];
    let streams = [
        ("stdin", asked.stdin),
        ("stdout", asked.stdout),
        ("stderr", asked.stderr),
        ("tty", asked.tty),
    ];
    query.extend(streams.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}=true")));
    query.extend(command.iter().map(|word| format!("command={}", escape(word))));
    let (namespace, name) = (escape(namespace_of(pod)), escape(name_of(pod)));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/exec?{}", query.join("&"));
    let (io, protocol) = connection.upgrade(&path, Purpose::RemoteCommand, &[V5, V4]).await?;
    Ok(client::remote_command(io, protocol, asked).await)
}

/// Joins the streams of a command to those of this process until it ends.
async fn join(mut command: RemoteCommand, tty: bool) -> Result<Outcome, Failure> {
    let (stdin, resize) = (command.stdin.take(), command.resize.take());
    let (stdout, stderr) = (command.stdout.take(), command.stderr.take());
    let shown = async {
        let (out, err) =
            tokio::join!(carry(stdout, tokio::io::stdout()), carry(stderr, tokio::io::stderr()));
        out.and(err)
    };
    let typing = async {
        if let Some(mut stdin) = stdin {
            // A command that reads no more is no failure.
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut stdin).await;
            let _ = stdin.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let sized = async {
        if tty && let Some(resize) = resize {
            tell_sizes(resize).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        (shown, outcome) = async { tokio::join!(shown, command.outcome()) } => {
            shown?;
            Ok(outcome)
        }
        () = typing => unreachable!("it waits for ever"),
        () = sized => unreachable!("it waits for ever"),
    }
}

/// Tells the size of this terminal now and whenever it changes.
async fn tell_sizes(mut resize: ChannelWriter) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok((width, height)) = crossterm::terminal::size() {
            let size = TerminalSize { width, height };
            if client::tell_size(&mut resize, size).await.is_err() {
                return;
            }
        }
        changes.recv().await;
    }
}

/// This terminal hands every key on as it is, until this is dropped.
struct RawTerminal;

impl RawTerminal {
    fn set(wanted: bool) -> Result<Option<Self>, Failure> {
        if !wanted {
            return Ok(None);
        }
        crossterm::terminal::enable_raw_mode().map_err(|error| {
            Failure::other(format!("this terminal cannot be used for --tty: {error}"))
        })?;
        Ok(Some(Self))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing more can be done about a terminal that is gone.
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

async fn carry<W: AsyncWrite + Unpin>(from: Option<Reader>, mut to: W) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    tokio::io::copy(&mut from, &mut to).await?;
    to.flush().await
}
