//! A table of nodes and pods, and what is refused why.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::scheduler::model::Node;
use crate::scheduler::snapshot::Snapshot;

fn node(extra: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "8"}},
        "status": {"allocatable":
            {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1"}},
    });
    json_patch_merge(&mut node, &extra);
    Node::of(serde_json::from_value(node).expect("a node")).expect("a named node")
}

fn json_patch_merge(into: &mut Value, extra: &Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                json_patch_merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra.clone(),
    }
}

fn pod(spec: Value) -> Pod {
    let mut all = json!({"containers": [{"name": "c", "image": "i"}]});
    json_patch_merge(&mut all, &spec);
    let pod = json!({"metadata": {"name": "p", "uid": "p"}, "spec": all});
    Pod::of(serde_json::from_value(pod).expect("a pod")).expect("a pod that runs")
}

fn asks(resources: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": resources}}]})
}

fn affinity(expression: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
}

#[test]
fn every_rule_refuses_in_kubernetes_words() {
    let plain = json!({});
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let preferred =
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "PreferNoSchedule"}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let selector = "node(s) didn't match Pod's node affinity/selector";
    let table: &[(&Value, Value, &[&str])] = &[
        (&plain, json!({}), &[]),
        (&plain, asks(json!({"cpu": "2"})), &[]),
        (&plain, asks(json!({"cpu": "2001m"})), &["Insufficient cpu"]),
        (
            &plain,
            asks(json!({"cpu": "3", "memory": "2Gi"})),
            &["Insufficient cpu", "Insufficient memory"],
        ),
        (&plain, asks(json!({"example.com/gpu": "2"})), &["Insufficient example.com/gpu"]),
        (&plain, json!({"nodeSelector": {"disk": "ssd"}}), &[]),
        (&plain, json!({"nodeSelector": {"disk": "hdd"}}), &[selector]),
        (&plain, affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]})), &[]),
        (&plain, affinity(json!({"key": "cores", "operator": "Lt", "values": ["4"]})), &[selector]),
        (&plain, affinity(json!({"key": "disk", "operator": "DoesNotExist"})), &[selector]),
        (&plain, affinity(json!({"key": "gone", "operator": "NotIn", "values": ["x"]})), &[]),
        (&tainted, json!({}), &["node(s) had untolerated taint {k: v}"]),
        (&tainted, json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), &[]),
        (&preferred, json!({}), &[]),
        (&cordoned, json!({}), &["node(s) were unschedulable"]),
        (&cordoned, json!({"tolerations": [{"operator": "Exists"}]}), &[]),
        (&plain, json!({"nodeName": "other"}), &["node(s) didn't match the requested node name"]),
    ];
    for (extra, spec, reasons) in table {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(Arc::new(node((*extra).clone())));
        let refused = admit(snapshot.at(0), &pod(spec.clone()));
        let told = refused.map_or_else(|r| r.reasons, |()| Vec::new());
        assert_eq!(told, *reasons, "{extra} {spec}");
    }
}

#[test]
fn a_host_port_is_taken_once_and_a_full_node_takes_no_more_pods() {
    let wants = |uid: &str, port: i32| {
        let ports = json!([{"containerPort": 80, "hostPort": port}]);
        let spec = json!({"containers": [{"name": "c", "image": "i", "ports": ports}]});
        Pod { uid: uid.into(), ..pod(spec) }
    };
    let mut snapshot = Snapshot::default();
    snapshot.set_node(Arc::new(node(json!({}))));
    let place = |uid: &str, port| Arc::new(Pod { node: "n".into(), ..wants(uid, port) });
    snapshot.set_pod(place("a", 8080));
    let refused = admit(snapshot.at(0), &wants("b", 8080)).expect_err("the port is taken");
    assert_eq!(refused.rule, Rule::HostPorts);
    assert_eq!(admit(snapshot.at(0), &wants("b", 8081)), Ok(()));
    snapshot.set_pod(place("b", 8081));
    snapshot.set_pod(place("c", 8082));
    let refused = admit(snapshot.at(0), &wants("d", 8083)).expect_err("the node is full");
    assert_eq!(refused.reasons, ["Too many pods"]);
}
