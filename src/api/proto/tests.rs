//! Goldens by hand, and bodies that are refused.

use serde_json::{Map, Value, json};

use super::table::{Form, Message, Table};
use super::*;
use crate::api::kinds::{Kind, KindTable};
use crate::api::schema::Schema;

pub(super) fn kind(api_version: &str, kind: &str) -> Kind {
    (**KindTable::builtin().of(api_version, kind).expect("a built-in kind")).clone()
}

/// Fields of Kubernetes 1.37 whose numbers are not known here: they are left out of protobuf.
fn without_number() -> Vec<&'static str> {
    include_str!("without-number.txt").lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn every_field_of_a_served_type_has_its_number() {
    let schema = Schema::builtin();
    let mut missing = Vec::new();
    for of in schema.types() {
        let message = Table::builtin().get(&of.name);
        // What says of itself what it is says so in the envelope.
        let says_kind = of.field("kind").is_some() && of.field("apiVersion").is_some();
        let is_object =
            says_kind && (of.field("metadata").is_some() || of.short_name().ends_with("Options"));
        for field in &of.fields {
            if is_object && matches!(&*field.name, "kind" | "apiVersion") {
                continue;
            }
            if !message.is_some_and(|message| message.writes(&field.name)) {
                missing.push(format!("{}.{}", of.name, field.name));
            }
        }
    }
    let listed = without_number();
    let unknown: Vec<&String> = missing.iter().filter(|m| !listed.contains(&m.as_str())).collect();
    assert!(unknown.is_empty(), "run scripts/proto-table.py: {unknown:#?}");
    let known = |name: &&&'static str| {
        let (of, field) = name.rsplit_once('.').expect("a type and a field");
        Table::builtin().get(of).is_some_and(|message| message.writes(field))
    };
    let known: Vec<_> = listed.iter().filter(known).collect();
    assert!(known.is_empty(), "these have a number by now: {known:?}");
}

#[test]
fn numbers_of_a_message_are_unique_and_in_order() {
    fn check(message: &Message) {
        let fields = &message.fields;
        assert!(fields.windows(2).all(|w| w[0].number < w[1].number), "{}", message.name);
        for field in fields {
            if let Form::Inline(inner) = &field.form {
                check(inner);
            }
        }
    }
    Schema::builtin()
        .types()
        .iter()
        .filter_map(|of| Table::builtin().get(&of.name))
        .for_each(check);
}

/// The raw message of an object, without its envelope.
fn raw_of(object: &Value) -> Vec<u8> {
    let text = |field: &str| object[field].as_str().expect("an object says what it is");
    raw(text("apiVersion"), text("kind"), object).expect("the kind has a message")
}

pub(super) fn decoded(of: &Kind, bytes: &[u8]) -> Value {
    decode(of, bytes, FieldValidation::Strict).expect("a sound body").0
}

/// `metadata` of an object that has a name alone: every value of ObjectMeta is written.
const NAMED_A: &[u8] = b"\x0a\x11\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";

#[test]
fn a_config_map_is_written_as_go_writes_it() {
    let map = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"},
        "data": {"k": "v", "a": ""}, "binaryData": {"b": "AQI="}, "immutable": false,
    });
    let data = b"\x12\x05\x0a\x01a\x12\x00\x12\x06\x0a\x01k\x12\x01v";
    let binary = b"\x1a\x07\x0a\x01b\x12\x02\x01\x02";
    let raw = [NAMED_A, data, binary, b"\x20\x00"].concat();
    assert_eq!(raw_of(&map), raw);
    let length = u8::try_from(raw.len()).expect("a short message");
    let head = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12";
    let whole = [&head[..], &[length], &raw, b"\x1a\x00\x22\x00"].concat();
    assert_eq!(encode(&map).expect("config maps are served"), whole);
    assert_eq!(decoded(&kind("v1", "ConfigMap"), &whole), map);
}

#[test]
fn what_is_inlined_in_json_is_a_message_of_its_own() {
    let probe = json!({
        "tcpSocket": {"port": "http"}, "periodSeconds": 3, "terminationGracePeriodSeconds": 0,
    });
    let table = Table::builtin();
    let of = table.get("io.k8s.api.core.v1.Probe").expect("pods are served");
    let mut out = Backwards::default();
    encode::message(&mut out, table, of, &probe);
    // handler { tcpSocket { port { type 1, intVal 0, strVal "http" }, host "" } }
    let handler = b"\x0a\x10\x1a\x0e\x0a\x0a\x08\x01\x10\x00\x1a\x04http\x12\x00";
    let rest = b"\x10\x00\x18\x00\x20\x03\x28\x00\x30\x00\x38\x00";
    let bytes = [&handler[..], rest].concat();
    assert_eq!(out.finish(), bytes);
    let mut read = Map::new();
    Decoder::new(table).message(of, &bytes, &mut read).expect("a sound message");
    let mut want = probe;
    want["tcpSocket"]["port"] = json!("http");
    assert_eq!(Value::Object(read), want);
}

#[test]
fn times_quantities_and_negative_numbers_are_written_as_go_writes_them() {
    let table = Table::builtin();
    let written = |of: &str, object: Value| {
        let of = table.get(of).expect("a served type");
        let mut out = Backwards::default();
        encode::message(&mut out, table, of, &object);
        let bytes = out.finish();
        let mut read = Map::new();
        Decoder::new(table).message(of, &bytes, &mut read).expect("a sound message");
        assert_eq!(Value::Object(read), object);
        bytes
    };
    let lease = json!({
        "renewTime": "1970-01-01T00:00:01.000002Z", "leaseDurationSeconds": -1,
    });
    // Negative numbers take ten bytes; a MicroTime has its nanoseconds.
    let minus_one = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let bytes = [b"\x10", &minus_one[..], b"\x22\x05\x08\x01\x10\xd0\x0f"].concat();
    assert_eq!(written("io.k8s.api.coordination.v1.LeaseSpec", lease), bytes);
    let empty_dir = json!({"sizeLimit": "1Gi"});
    let bytes = written("io.k8s.api.core.v1.EmptyDirVolumeSource", empty_dir);
    assert_eq!(&bytes[..9], b"\x0a\x00\x12\x05\x0a\x031Gi");
    let term = json!({"reason": "", "startedAt": "1970-01-01T00:02:08Z", "exitCode": 3});
    let bytes =
        [&b"\x08\x03\x10\x00\x1a\x00\x22\x00\x2a\x05\x08\x80\x01\x10\x00\x32\x00\x3a\x00"[..]]
            .concat();
    let mut want = term;
    want.as_object_mut().expect("an object").remove("reason");
    assert_eq!(written("io.k8s.api.core.v1.ContainerStateTerminated", want), bytes);
}

#[test]
fn what_is_zero_and_no_pointer_is_left_out_of_the_json() {
    let deployment = json!({
        "kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"},
        "spec": {
            "replicas": 0,
            "selector": {},
            "template": {"metadata": {}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {}},
            ]}},
            "strategy": {},
        },
        "status": {},
    });
    let bytes = encode(&deployment).expect("deployments are served");
    assert_eq!(decoded(&kind("apps/v1", "Deployment"), &bytes), deployment);
}

#[test]
fn lists_and_partial_metadata_and_statuses_are_written() {
    let list = json!({
        "kind": "SecretList", "apiVersion": "v1",
        "metadata": {"resourceVersion": "7", "continue": "c", "remainingItemCount": 2},
        "items": [{"metadata": {"name": "a"}, "type": "Opaque"}],
    });
    let item = [NAMED_A, b"\x1a\x06Opaque"].concat();
    let raw = [&b"\x0a\x0a\x0a\x00\x12\x017\x1a\x01c\x20\x02\x12\x1b"[..], &item].concat();
    assert_eq!(raw_of(&list), raw);
    let items = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .rev()
        .map(|item| Ok::<_, ()>(item.clone()));
    let written = encode_list(&kind("v1", "Secret"), &list["metadata"], items);
    assert_eq!(written, Ok(encode(&list)));
    let partial = json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "a"},
    });
    assert_eq!(raw_of(&partial), NAMED_A);
    let partials = json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {}, "items": [partial],
    });
    assert_eq!(
        raw_of(&partials),
        [&b"\x0a\x06\x0a\x00\x12\x00\x1a\x00\x12\x13"[..], NAMED_A].concat()
    );
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "m", "reason": "NotFound", "code": 404,
    });
    let raw =
        b"\x0a\x06\x0a\x00\x12\x00\x1a\x00\x12\x07Failure\x1a\x01m\x22\x08NotFound\x30\x94\x03";
    assert_eq!(raw_of(&status), raw);
}

#[test]
fn a_watch_event_is_a_frame_with_its_length() {
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}});
    let inner = encode(&object).expect("config maps are served");
    let inner_length = u8::try_from(inner.len()).expect("a short message");
    let event =
        [&b"\x0a\x05ADDED\x12"[..], &[inner_length + 2, 0x0a, inner_length], &inner].concat();
    let length = u32::try_from(event.len()).expect("a short message").to_be_bytes();
    assert_eq!(frame("ADDED", &object).expect("a frame"), [&length[..], &event].concat());
}

#[test]
fn tables_and_custom_resources_have_no_form() {
    for object in [
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": []}),
        json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {}}),
        json!({"kind": "WidgetList", "apiVersion": "example.com/v1", "items": []}),
        json!({"paths": []}),
    ] {
        assert_eq!(encode(&object), None, "{object}");
    }
    assert!(!serves("io.example.v1.Widget"));
}

#[test]
fn bodies_that_are_no_message_of_the_kind_are_refused_in_the_words_of_kubernetes() {
    let of = kind("apps/v1", "Deployment");
    let wrapped =
        |api_version: &str, kind: &str, raw: &[u8]| envelope::wrap(api_version, kind, raw);
    let unrecognized = "the object provided is unrecognized (must be of type Deployment): ";
    let refused = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
    for (bytes, expected) in [
        (b"".to_vec(), format!("{unrecognized}empty data (<empty>)")),
        (
            b"{}".to_vec(),
            format!(
                "{unrecognized}provided data does not appear to be a protobuf message, expected \
                 prefix [107 56 115 0] (7b7d)"
            ),
        ),
        (b"k8s\0".to_vec(), format!("{unrecognized}empty body (6b387300)")),
        (b"k8s\0\x0a\x09".to_vec(), format!("{unrecognized}unexpected EOF (6b3873000a09)")),
        (wrapped("apps/v1", "Deployment", b"\x12\x01"), format!("{refused}unexpected EOF")),
        (
            wrapped("apps/v1", "Deployment", b"\x12\x02\x0a\x00"),
            format!("{refused}proto: wrong wireType = 2 for field Replicas"),
        ),
        (
            wrapped("apps/v1", "Deployment", b"\x12\x01\x02"),
            format!("{refused}proto: DeploymentSpec: illegal tag 0 (wire type 2)"),
        ),
        (
            wrapped("apps/v1", "Deployment", b"\x0c"),
            format!("{refused}proto: Deployment: wiretype end group for non-group"),
        ),
        (
            wrapped("apps/v1beta1", "Deployment", b""),
            "the API version in the data (apps/v1beta1) does not match the expected API version \
             (apps/v1)"
                .to_owned(),
        ),
        (
            wrapped("apps/v1", "DaemonSet", b"\x0c"),
            "DaemonSet in version \"v1\" cannot be handled as a Deployment: converting \
             (v1.DaemonSet) to (v1.Deployment): unknown conversion"
                .to_owned(),
        ),
    ] {
        let error = decode(&of, &bytes, FieldValidation::Strict).expect_err(&expected);
        assert_eq!(error.message, expected);
        assert_eq!(error.reason.code(), 400);
    }
}

#[test]
fn unknown_fields_are_passed_over_even_when_validation_is_strict() {
    let of = kind("v1", "ConfigMap");
    // A group, a varint, eight and four bytes, a string, of numbers that nobody uses.
    let unknown = b"\xfb\x06\x08\x01\xfc\x06\xf8\x06\x05\xf9\x0612345678\xfd\x061234\xfa\x06\x01x";
    let raw = [NAMED_A, unknown].concat();
    let read = decoded(&of, &envelope::wrap("v1", "ConfigMap", &raw));
    assert_eq!(read, json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}));
}

#[test]
fn a_message_that_comes_twice_is_merged_and_packed_numbers_are_read() {
    let of = kind("v1", "Pod");
    let spec = b"\x12\x0b\x72\x09\x22\x03\x01\x02\x03\x20\x04\x10\x07\x12\x04\x72\x02\x10\x08";
    let read = decoded(&of, &envelope::wrap("", "", spec));
    let context = json!({"supplementalGroups": [1, 2, 3, 4], "runAsUser": 8});
    assert_eq!(read["kind"], "Pod");
    assert_eq!(read["spec"]["securityContext"], context);
}

#[test]
fn a_body_that_is_nested_too_deep_is_refused() {
    let of = Table::builtin();
    let Some(schema) =
        of.get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
    else {
        return;
    };
    // not { not { … } }
    let mut bytes = Vec::new();
    for _ in 0..200 {
        let mut out = Backwards::default();
        out.text(28, &bytes);
        bytes = out.finish();
    }
    let read = Decoder::new(of).message(schema, &bytes, &mut Map::new());
    assert_eq!(read, Err(Malformed::Depth));
}
