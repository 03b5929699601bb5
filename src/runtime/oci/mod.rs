//! Containers of the kernel, through `runc`.
//!
//! | file | |
//! |---|---|
//! | `spec`, `bundle`, `security`, `users` | what a container is, and `config.json` of it |
//! | `sandbox`, `netns`, `hostnet`, `pause` | what the containers of a pod share |
//! | `monitor`, `wire` | the process beside each container, and what it says |
//! | `container`, `exec` | a running container, and commands in it |
//! | `cgroup`, `sys` | control groups, system calls |
//!
//! ```text
//! STATE/runc/                    what runc knows of its containers
//! STATE/pods/UID/                a sandbox, see `sandbox.rs`
//! STATE/pods/UID/containers/ID/  a container, see `container.rs`
//! ```
//! **Invariant:** everything that is needed to find a container again lies in its directory.
//! Nothing of a running container is in this process alone, so that it may be killed at any time.

mod bundle;
mod cgroup;
mod container;
mod exec;
mod hostnet;
pub mod monitor;
mod netns;
pub mod pause;
mod sandbox;
mod security;
pub mod spec;
mod sys;
mod users;
mod wire;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::bundle::{Device, Machine};
pub use self::container::Container;
pub use self::exec::Streams;
pub use self::hostnet::HostNet;
use self::spec::{ContainerSpec, SandboxSpec};
use crate::net::KernelNamespace;

/// Devices of one container.
const DEVICES_MAX: usize = 4096;

/// Programs and places that containers need.
#[derive(Debug, Clone)]
pub struct Tools {
    pub(crate) runc: PathBuf,
    pub(crate) ip: PathBuf,
    pub(crate) nft: PathBuf,
    /// This program, for its hidden subcommands.
    pub(crate) program: PathBuf,
    pub(crate) runc_root: PathBuf,
    pub(crate) unified_cgroups: bool,
}

/// Why a container does not run. The texts are those of a pod's events.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The spec asks for what cannot be had.
    #[error("{0}")]
    Config(String),
    #[error("failed to create containerd task: {0}")]
    Create(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The containers of a node.
pub struct Containers {
    tools: Tools,
    pods: PathBuf,
}

/// Where a program is, by the search path of this process.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(usual);
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

impl Containers {
    /// What this machine has for containers, with their state in `dir`.
    ///
    /// # Errors
    /// Why it cannot run any, in words that say what to do.
    pub fn detect(dir: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("its agent does not run as root".to_owned());
        }
        let need = |names: &[&str]| {
            let found = names.iter().find_map(|name| find(name));
            found.ok_or_else(|| format!("{} is not installed", names.join(" or ")))
        };
        let tools = Tools {
            runc: need(&["runc", "crun"])?,
            ip: need(&["ip"])?,
            nft: need(&["nft"])?,
            // The link of a running program still opens after its file was replaced.
            program: PathBuf::from("/proc/self/exe"),
            runc_root: dir.join("runc"),
            unified_cgroups: sys::has_unified_cgroups(),
        };
        if !Path::new("/sys/fs/cgroup")
            .join(if tools.unified_cgroups { "cgroup.controllers" } else { "memory" })
            .exists()
        {
            return Err("control groups are not mounted at /sys/fs/cgroup".to_owned());
        }
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.ends_with("\toverlay"))
            && !Path::new("/sys/module/overlay").exists()
        {
            return Err("its kernel has no overlayfs".to_owned());
        }
        let pods = dir.join("pods");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&pods);
        made.map_err(|error| format!("{}: {error}", pods.display()))?;
        Ok(Self { tools, pods })
    }

    /// The version of the runtime, for people.
    pub fn version(&self) -> String {
        let output = std::process::Command::new(&self.tools.runc).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let first = text.ok().and_then(|text| text.lines().next().map(str::to_owned));
        first.unwrap_or_default().replace(" version ", "://")
    }

    fn pod(&self, id: &str) -> PathBuf {
        self.pods.join(id)
    }

    fn place(&self, pod: &str, container: &str) -> PathBuf {
        self.pod(pod).join("containers").join(container)
    }

    /// Whether a pod has a sandbox, whole or not.
    pub fn has_sandbox(&self, pod: &str) -> bool {
        self.pod(pod).exists()
    }

    /// Makes what the containers of a pod share, or finds it.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn sandbox(&self, spec: &SandboxSpec) -> io::Result<()> {
        let (dir, spec, tools) = (self.pod(&spec.id), spec.clone(), self.tools.clone());
        let made = tokio::task::spawn_blocking(move || {
            if dir.exists() && !sandbox::is_whole(&dir, &spec) {
                end_all(&tools, &dir);
            }
            sandbox::ensure(&dir, &spec, &tools)
        });
        made.await.map_err(io::Error::other)?
    }

    /// Whether the sandbox of a pod is as it was made.
    pub fn is_whole(&self, spec: &SandboxSpec) -> bool {
        sandbox::is_whole(&self.pod(&spec.id), spec)
    }

    /// The kernel's network of a pod, ready to be joined.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn network(&self, spec: &SandboxSpec) -> io::Result<Arc<dyn KernelNamespace>> {
        let path = self.pod(&spec.id).join("ns/net");
        Ok(Arc::new(netns::KernelNet::open(&path, spec.ip, &self.tools.nft)?))
    }

    /// Starts a container in a sandbox that was made.
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub async fn start(
        &self,
        sandbox: &SandboxSpec,
        spec: ContainerSpec,
    ) -> Result<Arc<Container>, ContainerError> {
        let dir = self.place(&sandbox.id, &spec.id);
        let (pod, tools, shared) = (self.pod(&sandbox.id), self.tools.clone(), sandbox.clone());
        let (at, prepared) = (dir.clone(), spec.clone());
        let done = tokio::task::spawn_blocking(move || {
            let made = prepare(&at, &pod, &shared, &prepared, &tools);
            if made.is_err() {
                sandbox::unmount_below(&at);
            }
            made
        });
        done.await.map_err(|error| ContainerError::Config(error.to_string()))??;
        Container::start(dir, &spec, &self.tools)
            .await
            .map_err(|error| ContainerError::Create(error.to_string()))
    }

    /// Takes up a container that an earlier agent started.
    pub async fn recover(&self, pod: &str, container: &str) -> Option<Arc<Container>> {
        let dir = self.place(pod, container);
        Container::recover(container.to_owned(), dir, &self.tools).await
    }

    /// Removes what is left of a container that has ended, once its monitor is done with it.
    pub async fn forget(&self, pod: &str, container: &str) {
        let dir = self.place(pod, container);
        // The monitor takes the root down itself; it is gone when nobody answers any more.
        for _ in 0..50 {
            if container::connect(&dir).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        }
        let (tools, id) = (self.tools.clone(), container.to_owned());
        let removed = tokio::task::spawn_blocking(move || remove_container(&tools, &id, &dir));
        if let Ok(Err(error)) = removed.await {
            tracing::debug!(container, %error, "not all of a container was removed");
        }
    }

    /// Ends and removes the containers of a pod that are none of those `kept`.
    pub async fn remove_others(&self, pod: &str, kept: &[&str]) {
        let entries = fs::read_dir(self.pod(pod).join("containers")).into_iter().flatten();
        let ids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        for id in ids.filter(|id| !kept.contains(&id.as_str())) {
            let (tools, dir) = (self.tools.clone(), self.place(pod, &id));
            let removed = tokio::task::spawn_blocking(move || {
                container::delete(&tools, &id, &dir);
                remove_container(&tools, &id, &dir)
            });
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(pod, %error, "a container that nobody knows was not removed");
            }
        }
    }

    /// Ends and removes everything of a pod.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn remove_sandbox(&self, pod: &str) -> io::Result<()> {
        let (dir, tools, id) = (self.pod(pod), self.tools.clone(), pod.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            if !dir.exists() {
                return Ok(());
            }
            end_all(&tools, &dir);
            let removed = sandbox::remove(&dir);
            cgroup::remove_pod(&id, tools.unified_cgroups);
            removed
        });
        removed.await.map_err(io::Error::other)?
    }

    /// The pods that have a sandbox.
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.pods).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Removes the files of a container.
fn remove_container(tools: &Tools, id: &str, dir: &Path) -> io::Result<()> {
    if sandbox::has_mounts(dir) {
        container::delete(tools, id, dir);
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends all containers of a sandbox.
fn end_all(tools: &Tools, dir: &Path) {
    for entry in fs::read_dir(dir.join("containers")).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        container::delete(tools, &id, &entry.path());
    }
}

/// Makes the bundle of a container.
fn prepare(
    dir: &Path,
    pod: &Path,
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    tools: &Tools,
) -> Result<(), ContainerError> {
    // What an agent left that was killed while it did the same.
    container::delete(tools, &spec.id, dir);
    let _ = fs::remove_dir_all(dir);
    let root = dir.join("rootfs");
    for one in [&root, &dir.join("upper"), &dir.join("work")] {
        fs::create_dir_all(one)?;
    }
    overlay(dir, &spec.root.layers)?;
    let passwd = users::read_within(&root, "etc/passwd");
    let group = users::read_within(&root, "etc/group");
    let user = users::resolve(&spec.user, &passwd, &group).map_err(ContainerError::Config)?;
    let available = security::available();
    let machine = Machine {
        unified_cgroups: tools.unified_cgroups,
        counts_swap: tools.unified_cgroups
            || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        capabilities: available,
        oom_score_min: security::oom_score_min(available),
        devices: devices(spec)?,
    };
    let config =
        bundle::document(spec, sandbox, &user, &machine, pod).map_err(ContainerError::Config)?;
    fs::write(dir.join("config.json"), config.to_string())?;
    Ok(())
}

/// Mounts the root of a container. The names of all layers must fit into a page, so they are
/// given from the directory that they lie in, by a thread that stands there.
fn overlay(dir: &Path, layers: &[PathBuf]) -> io::Result<()> {
    let base = layers.first().and_then(|layer| layer.parent()).map(Path::to_path_buf);
    let base = base.ok_or_else(|| io::Error::other("an image without layers"))?;
    let names: Vec<String> = layers
        .iter()
        .rev()
        .map(|layer| {
            let short = layer.strip_prefix(&base).unwrap_or(layer);
            short.to_string_lossy().into_owned()
        })
        .collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        names.join(":"),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    let root = dir.join("rootfs");
    let mounted = std::thread::spawn(move || {
        sys::unshare(sys::CLONE_FS)?;
        std::env::set_current_dir(&base)?;
        sys::mount(Path::new("overlay"), &root, "overlay", 0, &data)
    });
    mounted.join().map_err(|_| io::Error::other("the thread that mounts broke"))?
}

/// The devices that a container is given: all of the host where it is privileged.
fn devices(spec: &ContainerSpec) -> io::Result<Vec<Device>> {
    let mut found = Vec::new();
    if spec.privileged {
        collect_devices(Path::new("/dev"), &mut found);
    }
    for path in &spec.devices {
        found.extend(device(path)?);
    }
    Ok(found)
}

fn device(path: &Path) -> io::Result<Option<Device>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        path: path.to_string_lossy().into_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

fn collect_devices(dir: &Path, into: &mut Vec<Device>) {
    // What a container has of its own.
    const OWN: [&str; 5] = ["pts", "shm", "mqueue", "console", "ptmx"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let own = dir == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name);
        let Ok(kind) = entry.file_type() else { continue };
        if own || into.len() >= DEVICES_MAX {
            continue;
        }
        if kind.is_dir() {
            collect_devices(&entry.path(), into);
        } else if let Ok(Some(device)) = device(&entry.path()) {
            into.push(device);
        }
    }
}
