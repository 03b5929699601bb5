//! Pods and their volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};

use super::super::volumes::{Attachable, Class, PvClaim, Volume, plan};
use super::*;

fn add_class(snapshot: &mut Snapshot, name: &str, provisioner: &str, mode: &str) {
    let class: StorageClass = serde_json::from_value(json!({
        "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
    }))
    .expect("a class");
    snapshot.volumes.set_class(name, Class::of(class).map(Arc::new));
}

fn add_claim(snapshot: &mut Snapshot, name: &str, class: &str, volume: Option<&str>, more: Value) {
    let claim = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "storageClassName": class, "volumeName": volume, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": if volume.is_some() { "Bound" } else { "Pending" }},
    });
    let claim: PersistentVolumeClaim = serde_json::from_value(with(claim, more)).expect("a claim");
    let claim = PvClaim::of(claim).map(Arc::new);
    let key = claim.as_ref().expect("a claim").key.clone();
    snapshot.volumes.set_claim(key, claim);
}

fn add_volume(snapshot: &mut Snapshot, name: &str, node: Option<&str>, more: Value) {
    let affinity = node.map(|node| {
        let expression =
            json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}})
    });
    let volume = json!({
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "local", "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"], "nodeAffinity": affinity,
        },
        "status": {"phase": "Available"},
    });
    let volume: PersistentVolume = serde_json::from_value(with(volume, more)).expect("a volume");
    snapshot.volumes.set_volume(name, Volume::of(volume).map(Arc::new));
}

fn uses(claim: &str) -> Value {
    json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn two() -> Snapshot {
    let mut snapshot = cluster([node("a", json!({})), node("b", json!({}))]);
    add_class(&mut snapshot, "local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    add_class(&mut snapshot, "made", "example.com/maker", "WaitForFirstConsumer");
    add_class(&mut snapshot, "now", "example.com/maker", "Immediate");
    snapshot
}

#[test]
fn a_pod_follows_the_volume_that_it_has() {
    let mut snapshot = two();
    add_volume(&mut snapshot, "pv", Some("b"), json!({}));
    add_claim(&mut snapshot, "data", "local", Some("pv"), json!({}));
    assert_eq!(told(&snapshot, &pod("p", uses("data"))), "goes to b");
    add_volume(&mut snapshot, "pv", Some("c"), json!({}));
    assert_eq!(
        told(&snapshot, &pod("p", uses("data"))),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
    );
    snapshot.volumes.set_volume("pv", None);
    assert_eq!(
        told(&snapshot, &pod("p", uses("data"))),
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to \
         non-existent pv(s)."
    );
}

#[test]
fn claims_that_keep_a_pod_from_all_nodes_are_named() {
    let mut snapshot = two();
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    add_claim(&mut snapshot, "going", "now", Some("pv"), deleting);
    add_claim(&mut snapshot, "unbound", "now", None, json!({}));
    for (claim, why) in [
        ("missing", "persistentvolumeclaim \"missing\" not found"),
        ("going", "persistentvolumeclaim \"going\" is being deleted"),
        ("unbound", "pod has unbound immediate PersistentVolumeClaims"),
    ] {
        let expected = format!("0/2 nodes are available: {why}.");
        assert_eq!(told(&snapshot, &pod("p", uses(claim))), expected);
    }
    let ephemeral = json!({"spec": {"volumes": [{"name": "v", "ephemeral": {}}]}});
    assert_eq!(
        told(&snapshot, &pod("p", ephemeral)),
        "0/2 nodes are available: waiting for ephemeral volume controller to create the \
         persistentvolumeclaim \"p-v\"."
    );
}

#[test]
fn a_claim_that_waits_gets_its_volume_where_the_pod_goes() {
    let mut snapshot = two();
    add_claim(&mut snapshot, "data", "local", None, json!({}));
    assert_eq!(
        told(&snapshot, &pod("p", uses("data"))),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
    add_volume(
        &mut snapshot,
        "large",
        Some("b"),
        json!({"spec": {"capacity": {"storage": "9Gi"}}}),
    );
    add_volume(
        &mut snapshot,
        "small",
        Some("b"),
        json!({"spec": {"capacity": {"storage": "1Mi"}}}),
    );
    add_volume(&mut snapshot, "right", Some("b"), json!({}));
    assert_eq!(told(&snapshot, &pod("p", uses("data"))), "goes to b");
    let claim = snapshot.volumes.claim("default", "data").expect("it is there").clone();
    let at = snapshot.node("b").expect("a node").node.clone();
    let steps =
        plan::plan(&snapshot.volumes, std::slice::from_ref(&claim), &at).expect("there is one");
    let [plan::Step::Claim { volume, .. }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(volume.name, "right");
    // Promised to this claim, it is no other's.
    snapshot.volumes.promise(&steps);
    add_claim(&mut snapshot, "more", "local", None, json!({}));
    let more = snapshot.volumes.claim("default", "more").expect("it is there").clone();
    let steps = plan::plan(&snapshot.volumes, &[more], &at).expect("there is one");
    assert!(matches!(&steps[..], [plan::Step::Claim { volume, .. }] if volume.name == "large"));
    add_claim(&mut snapshot, "new", "made", None, json!({}));
    let new = snapshot.volumes.claim("default", "new").expect("it is there").clone();
    let steps = plan::plan(&snapshot.volumes, &[new], &at).expect("one can be made");
    assert!(matches!(&steps[..], [plan::Step::Provision { .. }]));
}

#[test]
fn a_volume_being_made_on_one_node_is_made_on_no_other() {
    let mut snapshot = two();
    let selected =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}});
    add_claim(&mut snapshot, "data", "made", None, selected);
    assert_eq!(told(&snapshot, &pod("p", uses("data"))), "goes to b");
}

#[test]
fn a_claim_for_one_pod_is_used_by_one_pod() {
    let mut snapshot = two();
    add_volume(&mut snapshot, "pv", None, json!({}));
    let exclusive = json!({"spec": {"accessModes": ["ReadWriteOncePod"]}});
    add_claim(&mut snapshot, "data", "local", Some("pv"), exclusive);
    snapshot.place(pod("first", uses("data")), &"a".into());
    assert_eq!(
        told(&snapshot, &pod("p", uses("data"))),
        "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name \
         and ReadWriteOncePod access mode."
    );
    snapshot.remove("uid-first");
    assert!(choose(&snapshot, &pod("p", uses("data"))).is_ok());
}

#[test]
fn a_node_attaches_no_more_than_its_drivers_allow() {
    let mut snapshot = two();
    let csi = |handle: &str| json!({"spec": {"csi": {"driver": "d", "volumeHandle": handle}}});
    for (volume, claim) in [("pv1", "c1"), ("pv2", "c2")] {
        add_volume(&mut snapshot, volume, None, csi(volume));
        add_claim(&mut snapshot, claim, "local", Some(volume), json!({}));
    }
    for name in ["a", "b"] {
        let node: CSINode = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"drivers": [{"name": "d", "nodeID": name, "allocatable": {"count": 1}}]},
        }))
        .expect("a CSINode");
        snapshot.volumes.set_attachable(name, Attachable::of(node).map(Arc::new));
    }
    snapshot.place(pod("first", uses("c1")), &"a".into());
    assert_eq!(told(&snapshot, &pod("p", uses("c2"))), "goes to b");
    // The same volume once more is no further one.
    let told = super::super::plan::explain(&snapshot, &pod("p", uses("c1")), &Profile::default());
    assert!(told.expect("it may go").iter().all(|(_, reasons)| reasons.is_empty()));
    snapshot.place(pod("second", uses("c2")), &"b".into());
    add_volume(&mut snapshot, "pv3", None, csi("pv3"));
    add_claim(&mut snapshot, "c3", "local", Some("pv3"), json!({}));
    assert_eq!(
        super::told(&snapshot, &pod("p", uses("c3"))),
        "0/2 nodes are available: 2 node(s) exceed max volume count."
    );
}

#[test]
fn a_volume_is_attached_in_its_zone() {
    let zone = |zone: &str| labelled(json!({"topology.kubernetes.io/zone": zone}));
    let mut snapshot = cluster([node("a", zone("1")), node("b", zone("2"))]);
    add_volume(&mut snapshot, "pv", None, zone("2"));
    add_claim(&mut snapshot, "data", "local", Some("pv"), json!({}));
    assert_eq!(told(&snapshot, &pod("p", uses("data"))), "goes to b");
    add_volume(&mut snapshot, "pv", None, zone("3__4"));
    assert_eq!(
        told(&snapshot, &pod("p", uses("data"))),
        "0/2 nodes are available: 2 node(s) had no available volume zone."
    );
}

#[test]
fn a_disk_is_written_from_one_place() {
    let disk = |read_only: bool| {
        json!({"spec": {"volumes": [
        {"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}]}})
    };
    let mut snapshot = cluster([node("n", json!({}))]);
    snapshot.place(pod("first", disk(true)), &"n".into());
    assert_eq!(told(&snapshot, &pod("p", disk(true))), "goes to n");
    assert_eq!(
        told(&snapshot, &pod("p", disk(false))),
        "0/1 nodes are available: 1 node(s) had no available disk."
    );
}
