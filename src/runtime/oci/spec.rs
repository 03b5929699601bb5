//! What a container and the sandbox around it are, as plain data. Knows no Pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::spec::Mount;

/// What the containers of one pod share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Names it on this machine: the pod's UID.
    pub id: String,
    pub hostname: String,
    pub ip: IpAddr,
    /// Whether it uses the namespaces of the host.
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// Whether its containers see each other's processes.
    pub shared_pid: bool,
    /// `/etc/hosts` and `/etc/resolv.conf`; none: those of the image.
    pub hosts: Option<String>,
    pub resolv_conf: Option<String>,
    pub sysctls: Vec<(String, String)>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
}

/// Where the root of a container's file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    pub read_only: bool,
}

/// Who a container's process is, before the image was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserSpec {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// What the image says: `user[:group]`, names or numbers.
    pub image: Option<String>,
    pub supplemental: Vec<u32>,
    /// Whether the groups that the image's `/etc/group` gives the user count
    /// (`supplementalGroupsPolicy: Merge`).
    pub merge_groups: bool,
    /// Refused where it would be root (`runAsNonRoot`).
    pub non_root: bool,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile of the node, as JSON in Docker's form.
    Profile(PathBuf),
}

/// How a mount carries on what is mounted below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    FromHost,
    Both,
}

/// A bind mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub mount: Mount,
    pub propagation: Propagation,
}

/// What a container may use. All in the units of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub memory_bytes_max: Option<u64>,
    /// Weight of a core, 1024 for a whole one.
    pub cpu_shares: u64,
    /// Thousandths of a core.
    pub cpu_millis_max: Option<u64>,
    pub pids_max: Option<i64>,
    /// `hugepages-2Mi` and the like: page size as the kernel names it, and bytes.
    pub huge_pages: Vec<(String, u64)>,
    pub oom_score: i32,
}

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// 64 hexadecimal digits.
    pub id: String,
    pub root: Root,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: String,
    pub user: UserSpec,
    /// Without `CAP_`; `ALL` is all of them.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub apparmor: Option<String>,
    /// Whether `/proc` is shown whole (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    pub mounts: Vec<Bind>,
    /// Devices of the host.
    pub devices: Vec<PathBuf>,
    pub resources: Resources,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Asks it to end; SIGTERM where nobody says.
    pub stop_signal: Option<String>,
    /// Handed to the program that writes the log, untouched.
    pub log: serde_json::Value,
}

/// How a container ended, as its monitor leaves it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub code: i32,
    pub oom: bool,
    pub started_at: jiff::Timestamp,
    pub finished_at: jiff::Timestamp,
}
