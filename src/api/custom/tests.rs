//! Definitions and the objects of their kinds.

use serde_json::{Value, json};

use super::*;

fn definition(schema: Value) -> Value {
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas"}}}],
        },
    })
}

fn kind(schema: Value) -> Kind {
    let mut definition = definition(schema);
    definition::default(&mut definition);
    assert_eq!(definition::validate(&definition), []);
    rows(&definition).remove(0)
}

fn told(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": properties},
    }})
}

#[test]
fn a_definition_makes_rows_with_names_and_subresources() {
    let kind = kind(spec(json!({"replicas": {"type": "integer"}})));
    assert_eq!(kind.schema, "com.example.stable.v1.CronTab");
    assert_eq!(kind.list_kind(), "CronTabList");
    assert_eq!(kind.singular, "crontab");
    assert!(kind.serves(Subresource::Scale) && kind.serves(Subresource::Status));
}

#[test]
fn unknown_fields_are_dropped_but_where_they_are_preserved() {
    let kind = kind(spec(json!({
        "known": {"type": "string"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object",
            "properties": {"a": {"type": "string"}}}},
    })));
    let custom = kind.custom.expect("a custom kind");
    let mut object = json!({
        "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "odd": 1,
        "spec": {"known": "a", "odd": 1, "free": {"b": 1}, "list": [{"a": "1", "b": "2"}]},
    });
    let mut dropped = custom.prune(&mut object);
    dropped.sort();
    assert_eq!(dropped, ["odd", "spec.list[0].b", "spec.odd"]);
    assert_eq!(object["spec"], json!({"known": "a", "free": {"b": 1}, "list": [{"a": "1"}]}));
}

#[test]
fn defaults_fill_in_what_is_left_out_also_below_defaults() {
    let kind = kind(spec(json!({
        "size": {"type": "integer", "default": 3},
        "box": {"type": "object", "default": {}, "properties": {
            "colour": {"type": "string", "default": "red"}}},
        "none": {"type": "string", "nullable": true, "default": "x"},
    })));
    let custom = kind.custom.expect("a custom kind");
    let mut object = json!({"spec": {"none": null}});
    custom.default(&mut object);
    assert_eq!(object["spec"], json!({"size": 3, "box": {"colour": "red"}, "none": null}));
    let before = object.clone();
    custom.default(&mut object);
    assert_eq!(object, before);
}

#[test]
fn broken_rules_are_told_in_the_words_of_kubernetes() {
    let kind = kind(json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["must"], "properties": {
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
            "cron": {"type": "string", "pattern": "^[0-9]+$"},
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "short": {"type": "string", "maxLength": 3},
            "port": {"x-kubernetes-int-or-string": true},
            "names": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 2,
                "items": {"type": "string"}},
            "at": {"type": "string", "format": "date-time"},
        }},
    }}));
    let custom = kind.custom.expect("a custom kind");
    let object = json!({"spec": {
        "replicas": "a", "cron": "x", "colour": "green", "short": "long!", "port": true,
        "names": ["a", "a", "b"], "at": "now",
    }});
    let mut errors = told(&custom.validate(&object, None));
    errors.sort();
    assert_eq!(
        errors,
        [
            "spec.at: Invalid value: \"now\": spec.at in body must be of type date-time: \"now\"",
            "spec.colour: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
            "spec.cron: Invalid value: \"x\": spec.cron in body should match '^[0-9]+$'",
            "spec.must: Required value",
            "spec.names: Too many: 3: must have at most 2 items",
            "spec.names[1]: Duplicate value: \"a\"",
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type \
             integer,string: \"boolean\"",
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type \
             integer: \"string\"",
            "spec.short: Too long: may not be more than 3 bytes",
        ]
    );
    let low = told(&custom.validate(&json!({"spec": {"must": 1, "replicas": 0}}), None));
    let why = "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or \
               equal to 1";
    assert_eq!(low, [why]);
    assert_eq!(told(&custom.validate(&json!({}), None)), ["spec: Required value"]);
}

#[test]
fn a_schema_that_is_not_structural_is_refused() {
    let odd = definition(json!({"type": "object", "properties": {
        "a": {"properties": {"b": {"type": "string"}}},
        "c": {"type": "array"},
        "d": {"type": "string", "pattern": "("},
    }}));
    let errors = told(&definition::validate(&odd));
    let at = "spec.versions[0].schema.openAPIV3Schema";
    assert!(errors.contains(&format!(
        "{at}.properties[a].type: Required value: must not be empty for specified object fields"
    )));
    assert!(
        errors.contains(&format!("{at}.properties[c].items: Required value: must be specified"))
    );
    assert!(errors.iter().any(|e| e.contains("must be a valid regular expression")));
    let array = definition(json!({"type": "array", "items": {"type": "string"}}));
    let errors = told(&definition::validate(&array));
    assert!(errors.iter().any(|e| e.ends_with("must be object at the root")), "{errors:?}");
    let mut named = definition(spec(json!({})));
    named["metadata"]["name"] = "crontabs".into();
    let errors = told(&definition::validate(&named));
    assert!(errors[0].contains(r#"must be spec.names.plural+"."+spec.group"#));
}

#[test]
fn unions_count_what_fits() {
    let kind = kind(json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        "not": {"required": ["c"]}}}}));
    let custom = kind.custom.expect("a custom kind");
    assert_eq!(told(&custom.validate(&json!({"spec": {"a": 1}}), None)), [""; 0]);
    let both = told(&custom.validate(&json!({"spec": {"a": 1, "b": 1}}), None));
    assert_eq!(
        both,
        ["spec: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). \
          Found 2 valid alternatives"]
    );
    let not = told(&custom.validate(&json!({"spec": {"a": 1, "c": 1}}), None));
    assert_eq!(not, ["spec: Invalid value: \"\": \"spec\" must not validate the schema (not)"]);
}

#[test]
fn paths_of_columns_find_what_they_name() {
    let object = json!({
        "metadata": {"labels": {"a.b": "dotted"}},
        "spec": {"list": [{"n": 1}, {"n": 2}]},
        "status": {"conditions": [{"type": "A", "status": "False"},
            {"type": "Ready", "status": "True"}]},
    });
    for (path, found) in [
        (".spec.list[0].n", json!([1])),
        (".spec.list[-1].n", json!([2])),
        (".spec.list[*].n", json!([1, 2])),
        (".metadata.labels['a\\.b']", json!(["dotted"])),
        (".metadata.labels.a\\.b", json!(["dotted"])),
        (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
        (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
        (".nothing.here", json!([])),
    ] {
        let parsed = JsonPath::parse(path).expect(path);
        assert_eq!(json!(parsed.find(&object)), found, "{path}");
    }
    for odd in [".a[", ".a..b", "a", ".a[x]", ".a[?(b)]"] {
        assert!(JsonPath::parse(odd).is_err(), "{odd}");
    }
}

#[test]
fn names_of_another_definition_are_not_accepted() {
    let mut object = definition(spec(json!({})));
    definition::default(&mut object);
    let mut refused = object.clone();
    definition::establish(&mut object, &|_| false, "now");
    assert!(definition::is_established(&object));
    assert_eq!(object["status"]["storedVersions"], json!(["v1"]));
    definition::establish(&mut refused, &|name| name == "CronTab", "now");
    assert!(!definition::is_established(&refused));
    let condition = crate::api::meta::condition(&refused, "NamesAccepted").expect("a condition");
    assert_eq!(condition["reason"], "KindConflict");
}
