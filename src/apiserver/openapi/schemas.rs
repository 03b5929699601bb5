//! The schemas of a document: k8s-openapi's, with the facts that they lack.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::api::kinds::{Access, Kind, Subresource};
use crate::api::schema::{Field, ListType, Schema};
use crate::api::schema_docs;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The schemas of `kinds` and of everything that they refer to.
pub(super) fn of(kinds: &[&Arc<Kind>], dialect: Dialect) -> Map<String, Value> {
    let mut all = schema_docs::definitions();
    for (name, schema) in &mut all {
        add_facts(name, schema);
    }
    let mut wanted: Vec<String> = vec![format!("{META}DeleteOptions"), format!("{META}Status")];
    for kind in kinds {
        if let Some(custom) = &kind.custom {
            let metadata = json!({
                "$ref": format!("#/components/schemas/{META}ObjectMeta"),
                "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
            });
            all.insert(kind.schema.to_string(), custom.published(metadata));
        }
        if let Some(schema) = all.get_mut(&*kind.schema) {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        }
        wanted.push(kind.schema.to_string());
        if kind.access == Access::Stored {
            let name = format!("{}List", kind.schema);
            all.insert(name.clone(), list_schema(kind));
            wanted.push(name);
        }
        wanted.extend(kind.subresources.iter().filter_map(|s| own_schema(kind, *s)));
    }
    let mut schemas = Map::new();
    while let Some(name) = wanted.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        let Some(mut schema) = all.get(&name).cloned() else { continue };
        rewrite(&mut schema, dialect, &mut wanted);
        schemas.insert(name, schema);
    }
    schemas
}

fn own_schema(kind: &Kind, subresource: Subresource) -> Option<String> {
    let schema = subresource.kind(kind).schema;
    (!schema.is_empty()).then(|| schema.to_owned())
}

fn list_schema(kind: &Kind) -> Value {
    let to = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    json!({
        "description": format!("{} is a list of {} objects.", kind.list_kind(), kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "APIVersion defines the versioned \
                schema of this representation of an object."},
            "kind": {"type": "string", "description": "Kind is a string value representing the \
                REST resource this object represents."},
            "items": {"type": "array", "items": to(&kind.schema), "description": "The objects."},
            "metadata": to(&format!("{META}ListMeta")),
        },
        "x-kubernetes-group-version-kind":
            [{"group": kind.group, "version": kind.version, "kind": kind.list_kind()}],
    })
}

/// List types, keys and patch strategies of the fields of one type.
fn add_facts(name: &str, schema: &mut Value) {
    let Some(of) = Schema::builtin().get(name) else { return };
    if of.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    for field in &of.fields {
        if let Some(node) = schema["properties"].get_mut(&*field.name) {
            field_facts(field, node);
        }
    }
}

fn field_facts(field: &Field, node: &mut Value) {
    if let Some(list) = field.list_type {
        node["x-kubernetes-list-type"] = json!(match list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        });
    }
    if !field.map_keys.is_empty() {
        node["x-kubernetes-list-map-keys"] = json!(field.map_keys);
    }
    if field.atomic_map {
        node["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Some(key) = &field.merge_key {
        node["x-kubernetes-patch-merge-key"] = json!(key);
    }
    let strategy = [
        (field.strategy.merge, "merge"),
        (field.strategy.retain_keys, "retainKeys"),
        (field.strategy.replace, "replace"),
    ];
    let words: Vec<&str> = strategy.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    if !words.is_empty() {
        node["x-kubernetes-patch-strategy"] = json!(words.join(","));
    }
}

/// References and unions in the words of the dialect; what is referred to is added to `wanted`.
fn rewrite(node: &mut Value, dialect: Dialect, wanted: &mut Vec<String>) {
    match node {
        Value::Array(list) => list.iter_mut().for_each(|v| rewrite(v, dialect, wanted)),
        Value::Object(map) => {
            if map.remove("x-kubernetes-int-or-string").is_some() {
                map.insert("format".into(), json!("int-or-string"));
                map.remove("anyOf");
                match dialect {
                    Dialect::V2 => map.insert("type".into(), json!("string")),
                    Dialect::V3 => {
                        map.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]))
                    }
                };
            }
            for value in map.values_mut() {
                rewrite(value, dialect, wanted);
            }
            if let Some(Value::String(reference)) = map.get("$ref").cloned() {
                let name = reference.rsplit('/').next().unwrap_or_default();
                wanted.push(name.to_owned());
                match dialect {
                    Dialect::V2 => {
                        map.insert("$ref".into(), json!(format!("#/definitions/{name}")));
                    }
                    // In OpenAPI 3.0 a reference has no neighbours.
                    Dialect::V3 if map.len() > 1 => {
                        map.remove("$ref");
                        map.insert("allOf".into(), json!([{"$ref": reference}]));
                    }
                    Dialect::V3 => {}
                }
            }
        }
        _ => {}
    }
}
