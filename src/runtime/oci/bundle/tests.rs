//! What of a spec shows in `config.json`.

use serde_json::{Value, json};

use super::*;
use crate::runtime::oci::spec::{Bind, Resources, Root, UserSpec};
use crate::runtime::spec::Mount;

fn container() -> ContainerSpec {
    ContainerSpec {
        id: "ab".repeat(32),
        root: Root { layers: vec!["/l/1".into()], read_only: false },
        args: vec!["/bin/app".to_owned()],
        env: [("A".to_owned(), "b".to_owned())].into(),
        working_dir: "/".to_owned(),
        user: UserSpec::default(),
        capabilities_add: Vec::new(),
        capabilities_drop: Vec::new(),
        privileged: false,
        no_new_privileges: false,
        seccomp: Seccomp::Unconfined,
        apparmor: None,
        unmasked_proc: false,
        mounts: Vec::new(),
        devices: Vec::new(),
        resources: Resources::default(),
        tty: false,
        stdin: false,
        stdin_once: false,
        stop_signal: None,
        log: Value::Null,
    }
}

fn sandbox() -> SandboxSpec {
    SandboxSpec {
        id: "uid".to_owned(),
        hostname: "web".to_owned(),
        ip: [10, 128, 0, 7].into(),
        host_network: false,
        host_ipc: false,
        host_pid: false,
        shared_pid: false,
        hosts: Some(String::new()),
        resolv_conf: Some(String::new()),
        sysctls: Vec::new(),
        shm_bytes: 64 << 20,
    }
}

fn made(spec: &ContainerSpec, sandbox: &SandboxSpec, unified: bool) -> Value {
    let machine = Machine {
        unified_cgroups: unified,
        counts_swap: true,
        capabilities: u64::MAX,
        oom_score_min: -1000,
        devices: Vec::new(),
    };
    document(spec, sandbox, &User::default(), &machine, Path::new("/s")).expect("a config")
}

fn kinds(config: &Value) -> Vec<String> {
    let all = config["linux"]["namespaces"].as_array().expect("namespaces");
    let name = |n: &Value| {
        format!(
            "{}{}",
            n["type"].as_str().unwrap_or_default(),
            n["path"].as_str().unwrap_or_default()
        )
    };
    all.iter().map(name).collect()
}

#[test]
fn namespaces_are_the_sandboxs_or_the_hosts() {
    let own = kinds(&made(&container(), &sandbox(), false));
    assert_eq!(own, ["mount", "network/s/ns/net", "uts/s/ns/uts", "ipc/s/ns/ipc", "pid"]);
    let host = SandboxSpec { host_network: true, host_ipc: true, host_pid: true, ..sandbox() };
    assert_eq!(kinds(&made(&container(), &host, true)), ["mount", "cgroup"]);
    let shared = SandboxSpec { shared_pid: true, ..sandbox() };
    assert!(kinds(&made(&container(), &shared, false)).contains(&"pid/s/ns/pid".to_owned()));
}

#[test]
fn mounts_within_mounts_come_later_and_win_over_the_sandboxs_own() {
    let mut spec = container();
    let bind = |at: &str, read_only| Bind {
        mount: Mount { host: "/h".into(), guest: at.to_owned(), read_only },
        propagation: Propagation::default(),
    };
    spec.mounts = vec![bind("/data/sub", true), bind("/data", false), bind("/etc/hosts", false)];
    let config = made(&spec, &sandbox(), false);
    let mounts = config["mounts"].as_array().expect("mounts");
    let at = |path: &str| mounts.iter().position(|m| m["destination"] == path).expect("mounted");
    assert!(at("/data") < at("/data/sub"));
    assert_eq!(mounts.iter().filter(|m| m["destination"] == "/etc/hosts").count(), 1);
    assert_eq!(mounts[at("/etc/hosts")]["source"], "/h");
    assert_eq!(mounts[at("/data/sub")]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn a_privileged_container_is_held_back_by_nothing() {
    let spec = ContainerSpec {
        privileged: true,
        seccomp: Seccomp::RuntimeDefault,
        no_new_privileges: true,
        ..container()
    };
    let config = made(&spec, &sandbox(), false);
    assert!(config["linux"].get("seccomp").is_none());
    assert!(config["linux"].get("maskedPaths").is_none());
    assert_eq!(config["process"]["noNewPrivileges"], false);
    assert_eq!(config["process"]["capabilities"]["bounding"].as_array().expect("list").len(), 41);
    assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], true);
}

#[test]
fn resources_are_in_the_units_of_the_kernel() {
    let resources = Resources {
        memory_bytes_max: Some(64 << 20),
        cpu_shares: 512,
        cpu_millis_max: Some(250),
        pids_max: Some(100),
        huge_pages: Vec::new(),
        oom_score: 900,
    };
    let spec = ContainerSpec { resources, ..container() };
    let config = made(&spec, &sandbox(), true);
    let found = &config["linux"]["resources"];
    assert_eq!(found["cpu"], json!({"shares": 512, "period": 100_000, "quota": 25_000}));
    assert_eq!(found["memory"]["limit"], 64 << 20);
    assert_eq!(found["unified"]["memory.oom.group"], "1");
    assert_eq!(config["process"]["oomScoreAdj"], 900);
    assert!(made(&spec, &sandbox(), false)["linux"]["resources"].get("unified").is_none());
}
