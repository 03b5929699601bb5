//! `config.json` of a container, in the words of the OCI runtime specification 1.0. Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::cgroup;
use super::security::{MASKED_PATHS, READ_ONLY_PATHS, capabilities, default_seccomp};
use super::spec::{ContainerSpec, Propagation, SandboxSpec, Seccomp};
use super::users::User;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CPU_PERIOD_US: u64 = 100_000;

/// What the config needs to know of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub unified_cgroups: bool,
    /// Whether the kernel counts swap.
    pub counts_swap: bool,
    /// Capabilities that can be handed on, a bit each.
    pub capabilities: u64,
    /// Nothing may be killed later than this says: below it only the machine's own root may go.
    pub oom_score_min: i32,
    /// Devices of the host, for what is privileged or asks for some.
    pub devices: Vec<Device>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: String,
    /// `c` or `b`.
    pub kind: &'static str,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The document; `dir` is the sandbox's.
///
/// # Errors
/// What of the spec cannot be had.
pub fn document(
    spec: &ContainerSpec,
    sandbox: &SandboxSpec,
    user: &User,
    machine: &Machine,
    dir: &Path,
) -> Result<Value, String> {
    let capabilities = capabilities(
        &spec.capabilities_add,
        &spec.capabilities_drop,
        spec.privileged,
        machine.capabilities,
    )?;
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": process(spec, user, &capabilities, machine),
        "root": {"path": "rootfs", "readonly": spec.root.read_only},
        "mounts": mounts(spec, sandbox, machine, dir),
        "linux": {
            "cgroupsPath": cgroup::path(&sandbox.id, &spec.id),
            "namespaces": namespaces(sandbox, machine, dir),
            "resources": resources(spec, machine),
            "rootfsPropagation": propagation(spec),
        },
    });
    let linux = &mut config["linux"];
    if !spec.privileged && !spec.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    let wanted: Vec<Value> = machine.devices.iter().map(device).collect();
    if !wanted.is_empty() {
        linux["devices"] = json!(wanted);
    }
    match &spec.seccomp {
        _ if spec.privileged => {}
        Seccomp::Unconfined => {}
        Seccomp::RuntimeDefault => linux["seccomp"] = default_seccomp(&capabilities),
        Seccomp::Profile(path) => {
            let wrong = |why: String| format!("seccomp profile {}: {why}", path.display());
            let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
            linux["seccomp"] = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        }
    }
    Ok(config)
}

fn process(spec: &ContainerSpec, user: &User, capabilities: &[String], machine: &Machine) -> Value {
    let mut env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !spec.env.contains_key("PATH") {
        env.push(PATH.to_owned());
    }
    if let Some(home) = user.home.as_ref().filter(|_| !spec.env.contains_key("HOME")) {
        env.push(format!("HOME={home}"));
    }
    if spec.tty && !spec.env.contains_key("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": spec.args,
        "env": env,
        "cwd": spec.working_dir,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": spec.no_new_privileges && !spec.privileged,
        "oomScoreAdj": spec.resources.oom_score.max(machine.oom_score_min),
    });
    if let Some(profile) = spec.apparmor.as_ref().filter(|_| !spec.privileged) {
        process["apparmorProfile"] = json!(profile);
    }
    process
}

fn namespaces(sandbox: &SandboxSpec, machine: &Machine, dir: &Path) -> Vec<Value> {
    let at = |kind: &str, file: &str| json!({"type": kind, "path": dir.join("ns").join(file)});
    let mut all = vec![json!({"type": "mount"})];
    if !sandbox.host_network {
        all.push(at("network", "net"));
        all.push(at("uts", "uts"));
    }
    if !sandbox.host_ipc {
        all.push(at("ipc", "ipc"));
    }
    match (sandbox.host_pid, sandbox.shared_pid) {
        (true, _) => {}
        (false, true) => all.push(at("pid", "pid")),
        (false, false) => all.push(json!({"type": "pid"})),
    }
    if machine.unified_cgroups {
        all.push(json!({"type": "cgroup"}));
    }
    all
}

fn propagation(spec: &ContainerSpec) -> &'static str {
    let has = |kind| spec.mounts.iter().any(|bind| bind.propagation == kind);
    match (has(Propagation::Both), has(Propagation::FromHost)) {
        (true, _) => "rshared",
        (false, true) => "rslave",
        (false, false) => "rprivate",
    }
}

fn mounts(
    spec: &ContainerSpec,
    sandbox: &SandboxSpec,
    machine: &Machine,
    dir: &Path,
) -> Vec<Value> {
    let plain = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let access = if spec.privileged { "rw" } else { "ro" };
    let mut all = vec![
        plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        plain("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        plain(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        plain("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        plain("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if sandbox.host_network && !spec.privileged {
        // A new sysfs belongs to whoever owns the network's namespace; the host's is shown instead.
        all[4] = bind(Path::new("/sys"), "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    }
    let options: &[&str] = match machine.unified_cgroups {
        true => &["nosuid", "noexec", "nodev", "relatime", access],
        false => &["nosuid", "noexec", "nodev", "relatime", "ro"],
    };
    all.push(plain("/sys/fs/cgroup", "cgroup", options));
    let taken =
        |at: &str| spec.mounts.iter().any(|bind| bind.mount.guest.trim_end_matches('/') == at);
    if !taken("/dev/shm") {
        let shm = match sandbox.host_ipc {
            true => Path::new("/dev/shm").to_path_buf(),
            false => dir.join("shm"),
        };
        all.push(bind(&shm, "/dev/shm", &["rbind", "rw", "nosuid", "noexec", "nodev"]));
    }
    let own = [
        ("/etc/hosts", "hosts", sandbox.hosts.is_some()),
        ("/etc/hostname", "hostname", !sandbox.host_network),
        ("/etc/resolv.conf", "resolv.conf", sandbox.resolv_conf.is_some()),
    ];
    let writable = if spec.root.read_only { "ro" } else { "rw" };
    for (at, file, _) in own.iter().filter(|(at, _, there)| *there && !taken(at)) {
        all.push(bind(&dir.join(file), at, &["rbind", "rprivate", writable]));
    }
    // What is mounted on lies before what is mounted in it.
    let mut binds: Vec<_> = spec.mounts.iter().collect();
    binds.sort_by_key(|bind| bind.mount.guest.trim_end_matches('/').matches('/').count());
    for one in binds {
        let carries = match one.propagation {
            Propagation::Private => "rprivate",
            Propagation::FromHost => "rslave",
            Propagation::Both => "rshared",
        };
        let access = if one.mount.read_only { "ro" } else { "rw" };
        all.push(bind(&one.mount.host, &one.mount.guest, &["rbind", carries, access]));
    }
    all
}

fn bind(from: &Path, at: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": "bind", "source": from, "options": options})
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    })
}

fn resources(spec: &ContainerSpec, machine: &Machine) -> Value {
    let resources = &spec.resources;
    let mut devices = vec![json!({"allow": spec.privileged, "access": "rwm"})];
    for one in machine.devices.iter().filter(|_| !spec.privileged) {
        devices.push(json!({
            "allow": true, "type": one.kind, "major": one.major, "minor": one.minor, "access": "rwm",
        }));
    }
    let mut all = json!({
        "devices": devices,
        "cpu": {"shares": resources.cpu_shares.max(2)},
    });
    if let Some(millis) = resources.cpu_millis_max {
        // The kernel takes no quota below a millisecond.
        all["cpu"]["period"] = json!(CPU_PERIOD_US);
        all["cpu"]["quota"] = json!((millis * CPU_PERIOD_US / 1000).max(1000));
    }
    if let Some(bytes) = resources.memory_bytes_max {
        all["memory"] = json!({"limit": bytes});
        if machine.counts_swap {
            // Memory and swap together: none of it.
            all["memory"]["swap"] = json!(bytes);
        }
    }
    if let Some(pids) = resources.pids_max {
        all["pids"] = json!({"limit": pids});
    }
    if !resources.huge_pages.is_empty() {
        let limits = resources.huge_pages.iter();
        let limits: Vec<Value> =
            limits.map(|(size, bytes)| json!({"pageSize": size, "limit": bytes})).collect();
        all["hugepageLimits"] = json!(limits);
    }
    if machine.unified_cgroups && resources.memory_bytes_max.is_some() {
        // One process killed for memory takes its container with it, as Kubernetes does.
        all["unified"] = json!({"memory.oom.group": "1"});
    }
    all
}

#[cfg(test)]
mod tests;
