//! Control groups, version 1 and 2: where a container's lie, and what they tell. They are made by
//! runc; `/coracle/POD/CONTAINER` below the root of every hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runtime::spec::Stats;

const ROOT: &str = "/sys/fs/cgroup";

/// The group of a container, as the runtime specification wants it.
pub fn path(pod: &str, container: &str) -> String {
    format!("/coracle/{pod}/{container}")
}

/// The files of one container's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    V1 { memory: PathBuf, cpu: PathBuf },
    V2(PathBuf),
}

impl Groups {
    /// Those that the text of `/proc/PID/cgroup` names.
    pub fn of(text: &str, unified: bool) -> Option<Self> {
        let lines = || {
            text.lines().filter_map(|line| {
                let mut parts = line.splitn(3, ':');
                Some((parts.next()?, parts.next()?, parts.next()?))
            })
        };
        let below = |mount: &str, path: &str| {
            Path::new(ROOT).join(mount).join(path.trim_start_matches('/'))
        };
        if unified {
            let (_, _, path) = lines().find(|(number, _, _)| *number == "0")?;
            return Some(Self::V2(below("", path)));
        }
        let of = |name: &str| {
            let found = lines().find(|(_, names, _)| names.split(',').any(|n| n == name));
            found.map(|(_, _, path)| below(name, path))
        };
        Some(Self::V1 { memory: of("memory")?, cpu: of("cpuacct")? })
    }

    /// How often the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self {
            Self::V1 { memory, .. } => memory.join("memory.oom_control"),
            Self::V2(dir) => dir.join("memory.events"),
        };
        value(&fs::read_to_string(file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// What is used now: processor time, and memory without what can be given back at once.
    pub fn stats(&self) -> Stats {
        let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let number = |path: PathBuf| text(path).trim().parse::<u64>().unwrap_or(0);
        let (nanos, usage, inactive) = match self {
            Self::V1 { memory, cpu } => (
                number(cpu.join("cpuacct.usage")),
                number(memory.join("memory.usage_in_bytes")),
                value(&text(memory.join("memory.stat")), "total_inactive_file"),
            ),
            Self::V2(dir) => (
                value(&text(dir.join("cpu.stat")), "usage_usec").unwrap_or(0).saturating_mul(1000),
                number(dir.join("memory.current")),
                value(&text(dir.join("memory.stat")), "inactive_file"),
            ),
        };
        Stats {
            cpu: Duration::from_nanos(nanos),
            memory_bytes: usage.saturating_sub(inactive.unwrap_or(0)),
            requests: 0,
        }
    }
}

/// The number behind a word at the beginning of a line.
fn value(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Removes the empty groups of a pod, and those of its containers that runc has left.
pub fn remove_pod(pod: &str, unified: bool) {
    let directories = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let kept = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        kept.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let root = PathBuf::from(ROOT);
    let hierarchies = if unified { vec![root] } else { directories(&root) };
    for hierarchy in hierarchies {
        let group = hierarchy.join("coracle").join(pod);
        for container in directories(&group) {
            let _ = fs::remove_dir(container);
        }
        let _ = fs::remove_dir(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_off_the_process() {
        let v1 = "9:memory:/coracle/p/c\n8:cpu,cpuacct:/coracle/p/c\n0::/\n";
        assert_eq!(
            Groups::of(v1, false),
            Some(Groups::V1 {
                memory: "/sys/fs/cgroup/memory/coracle/p/c".into(),
                cpu: "/sys/fs/cgroup/cpuacct/coracle/p/c".into(),
            })
        );
        assert_eq!(
            Groups::of("0::/coracle/p/c\n", true),
            Some(Groups::V2("/sys/fs/cgroup/coracle/p/c".into()))
        );
        assert_eq!(Groups::of("0::/x\n", false), None);
    }

    #[test]
    fn counters_are_found_by_their_whole_word() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "oom"), None);
    }
}
