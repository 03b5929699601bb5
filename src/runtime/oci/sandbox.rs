//! What the containers of a pod share, without a process that holds it: namespaces live as long
//! as the files that they are mounted on.
//!
//! ```text
//! DIR/sandbox.json                       written last: a sandbox without it is not whole
//! DIR/ns/{net,ipc,uts,pid}               namespaces
//! DIR/{hosts,hostname,resolv.conf,shm/}  bound into every container
//! DIR/containers/ID/                     see `container.rs`
//! ```
//! A process namespace alone ends with its first process; pods that share one have a process that
//! does nothing but wait ([`super::pause`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::spec::SandboxSpec;
use super::{Tools, netns, sys};

/// What is remembered of a sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The process that holds a shared process namespace.
    pause: Option<u32>,
}

/// Makes the sandbox at `dir`, or finds that it is there.
///
/// # Errors
/// Those of the system and of the tools, with what was being done.
pub fn ensure(dir: &Path, spec: &SandboxSpec, tools: &Tools) -> io::Result<()> {
    if is_whole(dir, spec) {
        return write_files(dir, spec);
    }
    remove(dir)?;
    let made = make(dir, spec, tools);
    if made.is_err() {
        let _ = remove(dir);
    }
    made
}

/// Whether everything of it is still there: a restart of the machine ends namespaces.
pub fn is_whole(dir: &Path, spec: &SandboxSpec) -> bool {
    let Ok(text) = fs::read(dir.join("sandbox.json")) else { return false };
    let Ok(kept) = serde_json::from_slice::<Kept>(&text) else { return false };
    let ns = dir.join("ns");
    let pause = kept.pause.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists());
    (spec.host_network || sys::is_namespace(&ns.join("net")))
        && (spec.host_ipc || sys::is_namespace(&ns.join("ipc")))
        && (!shares_pid(spec) || sys::is_namespace(&ns.join("pid")))
        && pause
}

fn shares_pid(spec: &SandboxSpec) -> bool {
    spec.shared_pid && !spec.host_pid
}

fn make(dir: &Path, spec: &SandboxSpec, tools: &Tools) -> io::Result<()> {
    fs::create_dir_all(dir.join("ns"))?;
    fs::create_dir_all(dir.join("containers"))?;
    write_files(dir, spec)?;
    let shm = dir.join("shm");
    fs::create_dir_all(&shm)?;
    let flags = sys::MS_NOSUID | sys::MS_NOEXEC | sys::MS_NODEV;
    let size = format!("mode=1777,size={}", spec.shm_bytes);
    sys::mount(Path::new("shm"), &shm, "tmpfs", flags, &size)
        .map_err(|e| during("/dev/shm", &e))?;
    let (at, inner, tools_) = (dir.to_path_buf(), spec.clone(), tools.clone());
    // A thread of its own takes on the namespaces, gives them names, and ends.
    let thread = std::thread::Builder::new().name("sandbox".to_owned());
    let made = thread.spawn(move || namespaces(&at, &inner, &tools_))?;
    made.join().map_err(|_| io::Error::other("the thread that makes namespaces broke"))??;
    let pause = match shares_pid(spec) {
        true => Some(super::pause::start(tools, &dir.join("ns/pid"))?),
        false => None,
    };
    let kept = serde_json::to_vec(&Kept { pause })?;
    fs::write(dir.join("sandbox.json"), kept)
}

fn during(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn namespaces(dir: &Path, spec: &SandboxSpec, tools: &Tools) -> io::Result<()> {
    let mut flags = 0;
    let mut names = Vec::new();
    if !spec.host_network {
        flags |= sys::CLONE_NEWNET | sys::CLONE_NEWUTS;
        names.extend(["net", "uts"]);
    }
    if !spec.host_ipc {
        flags |= sys::CLONE_NEWIPC;
        names.push("ipc");
    }
    sys::unshare(flags).map_err(|e| during("new namespaces", &e))?;
    if !spec.host_network {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(io::Error::from)?;
        let ip = Command::new(&tools.ip)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| during("ip", &e))?;
        let nft = netns::start_nft(&tools.nft).map_err(|e| during("nft", &e))?;
        netns::feed(ip, &netns::links(spec.ip)).map_err(|e| during("ip", &e))?;
        netns::feed(nft, &netns::rules(spec.ip)).map_err(|e| during("nft", &e))?;
        // As Kubernetes' own sandboxes have it: any user may listen on any port, and ping.
        for (name, value) in
            [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")]
        {
            let _ = fs::write(Path::new("/proc/sys/net/ipv4").join(name), value);
        }
    }
    for (name, value) in &spec.sysctls {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(file, value).map_err(|e| during(&format!("sysctl {name}={value}"), &e))?;
    }
    for name in names {
        let file = dir.join("ns").join(name);
        fs::write(&file, b"")?;
        let own = PathBuf::from(format!("/proc/thread-self/ns/{name}"));
        sys::mount(&own, &file, "", sys::MS_BIND, "").map_err(|e| during(name, &e))?;
    }
    Ok(())
}

fn write_files(dir: &Path, spec: &SandboxSpec) -> io::Result<()> {
    let files = [
        ("hosts", spec.hosts.clone()),
        ("resolv.conf", spec.resolv_conf.clone()),
        ("hostname", Some(format!("{}\n", spec.hostname))),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        // A container may have changed its own; it is the sandbox's as long as that is there.
        if let Some(text) = text.filter(|_| !path.exists()) {
            fs::write(path, text)?;
        }
    }
    Ok(())
}

/// Removes a sandbox whose containers have ended.
///
/// # Errors
/// Those of the file system.
pub fn remove(dir: &Path) -> io::Result<()> {
    let kept = fs::read(dir.join("sandbox.json")).ok();
    let kept = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
    if let Some(pid) = kept.and_then(|kept| kept.pause) {
        super::pause::end(pid);
    }
    unmount_below(dir);
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts everything at and below a directory, the innermost first.
pub fn unmount_below(dir: &Path) {
    let Ok(dir) = fs::canonicalize(dir) else { return };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for path in mounted_below(&table, &dir).into_iter().rev() {
        if let Err(error) = sys::unmount(&path) {
            tracing::warn!(path = %path.display(), %error, "not unmounted");
        }
    }
}

/// Whether anything is mounted at or below a directory.
pub fn has_mounts(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    fs::canonicalize(dir).is_ok_and(|dir| !mounted_below(&table, &dir).is_empty())
}

/// The mount points of a mountinfo at and below a directory, in the order of their making.
fn mounted_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(unescaped(point))).filter(|p| p.starts_with(dir)).collect()
}

/// Blanks and the like are written as `\040` there.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found_whatever_their_names() {
        let table = "1 2 0:1 / /data rw - ext4 x rw\n\
                     3 2 0:2 / /data/a\\040b/shm rw - tmpfs shm rw\n\
                     4 2 0:3 / /database rw - tmpfs t rw\n";
        let found = mounted_below(table, Path::new("/data/a b"));
        assert_eq!(found, [PathBuf::from("/data/a b/shm")]);
        assert_eq!(mounted_below(table, Path::new("/data")).len(), 2);
    }
}
