//! Containers of the kernel through runc, in the same network as wasm: images are made here of
//! Debian's busybox-static, and run by real agents. It needs root, runc, nft and busybox
//! (`tests/run.sh` installs them).

mod common;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, Told, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A cluster whose agents leave nothing behind on this machine, whatever a test does.
struct Machine {
    cluster: Cluster,
    agents: usize,
}

impl Deref for Machine {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Machine {
    fn with_agents(count: usize) -> Self {
        let runc = Command::new("runc").arg("--version").output();
        assert!(runc.is_ok(), "runc is not installed (tests/run.sh does it)");
        Self { cluster: Cluster::with_agents(count), agents: count }
    }

    fn containers(&self, agent: usize) -> PathBuf {
        self.path().join(format!("node-{agent}/containers"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for agent in 0..self.agents {
            // First, so that nothing that is ended here is started again.
            self.cluster.kill_agent(agent);
            let dir = self.containers(agent);
            for pod in std::fs::read_dir(dir.join("pods")).into_iter().flatten().flatten() {
                let kept = std::fs::read(pod.path().join("sandbox.json")).unwrap_or_default();
                let kept: Value = serde_json::from_slice(&kept).unwrap_or_default();
                if let Some(pause) = kept["pause"].as_u64() {
                    let _ = Command::new("kill").args(["-9", &pause.to_string()]).output();
                }
            }
            let pods = std::fs::read_dir(dir.join("pods")).into_iter().flatten().flatten();
            let pods: Vec<_> = pods.map(|pod| pod.file_name()).collect();
            let root = dir.join("runc");
            let list = Command::new("runc").arg("--root").arg(&root).args(["list", "-q"]).output();
            let list = list.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            for id in list.unwrap_or_default().lines() {
                let _ = Command::new("runc")
                    .arg("--root")
                    .arg(&root)
                    .args(["delete", "--force", id])
                    .output();
            }
            // Of version 2 the first is the only hierarchy.
            let root = Path::new("/sys/fs/cgroup");
            let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
            for hierarchy in std::iter::once(root.to_path_buf()).chain(below) {
                for pod in &pods {
                    let _ = std::fs::remove_dir(hierarchy.join("coracle").join(pod));
                }
            }
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let own: Vec<&str> = points.filter(|p| Path::new(p).starts_with(self.path())).collect();
        for point in own.into_iter().rev() {
            let _ = Command::new("umount").args(["-l", point]).output();
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The layer that all images here begin with: busybox with its names, users, a few files.
fn busybox() -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, bytes).expect("appended");
    };
    file("bin/busybox", 0o755, &program);
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\nweb:x:34:\nlogs:x:40:web\n");
    file("www/index.html", 0o644, b"a container answers\n");
    file("srv/hidden", 0o644, b"of the lower layer");
    let list = Command::new("busybox").arg("--list").output().expect("busybox runs");
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "/bin/busybox").expect("appended");
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o1777);
    tar.append_data(&mut header, "tmp/", std::io::empty()).expect("appended");
    tar.into_inner().expect("packed")
}

/// A program that speaks UDP, which busybox here does not.
fn udp(dir: &Path) -> Vec<u8> {
    let program = dir.join("udp");
    if !program.exists() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/udp.c");
        let made = Command::new("cc").args(["-static", "-O1", source, "-o"]).arg(&program).status();
        assert!(made.is_ok_and(|status| status.success()), "cc compiles {source}");
    }
    let bytes = std::fs::read(program).expect("compiled");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/udp", bytes.as_slice()).expect("appended");
    tar.into_inner().expect("packed")
}

/// A second layer: it hides one file and adds another through a link of the lower layer.
fn changes() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in [("srv/.wh.hidden", &b""[..]), ("srv/shown", b"of the upper layer")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).expect("appended");
    }
    tar.into_inner().expect("packed")
}

/// Writes an image with this config, and gives the reference to it.
fn image(dir: &Path, name: &str, config: &Value) -> String {
    let layout = dir.join(name);
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("made");
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(blobs.join(&digest["sha256:".len()..]), bytes).expect("written");
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let layers = [busybox(), udp(dir), changes()];
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let file = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let layers: Vec<Value> =
        layers.iter().map(|l| blob("application/vnd.oci.image.layer.v1.tar", l)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", file.to_string().as_bytes()),
        "layers": layers,
    });
    let mut manifest =
        blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string()).expect("written");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .expect("written");
    format!("oci:{}:v1", layout.display())
}

fn plain(cluster: &Cluster) -> String {
    image(cluster.path(), "busybox", &json!({"Cmd": ["sh"], "Env": ["OF_IMAGE=yes"]}))
}

/// Runs a script in a pod of its own and answers what it printed.
fn script(cluster: &Cluster, name: &str, image: &str, script: &str, more: &Value) -> Told {
    let mut spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "a", "image": image, "command": ["sh", "-c", script]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        match key.as_str() {
            "container" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    spec["containers"][0][key] = value.clone();
                }
            }
            _ => spec[key] = value.clone(),
        }
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    cluster.apply(&pod.to_string());
    let code = ended(cluster, name);
    let text = cluster.ok(&["logs", name]);
    Told { succeeded: code == 0, code: Some(code), text }
}

/// Waits for the end of a pod's container.
fn ended(cluster: &Cluster, name: &str) -> i32 {
    let path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    let pod = format!("pod/{name}");
    let mut asked = 0;
    eventually(&format!("{name} ends"), || {
        asked += 1;
        if asked % 100 == 0 {
            eprintln!("{}", cluster.kubectl(&["describe", &pod]).text);
        }
        cluster.kubectl(&["get", &pod, "-o", path]).text.trim().parse::<i32>().ok()
    })
}

fn shown(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.ok(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

const WASM_SERVER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: handler, labels: {app: handler}}
spec:
  containers:
  - name: a
    image: coracle.dev/samples/hello-http:v1
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: handler}
spec: {selector: {app: handler}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";

fn web(image: &str, node_port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: a
    image: \"{image}\"
    command: [httpd, -f, -p, \"80\", -h, /www]
    ports: [{{containerPort: 80}}]
    readinessProbe: {{httpGet: {{path: /index.html, port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, nodePort: {node_port}}}]}}
"
    )
}

#[test]
fn a_container_runs_with_what_its_pod_and_its_image_say() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    let said = script(
        &cluster,
        "first",
        &image,
        "echo out; echo err >&2; hostname; id -u; echo $OF_IMAGE $OF_POD; cat /srv/shown; \
         test -e /srv/hidden || echo hidden; echo why > /dev/termination-log; exit 3",
        &json!({"container": {"env": [{"name": "OF_POD", "value": "too"}]}}),
    );
    assert_eq!(said.code, Some(3), "{}", said.text);
    for line in ["out\n", "err\n", "first\n", "0\n", "yes too\n", "of the upper layer", "hidden\n"]
    {
        assert!(said.text.contains(line), "{line:?}: {}", said.text);
    }
    let ended = ".status.containerStatuses[0].state.terminated";
    assert_eq!(shown(&cluster, "pod/first", &format!("{ended}.message")).trim(), "why");
    assert!(shown(&cluster, "pod/first", &format!("{ended}.containerID")).starts_with("runc://"));

    cluster.ok(&["create", "configmap", "cfg", "--from-literal=a=from-a-map"]);
    let said = script(
        &cluster,
        "volumes",
        &image,
        "cat /cfg/a /empty/of-init; touch /cfg/x || echo refused; touch /here && echo writable; \
         id; cat /proc/1/cmdline | head -c 2; mount | grep -c overlay",
        &json!({
            "securityContext": {"runAsUser": 33, "fsGroup": 77, "supplementalGroups": [99]},
            "initContainers": [{"name": "i", "image": image,
                "command": ["sh", "-c", "echo of init > /empty/of-init"],
                "volumeMounts": [{"name": "empty", "mountPath": "/empty"}]}],
            "volumes": [{"name": "empty", "emptyDir": {}},
                        {"name": "cfg", "configMap": {"name": "cfg"}}],
            "container": {"volumeMounts": [{"name": "empty", "mountPath": "/empty"},
                                           {"name": "cfg", "mountPath": "/cfg"}]},
        }),
    );
    for line in
        ["from-a-map", "of init", "refused", "uid=33(web) gid=34(web)", "40(logs)", "77", "99"]
    {
        assert!(said.text.contains(line), "{line:?}: {}", said.text);
    }
    assert!(
        !said.text.contains("writable"),
        "a user may not write to root's directory: {}",
        said.text
    );
}

#[test]
fn containers_and_wasm_reach_each_other_by_address_service_and_name() {
    let cluster = Machine::with_agents(2);
    let image = plain(&cluster);
    cluster.apply(WASM_SERVER);
    cluster.apply(&web(&image, 31_801));
    cluster.ok(&["wait", "--for=condition=Ready", "pod/handler", "pod/web", "--timeout=80s"]);
    let (handler, web) = (
        shown(&cluster, "pod/handler", ".status.podIP"),
        shown(&cluster, "pod/web", ".status.podIP"),
    );
    for node in ["node-0", "node-1"] {
        let on = |more: Value| {
            let mut all = json!({"nodeName": node});
            for (key, value) in more.as_object().into_iter().flatten() {
                all[key] = value.clone();
            }
            all
        };
        // A container to wasm and to a container.
        let said = script(
            &cluster,
            &format!("from-{node}"),
            &image,
            &format!(
                "wget -q -O - http://handler/; wget -q -O - http://{handler}:8080/; \
                 wget -q -O - http://web.default.svc.cluster.local/; wget -q -O - http://{web}/; \
                 nslookup handler.default.svc.cluster.local; \
                 time nc -w 5 nobody 80; cat /etc/resolv.conf; hostname -i"
            ),
            &on(json!({})),
        );
        assert_eq!(said.text.matches("Hello").count(), 2, "{node}: {}", said.text);
        assert_eq!(said.text.matches("a container answers").count(), 2, "{node}: {}", said.text);
        assert!(said.text.contains("Connection refused"), "{node}: {}", said.text);
        assert!(said.text.contains("nameserver 10.43.0.10"), "{node}: {}", said.text);
        // Wasm to a container.
        let wasm = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("wasm-{node}")},
            "spec": {"restartPolicy": "Never", "nodeName": node, "containers": [{
                "name": "a", "image": "coracle.dev/samples/toolbox:v1",
                "args": ["wget", "http://web/"]}]},
        });
        cluster.apply(&wasm.to_string());
        let name = format!("wasm-{node}");
        assert_eq!(ended(&cluster, &name), 0, "{}", cluster.ok(&["logs", &name]));
        assert!(cluster.ok(&["logs", &name]).contains("a container answers"));
    }
    // The outside, through a port of the node.
    let port = shown(&cluster, "svc/web", ".spec.ports[0].nodePort");
    let said = Command::new("curl")
        .args(["-s", "-m", "10", &format!("http://127.0.0.1:{port}/")])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "a container answers\n");
}

#[test]
fn containers_outlive_the_agent_and_are_found_again() {
    let mut cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    cluster.apply(WASM_SERVER);
    cluster.apply(&web(&image, 31_802));
    let counter = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "counter"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "a", "image": image,
            "command": ["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"]}]},
    });
    let short = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "short"},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "a", "image": image, "command": ["sh", "-c", "sleep 6; exit 7"]}]},
    });
    cluster.apply(&counter.to_string());
    cluster.apply(&short.to_string());
    cluster.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod/web",
        "pod/counter",
        "pod/short",
        "pod/handler",
        "--timeout=80s",
    ]);
    let id = |name: &str| shown(&cluster, name, ".status.containerStatuses[0].containerID");
    let before = (id("pod/web"), id("pod/counter"));
    cluster.kill_agent(0);
    std::thread::sleep(std::time::Duration::from_secs(7));
    cluster.start_agent(0);
    eventually("the handler was started again", || {
        let count = cluster.kubectl(&[
            "get",
            "pod/handler",
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount}",
        ]);
        (count.text.trim() == "1").then_some(())
    });
    let id = |name: &str| shown(&cluster, name, ".status.containerStatuses[0].containerID");
    assert_eq!((id("pod/web"), id("pod/counter")), before, "the same containers");
    for name in ["pod/web", "pod/counter"] {
        assert_eq!(shown(&cluster, name, ".status.containerStatuses[0].restartCount"), "0");
    }
    assert_eq!(ended(&cluster, "short"), 7, "it ended while nobody was there, and says how");
    // No line of the log is missing, also of the time without an agent.
    let lines = cluster.ok(&["logs", "counter"]);
    let numbers: Vec<u32> = lines.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.len() > 30, "{lines}");
    assert!(numbers.iter().zip(1..).all(|(a, b)| *a == b), "{lines}");
    // The network works again, both ways.
    cluster.ok(&["wait", "--for=condition=Ready", "pod/web", "pod/handler", "--timeout=80s"]);
    let said = script(
        &cluster,
        "again",
        &image,
        "wget -q -O - http://web/ && wget -q -O - http://handler/",
        &json!({}),
    );
    assert!(said.succeeded && said.text.contains("a container answers"), "{}", said.text);
    let port = shown(&cluster, "svc/web", ".spec.ports[0].nodePort");
    let said = Command::new("curl")
        .args(["-s", "-m", "10", &format!("http://127.0.0.1:{port}/")])
        .output();
    assert_eq!(String::from_utf8_lossy(&said.expect("curl runs").stdout), "a container answers\n");
    // And they can be ended.
    cluster.ok(&["delete", "pods", "--all", "--timeout=60s"]);
    assert_eq!(std::fs::read_dir(cluster.containers(0).join("pods")).expect("there").count(), 0);
}

#[test]
fn security_and_resources_hold_a_container_as_its_spec_says() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    let status = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ";
    let said = script(
        &cluster,
        "held",
        &image,
        &format!(
            "{status} touch /x || echo root is read only; cat /proc/kcore 2>&1 | head -c 1 | wc -c; \
             echo 1 > /proc/sys/net/ipv4/ip_forward || echo sysctl refused; \
             unshare -m true || echo unshare refused; cat /proc/sys/kernel/shm_rmid_forced; \
             cat /proc/self/oom_score_adj; ls /dev | wc -l"
        ),
        &json!({
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "container": {"securityContext": {"readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}},
        }),
    );
    for line in [
        "CapEff:\t0000000000000001",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "root is read only",
        "sysctl refused",
        "unshare refused",
        "1000\n",
    ] {
        assert!(said.text.contains(line), "{line:?}: {}", said.text);
    }
    let said = script(
        &cluster,
        "free",
        &image,
        &format!("{status} ls /dev | wc -l; mount -t tmpfs none /tmp && echo mounted"),
        &json!({"container": {"securityContext": {"privileged": true}}}),
    );
    assert!(said.text.contains("Seccomp:\t0") && said.text.contains("mounted"), "{}", said.text);
    let refused = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "not-root"},
        "spec": {"containers": [{"name": "a", "image": image, "command": ["true"],
            "securityContext": {"runAsNonRoot": true}}]},
    });
    cluster.apply(&refused.to_string());
    cluster.wait_for(
        "pod/not-root",
        ".status.containerStatuses[0].state.waiting.reason",
        "CreateContainerConfigError",
    );
    let said = script(
        &cluster,
        "greedy",
        &image,
        // tail keeps what it reads.
        "tail /dev/zero",
        &json!({"container": {"resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}}}),
    );
    assert_eq!(said.code, Some(137), "{}", said.text);
    let reason = ".status.containerStatuses[0].state.terminated.reason";
    assert_eq!(shown(&cluster, "pod/greedy", reason), "OOMKilled");
    // Processes of one pod that share their namespace see each other.
    let said = script(
        &cluster,
        "sharing",
        &image,
        "sleep 1; ps | grep -c 'sleep 4'; cat /proc/1/cmdline | tr '\\0' ' '",
        &json!({"shareProcessNamespace": true, "initContainers": [{
            "name": "other", "image": image, "restartPolicy": "Always",
            "command": ["sh", "-c", "sleep 4000"]}], "terminationGracePeriodSeconds": 1}),
    );
    assert!(said.text.contains("container-pause"), "{}", said.text);
    let said = script(
        &cluster,
        "on-host",
        &image,
        "hostname; ls /proc | grep -c '^[0-9]'; head -1 /etc/hosts",
        &json!({"hostNetwork": true, "hostPID": true}),
    );
    let host = Command::new("hostname").output().expect("a hostname");
    assert!(said.text.starts_with(&*String::from_utf8_lossy(&host.stdout)), "{}", said.text);
    assert!(said.text.contains("(host network)"), "{}", said.text);
    assert_eq!(shown(&cluster, "pod/on-host", ".status.podIP"), "127.0.0.1");
}

#[test]
fn probes_and_hooks_act_in_the_container() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probed"},
        "spec": {"terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{
                "name": "a", "image": image,
                "command": ["sh", "-c", "trap 'exit 0' TERM; httpd -p 80 -h /www; touch /tmp/live; while true; do sleep 0.1; done"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "lifecycle": {
                    "postStart": {"exec": {"command": ["sh", "-c", "echo started > /v/hook"]}},
                    "preStop": {"exec": {"command": ["touch", "/v/stopping"]}}},
                "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
                "readinessProbe": {"exec": {"command": ["grep", "started", "/v/hook"]}, "periodSeconds": 1},
                "livenessProbe": {"exec": {"command": ["cat", "/tmp/live"]}, "periodSeconds": 1, "failureThreshold": 1},
            }]},
    });
    cluster.apply(&pod.to_string());
    cluster.ok(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=80s"]);
    let id = shown(&cluster, "pod/probed", ".status.containerStatuses[0].containerID");
    let id = id.trim_start_matches("runc://").to_owned();
    let uid = shown(&cluster, "pod/probed", ".metadata.uid");
    let root = cluster.containers(0).join(format!("pods/{uid}/containers/{id}/rootfs"));
    assert!(root.join("tmp/live").exists(), "the container's files");
    std::fs::remove_file(root.join("tmp/live")).expect("removed");
    cluster.wait_for("pod/probed", ".status.containerStatuses[0].restartCount", "1");
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(shown(&cluster, "pod/probed", last), "0", "it took its SIGTERM");
    let stopping = cluster.path().join(format!("node-0/volumes/{uid}/v/stopping"));
    assert!(stopping.exists(), "the preStop hook has run");
    // What it has used is told.
    let stats = cluster.ok(&["get", "--raw", "/api/v1/nodes/node-0/proxy/metrics/resource"]);
    let line = stats.lines().find(|l| {
        l.starts_with("container_memory_working_set_bytes") && l.contains("pod=\"probed\"")
    });
    let value = line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(value.is_some_and(|bytes| bytes > 10_000.0), "{stats}");
}

#[test]
fn commands_from_outside_run_in_the_container() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "told"},
        "spec": {"terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "image": image, "command": ["sleep", "4000"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
    });
    cluster.apply(&pod.to_string());
    cluster.ok(&["wait", "--for=condition=Ready", "pod/told", "--timeout=80s"]);
    let said =
        cluster.kubectl(&["exec", "told", "--", "sh", "-c", "echo out; echo err >&2; exit 4"]);
    assert!(said.text.contains("out\n") && said.text.contains("err\n"), "{}", said.text);
    assert_eq!(said.code, Some(4), "{}", said.text);
    let said = cluster.ok_with(&["exec", "-i", "told", "--", "tr", "a-z", "A-Z"], "typed\n");
    assert_eq!(said, "TYPED\n");
    let said = cluster.kubectl(&["exec", "told", "--", "no-such-program"]);
    assert!(!said.succeeded && said.text.contains("not found"), "{}", said.text);
    let local = cluster.path().join("copied");
    std::fs::write(&local, "by cp").expect("written");
    cluster.ok(&["cp", &local.display().to_string(), "told:/v/copied"]);
    assert_eq!(cluster.ok(&["exec", "told", "--", "cat", "/v/copied"]), "by cp");
    // A terminal, as `script` gives kubectl one.
    let typed = format!(
        "kubectl --kubeconfig {} exec -it told -- sh -c 'tty; stty size; echo done'",
        cluster.kubeconfig().display()
    );
    let said = Command::new("script").args(["-qec", &typed, "/dev/null"]).output();
    let said = String::from_utf8_lossy(&said.expect("script runs").stdout).into_owned();
    assert!(said.contains("/dev/pts/0") && said.contains("done"), "{said}");
}

#[test]
fn wasm_and_containers_of_one_pod_share_localhost_and_volumes() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mixed", "labels": {"app": "mixed"}},
        "spec": {"terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [
                {"name": "handler", "image": "coracle.dev/samples/hello-http:v1", "ports": [{"containerPort": 8080}]},
                {"name": "counter", "image": "coracle.dev/samples/counter-tcp:v1",
                 "env": [{"name": "PORT", "value": "7000"}, {"name": "COUNT_FILE", "value": "/v/count"}],
                 "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                {"name": "echo", "image": "coracle.dev/samples/udp-echo:v1", "env": [{"name": "PORT", "value": "7007"}]},
                {"name": "web", "image": image, "ports": [{"containerPort": 80}],
                 "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                 "command": ["sh", "-c", "httpd -p 80 -h /www; \
                    wget -q -O - http://localhost:8080/; echo incr 5 | nc localhost 7000; \
                    udp ask 127.0.0.1 7007 hello; \
                    cat /v/count; echo done; sleep 4000"]},
            ]},
    });
    cluster.apply(&pod.to_string());
    cluster.ok(&["wait", "--for=condition=Ready", "pod/mixed", "--timeout=80s"]);
    let logs = eventually("the container has asked its neighbours", || {
        let logs = cluster.kubectl(&["logs", "mixed", "-c", "web"]).text;
        logs.contains("done").then_some(logs)
    });
    assert!(logs.contains("Hello"), "wasm http by localhost: {logs}");
    assert!(logs.matches('5').count() >= 2, "wasm tcp, and its file: {logs}");
    assert!(logs.contains("answered hello"), "wasm udp: {logs}");
    // Both ports of the pod's address are reached from elsewhere.
    let ip = shown(&cluster, "pod/mixed", ".status.podIP");
    let said = script(
        &cluster,
        "asks",
        &image,
        &format!(
            "wget -q -O - http://{ip}:8080/; wget -q -O - http://{ip}/; \
             udp ask {ip} 7007 there"
        ),
        &json!({}),
    );
    for line in ["Hello", "a container answers", "answered there"] {
        assert!(said.text.contains(line), "{line:?}: {}", said.text);
    }
    // Wasm reaches the container by localhost: through a wasm sidecar's exec probe, which wgets.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reverse"},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "initContainers": [{"name": "web", "image": image, "restartPolicy": "Always",
                "command": ["httpd", "-f", "-p", "80", "-h", "/www"],
                "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}}],
            "containers": [{"name": "a", "image": "coracle.dev/samples/toolbox:v1",
                "args": ["wget", "http://localhost/"]}]},
    });
    cluster.apply(&pod.to_string());
    assert_eq!(ended(&cluster, "reverse"), 0, "{}", cluster.ok(&["logs", "reverse", "-c", "a"]));
    assert!(cluster.ok(&["logs", "reverse", "-c", "a"]).contains("a container answers"));
}

#[test]
fn datagrams_go_both_ways_and_come_from_whom_they_say() {
    let cluster = Machine::with_agents(2);
    let image = plain(&cluster);
    let server = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "udp", "labels": {"app": "udp"}},
        "spec": {"nodeName": "node-0", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "a", "image": image, "command": ["udp", "serve", "9000"]}]},
    });
    cluster.apply(&server.to_string());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "udp"},
        "spec": {"selector": {"app": "udp"}, "ports": [{"port": 90, "targetPort": 9000, "protocol": "UDP"}]},
    });
    cluster.apply(&service.to_string());
    cluster.ok(&["wait", "--for=condition=Ready", "pod/udp", "--timeout=80s"]);
    let service = shown(&cluster, "svc/udp", ".spec.clusterIP");
    for node in ["node-0", "node-1"] {
        let name = format!("asks-{node}");
        let said = script(
            &cluster,
            &name,
            &image,
            &format!("udp ask {service} 90 question"),
            &json!({"nodeName": node}),
        );
        let logs = cluster.ok(&["logs", "udp"]);
        assert!(said.text.contains("answered question"), "{node}: {}\n{logs}", said.text);
        let ip = shown(&cluster, &format!("pod/{name}"), ".status.podIP");
        assert!(logs.contains(&ip), "the server sees who asks, {ip}: {logs}");
    }
}

#[test]
fn a_runtime_class_says_what_a_pod_runs_in() {
    let cluster = Machine::with_agents(1);
    let image = plain(&cluster);
    assert_eq!(
        shown(&cluster, "node/node-0", ".metadata.labels.coracle\\.dev/runtime-runc"),
        "true"
    );
    let condition = ".status.conditions[?(@.type==\"ContainersSupported\")].status";
    assert_eq!(shown(&cluster, "node/node-0", condition), "True");
    let said =
        script(&cluster, "as-runc", &image, "echo here", &json!({"runtimeClassName": "runc"}));
    assert!(said.text.contains("here"), "{}", said.text);
    let selector = ".spec.nodeSelector.coracle\\.dev/runtime-runc";
    assert_eq!(shown(&cluster, "pod/as-runc", selector), "true");
    let pod = |name: &str, class: &str, image: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"runtimeClassName": class, "containers": [{"name": "a", "image": image}]}})
        .to_string()
    };
    cluster.apply(&pod("wrong", "wasm", &image));
    let message = ".status.containerStatuses[0].state.waiting.message";
    eventually("it is refused", || {
        let shown =
            cluster.kubectl(&["get", "pod/wrong", "-o", &format!("jsonpath={{{message}}}")]).text;
        shown.contains("is a container image, but runtimeClassName is wasm").then_some(())
    });
    let told = cluster.refused(&["apply", "-f", "-"], &pod("none", "gvisor", &image));
    assert!(told.contains("RuntimeClass \"gvisor\" not found"), "{told}");
}
