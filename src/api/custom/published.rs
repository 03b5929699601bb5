//! A schema as the OpenAPI documents of the server tell it.

use serde_json::{Map, Value, json};

/// The published form of `openAPIV3Schema`; `metadata` is what stands for the metadata.
pub(super) fn of(source: &Value, metadata: Value) -> Value {
    let mut published = source.clone();
    clean(&mut published);
    if !published.is_object() {
        published = Value::Object(Map::new());
    }
    published["type"] = "object".into();
    let text = |told: &str| json!({"type": "string", "description": told});
    published["properties"]["apiVersion"] = text(
        "APIVersion defines the versioned schema of this representation of an object. Servers \
         should convert recognized schemas to the latest internal value, and may reject \
         unrecognized values. More info: \
         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    );
    published["properties"]["kind"] = text(
        "Kind is a string value representing the REST resource this object represents. Servers \
         may infer this from the endpoint the client submits requests to. Cannot be updated. In \
         CamelCase. More info: \
         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    );
    published["properties"]["metadata"] = metadata;
    published
}

/// Leave out what is the server's own business, and empty unions of an int-or-string.
fn clean(node: &mut Value) {
    match node {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                map.remove("anyOf");
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(list) => list.iter_mut().for_each(clean),
        _ => {}
    }
}
