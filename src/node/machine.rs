//! What the machine is: processors, memory, disk, names of kernel and system.

use std::path::Path;

use serde_json::{Value, json};

use super::config::KUBELET_VERSION;

/// What the machine has and has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub memory_available: u64,
    /// Of the file system that holds the agent's data.
    pub disk_bytes: u64,
    pub disk_available: u64,
}

/// Kubernetes' name of this processor architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

impl Machine {
    /// Looks at the machine; `data_dir` exists.
    pub fn read(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let info = read("/proc/meminfo");
        let disk = rustix::fs::statvfs(data_dir).ok();
        let total = meminfo(&info, "MemTotal").unwrap_or(1 << 30);
        Self {
            cpu_millis: cores as u64 * 1000,
            memory_bytes: total,
            memory_available: meminfo(&info, "MemAvailable").unwrap_or(total),
            disk_bytes: disk.as_ref().map_or(0, |d| d.f_blocks.saturating_mul(d.f_frsize)),
            disk_available: disk.as_ref().map_or(0, |d| d.f_bavail.saturating_mul(d.f_frsize)),
        }
    }

    pub fn memory_pressure(&self) -> bool {
        self.memory_available < 100 << 20
    }

    pub fn disk_pressure(&self) -> bool {
        self.disk_bytes > 0 && self.disk_available < self.disk_bytes / 20
    }
}

/// `status.nodeInfo`.
pub fn node_info() -> Value {
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let machine_id = read("/etc/machine-id");
    json!({
        "architecture": architecture(),
        "operatingSystem": std::env::consts::OS,
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "machineID": machine_id,
        "systemUUID": or(read("/sys/class/dmi/id/product_uuid"), &machine_id),
        "kernelVersion": rustix::system::uname().release().to_string_lossy(),
        "osImage": or(pretty.unwrap_or_default().trim_matches('"').to_owned(), "unknown"),
        "containerRuntimeVersion": "wasmtime://48.0.8",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_off_meminfo() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    512 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16 << 20));
        assert_eq!(meminfo(text, "MemAvailable"), Some(512 << 10));
        assert_eq!(meminfo(text, "Mem"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::read(Path::new("."));
        assert!(machine.cpu_millis >= 1000 && machine.memory_bytes > 0 && machine.disk_bytes > 0);
    }
}
