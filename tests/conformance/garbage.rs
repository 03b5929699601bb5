//! sig-api-machinery: the garbage collector.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, unique};

fn pod_spec() -> Value {
    json!({"containers": [{"name": "nginx", "image": "nginx:latest"}]})
}

fn workload(name: &str, replicas: i64) -> Value {
    let labels = json!({"app": name});
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec()}}})
}

fn count(wanted: usize) -> impl Fn(&super::harness::Answer) -> bool {
    move |answer| answer.body["items"].as_array().is_some_and(|items| items.len() == wanted)
}

#[tokio::test]
async fn the_pods_of_a_replication_controller_go_with_it() {
    let api = Api::connect().await;
    let namespace = api.namespace("gc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let labels = json!({"gc-test": "rc"});
    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 2, "selector": labels,
        "template": {"metadata": {"labels": labels}, "spec": pod_spec()}}});
    api.post(&format!("{core}/replicationcontrollers"), &controller).await.is(201);
    api.eventually(&format!("{core}/pods"), count(2)).await;
    let background = json!({"propagationPolicy": "Background"});
    api.delete_with(&format!("{core}/replicationcontrollers/rc"), &background).await.is(200);
    api.eventually(&format!("{core}/pods"), count(0)).await;
}

#[tokio::test]
async fn the_replica_set_of_a_deployment_goes_with_it_or_stays_as_it_is_asked() {
    let api = Api::connect().await;
    let namespace = api.namespace("gc").await;
    let apps = format!("/apis/apps/v1/namespaces/{namespace}");
    for (policy, left) in [("Background", 0), ("Orphan", 1)] {
        let name = unique("simpletest");
        api.post(&format!("{apps}/deployments"), &workload(&name, 2)).await.is(201);
        api.eventually(&format!("{apps}/replicasets"), count(1)).await;
        let options = json!({"propagationPolicy": policy});
        api.delete_with(&format!("{apps}/deployments/{name}"), &options).await.is(200);
        api.eventually(&format!("{apps}/deployments/{name}"), |a| a.code == 404).await;
        let sets = api.eventually(&format!("{apps}/replicasets"), count(left)).await;
        for set in sets["items"].as_array().expect("items") {
            let owners = &set["metadata"]["ownerReferences"];
            assert!(owners.as_array().is_none_or(Vec::is_empty), "{owners}");
        }
    }
}

#[tokio::test]
async fn a_circle_of_owners_does_not_keep_them() {
    let api = Api::connect().await;
    let namespace = api.namespace("gc").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let mut uids = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        let pod = json!({"metadata": {"name": name}, "spec": pod_spec()});
        let made = api.post(&pods, &pod).await.is(201);
        uids.push((name, made["metadata"]["uid"].clone()));
    }
    for (index, (name, _)) in uids.iter().enumerate() {
        let (owner, uid) = &uids[(index + 2) % 3];
        let patch = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
            "name": owner, "uid": uid, "controller": true, "blockOwnerDeletion": true}]}});
        api.patch(&format!("{pods}/{name}"), MERGE, &patch).await.is(200);
    }
    let foreground = json!({"propagationPolicy": "Foreground"});
    api.delete_with(&format!("{pods}/pod1"), &foreground).await;
    api.eventually(&pods, count(0)).await;
}
