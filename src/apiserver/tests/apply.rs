//! Managed fields and server-side apply.

use http::Method;
use serde_json::{Value, json};

use super::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|e| {
            format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource"))
        })
        .collect()
}

#[tokio::test]
async fn every_write_says_who_manages_what() {
    let api = Api::start().await;
    let map = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
    let agent = [("user-agent", "tool/v1.2 (linux)")];
    let made = api.ask(Method::POST, MAPS, &agent, map.to_string()).await.is(201);
    assert_eq!(managers(&made), ["tool Update "]);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(entry["fieldsV1"], json!({"f:data": {".": {}, "f:x": {}}}));
    assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("v1"), &json!("FieldsV1")));
    assert!(entry["time"].is_string());
    let one = format!("{MAPS}/a?fieldManager=other");
    let patched = api.merge(&one, &json!({"data": {"x": "2"}})).await.is(200);
    let mut all = managers(&patched);
    all.sort();
    assert_eq!(all, ["other Update ", "tool Update "]);
    let version = &patched["metadata"]["resourceVersion"];
    let again = api.merge(&one, &json!({"data": {"x": "2"}})).await.is(200);
    assert_eq!(&again["metadata"]["resourceVersion"], version, "nothing changed");
    let reset = json!({"metadata": {"managedFields": [{}]}});
    let reset = api.merge(&one, &reset).await.is(200);
    assert_eq!(managers(&reset), [""; 0]);
}

#[tokio::test]
async fn the_status_is_managed_apart() {
    let api = Api::start().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    api.post(&format!("{pods}?fieldManager=me"), &pod).await.is(201);
    let status = json!({"status": {"phase": "Running"}});
    let patched =
        api.merge(&format!("{pods}/p/status?fieldManager=kubelet"), &status).await.is(200);
    assert_eq!(managers(&patched), ["kubelet Update status", "me Update "]);
}

#[tokio::test]
async fn an_apply_creates_changes_and_takes_away() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m?fieldManager=one");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: '1'\n  b: '2'\n";
    let made = api.apply(&path, yaml).await.is(201);
    assert_eq!(managers(&made), ["one Apply "]);
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {"f:a": {}, "f:b": {}}})
    );
    let again = api.apply(&path, yaml).await.is(200);
    assert_eq!(again, made, "applying twice changes nothing");
    let less = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
        "data": {"a": "1"}});
    let less = api.apply(&path, less.to_string()).await.is(200);
    assert_eq!(less["data"], json!({"a": "1"}));
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "3"}});
    let two = format!("{MAPS}/m?fieldManager=two");
    let refused = api.apply(&two, other.to_string()).await;
    assert_eq!(refused.message(), "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let status = refused.is(409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"",
            "field": ".data.a"})
    );
    let forced = api.apply(&format!("{two}&force=true"), other.to_string()).await.is(200);
    assert_eq!(forced["data"], json!({"a": "3"}));
    assert_eq!(managers(&forced), ["two Apply "]);
}

#[tokio::test]
async fn an_apply_that_says_too_little_is_refused() {
    let api = Api::start().await;
    let config = "apiVersion: v1\nkind: ConfigMap\n";
    let nobody = api.apply(&format!("{MAPS}/m"), config).await;
    assert_eq!(nobody.code, 422);
    let why = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
               for apply patch";
    assert_eq!(nobody.message(), why);
    let one = format!("{MAPS}/m?fieldManager=one");
    assert_eq!(api.apply(&one, "metadata: {}").await.code, 400);
    let unknown = api.apply(&one, format!("{config}foo: bar")).await;
    assert_eq!(unknown.code, 500);
    let end = "(/; v1, Kind=ConfigMap): .foo: field not declared in schema";
    assert!(unknown.message().ends_with(end), "{}", unknown.message());
    let twice = format!("{one}&fieldValidation=Strict");
    let twice = api.apply(&twice, format!("{config}data:\n  a: b\n  a: c\n")).await;
    assert!(
        twice.message().contains("line 5: key \"a\" already set in map"),
        "{}",
        twice.message()
    );
    let forced = api.merge(&format!("{MAPS}/m?force=true"), &json!({})).await;
    assert_eq!(forced.code, 422);
}

#[tokio::test]
async fn a_scale_can_be_applied() {
    let api = Api::start().await;
    let apps = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    api.post(apps, &deployment).await.is(201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 4}});
    let path = format!("{apps}/d/scale?fieldManager=scaler");
    let refused = api.apply(&path, scale.to_string()).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    let scale = api.apply(&format!("{path}&force=true"), scale.to_string()).await.is(200);
    assert_eq!(scale["spec"]["replicas"], 4);
    let deployment = api.get(&format!("{apps}/d")).await.is(200);
    assert_eq!(deployment["spec"]["replicas"], 4);
    assert!(managers(&deployment).contains(&"scaler Apply scale".to_owned()));
}
