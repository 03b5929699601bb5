//! One node, one pod, one rule: what Kubernetes says.

use super::super::config::{Fit, Strategy};
use super::*;

fn extended(name: &str, count: &str) -> Value {
    let requests = json!({name: count});
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn taint(effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": "dedicated", "value": "gpu", "effect": effect}]}})
}

fn affinity(operator: &str, values: Value) -> Value {
    let expression = json!({"key": "size", "operator": operator, "values": values});
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
    json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }}}})
}

#[test]
fn each_rule_refuses_in_kubernetes_words() {
    let sized = || json!({"metadata": {"labels": {"size": "10"}}});
    let tolerates = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let label = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let tainted = "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}.";
    let cases = [
        (json!({}), json!({}), "goes to n"),
        (
            json!({"spec": {"unschedulable": true}}),
            json!({}),
            "0/1 nodes are available: 1 node(s) were unschedulable.",
        ),
        (
            json!({"spec": {"unschedulable": true}}),
            tolerates(json!({"operator": "Exists"})),
            "goes to n",
        ),
        (
            json!({}),
            wants("3", "2Gi"),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
        ),
        (
            json!({"status": {"allocatable": {"pods": "0"}}}),
            json!({}),
            "0/1 nodes are available: 1 Too many pods.",
        ),
        (taint("NoSchedule"), json!({}), tainted),
        (taint("NoExecute"), json!({}), tainted),
        (taint("PreferNoSchedule"), json!({}), "goes to n"),
        (
            taint("NoSchedule"),
            tolerates(json!({"key": "dedicated", "operator": "Exists"})),
            "goes to n",
        ),
        (taint("NoSchedule"), tolerates(json!({"key": "dedicated", "value": "gpu"})), "goes to n"),
        (taint("NoSchedule"), tolerates(json!({"key": "dedicated", "value": "cpu"})), tainted),
        (
            taint("NoExecute"),
            tolerates(json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"})),
            tainted,
        ),
        (json!({}), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), label),
        (
            json!({"metadata": {"labels": {"disk": "ssd"}}}),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "goes to n",
        ),
        (
            json!({}),
            json!({"spec": {"nodeName": "other"}}),
            "0/1 nodes are available: 1 node(s) didn't match the requested node name.",
        ),
        (json!({}), wants("2", "1Gi"), "goes to n"),
        (
            json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
            extended("example.com/gpu", "2"),
            "0/1 nodes are available: 1 Insufficient example.com/gpu.",
        ),
        (sized(), affinity("In", json!(["10", "20"])), "goes to n"),
        (sized(), affinity("In", json!(["20"])), label),
        (sized(), affinity("NotIn", json!(["10"])), label),
        (json!({}), affinity("NotIn", json!(["10"])), "goes to n"),
        (sized(), affinity("Exists", json!([])), "goes to n"),
        (sized(), affinity("DoesNotExist", json!([])), label),
        (sized(), affinity("Gt", json!(["9"])), "goes to n"),
        (sized(), affinity("Gt", json!(["10"])), label),
        (sized(), affinity("Lt", json!(["11"])), "goes to n"),
        (sized(), affinity("Lt", json!(["x"])), label),
    ];
    for (has, asks, expected) in cases {
        let told = told(&cluster([node("n", has.clone())]), &pod("p", asks.clone()));
        assert_eq!(told, expected, "node {has} pod {asks}");
    }
}

#[test]
fn a_host_port_is_given_once_on_a_node() {
    let port = |ip: &str, number: u16, protocol: &str| {
        let port =
            json!({"containerPort": 1, "hostPort": number, "hostIP": ip, "protocol": protocol});
        json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}})
    };
    let mut snapshot = cluster([node("n", json!({}))]);
    snapshot.place(pod("first", port("10.0.0.1", 80, "TCP")), &"n".into());
    let refused =
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    for (asks, free) in [
        (port("10.0.0.1", 80, "TCP"), false),
        (port("0.0.0.0", 80, "TCP"), false),
        (port("", 80, "TCP"), false),
        (port("10.0.0.2", 80, "TCP"), true),
        (port("10.0.0.1", 80, "UDP"), true),
        (port("10.0.0.1", 81, "TCP"), true),
    ] {
        match choose(&snapshot, &pod("second", asks.clone())) {
            Ok(_) => assert!(free, "{asks}"),
            Err(why) => assert!(!free && why.to_string() == refused, "{asks}: {why}"),
        }
    }
}

#[test]
fn the_reasons_of_several_nodes_are_counted_and_sorted() {
    let nodes = [
        node("a", taint("NoSchedule")),
        node("b", json!({})),
        node("c", json!({"spec": {"unschedulable": true}})),
        node("d", json!({})),
    ];
    let why = choose(&cluster(nodes), &pod("p", wants("1", "3Gi"))).expect_err("too large");
    assert_eq!(
        why.to_string(),
        "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}, \
         1 node(s) were unschedulable, 2 Insufficient memory."
    );
    assert_eq!(why.refusals.len(), 4);
    let none = choose(&cluster([]), &pod("p", json!({}))).expect_err("no nodes");
    assert_eq!(none.to_string(), "no nodes available to schedule pods");
}

#[test]
fn packing_fills_and_spreading_evens_out() {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    snapshot.place(pod("there", wants("500m", "256Mi")), &"b".into());
    let next = pod("next", wants("500m", "256Mi"));
    for (packing, expected) in [(Packing::LeastAllocated, "a"), (Packing::MostAllocated, "b")] {
        let chosen = choose_by(&snapshot, &next, &Profile::packing(packing)).expect("room");
        assert_eq!(chosen, expected, "{packing:?}");
    }
}

#[test]
fn pods_of_one_owner_or_service_spread_over_nodes() {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]);
    let owned = json!({"metadata": {"ownerReferences": owner}});
    let served = json!({"metadata": {"labels": {"app": "web"}}});
    for like in [owned, served] {
        let mut snapshot =
            cluster([node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
        let selector = [("app".to_owned(), "web".to_owned())].into();
        let service = ServiceSelector { namespace: "default".to_owned(), selector };
        snapshot.set_service("default", "web", Some(service));
        let mut chosen = Vec::new();
        for name in ["1", "2", "3"] {
            let pod = pod(name, like.clone());
            let node = choose(&snapshot, &pod).expect("room");
            snapshot.assume(pod, &node.as_str().into());
            chosen.push(node);
        }
        chosen.sort();
        assert_eq!(chosen, ["a", "b", "c"], "{like}");
    }
}

#[test]
fn preferences_of_taints_and_affinity_decide_among_equals() {
    let labelled = json!({"metadata": {"labels": {"zone": "near"}}});
    let expression = json!({"key": "zone", "operator": "In", "values": ["near"]});
    let preferred = json!([{"weight": 10, "preference": {"matchExpressions": [expression]}}]);
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }}}});
    let nodes = [node("a", json!({})), node("b", labelled)];
    assert_eq!(choose(&cluster(nodes), &pod("p", prefers)).expect("room"), "b");
    let nodes = [node("a", taint("PreferNoSchedule")), node("b", json!({}))];
    assert_eq!(choose(&cluster(nodes), &pod("p", json!({}))).expect("room"), "b");
}

fn pinned(name: &str) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
    json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }}}})
}

#[test]
fn a_pod_that_names_its_node_is_shown_no_other() {
    let snapshot = cluster([node("a", json!({})), node("b", taint("NoSchedule"))]);
    assert_eq!(told(&snapshot, &pod("p", pinned("a"))), "goes to a");
    assert_eq!(
        told(&snapshot, &pod("p", pinned("b"))),
        "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], \
         1 node(s) had untolerated taint {dedicated: gpu}."
    );
}

#[test]
fn affinity_that_a_profile_adds_is_asked_of_every_node() {
    let snapshot = cluster([node("a", json!({})), node("b", labelled(json!({"pool": "edge"})))]);
    let text = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- pluginConfig:
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
          - matchExpressions: [{key: pool, operator: In, values: [edge]}]
";
    let config = super::super::config::file::read(text).expect("a configuration");
    let profile = &config.profiles[0];
    assert_eq!(choose_by(&snapshot, &pod("p", json!({})), profile).expect("b"), "b");
    let alone = cluster([node("a", json!({}))]);
    let why = choose_by(&alone, &pod("p", json!({})), profile).expect_err("it is not in the pool");
    assert_eq!(
        why.to_string(),
        "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity."
    );
}

#[test]
fn resources_are_packed_along_a_shape() {
    let gpus = |count: &str| json!({"status": {"allocatable": {"example.com/gpu": count}}});
    let mut snapshot = cluster([node("a", gpus("4")), node("b", gpus("4"))]);
    snapshot.place(pod("there", extended("example.com/gpu", "2")), &"b".into());
    let mut profile = Profile::default();
    for (shape, expected) in [([(0, 0), (100, 100)], "b"), ([(0, 100), (100, 0)], "a")] {
        profile.fit = Fit {
            strategy: Strategy::RequestedToCapacityRatio(shape.to_vec()),
            resources: vec![("example.com/gpu".to_owned(), 1)],
            ..Fit::default()
        };
        let next = pod("next", extended("example.com/gpu", "1"));
        assert_eq!(choose_by(&snapshot, &next, &profile).expect("room"), expected, "{shape:?}");
    }
}

#[test]
fn an_ignored_resource_is_not_counted() {
    let snapshot = cluster([node("n", json!({}))]);
    let asks = pod("p", extended("example.com/gpu", "1"));
    assert!(choose(&snapshot, &asks).is_err());
    let mut profile = Profile::default();
    profile.fit.ignored_groups = vec!["example.com".to_owned()];
    assert_eq!(choose_by(&snapshot, &asks, &profile).expect("it is another's"), "n");
}

#[test]
fn a_node_that_has_the_image_is_preferred() {
    let image = json!({"status": {"images": [
        {"names": ["example.com/big:latest"], "sizeBytes": 900_000_000},
    ]}});
    let snapshot = cluster([node("a", json!({})), node("b", image)]);
    let asks = json!({"spec": {"containers": [{"name": "c", "image": "example.com/big"}]}});
    assert_eq!(choose(&snapshot, &pod("p", asks)).expect("room"), "b");
}
