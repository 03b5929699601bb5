//! CustomResourceDefinitions and the objects of their kinds.

use http::Method;
use serde_json::{Value, json};

use super::Api;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab",
                "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "cronSpec": {"type": "string", "pattern": "^(\\S+ ){4}\\S+$"},
                        "replicas": {"type": "integer", "minimum": 0, "default": 1},
                        "ports": {"type": "array", "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["port"],
                            "items": {"type": "object", "required": ["port"], "properties": {
                                "port": {"type": "integer"}, "name": {"type": "string"}}}},
                    }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
                }}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.cronSpec"}],
            }],
        },
    })
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": name}, "spec": {"cronSpec": "* * * * */5"}})
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let api = Api::start().await;
    let made = api.post(DEFINITIONS, &definition()).await.is(201);
    let conditions = made["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let states: Vec<(&str, &str)> = conditions
        .iter()
        .filter_map(|c| Some((c["type"].as_str()?, c["status"].as_str()?)))
        .collect();
    assert_eq!(states, [("NamesAccepted", "True"), ("Established", "True")]);
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let group = api.get("/apis/stable.example.com").await.is(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let found = api.get("/apis/stable.example.com/v1").await.is(200);
    let names: Vec<&str> = found["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    let openapi = api.get("/openapi/v3/apis/stable.example.com/v1").await.is(200);
    let schema = &openapi["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["default"], 1);
    let v2 = api.get("/openapi/v2").await.is(200);
    assert!(v2["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_judged() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    let mut object = tab("a");
    object["spec"]["odd"] = 1.into();
    let strict = api.post(&format!("{TABS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().ends_with("strict decoding error: unknown field \"spec.odd\""));
    let made = api.post(TABS, &object).await;
    assert_eq!(made.warnings, ["299 - \"unknown field \\\"spec.odd\\\"\""]);
    let made = made.is(201);
    assert_eq!(made["spec"], json!({"cronSpec": "* * * * */5", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    let mut wrong = tab("b");
    wrong["spec"]["replicas"] = "many".into();
    let refused = api.post(TABS, &wrong).await;
    assert_eq!(
        refused.message(),
        "CronTab.stable.example.com \"b\" is invalid: spec.replicas: Invalid value: \"string\": \
         spec.replicas in body must be of type integer: \"string\""
    );
    assert_eq!(refused.code, 422);
    let twice = r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab",
        "metadata":{"name":"c"},"spec":{"replicas":1,"replicas":2}}"#;
    let twice = api.ask(Method::POST, &format!("{TABS}?fieldValidation=Strict"), &[], twice).await;
    assert!(twice.message().contains("duplicate field \"spec.replicas\""), "{}", twice.message());
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    let mut object = tab("a");
    object["status"] = json!({"replicas": 9});
    let made = api.post(TABS, &object).await.is(201);
    assert!(made["status"].is_null());
    let patch = json!({"spec": {"replicas": 5}, "status": {"replicas": 2, "selector": "a=b"},
        "metadata": {"labels": {"x": "y"}}});
    let status = api.merge(&format!("{TABS}/a/status"), &patch).await.is(200);
    assert_eq!(status["spec"]["replicas"], 1);
    assert_eq!(status["status"]["replicas"], 2);
    assert!(status["metadata"]["labels"].is_null());
    assert_eq!(status["metadata"]["generation"], 1);
    let scale = api.get(&format!("{TABS}/a/scale")).await.is(200);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    let wanted = json!({"spec": {"replicas": 7}});
    api.merge(&format!("{TABS}/a/scale"), &wanted).await.is(200);
    let now = api.get(&format!("{TABS}/a")).await.is(200);
    assert_eq!(now["spec"]["replicas"], 7);
    assert_eq!(now["metadata"]["generation"], 2);
}

#[tokio::test]
async fn tables_and_selectors_follow_the_definition() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    api.post(TABS, &tab("a")).await.is(201);
    let mut other = tab("b");
    other["spec"]["cronSpec"] = "1 * * * *".into();
    api.post(TABS, &other).await.is(201);
    let table = api.table(TABS).await;
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["Name", "Spec", "Replicas", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("a"), &json!("* * * * */5"), &json!(1)));
    let path = format!("{TABS}?fieldSelector=spec.cronSpec%3D1%20*%20*%20*%20*");
    let found = api.get(&path).await.is(200);
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["kind"], "CronTabList");
    assert_eq!(found["items"][0]["kind"], "CronTab");
    let unknown = api.get(&format!("{TABS}?fieldSelector=spec.nothing%3D1")).await;
    assert_eq!(unknown.code, 400);
}

#[tokio::test]
async fn objects_can_be_applied() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    let config = |ports: Value| {
        let mut config = tab("a");
        config["spec"]["ports"] = ports;
        config.to_string()
    };
    let path = |who: &str| format!("{TABS}/a?fieldManager={who}");
    api.apply(&path("one"), config(json!([{"port": 80, "name": "http"}]))).await.is(201);
    let mut second = tab("a");
    second["spec"] = json!({"ports": [{"port": 443}]});
    api.apply(&path("two"), second.to_string()).await.is(200);
    let both = api.get(&format!("{TABS}/a")).await.is(200);
    assert_eq!(both["spec"]["ports"], json!([{"port": 80, "name": "http"}, {"port": 443}]));
    let less = api.apply(&path("one"), config(json!([]))).await.is(200);
    assert_eq!(less["spec"]["ports"], json!([{"port": 443}]));
    let mut odd = tab("a");
    odd["unknownField"] = "x".into();
    let odd = api.apply(&path("one"), odd.to_string()).await;
    assert!(odd.message().contains(".unknownField: field not declared in schema"));
    let mut meta = tab("a");
    meta["metadata"]["unknownMeta"] = "x".into();
    let meta = api.apply(&path("one"), meta.to_string()).await;
    assert!(meta.message().contains(".metadata.unknownMeta: field not declared in schema"));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_with_it() {
    let api = Api::start().await;
    let made = api.post(DEFINITIONS, &definition()).await.is(201);
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    api.post(TABS, &tab("a")).await.is(201);
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    api.post(TABS, &held).await.is(201);
    let name = format!("{DEFINITIONS}/crontabs.stable.example.com");
    api.delete(&name).await.is(200);
    api.until(&format!("{TABS}/a"), 404).await;
    let late = api.post(TABS, &tab("late")).await;
    assert_eq!(late.code, 405, "{}", late.body);
    let there = api.get(&name).await.is(200);
    assert!(there["status"]["conditions"].to_string().contains("InstanceDeletionInProgress"));
    let free = json!({"metadata": {"finalizers": null}});
    api.merge(&format!("{TABS}/held"), &free).await.is(200);
    api.until(&name, 404).await;
    assert_eq!(api.get("/apis/stable.example.com/v1").await.code, 404);
    let again = api.post(DEFINITIONS, &definition()).await.is(201);
    assert!(again["status"]["conditions"].is_array());
    let list = api.get(TABS).await.is(200);
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn definitions_come_back_when_the_server_starts_again() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    api.registry.serve(crate::api::kinds::KindTable::builtin());
    assert_eq!(api.get(TABS).await.code, 404);
    api.registry.load_definitions().await.expect("the store answers");
    api.get(TABS).await.is(200);
}

#[tokio::test]
async fn versions_share_their_objects_and_come_and_go() {
    let api = Api::start().await;
    let mut two = definition();
    let mut v2 = two["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["storage"] = false.into();
    two["spec"]["versions"].as_array_mut().expect("a list").push(v2);
    let made = api.post(DEFINITIONS, &two).await.is(201);
    api.post(TABS, &tab("a")).await.is(201);
    let newer = TABS.replace("/v1/", "/v2/");
    let seen = api.get(&format!("{newer}/a")).await.is(200);
    assert_eq!(seen["apiVersion"], "stable.example.com/v2");
    let mut less = made;
    less["spec"]["versions"][1]["served"] = false.into();
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    api.put(&path, &less).await.is(200);
    assert_eq!(api.get(&newer).await.code, 404);
    assert_eq!(api.get("/openapi/v3/apis/stable.example.com/v2").await.code, 404);
    api.get(TABS).await.is(200);
}

#[tokio::test]
async fn the_status_of_a_definition_can_be_written() {
    let api = Api::start().await;
    api.post(DEFINITIONS, &definition()).await.is(201);
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com/status");
    let mut there = api.get(&path).await.is(200);
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    there["status"]["conditions"].as_array_mut().expect("conditions").push(condition);
    there["spec"]["scope"] = "Cluster".into();
    let written = api.put(&path, &there).await.is(200);
    assert!(written["status"]["conditions"].to_string().contains("Set from e2e test"));
    assert_eq!(written["spec"]["scope"], "Namespaced");
}
