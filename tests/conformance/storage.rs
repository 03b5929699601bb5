//! sig-storage: what its API tests ask, of volumes that no driver makes.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, Operations, STRATEGIC, unique};

#[tokio::test]
async fn drivers_classes_and_attachments_live() {
    let api = Api::connect().await;
    let attachment = json!({"spec": {"attacher": "e2e.example.com", "nodeName": "n",
        "source": {"persistentVolumeName": "pv"}}});
    for (plural, kind, template) in [
        ("csidrivers", "CSIDriver", json!({"spec": {"volumeLifecycleModes": ["Ephemeral"]}})),
        ("storageclasses", "StorageClass", json!({"provisioner": "e2e-fake-provisioner"})),
        ("volumeattributesclasses", "VolumeAttributesClass", json!({"driverName": "e2e.example"})),
    ] {
        Operations {
            api: "/apis/storage.k8s.io/v1",
            plural,
            kind,
            namespace: None,
            template,
            has_status: false,
            status_list: "",
        }
        .walk(&api)
        .await;
    }
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    let name = unique("va");
    let mut object = attachment;
    object["metadata"] = json!({"name": name});
    api.post(attachments, &object).await.is(201);
    let status = json!({"metadata": {"annotations": {"a": "b"}}, "status": {"attached": true}});
    let one = format!("{attachments}/{name}");
    let patched = api.patch(&format!("{one}/status"), MERGE, &status).await.is(200);
    assert_eq!(patched["status"]["attached"], true);
    api.delete(&one).await.is(200);
}

#[tokio::test]
async fn a_pod_may_have_a_volume_of_a_driver() {
    let api = Api::connect().await;
    let namespace = api.namespace("csiinlinevolumes").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = json!({"metadata": {"name": "pod-csi-inline-volumes", "labels": {"special": namespace}},
        "spec": {"containers": [{"name": "c", "image": "pause",
            "volumeMounts": [{"name": "csi-volume", "mountPath": "/mnt/test"}]}],
            "volumes": [{"name": "csi-volume", "csi": {"driver": "e2e.example.com",
                "readOnly": false, "volumeAttributes": {"a": "b"}}}]}});
    api.post(&pods, &pod).await.is(201);
    let read = api.get(&format!("{pods}/pod-csi-inline-volumes")).await.is(200);
    let volumes = read["spec"]["volumes"].as_array().expect("volumes");
    assert!(volumes.iter().any(|v| v["csi"]["driver"] == "e2e.example.com"));
    api.delete(&format!("{pods}?labelSelector=special%3D{namespace}")).await.is(200);
}

fn volume(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"e2e-pv": label}}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": label,
        "csi": {"driver": "e2e.example.com", "volumeHandle": "e2e"}}})
}

fn claim(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"e2e-pv": label}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": label,
        "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test]
async fn a_volume_and_a_claim_live() {
    let api = Api::connect().await;
    let namespace = api.namespace("pv").await;
    let label = unique("e2e");
    let volumes = "/api/v1/persistentvolumes";
    let claims = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
    for (all, object, name) in [
        (volumes.to_owned(), volume(&label, &label), label.clone()),
        (claims.clone(), claim("pvc", &label), "pvc".to_owned()),
    ] {
        api.post(&all, &object).await.is(201);
        let one = format!("{all}/{name}");
        let patch = json!({"metadata": {"labels": {"patched": label}}});
        let patched = api.patch(&one, STRATEGIC, &patch).await.is(200);
        assert_eq!(patched["metadata"]["labels"]["patched"], label.as_str());
        let selected = format!("{all}?labelSelector=patched%3D{label}");
        assert_eq!(api.items(&selected).await.len(), 1);
        let status = format!("{one}/status");
        let phase = json!({"status": {"phase": "Pending"}});
        api.patch(&status, MERGE, &phase).await.is(200);
        let read = api.get(&status).await.is(200);
        assert_eq!(read["metadata"]["name"], name.as_str());
    }
    let everywhere = format!("/api/v1/persistentvolumeclaims?labelSelector=e2e-pv%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    let bound = json!({"spec": {"resources": {"requests": {"storage": "500Mi"}}}});
    assert_eq!(api.patch(&format!("{claims}/pvc"), MERGE, &bound).await.code, 422);
    api.delete(&format!("{claims}?labelSelector=e2e-pv%3D{label}")).await.is(200);
    api.eventually(&format!("{claims}/pvc"), |answer| answer.code == 404).await;
    api.delete(&format!("{volumes}?labelSelector=e2e-pv%3D{label}")).await.is(200);
    api.eventually(&format!("{volumes}/{label}"), |answer| answer.code == 404).await;
}

#[tokio::test]
async fn a_claim_without_a_class_gets_the_default_one() {
    let api = Api::connect().await;
    let class = unique("default-class");
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let object = json!({"metadata": {"name": class, "annotations": {
        "storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "e2e"});
    api.post(classes, &object).await.is(201);
    let namespace = api.namespace("pv").await;
    let mut claim = claim("pvc", "x");
    claim["spec"].as_object_mut().expect("a spec").remove("storageClassName");
    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
    let made = api.post(&path, &claim).await.is(201);
    assert_eq!(made["spec"]["storageClassName"], class.as_str());
    api.delete(&format!("{classes}/{class}")).await.is(200);
}
