//! What the decoder takes, drops and refuses.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{FieldValidation, Format, Schema, Shape, decode, normalize};
use crate::api::kinds::{Kind, KindTable};

fn kind(api_version: &str, name: &str) -> Kind {
    (**KindTable::builtin().of(api_version, name).expect("a built-in kind")).clone()
}

fn strict(api_version: &str, name: &str, body: &str) -> Result<Value, String> {
    let kind = kind(api_version, name);
    decode(&kind, body.as_bytes(), Format::Json, FieldValidation::Strict)
        .map(|(object, _)| object)
        .map_err(|e| e.message)
}

#[test]
fn wrong_types_are_refused_in_the_words_of_go() {
    let table = [
        (
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":"x"}"#,
            "json: cannot unmarshal string into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"A","value":1}]}]}}}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{"a":1}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"spec":{"foo":1,"template":{"spec":{"containers":[{"bar":1}]}}},"metadata":{"name":"a","name":"b"}}"#,
            "strict decoding error: unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].bar\", duplicate field \"metadata.name\"",
        ),
    ];
    for (body, why) in table {
        let told = strict("apps/v1", "Deployment", body).expect_err(body);
        let head = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
        assert_eq!(told, format!("{head}{why}"));
    }
}

#[test]
fn bodies_that_are_no_object_of_the_kind_are_refused() {
    let unrecognized = "the object provided is unrecognized (must be of type Pod): couldn't get \
                        version/kind; json parse error: ";
    let table = [
        ("", "unexpected end of JSON input (<empty>)"),
        ("{\"a\":}", "invalid character '}' looking for beginning of value ({\"a\":})"),
        ("{} x", "invalid character 'x' after top-level value ({} x)"),
    ];
    for (body, why) in table {
        assert_eq!(strict("v1", "Pod", body), Err(format!("{unrecognized}{why}")), "{body}");
    }
    assert_eq!(
        strict("v1", "Pod", r#"{"apiVersion":"apps/v1","kind":"Pod"}"#),
        Err("the API version in the data (apps/v1) does not match the expected API version (v1)"
            .into())
    );
    let other = strict("v1", "Pod", r#"{"apiVersion":"v1","kind":"Service"}"#);
    assert!(
        other.is_err_and(|e| e.starts_with("Service in version \"v1\" cannot be handled as a Pod"))
    );
    assert!(strict("v1", "Pod", "[]").is_err());
    assert!(strict("v1", "Pod", "null").is_err());
    assert!(strict("v1", "Pod", &"[".repeat(100_000)).is_err());
}

#[test]
fn unknown_fields_are_dropped_and_told() {
    let pod = kind("v1", "Pod");
    let body = br#"{"metadata":{"name":"a"},"spec":{"x":{"y":[1]}}}"#;
    let (object, warnings) =
        decode(&pod, body, Format::Json, FieldValidation::Warn).expect("a pod");
    assert_eq!(warnings, ["unknown field \"spec.x\""]);
    let want = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
    assert_eq!(object, want);
    let (_, warnings) = decode(&pod, body, Format::Json, FieldValidation::Ignore).expect("a pod");
    assert!(warnings.is_empty());
}

#[test]
fn nulls_and_empty_collections_are_left_out_as_go_leaves_them_out() {
    let body = r#"{"metadata":{"name":"a","labels":{"x":null},"annotations":{},"finalizers":[]},
        "spec":{"nodeName":null,"securityContext":{},"containers":[],"volumes":[{"emptyDir":{}}]}}"#;
    let object = strict("v1", "Pod", body).expect("a pod");
    assert_eq!(object["metadata"], json!({"name": "a", "labels": {"x": ""}}));
    let spec = json!({"securityContext": {}, "containers": [], "volumes": [{"emptyDir": {}}]});
    assert_eq!(object["spec"], spec);
}

#[test]
fn scalars_come_out_as_kubernetes_writes_them() {
    let body = r#"{"metadata":{"creationTimestamp":"2026-01-02T03:04:05.6+01:00"},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":0.5,"memory":"1024Ki"}}}]}}"#;
    let object = strict("v1", "Pod", body).expect("a pod");
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
    let limits = &object["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"cpu": "500m", "memory": "1Mi"}));
    let secret = strict("v1", "Secret", r#"{"data":{"a":"%%"}}"#);
    assert!(secret.is_err_and(|e| e.ends_with("illegal base64 data at input byte 0")));
}

#[test]
fn yaml_is_taken_and_its_duplicates_are_told_by_line() {
    let map = kind("v1", "ConfigMap");
    let body = b"kind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: 'y'\n";
    let (object, _) = decode(&map, body, Format::Yaml, FieldValidation::Strict).expect("a map");
    assert_eq!(object["data"], json!({"x": "y"}));
    let twice = b"metadata:\n  name: a\ndata:\n  x: 'y'\n  x: 'z'\n";
    let told = decode(&map, twice, Format::Yaml, FieldValidation::Strict).expect_err("twice");
    assert!(told.message.ends_with("line 5: key \"x\" already set in map"), "{}", told.message);
    let (object, _) = decode(&map, twice, Format::Yaml, FieldValidation::Ignore).expect("a map");
    assert_eq!(object["data"], json!({"x": "z"}));
    let broken = decode(&map, b"a: [", Format::Yaml, FieldValidation::Strict);
    assert!(broken.is_err());
}

/// What the shape is called in a JSON schema: `(type, format)`, or the name that is referred to.
fn in_json_schema(schema: &Schema, shape: &Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bool => "boolean".into(),
        Shape::Int32 => "integer/int32".into(),
        Shape::Int64 => "integer/int64".into(),
        Shape::Double => "number/double".into(),
        Shape::Bytes => "string/byte".into(),
        Shape::Time => "Time".into(),
        Shape::MicroTime => "MicroTime".into(),
        Shape::Quantity => "Quantity".into(),
        Shape::IntOrString => "IntOrString".into(),
        Shape::Any | Shape::Deduced | Shape::Object => "any".into(),
        Shape::List(inner) => format!("[]{}", in_json_schema(schema, inner)),
        Shape::Map(inner) => format!("{{}}{}", in_json_schema(schema, inner)),
        Shape::Type(id) => schema.type_of(*id).short_name().to_owned(),
    }
}

fn of_json_schema(node: &Value) -> String {
    if let Some(reference) = node["$ref"].as_str() {
        let name = reference.rsplit(['.', '/']).next().unwrap_or_default();
        return match name {
            "RawExtension" | "FieldsV1" | "JSON" => "any".into(),
            // A schema, or something simpler: any JSON.
            name if name.starts_with("JSONSchemaPropsOr") => "any".into(),
            name => name.to_owned(),
        };
    }
    if let Some(one) = node["allOf"].get(0) {
        return of_json_schema(one);
    }
    match (node["type"].as_str(), node["format"].as_str()) {
        (Some("array"), _) => format!("[]{}", of_json_schema(&node["items"])),
        (Some("object"), _) => match node.get("additionalProperties") {
            Some(inner) => format!("{{}}{}", of_json_schema(inner)),
            None => "any".into(),
        },
        (Some(kind), Some(format)) => format!("{kind}/{format}"),
        (Some(kind), None) => kind.into(),
        _ => "any".into(),
    }
}

#[test]
fn table_agrees_with_k8s_openapi() {
    let definitions = crate::api::schema_docs::definitions();
    let schema = Schema::builtin();
    let mut wrong = Vec::new();
    for of in schema.types() {
        let Some(told) = definitions.get(&*of.name) else {
            wrong.push(format!("{} is not in k8s-openapi", of.name));
            continue;
        };
        let empty = serde_json::Map::new();
        let fields = told["properties"].as_object().unwrap_or(&empty);
        for (name, node) in fields {
            match of.field(name) {
                None => wrong.push(format!("{} lacks {name}", of.name)),
                Some(field) => {
                    let (ours, theirs) =
                        (in_json_schema(schema, &field.shape), of_json_schema(node));
                    if ours != theirs {
                        wrong.push(format!("{}.{name}: {ours} but {theirs}", of.name));
                    }
                }
            }
        }
        for field in of.fields.iter().filter(|f| !fields.contains_key(&*f.name)) {
            wrong.push(format!("{}.{} is not in k8s-openapi", of.name, field.name));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = proptest::sample::select(vec![
        "metadata",
        "spec",
        "containers",
        "name",
        "labels",
        "resources",
        "limits",
        "cpu",
        "env",
        "ports",
        "x",
        "status",
        "volumes",
        "emptyDir",
        "kind",
        "template",
        "selector",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn decoding_never_panics_and_decoding_again_changes_nothing(value in any_json()) {
        for kind in [kind("v1", "Pod"), kind("apps/v1", "Deployment")] {
            if let Ok((once, _)) = normalize(&kind, value.clone(), FieldValidation::Ignore) {
                let (twice, _) = normalize(&kind, once.clone(), FieldValidation::Strict)
                    .expect("what was decoded can be decoded");
                prop_assert_eq!(once, twice);
            }
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let pod = kind("v1", "Pod");
        let _ = decode(&pod, &bytes, Format::Json, FieldValidation::Strict);
        let _ = decode(&pod, &bytes, Format::Yaml, FieldValidation::Strict);
    }
}
