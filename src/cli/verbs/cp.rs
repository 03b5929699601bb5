//! `cp`: files and directories between this machine and a container, as a tar stream through an
//! `exec` of `tar`, as kubectl does it.
//!
//! **Invariant:** what a container sends is written below the destination and nowhere else: names
//! with `..` are refused, links are not made.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::SyncIoBridge;

use super::exec;
use super::pod;
use crate::cli::call::Connection;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::stream::remote::{Asked, Outcome};
use crate::stream::{Reader, websocket::ChannelWriter};

/// What is shown of what `tar` complained.
const COMPLAINTS_BYTES_MAX: u64 = 16 * 1024;

/// What `cp` is asked.
#[derive(Debug, Clone, Args)]
pub struct CpArgs {
    /// A path here, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// A path here, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// The container [default: the annotated one, or the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

/// An end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

/// Copies.
///
/// # Errors
/// Bad usage, no server, no such pod or file.
pub async fn run(args: &CpArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    match (end(&args.source)?, end(&args.destination)?) {
        (End::Here(from), End::There { namespace, pod, path }) => {
            let place = Place::find(args, connection, namespace, &pod, out).await?;
            upload(&place, &from, &path).await
        }
        (End::There { namespace, pod, path }, End::Here(to)) => {
            let place = Place::find(args, connection, namespace, &pod, out).await?;
            let skipped = download(&place, &path, to).await?;
            skipped.iter().try_for_each(|line| out.note(line))
        }
        _ => Err(Failure::usage(
            "one of source and destination must be in a container, as POD:PATH, and only one",
        )),
    }
}

/// Reads an end: with a colon it is in a container, unless a `/` or `.` begins it.
fn end(text: &str) -> Result<End, Failure> {
    let local = text.starts_with('/') || text.starts_with('.');
    let Some((place, path)) = text.split_once(':').filter(|_| !local) else {
        return match text {
            "" => Err(Failure::usage("filepath can not be empty")),
            text => Ok(End::Here(text.into())),
        };
    };
    let (namespace, pod) = match place.split_once('/') {
        Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
        None => (None, place),
    };
    if pod.is_empty() || pod.contains('/') || path.is_empty() {
        return Err(Failure::usage(format!("{text:?} is not [NAMESPACE/]POD:PATH")));
    }
    Ok(End::There { namespace, pod: pod.to_owned(), path: path.to_owned() })
}

/// The container at the other end.
struct Place<'a> {
    connection: &'a Connection,
    pod: Value,
    container: String,
}

impl<'a> Place<'a> {
    async fn find(
        args: &CpArgs,
        connection: &'a Connection,
        namespace: Option<String>,
        name: &str,
        out: &mut Out,
    ) -> Result<Self, Failure> {
        let namespace = namespace.unwrap_or_else(|| connection.namespace.clone());
        let (ns, pod) = (crate::cli::call::escape(&namespace), crate::cli::call::escape(name));
        let path = format!("/api/v1/namespaces/{ns}/pods/{pod}");
        let pod = connection.get(&path, crate::cli::call::JSON).await?;
        let container = pod::container(&pod, args.container.as_deref(), out)?;
        Ok(Self { connection, pod, container })
    }

    /// Runs a command with what handles its input and output.
    async fn run<In, Out, F, G, T>(
        &self,
        words: &[&str],
        feed: F,
        take: G,
    ) -> Result<(Outcome, String, T), Failure>
    where
        F: FnOnce(Option<ChannelWriter>) -> In,
        G: FnOnce(Reader) -> Out,
        In: Future<Output = io::Result<()>>,
        Out: Future<Output = io::Result<T>>,
    {
        let command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let stdin = words.contains(&"-xmf");
        let asked = Asked { stdin, stdout: true, stderr: true, tty: false };
        let (connection, container) = (self.connection, &self.container);
        let mut running = exec::start(connection, &self.pod, container, &command, asked).await?;
        let fed = feed(running.stdin.take());
        let taken = take(running.stdout.take().expect("asked for"));
        let stderr = running.stderr.take().expect("asked for");
        let mut complaints = String::new();
        let told = async {
            let _ = stderr.take(COMPLAINTS_BYTES_MAX).read_to_string(&mut complaints).await;
        };
        let (fed, taken, (), outcome) = tokio::join!(fed, taken, told, running.outcome());
        let failed = |error: io::Error| Failure::other(format!("the copy broke off: {error}"));
        if outcome == Outcome::Success {
            fed.map_err(failed)?;
        }
        let taken = match (taken, &outcome) {
            (Ok(taken), _) => taken,
            (Err(error), Outcome::Success) => return Err(failed(error)),
            (Err(_), outcome) => return Err(told_by(outcome, &complaints)),
        };
        Ok((outcome, complaints, taken))
    }

    async fn is_directory(&self, path: &str) -> Result<bool, Failure> {
        let nothing = async |_| Ok(());
        let (outcome, ..) = self.run(&["test", "-d", path], nothing, drain).await?;
        Ok(outcome == Outcome::Success)
    }
}

async fn drain(mut reader: Reader) -> io::Result<()> {
    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.map(drop)
}

/// What a command that failed said.
fn told_by(outcome: &Outcome, complaints: &str) -> Failure {
    match (outcome, complaints.trim()) {
        (Outcome::Exit(code), "") => Failure::other(format!("tar ended with exit code {code}")),
        (Outcome::Exit(_), told) => Failure::other(told.to_owned()),
        (Outcome::Failed(message), _) => Failure::other(message.clone()),
        (Outcome::Success, told) => Failure::other(told.to_owned()),
    }
}

async fn upload(place: &Place<'_>, from: &Path, to: &str) -> Result<(), Failure> {
    let missing = |error: io::Error| Failure::other(format!("{}: {error}", from.display()));
    let meta = std::fs::metadata(from).map_err(missing)?;
    let own = from.canonicalize().map_err(missing)?;
    let own = own.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut target = to.trim_end_matches('/').to_owned();
    if target.is_empty() || to.ends_with('/') || place.is_directory(to).await? {
        target = format!("{target}/{}", own.unwrap_or_default());
    }
    let (dir, name) = match target.rsplit_once('/') {
        Some(("", name)) => ("/", name.to_owned()),
        Some((dir, name)) => (dir, name.to_owned()),
        None => (".", target.clone()),
    };
    let from = from.to_owned();
    let feed = async move |stdin: Option<ChannelWriter>| {
        let mut stdin = stdin.expect("asked for");
        let (mut reader, writer) = tokio::io::duplex(64 * 1024);
        let packed = tokio::task::spawn_blocking(move || {
            let mut builder = tar::Builder::new(SyncIoBridge::new(writer));
            builder.follow_symlinks(true);
            match meta.is_dir() {
                true => builder.append_dir_all(&name, &from)?,
                false => builder.append_path_with_name(&from, &name)?,
            }
            builder.into_inner()?.shutdown()
        });
        tokio::io::copy(&mut reader, &mut stdin).await?;
        stdin.shutdown().await?;
        packed.await.map_err(io::Error::other)?
    };
    let words = ["tar", "-xmf", "-", "-C", dir];
    let (outcome, complaints, ()) = place.run(&words, feed, drain).await?;
    match outcome {
        Outcome::Success => Ok(()),
        failed => Err(told_by(&failed, &complaints)),
    }
}

/// Answers what was not copied.
async fn download(place: &Place<'_>, from: &str, to: PathBuf) -> Result<Vec<String>, Failure> {
    let prefix: Vec<&str> =
        from.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let prefix = prefix.join("/");
    let name = prefix.rsplit('/').next().unwrap_or_default().to_owned();
    // As cp: into a directory that is there, else to that name.
    let to = if to.is_dir() && !name.is_empty() { to.join(name) } else { to };
    let take = async move |reader: Reader| {
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut reader = SyncIoBridge::new(reader);
            let unpacked = unpack(&mut reader, &prefix, &to);
            // Or who sends would wait for ever.
            io::copy(&mut reader, &mut io::sink())?;
            unpacked
        });
        unpacked.await.map_err(io::Error::other)?
    };
    let nothing = async |_| Ok(());
    let (outcome, complaints, skipped) =
        place.run(&["tar", "cf", "-", from], nothing, take).await?;
    match outcome {
        Outcome::Success => Ok(skipped),
        failed => Err(told_by(&failed, &complaints)),
    }
}

/// Unpacks what lies below `prefix` to `to`.
fn unpack(reader: impl Read, prefix: &str, to: &Path) -> io::Result<Vec<String>> {
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let own = to.file_name().map(PathBuf::from).unwrap_or_else(|| ".".into());
    std::fs::create_dir_all(parent)?;
    let dir = Dir::open_ambient_dir(parent, ambient_authority())?;
    let mut skipped = Vec::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let Some(rest) = path.strip_prefix(prefix).ok().filter(|_| path.components().all(plain))
        else {
            skipped.push(format!("warning: {}: not below what was asked for", path.display()));
            continue;
        };
        let target = if rest.as_os_str().is_empty() { own.clone() } else { own.join(rest) };
        match entry.header().entry_type() {
            tar::EntryType::Directory => dir.create_dir_all(&target)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
                    dir.create_dir_all(parent)?;
                }
                io::copy(&mut entry, &mut dir.create(&target)?)?;
            }
            _ => skipped.push(format!("warning: skipping {}: no file", path.display())),
        }
    }
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let there = |namespace: Option<&str>, path: &str| End::There {
            namespace: namespace.map(str::to_owned),
            pod: "web".to_owned(),
            path: path.to_owned(),
        };
        let table = [
            ("web:/data", there(None, "/data")),
            ("ns/web:data", there(Some("ns"), "data")),
            ("./web:x", End::Here("./web:x".into())),
            ("file", End::Here("file".into())),
        ];
        for (text, expected) in table {
            assert_eq!(end(text).expect(text), expected);
        }
        for wrong in ["", "web:", ":x", "a/b/c:x"] {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            let bytes = header.as_gnu_mut().expect("a GNU header");
            bytes.name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).expect("appended");
        }
        builder.into_inner().expect("finished")
    }

    #[test]
    fn what_a_container_sends_stays_below_the_destination() {
        use tar::EntryType::{Directory, Regular, Symlink};
        let here = tempfile::tempdir().expect("a directory");
        let to = here.path().join("deep/to");
        let sent = archive(&[
            ("data/dir/", Directory, ""),
            ("data/dir/a", Regular, "a"),
            ("data/dir/link", Symlink, ""),
            ("data/../../evil", Regular, "x"),
            ("elsewhere", Regular, "x"),
            ("data/dir/sub/b", Regular, "b"),
        ]);
        let skipped = unpack(sent.as_slice(), "data/dir", &to).expect("unpacked");
        assert_eq!(skipped.len(), 3, "{skipped:?}");
        assert_eq!(std::fs::read_to_string(to.join("a")).expect("there"), "a");
        assert_eq!(std::fs::read_to_string(to.join("sub/b")).expect("there"), "b");
        assert!(!here.path().join("evil").exists() && !to.join("link").exists());
        let one = archive(&[("data/file", Regular, "one")]);
        let to = here.path().join("renamed");
        unpack(one.as_slice(), "data/file", &to).expect("unpacked");
        assert_eq!(std::fs::read_to_string(&to).expect("there"), "one");
    }
}
