//! The rules of the levels, by the names and in the words of Kubernetes' pod-security-admission.

use serde_json::Value;

use crate::api::meta::list;

/// What a pod does, and which of its containers or volumes do it.
pub(super) type Violation = (&'static str, String);

/// Every container, of all kinds.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| list(&pod["spec"][field]))
}

fn name(of: &Value) -> &str {
    of["name"].as_str().unwrap_or_default()
}

/// `container "a"`, `containers "a", "b"`.
fn those(word: &str, names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{word}{plural} {}", quoted.join(", "))
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

fn which(pod: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(pod).filter(|container| bad(container)).map(name).collect()
}

/// What a pod violates, by the name of the rule.
pub(super) fn violations(pod: &Value, restricted: bool) -> Vec<Violation> {
    type Rule = fn(&Value) -> Option<Violation>;
    // In the order of their identifiers, as Kubernetes tells them.
    let baseline: [Rule; 12] = [
        app_armor,
        default_capabilities,
        host_namespaces,
        host_paths,
        host_ports,
        probe_hosts,
        privileged,
        proc_mount,
        se_linux,
        seccomp,
        sysctls,
        host_process,
    ];
    // Where a stricter rule is about the same, it stands in the place of the laxer one.
    let strict: [Rule; 15] = [
        privilege_escalation,
        app_armor,
        restricted_capabilities,
        host_namespaces,
        host_ports,
        probe_hosts,
        privileged,
        proc_mount,
        restricted_volumes,
        run_as_non_root,
        run_as_user,
        se_linux,
        restricted_seccomp,
        sysctls,
        host_process,
    ];
    let rules: &[Rule] = if restricted { &strict } else { &baseline };
    rules.iter().filter_map(|rule| rule(pod)).collect()
}

fn windows(pod: &Value) -> bool {
    pod["spec"]["os"]["name"] == "windows"
}

fn host_namespaces(pod: &Value) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let said: Vec<String> = fields
        .into_iter()
        .filter(|field| pod["spec"][*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!said.is_empty()).then(|| ("host namespaces", said.join(", ")))
}

fn privileged(pod: &Value) -> Option<Violation> {
    let bad = which(pod, |c| c["securityContext"]["privileged"] == true);
    let why = "must not set securityContext.privileged=true";
    (!bad.is_empty()).then(|| ("privileged", format!("{} {why}", those("container", &bad))))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities besides those allowed, and which.
fn added<'a>(pod: &'a Value, allowed: &[&str]) -> Option<(Vec<&'a str>, Vec<String>)> {
    let mut words = std::collections::BTreeSet::new();
    let mut bad = Vec::new();
    for container in containers(pod) {
        let capabilities = list(&container["securityContext"]["capabilities"]["add"]);
        let forbidden: Vec<&str> = capabilities
            .iter()
            .filter_map(Value::as_str)
            .filter(|capability| !allowed.contains(capability))
            .collect();
        if !forbidden.is_empty() {
            bad.push(name(container));
            words.extend(forbidden.into_iter().map(str::to_owned));
        }
    }
    (!bad.is_empty()).then(|| (bad, words.into_iter().collect()))
}

fn default_capabilities(pod: &Value) -> Option<Violation> {
    let (bad, words) = added(pod, &DEFAULT_CAPABILITIES)?;
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        those("container", &bad),
        quoted(&words)
    );
    Some(("non-default capabilities", detail))
}

fn restricted_capabilities(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    let keep = which(pod, |c| {
        !list(&c["securityContext"]["capabilities"]["drop"]).iter().any(|one| one == "ALL")
    });
    let mut details = Vec::new();
    if !keep.is_empty() {
        let those = those("container", &keep);
        details.push(format!("{those} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if let Some((bad, words)) = added(pod, &["NET_BIND_SERVICE"]) {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            those("container", &bad),
            quoted(&words)
        ));
    }
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn host_paths(pod: &Value) -> Option<Violation> {
    let volumes = list(&pod["spec"]["volumes"]).iter();
    let bad: Vec<&str> = volumes.filter(|v| v["hostPath"].is_object()).map(name).collect();
    (!bad.is_empty()).then(|| ("hostPath volumes", those("volume", &bad)))
}

fn host_ports(pod: &Value) -> Option<Violation> {
    let port = |p: &Value| p["hostPort"].as_u64().filter(|port| *port != 0);
    let ports = |c: &Value| list(&c["ports"]).iter().filter_map(port).collect::<Vec<u64>>();
    let bad = which(pod, |c| !ports(c).is_empty());
    let mut all: Vec<u64> = containers(pod).flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
    let (uses, hosts) = match (bad.len(), all.len()) {
        (1, 1) => ("uses", "hostPort"),
        (1, _) => ("uses", "hostPorts"),
        (_, 1) => ("use", "hostPort"),
        _ => ("use", "hostPorts"),
    };
    (!bad.is_empty()).then(|| {
        let detail = format!("{} {uses} {hosts} {}", those("container", &bad), shown.join(", "));
        ("hostPort", detail)
    })
}

/// Probes and hooks that name a host reach from the node where no pod may.
fn probe_hosts(pod: &Value) -> Option<Violation> {
    let names_host = |of: &Value| {
        let said = |handler: &Value| handler["host"].as_str().is_some_and(|host| !host.is_empty());
        said(&of["httpGet"]) || said(&of["tcpSocket"])
    };
    let bad = which(pod, |c| {
        ["livenessProbe", "readinessProbe", "startupProbe"].iter().any(|p| names_host(&c[*p]))
            || ["postStart", "preStop"].iter().any(|hook| names_host(&c["lifecycle"][*hook]))
    });
    let why = "uses probe or lifecycle host";
    (!bad.is_empty())
        .then(|| ("probe or lifecycle host", format!("{} {why}", those("container", &bad))))
}

fn proc_mount(pod: &Value) -> Option<Violation> {
    let mount = |c: &Value| c["securityContext"]["procMount"].as_str().map(str::to_owned);
    let bad = which(pod, |c| mount(c).is_some_and(|mount| mount != "Default"));
    let words: Vec<String> = containers(pod).filter_map(mount).filter(|m| m != "Default").collect();
    (!bad.is_empty()).then(|| {
        let what = format!("must not set securityContext.procMount to {}", quoted(&words));
        ("procMount", format!("{} {what}", those("container", &bad)))
    })
}

fn app_armor(pod: &Value) -> Option<Violation> {
    let allowed = |profile: &str| {
        matches!(profile, "" | "RuntimeDefault" | "Localhost" | "runtime/default")
            || profile.starts_with("localhost/")
    };
    let mut words = Vec::new();
    let of = |security: &Value| {
        security["appArmorProfile"]["type"].as_str().unwrap_or_default().to_owned()
    };
    if !allowed(&of(&pod["spec"]["securityContext"])) {
        words.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let bad = which(pod, |c| !allowed(&of(&c["securityContext"])));
    if !bad.is_empty() {
        let what = "must not set AppArmor profile type to \"Unconfined\"";
        words.push(format!("{} {what}", those("container", &bad)));
    }
    for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
        let profile = value.as_str().unwrap_or_default();
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed(profile) {
            words.push(format!("annotation must not set AppArmor profile to {key}={profile:?}"));
        }
    }
    let what =
        if words.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    (!words.is_empty()).then(|| (what, words.join(", ")))
}

fn se_linux(pod: &Value) -> Option<Violation> {
    let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let bad = |security: &Value| -> Vec<String> {
        let options = &security["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
        let mut words = Vec::new();
        if !types.contains(&text("type").as_str()) {
            words.push(format!("type {:?}", text("type")));
        }
        for field in ["user", "role"] {
            if !text(field).is_empty() {
                words.push(format!("{field} may not be set"));
            }
        }
        words
    };
    let mut details: Vec<String> = Vec::new();
    let own = bad(&pod["spec"]["securityContext"]);
    let those_bad = which(pod, |c| !bad(&c["securityContext"]).is_empty());
    let mut words = own.clone();
    words.extend(containers(pod).flat_map(|c| bad(&c["securityContext"])));
    words.sort();
    words.dedup();
    let who = match (own.is_empty(), those_bad.is_empty()) {
        (true, true) => return None,
        (false, true) => "pod set forbidden securityContext.seLinuxOptions".to_owned(),
        (true, false) => {
            format!(
                "{} set forbidden securityContext.seLinuxOptions",
                those("container", &those_bad)
            )
        }
        (false, false) => format!(
            "pod and {} set forbidden securityContext.seLinuxOptions",
            those("container", &those_bad)
        ),
    };
    details.push(format!("{who}: {}", words.join("; ")));
    Some(("seLinuxOptions", details.join("; ")))
}

fn profile(security: &Value) -> &str {
    security["seccompProfile"]["type"].as_str().unwrap_or_default()
}

fn seccomp(pod: &Value) -> Option<Violation> {
    let mut details = Vec::new();
    let what = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    if profile(&pod["spec"]["securityContext"]) == "Unconfined" {
        details.push(format!("pod {what}"));
    }
    let bad = which(pod, |c| profile(&c["securityContext"]) == "Unconfined");
    if !bad.is_empty() {
        details.push(format!("{} {what}", those("container", &bad)));
    }
    (!details.is_empty()).then(|| ("seccompProfile", details.join("; ")))
}

fn restricted_seccomp(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    if let Some(found) = seccomp(pod) {
        return Some(found);
    }
    if !profile(&pod["spec"]["securityContext"]).is_empty() {
        return None;
    }
    let bad = which(pod, |c| profile(&c["securityContext"]).is_empty());
    let what =
        "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    (!bad.is_empty())
        .then(|| ("seccompProfile", format!("pod or {} {what}", those("container", &bad))))
}

const SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Value) -> Option<Violation> {
    let all = list(&pod["spec"]["securityContext"]["sysctls"]).iter().map(name);
    let bad: Vec<&str> = all
        .filter(|sysctl| !SYSCTLS.contains(sysctl) && *sysctl != "net.ipv4.tcp_syncookies")
        .collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Value) -> Option<Violation> {
    let set = |security: &Value| security["windowsOptions"]["hostProcess"] == true;
    let what = "must not set securityContext.windowsOptions.hostProcess=true";
    let mut details = Vec::new();
    if set(&pod["spec"]["securityContext"]) {
        details.push(format!("pod {what}"));
    }
    let bad = which(pod, |c| set(&c["securityContext"]));
    if !bad.is_empty() {
        details.push(format!("{} {what}", those("container", &bad)));
    }
    (!details.is_empty()).then(|| ("hostProcess", details.join("; ")))
}

fn privilege_escalation(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    let bad = which(pod, |c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    let what = "must set securityContext.allowPrivilegeEscalation=false";
    (!bad.is_empty()).then(|| {
        ("allowPrivilegeEscalation != false", format!("{} {what}", those("container", &bad)))
    })
}

fn run_as_non_root(pod: &Value) -> Option<Violation> {
    let said = |security: &Value| security["runAsNonRoot"].as_bool();
    let own = said(&pod["spec"]["securityContext"]);
    let mut details = Vec::new();
    let what = "must not set securityContext.runAsNonRoot=false";
    if own == Some(false) {
        details.push(format!("pod {what}"));
    }
    let explicit = which(pod, |c| said(&c["securityContext"]) == Some(false));
    if !explicit.is_empty() {
        details.push(format!("{} {what}", those("container", &explicit)));
    }
    if !details.is_empty() {
        return Some(("runAsNonRoot != true", details.join("; ")));
    }
    let bad = which(pod, |c| said(&c["securityContext"]).or(own) != Some(true));
    let what = "must set securityContext.runAsNonRoot=true";
    (!bad.is_empty())
        .then(|| ("runAsNonRoot != true", format!("pod or {} {what}", those("container", &bad))))
}

fn run_as_user(pod: &Value) -> Option<Violation> {
    let root = |security: &Value| security["runAsUser"] == 0;
    let mut details = Vec::new();
    if root(&pod["spec"]["securityContext"]) {
        details.push("pod must not set runAsUser=0".to_owned());
    }
    let bad = which(pod, |c| root(&c["securityContext"]));
    if !bad.is_empty() {
        details.push(format!("{} must not set runAsUser=0", those("container", &bad)));
    }
    (!details.is_empty()).then(|| ("runAsUser=0", details.join("; ")))
}

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

fn restricted_volumes(pod: &Value) -> Option<Violation> {
    let kind = |volume: &Value| -> Option<String> {
        let map = volume.as_object()?;
        let kind = map.keys().find(|key| *key != "name")?;
        (!VOLUMES.contains(&kind.as_str()) && kind != "secret").then(|| kind.clone())
    };
    let volumes = list(&pod["spec"]["volumes"]);
    let bad: Vec<&str> = volumes.iter().filter(|v| kind(v).is_some()).map(name).collect();
    let mut kinds: Vec<String> = volumes.iter().filter_map(kind).collect();
    kinds.sort();
    kinds.dedup();
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let plural = if kinds.len() == 1 { "" } else { "s" };
    (!bad.is_empty()).then(|| {
        let what = format!("{uses} restricted volume type{plural} {}", quoted(&kinds));
        ("restricted volume types", format!("{} {what}", those("volume", &bad)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(spec: Value, restricted: bool) -> Vec<String> {
        let found = violations(&json!({"spec": spec}), restricted);
        found.into_iter().map(|(what, detail)| format!("{what} ({detail})")).collect()
    }

    #[test]
    fn a_plain_pod_keeps_to_the_baseline_but_is_not_restricted() {
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!(told(plain.clone(), false), [""; 0]);
        assert_eq!(
            told(plain, true),
            [
                "allowPrivilegeEscalation != false (container \"c\" must set \
                 securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set \
                 securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set \
                 securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set \
                 securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let strict = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}],
        });
        assert_eq!(told(strict, true), [""; 0]);
    }

    #[test]
    fn what_leaves_the_pod_violates_the_baseline() {
        let spec = json!({
            "hostNetwork": true, "hostPID": true,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax"}]},
            "initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
            "containers": [{"name": "c", "ports": [{"hostPort": 80}], "securityContext": {
                "privileged": true, "capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}}],
        });
        assert_eq!(
            told(spec, false),
            [
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in \
                 securityContext.capabilities.add)",
                "host namespaces (hostNetwork=true, hostPID=true)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"c\" uses hostPort 80)",
                "privileged (containers \"i\", \"c\" must not set \
                 securityContext.privileged=true)",
                "forbidden sysctls (kernel.msgmax)",
            ]
        );
    }

    #[test]
    fn nothing_a_pod_may_say_makes_a_rule_panic() {
        for odd in [json!(null), json!({"containers": 1}), json!({"containers": [1, "x", {}]})] {
            told(odd.clone(), true);
            told(odd, false);
        }
    }
}
