//! sig-api-machinery: CustomResourceDefinitions, the OpenAPI that is published of them, and the
//! fields of their objects.

use http::Method;
use serde_json::{Value, json};

use super::harness::{APPLY, Answer, Api, MERGE, kubectl, names, unique};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

struct Made {
    group: String,
    plural: String,
    kind: String,
}

impl Made {
    fn path(&self, version: &str) -> String {
        format!("/apis/{}/{version}/{}", self.group, self.plural)
    }

    fn definition(&self) -> String {
        format!("{DEFINITIONS}/{}.{}", self.plural, self.group)
    }
}

fn version(name: &str, schema: &Value, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}})
}

fn allow_all() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A definition of a group of its own.
async fn define(api: &Api, scope: &str, versions: Vec<Value>) -> Made {
    let suffix = unique("e2e-test");
    let made = Made {
        group: format!("{suffix}.example.com"),
        plural: format!("{suffix}-crds"),
        kind: format!("{suffix}-crd").replace("e2e", "E2e"),
    };
    define_as(api, &made, scope, versions).await;
    made
}

async fn define_as(api: &Api, made: &Made, scope: &str, versions: Vec<Value>) {
    let definition = json!({
        "metadata": {"name": format!("{}.{}", made.plural, made.group)},
        "spec": {"group": made.group, "scope": scope, "versions": versions, "names": {
            "plural": made.plural, "singular": made.kind.to_lowercase(), "kind": made.kind,
            "listKind": format!("{}List", made.kind)}}});
    api.post(DEFINITIONS, &definition).await.is(201);
    api.eventually(&made.definition(), |answer| {
        let conditions = answer.body["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    })
    .await;
}

#[tokio::test]
async fn custom_objects_are_watched() {
    let api = Api::connect().await;
    let made = define(&api, "Cluster", vec![version("v1", &allow_all(), true)]).await;
    let path = made.path("v1");
    let named = |name: &str| {
        json!({"apiVersion": format!("{}/v1", made.group), "kind": made.kind,
        "metadata": {"name": name}, "content": {"key": "value"}, "num": {"num1": 1}})
    };
    let mut a = api.watch(&format!("{path}?fieldSelector=metadata.name%3Dname1")).await;
    let mut b = api.watch(&format!("{path}?fieldSelector=metadata.name%3Dname2")).await;
    for name in ["name1", "name2"] {
        api.post(&path, &named(name)).await.is(201);
        let dummy = json!({"dummy": "test"});
        api.patch(&format!("{path}/{name}"), MERGE, &dummy).await.is(200);
        api.delete(&format!("{path}/{name}")).await.is(200);
        let watch = if name == "name1" { &mut a } else { &mut b };
        for expected in ["ADDED", "MODIFIED", "DELETED"] {
            assert_eq!(watch.next().await["type"], expected);
        }
    }
}

#[tokio::test]
async fn the_status_of_a_definition_is_read_updated_and_patched() {
    let api = Api::connect().await;
    let made = define(&api, "Cluster", vec![version("v1", &allow_all(), true)]).await;
    let status = format!("{}/status", made.definition());
    let mut read = api.get(&status).await.is(200);
    assert_eq!(read["kind"], "CustomResourceDefinition");
    let condition = |name: &str| {
        json!({"type": name, "status": "True", "reason": "E2E", "message": "Set from e2e test",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let conditions = read["status"]["conditions"].as_array_mut().expect("conditions");
    conditions.push(condition("StatusUpdate"));
    let updated = api.put(&status, &read).await.is(200);
    assert!(updated["status"]["conditions"].to_string().contains("StatusUpdate"));
    let patch = json!({"metadata": {"annotations": {"e2e": "patched"}},
        "status": {"conditions": [condition("StatusPatched")]}});
    let patched = api.patch(&status, MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatched");
    assert!(patched["metadata"]["annotations"]["e2e"].is_null(), "only the status is written");
}

#[tokio::test]
async fn definitions_are_listed_and_deleted_together() {
    let api = Api::connect().await;
    let label = unique("list");
    for _ in 0..4 {
        let made = define(&api, "Cluster", vec![version("v1", &allow_all(), true)]).await;
        let patch = json!({"metadata": {"labels": {"e2e-list-test-uuid": label}}});
        api.patch(&made.definition(), MERGE, &patch).await.is(200);
    }
    let selected = format!("{DEFINITIONS}?labelSelector=e2e-list-test-uuid%3D{label}");
    assert_eq!(api.items(&selected).await.len(), 4);
    api.delete(&selected).await.is(200);
    api.eventually(&selected, |answer| answer.body["items"].as_array().is_some_and(Vec::is_empty))
        .await;
}

#[tokio::test]
async fn custom_objects_are_defaulted_when_they_are_written_and_when_they_are_read() {
    let api = Api::connect().await;
    let schema = |with: bool| {
        let mut a = json!({"type": "string"});
        if with {
            a["default"] = "A".into();
        }
        json!({"type": "object", "properties": {"a": a, "b": {"type": "string"}}})
    };
    let made = define(&api, "Cluster", vec![version("v1", &schema(false), true)]).await;
    let object = json!({"apiVersion": format!("{}/v1", made.group), "kind": made.kind,
        "metadata": {"name": "foo"}});
    let path = made.path("v1");
    let first = api.post(&path, &object).await.is(201);
    assert!(first["a"].is_null());
    let change = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": schema(true)}]);
    api.patch(&made.definition(), super::harness::JSON_PATCH, &change).await.is(200);
    let read = api.eventually(&format!("{path}/foo"), |answer| answer.body["a"] == "A").await;
    assert!(read["b"].is_null());
    let listed = api.items(&path).await;
    assert_eq!(listed[0]["a"], "A", "a list is defaulted too");
}

fn foo() -> Value {
    json!({"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo", "properties": {
            "bars": {"description": "List of Bars and their specs.", "type": "array", "items": {
                "type": "object", "required": ["name"], "properties": {
                    "name": {"description": "Name of Bar.", "type": "string"},
                    "age": {"description": "Age of Bar.", "type": "string"},
                    "feeling": {"description": "Whether Bar is feeling great.", "type": "string",
                        "enum": ["Great", "Down"]},
                    "bazs": {"description": "List of Bazs.", "type": "array",
                        "items": {"type": "string"}}}}}}},
        "status": {"description": "Status of Foo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {
                "type": "object", "properties": {
                    "name": {"description": "Name of Bar.", "type": "string"},
                    "available": {"description": "Whether the Bar is installed.",
                        "type": "boolean"},
                    "quxType": {"description": "Indicates to external qux type.",
                        "pattern": "in-tree|out-of-tree", "type": "string"}}}}}}}})
}

fn waldo() -> Value {
    json!({"description": "Waldo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
            "dummy": {"description": "Dummy property.", "type": "object"}}},
        "status": {"description": "Status of Waldo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array",
                "items": {"type": "object"}}}}}})
}

/// The definition of a kind as the OpenAPI document has it, without what the server added.
async fn published(api: &Api, made: &Made, version: &str) -> Option<Value> {
    let document = api.get("/openapi/v2").await.is(200);
    let mut parts: Vec<&str> = made.group.split('.').rev().collect();
    parts.extend([version, &made.kind]);
    let mut found = document["definitions"].get(parts.join("."))?.clone();
    let map = found.as_object_mut()?;
    map.remove("x-kubernetes-group-version-kind");
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for added in ["apiVersion", "kind", "metadata"] {
            properties.remove(added);
        }
    }
    Some(found)
}

async fn explain(field: String) -> (bool, String) {
    let run = move || kubectl(&["explain", &field], "");
    tokio::task::spawn_blocking(run).await.expect("kubectl runs")
}

async fn run(args: Vec<String>, input: String) -> (bool, String) {
    let run = move || kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>(), &input);
    tokio::task::spawn_blocking(run).await.expect("kubectl runs")
}

fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing in {text}"));
        rest = &rest[at + part.len()..];
    }
}

#[tokio::test]
async fn kubectl_understands_a_kind_by_its_schema() {
    let api = Api::connect().await;
    let namespace = api.namespace("crd-publish-openapi").await;
    let made = define(&api, "Namespaced", vec![version("v1", &foo(), true)]).await;
    let meta = format!(
        r#""kind":"{}","apiVersion":"{}/v1","metadata":{{"name":"test-foo"}}"#,
        made.kind, made.group
    );
    let valid = format!(r#"{{{meta},"spec":{{"bars":[{{"name":"test-bar"}}]}}}}"#);
    let ns = format!("--namespace={namespace}");
    for verb in ["create", "apply"] {
        let args = vec![ns.clone(), verb.into(), "-f".into(), "-".into()];
        let (ok, text) = run(args, valid.clone()).await;
        assert!(ok, "{verb}: {text}");
        let args = vec![ns.clone(), "delete".into(), made.plural.clone(), "test-foo".into()];
        let (ok, text) = run(args, String::new()).await;
        assert!(ok, "{text}");
        for (spec, says) in [
            (r#""bars":[{"name":"b","feeling":"Sad"}]"#, "Unsupported value: \"Sad\""),
            (r#""foo":true"#, "unknown field \"spec.foo\""),
            (r#""bars":[{"age":"10"}]"#, "spec.bars[0].name: Required value"),
        ] {
            let input = format!(r#"{{{meta},"spec":{{{spec}}}}}"#);
            let args = vec![ns.clone(), verb.into(), "-f".into(), "-".into()];
            let (ok, text) = run(args, input).await;
            assert!(!ok && text.contains(says), "{verb}: {text}");
        }
    }
    let (_, text) = explain(made.plural.clone()).await;
    in_order(
        &text,
        &[
            "DESCRIPTION:",
            "Foo CRD for Testing",
            "FIELDS:",
            "apiVersion",
            "<string>",
            "APIVersion defines",
            "spec",
            "<Object>",
            "Specification of Foo",
        ],
    );
    let (_, text) = explain(format!("{}.metadata", made.plural)).await;
    in_order(
        &text,
        &[
            "DESCRIPTION:",
            "Standard object's metadata",
            "FIELDS:",
            "creationTimestamp",
            "<string>",
            "CreationTimestamp is a timestamp",
        ],
    );
    let (_, text) = explain(format!("{}.spec.bars", made.plural)).await;
    in_order(
        &text,
        &[
            "<[]Object>",
            "DESCRIPTION:",
            "List of Bars",
            "FIELDS:",
            "bazs",
            "<[]string>",
            "List of Bazs",
            "name",
            "<string>",
            "Name of Bar",
        ],
    );
    let (ok, text) = explain(format!("{}.spec.bars2", made.plural)).await;
    assert!(!ok && text.contains("field \"bars2\" does not exist"), "{text}");
}

#[tokio::test]
async fn kubectl_takes_any_field_of_a_kind_without_a_schema() {
    let api = Api::connect().await;
    let namespace = api.namespace("crd-publish-openapi").await;
    let made = define(&api, "Namespaced", vec![version("v1", &allow_all(), true)]).await;
    let input = format!(
        r#"{{"kind":"{}","apiVersion":"{}/v1","metadata":{{"name":"test-cr"}},"a":{{"b":[{{"c":"d"}}]}}}}"#,
        made.kind, made.group
    );
    let ns = format!("--namespace={namespace}");
    for verb in ["create", "apply"] {
        let (ok, text) =
            run(vec![ns.clone(), verb.into(), "-f".into(), "-".into()], input.clone()).await;
        assert!(ok, "{verb}: {text}");
        let args = vec![ns.clone(), "delete".into(), made.plural.clone(), "test-cr".into()];
        let (ok, text) = run(args, String::new()).await;
        assert!(ok, "{text}");
    }
    let (_, text) = explain(made.plural.clone()).await;
    in_order(&text, &["DESCRIPTION:", "<empty>"]);
}

#[tokio::test]
async fn the_schemas_of_groups_and_versions_are_published_as_they_are() {
    let api = Api::connect().await;
    let one = define(&api, "Namespaced", vec![version("v1", &foo(), true)]).await;
    let other = define(&api, "Namespaced", vec![version("v1beta1", &waldo(), true)]).await;
    assert_eq!(published(&api, &one, "v1").await, Some(foo()));
    assert_eq!(published(&api, &other, "v1beta1").await, Some(waldo()));
    let versions = vec![version("v2", &foo(), true), version("v3", &foo(), false)];
    let many = define(&api, "Namespaced", versions).await;
    assert_eq!(published(&api, &many, "v2").await, Some(foo()));
    assert_eq!(published(&api, &many, "v3").await, Some(foo()));
    let same_group =
        Made { group: one.group.clone(), plural: "others".into(), kind: "Other".into() };
    define_as(&api, &same_group, "Namespaced", vec![version("v4", &waldo(), true)]).await;
    assert_eq!(published(&api, &same_group, "v4").await, Some(waldo()));
    assert_eq!(published(&api, &one, "v1").await, Some(foo()));
}

#[tokio::test]
async fn a_version_that_is_renamed_or_served_no_more_changes_what_is_published() {
    let api = Api::connect().await;
    let versions = vec![version("v2", &foo(), true), version("v3", &foo(), false)];
    let made = define(&api, "Namespaced", versions).await;
    let rename = json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]);
    api.patch(&made.definition(), super::harness::JSON_PATCH, &rename).await.is(200);
    assert_eq!(published(&api, &made, "v4").await, Some(foo()));
    assert_eq!(published(&api, &made, "v3").await, None);
    assert_eq!(published(&api, &made, "v2").await, Some(foo()));
    let unserved = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    api.patch(&made.definition(), super::harness::JSON_PATCH, &unserved).await.is(200);
    assert_eq!(published(&api, &made, "v4").await, None);
    assert_eq!(published(&api, &made, "v2").await, Some(foo()));
    assert_eq!(api.get(&made.path("v4")).await.code, 404);
}

#[tokio::test]
async fn a_definition_is_discovered_whole() {
    let api = Api::connect().await;
    let made = define(&api, "Namespaced", vec![version("v1", &allow_all(), true)]).await;
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = api.send(Method::GET, "/apis", &accept, String::new()).await.is(200);
    let groups = all["items"].as_array().expect("groups");
    let own = groups.iter().find(|g| g["metadata"]["name"] == made.group).expect("the group");
    assert_eq!(own["versions"][0]["resources"][0]["resource"], made.plural);
}

async fn apply(api: &Api, made: &Made, body: &str) -> Answer {
    let path = format!(
        "{}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict",
        made.path("v1")
    );
    let body = format!(
        "apiVersion: {}/v1\nkind: {}\nmetadata:\n  name: mytest\n  finalizers:\n  - \
         test-finalizer\n{body}",
        made.group, made.kind
    );
    api.send(Method::PATCH, &path, &[("content-type", APPLY)], body).await
}

const PORTS: &str = "  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    \
                     protocol: TCP\n";

fn strict_schema() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string",
            "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"format": "int32", "type": "integer"},
                "hostIP": {"type": "string"},
                "hostPort": {"format": "int32", "type": "integer"},
                "name": {"type": "string"}, "protocol": {"type": "string"}}}}}}}})
}

#[tokio::test]
async fn a_configuration_of_a_kind_is_judged_by_its_schema() {
    let api = Api::connect().await;
    let free = define(&api, "Cluster", vec![version("v1", &allow_all(), true)]).await;
    apply(&api, &free, &format!("spec:\n  unknown: uk1\n{PORTS}")).await.is(201);
    let strict = define(&api, "Cluster", vec![version("v1", &strict_schema(), true)]).await;
    let unknown = format!("unknownField: unknown\nspec:\n  foo: foo1\n{PORTS}");
    let refused = apply(&api, &strict, &unknown).await;
    let says = ".unknownField: field not declared in schema";
    assert!(refused.message().contains(says), "{}", refused.message());
    apply(&api, &strict, &format!("spec:\n  foo: foo1\n{PORTS}")).await.is(201);
}

#[tokio::test]
async fn unknown_and_doubled_fields_of_a_custom_object_are_told() {
    let api = Api::connect().await;
    let mut schema = strict_schema();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema["properties"]["spec"]["properties"]["template"] = json!({"type": "object",
        "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"}}});
    let made = define(&api, "Cluster", vec![version("v1", &schema, true)]).await;
    let doubled = format!("spec:\n  unknown: uk1\n  foo: foo1\n  foo: foo2\n{PORTS}");
    let refused = apply(&api, &made, &doubled).await;
    assert!(refused.message().contains("key \"foo\" already set in map"), "{}", refused.message());
    let path = format!("{}?fieldManager=mgr&fieldValidation=Strict", made.path("v1"));
    let body = format!(
        r#"{{"apiVersion":"{}/v1","kind":"{}","metadata":{{"name":"json"}},
        "spec":{{"unknown":"uk1","unknown":"uk2"}}}}"#,
        made.group, made.kind
    );
    let refused = api.send(Method::POST, &path, &[], body).await;
    assert!(
        refused.message().contains("duplicate field \"spec.unknown\""),
        "{}",
        refused.message()
    );
    let path = format!("{}?fieldManager=mgr&fieldValidation=Strict", made.path("v1"));
    let body = json!({"apiVersion": format!("{}/v1", made.group), "kind": made.kind,
        "metadata": {"name": "meta", "unknownMeta": "unknown"},
        "spec": {"template": {"apiVersion": "foo/v1", "kind": "Sub",
            "metadata": {"unknownSubMeta": "unknown", "name": "subobject"}}}});
    let refused = api.post(&path, &body).await;
    for field in ["metadata.unknownMeta", "spec.template.metadata.unknownSubMeta"] {
        let says = format!("unknown field {field:?}");
        assert!(refused.message().contains(&says), "{says}: {}", refused.message());
    }
}

#[tokio::test]
async fn the_rules_of_a_schema_are_kept() {
    let api = Api::connect().await;
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.x + self.y > 0"},
                {"rule": "self.x >= oldSelf.x", "message": "x may not fall"}],
            "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}},
        "status": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.health == 'ok' || self.health == 'unhealthy'"}],
            "properties": {"health": {"type": "string"}}}}});
    let made = define(&api, "Cluster", vec![version("v1", &schema, true)]).await;
    let path = made.path("v1");
    let object = |name: &str, x: i64| {
        json!({"apiVersion": format!("{}/v1", made.group),
        "kind": made.kind, "metadata": {"name": name}, "spec": {"x": x, "y": 0}})
    };
    api.post(&path, &object("good", 1)).await.is(201);
    let refused = api.post(&path, &object("bad", 0)).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .ends_with("spec: Invalid value: \"object\": failed rule: self.x + self.y > 0"),
        "{}",
        refused.message()
    );
    let less = json!({"spec": {"x": 0, "y": 5}});
    let refused = api.patch(&format!("{path}/good"), MERGE, &less).await;
    assert!(refused.message().ends_with("x may not fall"), "{}", refused.message());
    let more = json!({"spec": {"x": 2}});
    api.patch(&format!("{path}/good"), MERGE, &more).await.is(200);
    let sick = json!({"status": {"health": "dead"}});
    assert_eq!(api.patch(&format!("{path}/good/status"), MERGE, &sick).await.code, 422);
}

#[tokio::test]
async fn a_definition_with_a_rule_that_cannot_be_kept_is_refused() {
    let api = Api::connect().await;
    for (rule, says) in [
        ("self.z == 100", "undefined field 'z'"),
        ("self = 42", "Syntax error"),
        ("self.x", "must evaluate to a bool"),
        ("self.x == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
    ] {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [{"rule": rule}],
            "properties": {"x": {"type": "integer"}}}}});
        let group = format!("{}.example.com", unique("rules"));
        let definition = json!({"metadata": {"name": format!("foos.{group}")}, "spec": {
            "group": group, "scope": "Cluster", "versions": [version("v1", &schema, true)],
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"}}});
        let refused = api.post(DEFINITIONS, &definition).await;
        assert_eq!(refused.code, 422, "{rule}: {}", refused.body);
        assert!(refused.message().contains(says), "{rule}: {}", refused.message());
    }
}

#[tokio::test]
async fn custom_objects_are_selected_by_the_fields_that_a_version_names() {
    let api = Api::connect().await;
    let schema = json!({"type": "object", "properties": {
        "hostPort": {"type": "string"}, "host": {"type": "string"}, "port": {"type": "string"}}});
    let mut v1 = version("v1", &schema, true);
    v1["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    let made = define(&api, "Namespaced", vec![v1]).await;
    let namespace = api.namespace("crd-selectable-fields").await;
    let path = format!("/apis/{}/v1/namespaces/{namespace}/{}", made.group, made.plural);
    for (name, host, port) in
        [("one", "host1", "80"), ("two", "host1", "8080"), ("three", "host2", "80")]
    {
        let object = json!({"apiVersion": format!("{}/v1", made.group), "kind": made.kind,
            "metadata": {"name": name}, "host": host, "port": port});
        api.post(&path, &object).await.is(201);
    }
    let found = api.items(&format!("{path}?fieldSelector=host%3Dhost1,port%3D80")).await;
    assert_eq!(names(&found), ["one"]);
    let mut watch = api.watch(&format!("{path}?fieldSelector=host%3Dhost1")).await;
    for _ in 0..2 {
        assert_eq!(watch.next().await["type"], "ADDED");
    }
    api.patch(&format!("{path}/one"), MERGE, &json!({"host": "host2"})).await.is(200);
    assert_eq!(watch.next().await["type"], "DELETED");
    api.delete(&format!("{path}?fieldSelector=host%3Dhost2")).await.is(200);
    assert_eq!(names(&api.items(&path).await), ["two"]);
}
