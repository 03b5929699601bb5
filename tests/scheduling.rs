//! The scheduler through the server: nodes that are only objects, pods that are bound to them.

mod common;

use std::process::Command;

use common::{Cluster, Told, eventually};

/// Nodes that say nothing stay well for the length of a test.
const PATIENT: &str = "--node-monitor-grace-period-seconds=3600";

/// Makes nodes that are Ready, each with so many cores.
fn nodes(cluster: &Cluster, nodes: &[(&str, &str)]) {
    for (name, cpu) in nodes {
        let label = format!("kubernetes.io/hostname: {name}");
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{label}}}}}\n"
        ));
        let has = format!(r#"{{"cpu": "{cpu}", "memory": "1Gi", "pods": "10"}}"#);
        let ready = r#"{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}"#;
        let status = format!(
            r#"{{"status": {{"capacity": {has}, "allocatable": {has}, "conditions": [{ready}]}}}}"#
        );
        cluster.ok(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status]);
    }
    eventually("the nodes have no taints", || {
        let taints = cluster.ok(&["get", "nodes", "-o", "jsonpath={.items[*].spec.taints[*].key}"]);
        taints.trim().is_empty().then_some(())
    });
}

fn pod(name: &str, cpu: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 30
  containers: [{{name: c, image: x.example/x:1, resources: {{requests: {{cpu: {cpu}}}}}}}]
{more}
---
"
    )
}

fn why(cluster: &Cluster, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("why")
        .args(args)
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .expect("the binary starts");
    let told = Told::of(&out);
    assert!(told.succeeded, "{}", told.text);
    told.text
}

fn condition(cluster: &Cluster, pod: &str, path: &str) -> String {
    let filter = format!("jsonpath={{.status.conditions[?(@.type==\"PodScheduled\")].{path}}}");
    cluster.ok(&["get", "pod", pod, "-o", &filter])
}

#[test]
fn what_matters_more_makes_room_and_is_told_so() {
    let cluster = Cluster::start_with(&[PATIENT]);
    nodes(&cluster, &[("small", "1"), ("large", "2")]);
    cluster.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n",
    );
    cluster.apply(&pod("low", "1500m", ""));
    cluster.wait_for("pod/low", ".spec.nodeName", "large");
    cluster.apply(&pod("polite", "1500m", ""));
    let message = "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are \
                   available: 1 No preemption victims found for incoming pod, 1 Preemption is not \
                   helpful for scheduling.";
    eventually("the pod is told why it waits", || {
        (condition(&cluster, "polite", "message") == message).then_some(())
    });
    assert_eq!(condition(&cluster, "polite", "reason"), "Unschedulable");
    let told = why(&cluster, &["polite"]);
    for line in [
        "pod default/polite cannot be scheduled: 0/2 nodes are available: 2 Insufficient cpu.",
        "it asks for 1500m, 500m of 2 are free",
        "ask for at most 1, or use a larger node",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    cluster.apply(&pod("high", "1500m", "  priorityClassName: high"));
    cluster.wait_for("pod/high", ".status.nominatedNodeName", "large");
    eventually("the other one has to go", || {
        let low = cluster.ok(&["get", "pod", "low", "-o", "json"]);
        let goes = low.contains("deletionTimestamp") && low.contains("PreemptionByScheduler");
        goes.then_some(())
    });
    eventually("an event tells of it", || {
        let events = cluster.ok(&["get", "events", "--field-selector", "reason=Preempted"]);
        events.contains("on node large").then_some(())
    });
    cluster.ok(&["delete", "pod", "low", "--force", "--grace-period=0"]);
    cluster.wait_for("pod/high", ".spec.nodeName", "large");
}

#[test]
fn gates_profiles_and_volumes_decide_when_and_where() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("scheduler.yaml");
    let profiles = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}
";
    std::fs::write(&file, profiles).expect("it can be written");
    let file = file.display().to_string();
    let cluster = Cluster::start_with(&[PATIENT, "--scheduler-config", &file]);
    nodes(&cluster, &[("a", "2"), ("b", "2")]);

    cluster.apply(&pod("first", "500m", "  nodeSelector: {kubernetes.io/hostname: b}"));
    cluster.wait_for("pod/first", ".spec.nodeName", "b");
    cluster.apply(&pod("packed", "500m", "  schedulerName: packer"));
    cluster.wait_for("pod/packed", ".spec.nodeName", "b");
    cluster.apply(&pod("spread", "500m", ""));
    cluster.wait_for("pod/spread", ".spec.nodeName", "a");
    cluster.apply(&pod("foreign", "500m", "  schedulerName: other"));
    let told = why(&cluster, &["foreign", "--scheduler-config", &file]);
    assert!(told.contains("\"other\", which is none of this server's"), "{told}");

    cluster.apply(&pod("gated", "100m", "  schedulingGates: [{name: example.com/wait}]"));
    assert_eq!(condition(&cluster, "gated", "reason"), "SchedulingGated");
    let told = why(&cluster, &["pod/gated"]);
    assert!(told.contains("scheduling gates (example.com/wait)"), "{told}");
    let open = r#"{"spec": {"schedulingGates": []}}"#;
    cluster.ok(&["patch", "pod", "gated", "--type=merge", "-p", open]);
    eventually("it is scheduled", || {
        let node = cluster.ok(&["get", "pod", "gated", "-o", "jsonpath={.spec.nodeName}"]);
        (!node.is_empty()).then_some(())
    });

    cluster.apply(VOLUMES);
    cluster.apply(&pod(
        "stored",
        "100m",
        "  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]",
    ));
    cluster.wait_for("pv/disk", ".spec.claimRef.name", "data");
}

/// A volume that only node a reaches, and a claim that waits for its first consumer.
const VOLUMES: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  storageClassName: local
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  local: {path: /data}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [
    {key: kubernetes.io/hostname, operator: In, values: [a]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  storageClassName: local
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
";

#[test]
fn a_configuration_that_cannot_be_used_is_refused_by_its_field() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("scheduler.yaml");
    let text = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{plugins: {score: {enabled: [{name: Fastest}]}}}]
";
    std::fs::write(&file, text).expect("it can be written");
    let out = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .arg("--scheduler-config")
        .arg(&file)
        .output()
        .expect("the binary starts");
    let told = Told::of(&out);
    assert_eq!(out.status.code(), Some(2), "{}", told.text);
    let place = "profiles[0].plugins.score.enabled[0].name: \"Fastest\" is no plugin here";
    assert!(told.text.contains(place), "{}", told.text);
    assert!(told.text.contains("scheduler.yaml"), "{}", told.text);
}
