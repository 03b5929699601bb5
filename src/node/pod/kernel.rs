//! From a Pod to its sandbox and its containers of the kernel: what a kubelet and a CRI runtime
//! make of a `PodSpec`, as the plain data of [`crate::runtime::oci::spec`]. Pure, but for the
//! host's own `/etc/resolv.conf`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSpec, SeccompProfile, SecurityContext, VolumeMount,
};

use crate::image::ImageConfig;
use crate::net::NamespaceSpec;
use crate::node::resources::{limit, limits, qos_class, request};
use crate::runtime::Mount;
use crate::runtime::oci::spec::{
    Bind, ContainerSpec, Propagation, Resources, Root, SandboxSpec, Seccomp, UserSpec,
};

/// Bytes of a pod's `/dev/shm`.
const SHM_BYTES: u64 = 64 << 20;
/// Processes of one container.
const PIDS_MAX: i64 = 32_768;

/// What of the node shows in its containers.
#[derive(Debug, Clone)]
pub struct NodeFacts<'a> {
    pub cluster_dns: IpAddr,
    pub cluster_domain: &'a str,
    /// Bytes that pods may have, for the scores of the out-of-memory killer.
    pub memory_bytes: u64,
    /// Where `Localhost` profiles of seccomp are.
    pub profiles: &'a Path,
    /// `/etc/resolv.conf` and `/etc/hosts` of the host.
    pub host_resolv_conf: &'a str,
    pub host_hosts: &'a str,
}

fn asked(field: Option<bool>) -> bool {
    field == Some(true)
}

/// Whether the pod lives in the host's network.
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| asked(spec.host_network))
}

/// What the containers of a pod share.
pub fn sandbox_spec(pod: &Pod, network: &NamespaceSpec, facts: &NodeFacts<'_>) -> SandboxSpec {
    let spec = pod.spec.clone().unwrap_or_default();
    let security = spec.security_context.clone().unwrap_or_default();
    let host_network = asked(spec.host_network);
    let sysctls = security.sysctls.iter().flatten();
    SandboxSpec {
        id: pod.metadata.uid.clone().unwrap_or_default(),
        hostname: network.hostname.clone(),
        ip: network.ip,
        host_network,
        host_ipc: asked(spec.host_ipc),
        host_pid: asked(spec.host_pid),
        shared_pid: asked(spec.share_process_namespace),
        hosts: Some(hosts_file(&spec, network, facts)),
        resolv_conf: Some(resolv_conf(&spec, network, facts)),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        shm_bytes: SHM_BYTES,
    }
}

fn hosts_file(spec: &PodSpec, network: &NamespaceSpec, facts: &NodeFacts<'_>) -> String {
    let host = asked(spec.host_network);
    let mut text = "# Kubernetes-managed hosts file.\n\
                    127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    fe00::0\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\n\
                    fe00::2\tip6-allrouters\n"
        .to_owned();
    let NamespaceSpec { ip, hostname, namespace, .. } = network;
    // Writing into a String cannot fail.
    let _ = match &network.subdomain {
        Some(subdomain) => writeln!(
            text,
            "{ip}\t{hostname}.{subdomain}.{namespace}.svc.{}\t{hostname}",
            facts.cluster_domain
        ),
        None => writeln!(text, "{ip}\t{hostname}"),
    };
    if host {
        text = format!("# Kubernetes-managed hosts file (host network).\n{}", facts.host_hosts);
    }
    if !network.hosts.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for (ip, names) in &network.hosts {
            let _ = writeln!(text, "{ip}\t{}", names.join("\t"));
        }
    }
    text
}

fn resolv_conf(spec: &PodSpec, network: &NamespaceSpec, facts: &NodeFacts<'_>) -> String {
    let config = spec.dns_config.clone().unwrap_or_default();
    let host = asked(spec.host_network);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        // A pod in the host's network would ask a cluster that its node may not be in.
        "ClusterFirst" if host => "Default",
        other => other,
    };
    let mut servers: Vec<String> = Vec::new();
    let mut search: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    match policy {
        "None" => {}
        "Default" => {
            let words = |name: &str| -> Vec<String> {
                let lines = facts.host_resolv_conf.lines().map(|l| l.split_whitespace());
                let own =
                    lines.filter_map(|mut words| (words.next() == Some(name)).then_some(words));
                own.flatten().map(str::to_owned).collect()
            };
            servers = words("nameserver");
            search = words("search");
            options = words("options");
            let local = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
            // The host's loopback is not the pod's; the cluster's DNS asks there in its stead.
            if !host && (servers.is_empty() || servers.iter().any(local)) {
                servers = vec![facts.cluster_dns.to_string()];
            }
        }
        _ => {
            servers.push(facts.cluster_dns.to_string());
            let domain = facts.cluster_domain;
            search.extend([
                format!("{}.svc.{domain}", network.namespace),
                format!("svc.{domain}"),
                domain.to_owned(),
            ]);
            options.push("ndots:5".to_owned());
        }
    }
    servers.extend(config.nameservers.unwrap_or_default());
    search.extend(config.searches.unwrap_or_default());
    for option in config.options.iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        options.retain(|known| known.split(':').next() != Some(name.as_str()));
        options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        });
    }
    let mut text = String::new();
    for server in servers.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, list) in [("search", search), ("options", options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{word} {}", list.join(" "));
        }
    }
    text
}

/// What of a container was worked out before.
pub struct Parts<'a> {
    pub id: String,
    pub layers: Vec<PathBuf>,
    pub image: &'a ImageConfig,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Those of its volumeMounts come first, in their order.
    pub mounts: Vec<Mount>,
    pub log: serde_json::Value,
}

/// One container.
///
/// # Errors
/// What it asks for that cannot be had.
pub fn container_spec(
    pod: &Pod,
    container: &Container,
    facts: &NodeFacts<'_>,
    parts: Parts<'_>,
) -> Result<ContainerSpec, String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = UserSpec {
        uid: id(own.run_as_user.or(of_pod.run_as_user)),
        gid: id(own.run_as_group.or(of_pod.run_as_group)),
        image: parts.image.user.clone(),
        supplemental: of_pod
            .supplemental_groups
            .iter()
            .flatten()
            .chain(&of_pod.fs_group)
            .filter_map(|group| id(Some(*group)))
            .collect(),
        merge_groups: of_pod.supplemental_groups_policy.as_deref() != Some("Strict"),
        non_root: asked(own.run_as_non_root.or(of_pod.run_as_non_root)),
    };
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let working_dir = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let image = parts.image;
    Ok(ContainerSpec {
        id: parts.id,
        root: Root { layers: parts.layers, read_only: asked(own.read_only_root_filesystem) },
        args: parts.args,
        env: parts.env,
        working_dir: working_dir
            .or_else(|| image.working_dir.clone())
            .map_or_else(|| "/".to_owned(), absolute),
        user,
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        privileged: asked(own.privileged),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(profile, facts.profiles)?,
        apparmor: apparmor(&own),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        mounts: binds(parts.mounts, container.volume_mounts.as_deref().unwrap_or_default()),
        devices: Vec::new(),
        resources: resources(pod, container, facts.memory_bytes),
        tty: asked(container.tty),
        stdin: asked(container.stdin),
        stdin_once: asked(container.stdin_once),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone())
            .or_else(|| image.stop_signal.clone()),
        log: parts.log,
    })
}

fn id(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn absolute(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.clone().unwrap_or_default();
            let relative = Path::new(&name);
            let leads_out = relative.is_absolute()
                || relative.components().any(|part| part == std::path::Component::ParentDir);
            match leads_out || name.is_empty() {
                true => Err(format!("localhostProfile {name:?} must be a relative path")),
                false => Ok(Seccomp::Profile(profiles.join(relative))),
            }
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

fn apparmor(own: &SecurityContext) -> Option<String> {
    let profile = own.app_armor_profile.as_ref()?;
    match profile.type_.as_str() {
        "Unconfined" => Some("unconfined".to_owned()),
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    }
}

/// The mounts of a container with what its volumeMounts say of propagation.
fn binds(mounts: Vec<Mount>, declared: &[VolumeMount]) -> Vec<Bind> {
    let mut declared = declared.iter();
    mounts
        .into_iter()
        .map(|mount| {
            let propagation = declared.next().and_then(|own| own.mount_propagation.as_deref());
            Bind {
                mount,
                propagation: match propagation {
                    Some("HostToContainer") => Propagation::FromHost,
                    Some("Bidirectional") => Propagation::Both,
                    _ => Propagation::Private,
                },
            }
        })
        .collect()
}

fn resources(pod: &Pod, container: &Container, capacity: u64) -> Resources {
    let cpu = request(container, "cpu").unwrap_or(0);
    let huge = limits(container).into_iter().filter_map(|(name, bytes)| {
        let size = name.strip_prefix("hugepages-")?;
        // `2Mi` is `2MB` to the kernel.
        Some((size.replace('i', "B"), bytes))
    });
    Resources {
        memory_bytes_max: limit(container, "memory"),
        cpu_shares: (cpu.saturating_mul(1024) / 1000).max(2),
        cpu_millis_max: limit(container, "cpu"),
        pids_max: Some(PIDS_MAX),
        huge_pages: huge.collect(),
        oom_score: oom_score(pod, container, capacity),
    }
}

/// Who is killed first where the machine's memory ends, as the kubelet has it.
fn oom_score(pod: &Pod, container: &Container, capacity: u64) -> i32 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= 2_000_000_000;
    match qos_class(pod) {
        _ if critical => -997,
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = request(container, "memory").unwrap_or(0);
            let part = asked.saturating_mul(1000) / capacity.max(1);
            let score = 1000 - i32::try_from(part.min(1000)).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RESOLV: &str = "nameserver 192.0.2.1\nsearch lan\n";

    fn facts() -> NodeFacts<'static> {
        NodeFacts {
            cluster_dns: [10, 43, 0, 10].into(),
            cluster_domain: "cluster.local",
            memory_bytes: 8 << 30,
            profiles: Path::new("/profiles"),
            host_resolv_conf: RESOLV,
            host_hosts: "127.0.0.1 host\n",
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": spec,
        }))
        .expect("a pod")
    }

    fn network() -> NamespaceSpec {
        NamespaceSpec::new("u", [10, 128, 0, 7].into(), "ns", "web")
    }

    fn container(pod: &Pod, image: &ImageConfig) -> Result<ContainerSpec, String> {
        let own = pod.spec.as_ref().expect("a spec").containers[0].clone();
        let parts = Parts {
            id: "c".to_owned(),
            layers: vec!["/l".into()],
            image,
            args: vec!["x".to_owned()],
            env: BTreeMap::new(),
            mounts: Vec::new(),
            log: serde_json::Value::Null,
        };
        container_spec(pod, &own, &facts(), parts)
    }

    #[test]
    fn names_are_looked_up_as_the_dns_policy_says() {
        let of = |spec: serde_json::Value| {
            let pod = pod(spec);
            sandbox_spec(&pod, &network(), &facts()).resolv_conf.expect("a file")
        };
        assert_eq!(
            of(json!({"containers": []})),
            "nameserver 10.43.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        assert_eq!(
            of(json!({"containers": [], "dnsPolicy": "Default"})),
            "nameserver 192.0.2.1\nsearch lan\n"
        );
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.9"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(of(own), "nameserver 192.0.2.9\nsearch a\noptions ndots:2 edns0\n");
    }

    #[test]
    fn the_hosts_file_is_the_kubelets() {
        let mut network = network();
        network.hosts = vec![([192, 0, 2, 5].into(), vec!["a".to_owned(), "b".to_owned()])];
        network.subdomain = Some("sub".to_owned());
        let text = hosts_file(&PodSpec::default(), &network, &facts());
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.128.0.7\tweb.sub.ns.svc.cluster.local\tweb\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n192.0.2.5\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_containers_security_context_wins_over_its_pods() {
        let pod = pod(json!({
            "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3,
                "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "runAsUser": 9, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}],
        }));
        let spec = container(&pod, &ImageConfig::default()).expect("a spec");
        assert_eq!((spec.user.uid, spec.user.gid), (Some(9), Some(2)));
        assert_eq!(spec.user.supplemental, [4, 3]);
        assert_eq!(spec.seccomp, Seccomp::RuntimeDefault);
        assert!(spec.no_new_privileges && spec.root.read_only);
        assert_eq!(spec.capabilities_drop, ["ALL"]);
        let escape = json!({"containers": [{"name": "a", "securityContext": {
            "seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}}]});
        assert!(container(&self::pod(escape), &ImageConfig::default()).is_err());
    }

    #[test]
    fn the_killer_of_last_resort_follows_the_class_of_the_pod() {
        let score = |resources: serde_json::Value| {
            let pod = pod(json!({"containers": [{"name": "a", "resources": resources}]}));
            let spec = container(&pod, &ImageConfig::default()).expect("a spec");
            spec.resources.oom_score
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), -997);
        assert_eq!(score(json!({"requests": {"memory": "4Gi"}})), 500);
    }
}
