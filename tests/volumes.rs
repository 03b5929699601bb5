//! Volumes of pods on a real node, as a container sees them and as the node keeps them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, Told, eventually};

const TOOLBOX: &str = "coracle.dev/samples/toolbox:v1";

fn get(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).text
}

/// Where the node keeps a volume of a pod.
fn on_disk(cluster: &Cluster, pod: &str, volume: &str) -> PathBuf {
    let uid = get(cluster, &format!("pod/{pod}"), ".metadata.uid");
    cluster.path().join("node-0/volumes").join(uid.trim()).join(volume)
}

fn events(cluster: &Cluster, pod: &str) -> String {
    let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    let selector = format!("involvedObject.name={pod}");
    cluster.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).text
}

#[test]
fn what_is_mounted_follows_its_source() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: old}
",
    );
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: app, labels: {{tier: one}}}}
spec:
  volumes:
  - name: all
    projected:
      defaultMode: 0440
      sources:
      - {{configMap: {{name: settings, items: [{{key: colour, path: deep/colour, mode: 0400}}]}}}}
      - {{configMap: {{name: missing, optional: true}}}}
      - {{secret: {{name: keys}}}}
      - {{downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
      - {{serviceAccountToken: {{path: token, expirationSeconds: 600}}}}
  containers:
  - name: a
    image: {TOOLBOX}
    args: [sleep, inf]
    volumeMounts:
    - {{name: all, mountPath: /all}}
    - {{name: all, mountPath: /one, subPath: password}}
"
    ));
    cluster.wait_for("pod/app", ".status.phase", "Running");
    let volume = on_disk(&cluster, "app", "all");
    let read = |name: &str| std::fs::read_to_string(volume.join(name)).unwrap_or_default();
    assert_eq!((read("deep/colour").as_str(), read("password").as_str()), ("blue", "old"));
    assert!(read("labels").contains("tier=\"one\"") && read("token").matches('.').count() == 2);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        let meta = std::fs::metadata(volume.join(name)).expect("there");
        meta.permissions().mode() & 0o777
    };
    assert_eq!((mode("deep/colour"), mode("password")), (0o400, 0o440));
    cluster.ok(&["patch", "configmap", "settings", "-p", "{\"data\": {\"colour\": \"red\"}}"]);
    cluster.ok(&["patch", "secret", "keys", "-p", "{\"stringData\": {\"password\": \"new\"}}"]);
    cluster.ok(&["label", "pod", "app", "tier=two", "--overwrite"]);
    eventually("the files follow", || {
        let whole = read("deep/colour") == "red" && read("password") == "new";
        (whole && read("labels").contains("tier=\"two\"")).then_some(())
    });
    let kept = volume.parent().expect("a parent").join("..subpaths/a/1");
    let kept = std::fs::read_dir(&kept).expect("there").next().expect("one").expect("read").path();
    assert_eq!(std::fs::read_to_string(kept).expect("there"), "old", "a subPath stays as it was");
    assert_eq!(get(&cluster, "pod/app", ".status.containerStatuses[0].restartCount"), "0");
}

#[test]
fn a_pod_that_fills_its_volume_is_evicted() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: hog}}
spec:
  restartPolicy: Never
  volumes:
  - {{name: data, emptyDir: {{sizeLimit: 100Ki}}}}
  - {{name: cache, emptyDir: {{medium: Memory}}}}
  containers:
  - name: stays
    image: {TOOLBOX}
    args: [sleep, inf]
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: cache, mountPath: /cache}}]
"
    ));
    cluster.ok(&["wait", "--for=condition=Ready", "pod/hog", "--timeout=60s"]);
    let page = cluster.path().join("page");
    std::fs::write(&page, vec![b'x'; 200 << 10]).expect("written");
    cluster.ok(&["cp", &page.display().to_string(), "hog:/data/page"]);
    cluster.wait_for("pod/hog", ".status.phase", "Failed");
    assert_eq!(get(&cluster, "pod/hog", ".status.reason"), "Evicted");
    let message = get(&cluster, "pod/hog", ".status.message");
    assert_eq!(message.trim(), "Usage of EmptyDir volume \"data\" exceeds the limit \"100Ki\".");
    assert!(events(&cluster, "hog").contains("Evicted: Usage of EmptyDir volume"));
}

fn push(cluster: &Cluster, name: &str) {
    let toolbox = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-samples/toolbox/toolbox.wasm");
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.arg("push").arg(toolbox).arg(name);
    command.env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.path());
    let told = Told::of(&command.output().expect("the binary runs"));
    assert!(told.succeeded, "{}", told.text);
}

#[test]
fn an_image_is_mounted_and_what_cannot_be_is_said_clearly() {
    let cluster = Cluster::with_agents(1);
    push(&cluster, "data:1");
    let pod = |name: &str, volume: &str, mount: &str| {
        cluster.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  volumes: [{volume}]
  containers:
  - {{name: a, image: \"{TOOLBOX}\", args: [ls, /mnt], volumeMounts: [{mount}]}}
"
        ));
    };
    let plain = "{name: v, mountPath: /mnt}";
    pod("files", "{name: v, image: {reference: \"data:1\", pullPolicy: IfNotPresent}}", plain);
    cluster.wait_for("pod/files", ".status.phase", "Succeeded");
    assert_eq!(cluster.ok(&["logs", "files"]), "toolbox.wasm\n");
    pod("none", "{name: v, image: {reference: \"coracle.local/none:1\"}}", plain);
    pod("claim", "{name: v, nfs: {server: a, path: /b}}", plain);
    pod("host", "{name: v, hostPath: {path: /etc}}", plain);
    for (name, told) in [
        ("none", "MountVolume.SetUp failed for volume \"v\" : Failed to pull image"),
        ("claim", "nfs volumes are not supported by this node"),
        ("host", "must be started with --allow-host-path"),
    ] {
        eventually(told, || events(&cluster, name).contains(told).then_some(()));
    }
}
