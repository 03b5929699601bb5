//! Capabilities, system calls and hidden paths of a container. Pure.

use serde_json::{Value, json};

/// What a container has that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All that the kernel knows, by their numbers.
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Those that this process may hand on, a bit each: it is itself held in by somebody, often.
pub fn available() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// The lowest score that this process may give: without the right to more, its own.
pub fn oom_score_min(available: u64) -> i32 {
    const SYS_RESOURCE: u32 = 24;
    if available >> SYS_RESOURCE & 1 == 1 {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

/// The capabilities of a container, with their prefix, sorted; none but those `available`.
///
/// # Errors
/// A name that no kernel knows.
pub fn capabilities(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: u64,
) -> Result<Vec<String>, String> {
    let bare = |name: &String| {
        let name = name.to_uppercase();
        name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
    };
    let (add, drop): (Vec<_>, Vec<_>) =
        (add.iter().map(bare).collect(), drop.iter().map(bare).collect());
    if let Some(wrong) =
        add.iter().find(|name| *name != "ALL" && !ALL_CAPABILITIES.contains(&name.as_str()))
    {
        return Err(format!("unknown capability to add: {wrong:?}"));
    }
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let mut all: Vec<String> = ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| available >> number & 1 == 1)
        .map(|(_, name)| name)
        .filter(|name| {
            if privileged || has(&add, name) {
                return true;
            }
            let given = has(&add, "ALL") || DEFAULT_CAPABILITIES.contains(name);
            given && !has(&drop, name) && !has(&drop, "ALL")
        })
        .map(|name| format!("CAP_{name}"))
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Hidden from containers that are not privileged.
pub const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/security",
];

/// Shown read only to them.
pub const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What each capability adds to the system calls.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount name_to_handle_at open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module query_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "adjtimex clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind move_pages set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// New namespaces of any kind, which clone may not make without CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Sockets to the hypervisor of a virtual machine: no namespace holds them apart.
const AF_VSOCK: u64 = 40;

/// The profile behind `RuntimeDefault`, in the words of the runtime specification.
pub fn default_seccomp(capabilities: &[String]) -> Value {
    let listed = include_str!("seccomp.txt").lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<&str> = listed.flat_map(str::split_whitespace).collect();
    for (capability, more) in BY_CAPABILITY {
        if capabilities.iter().any(|c| c == capability) {
            names.extend(more.split_whitespace());
        }
    }
    let (architectures, own): (&[&str], &[&str]) = match std::env::consts::ARCH {
        "x86_64" => {
            (&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], &["arch_prctl", "modify_ldt"])
        }
        "aarch64" => (
            &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
            &[
                "arm_fadvise64_64",
                "arm_sync_file_range",
                "breakpoint",
                "cacheflush",
                "set_tls",
                "sync_file_range2",
            ],
        ),
        _ => (&[], &[]),
    };
    names.extend(own);
    let when = |name: &str, index: u32, value: u64, op: &str| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": index, "value": value, "op": op}]})
    };
    let mut calls = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        when("socket", 0, AF_VSOCK, "SCMP_CMP_NE"),
    ];
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        calls.push(when("personality", 0, persona, "SCMP_CMP_EQ"));
    }
    if !capabilities.iter().any(|c| c == "CAP_SYS_ADMIN") {
        calls.push(json!({
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        }));
        // Its flags lie in memory, where no filter sees them: libraries fall back to clone.
        calls.push(json!({
            "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS,
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM,
        "architectures": architectures, "syscalls": calls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_defaults() {
        let of = |add: &[&str], drop: &[&str]| {
            capabilities(&list(add), &list(drop), false, u64::MAX).expect("known names")
        };
        assert_eq!(of(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert!(of(&["NET_ADMIN"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(of(&["CAP_KILL"], &["ALL"]), ["CAP_KILL"]);
        assert!(!of(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(of(&["ALL"], &[]).len(), 41);
        assert_eq!(of(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(capabilities(&[], &[], true, (1 << 38) - 1).expect("all").len(), 38);
        assert!(
            capabilities(&list(&["FLY"]), &[], false, u64::MAX).expect_err("no").contains("FLY")
        );
    }

    #[test]
    fn the_default_profile_grows_with_the_capabilities() {
        let allows = |capabilities: &[&str], call: &str| {
            let profile = default_seccomp(&list(capabilities));
            let first = profile["syscalls"][0]["names"].as_array().expect("names").clone();
            first.contains(&json!(call))
        };
        assert!(allows(&[], "openat"));
        assert!(!allows(&[], "mount"));
        assert!(!allows(&[], "keyctl") && !allows(&[], "kexec_load") && !allows(&[], "reboot"));
        assert!(allows(&["CAP_SYS_ADMIN"], "mount"));
        assert!(allows(&["CAP_SYS_BOOT"], "reboot"));
    }
}
