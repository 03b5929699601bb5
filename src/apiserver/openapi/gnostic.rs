//! A Swagger 2.0 document in the protobuf form of gnostic's `openapi.v2.Document`
//! (`OpenAPIv2/OpenAPIv2.proto`), which older kubectls ask for. Only what our documents use is
//! written; the numbers are those of the .proto.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// The message of a whole document.
pub(super) fn document(json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &json["swagger"]);
    let mut info = Vec::new();
    text(&mut info, 1, &json["info"]["title"]);
    text(&mut info, 2, &json["info"]["version"]);
    bytes(&mut out, 2, &info);
    let mut paths = Vec::new();
    for (name, item) in fields(&json["paths"]) {
        bytes(&mut paths, 2, &named(name, &path_item(item)));
    }
    bytes(&mut out, 8, &paths);
    let mut definitions = Vec::new();
    for (name, node) in fields(&json["definitions"]) {
        bytes(&mut definitions, 1, &named(name, &schema(node)));
    }
    bytes(&mut out, 9, &definitions);
    out
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn bytes(out: &mut Vec<u8>, tag: u32, message: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

fn text(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        bytes(out, tag, text.as_bytes());
    }
}

fn flag(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if value.as_bool() == Some(true) {
        encode_key(tag, WireType::Varint, out);
        encode_varint(1, out);
    }
}

/// `NamedX { string name = 1; X value = 2; }`.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

/// `x-…` as `NamedAny` with the value as YAML (JSON is YAML).
fn extensions(out: &mut Vec<u8>, tag: u32, map: &Value) {
    for (name, value) in fields(map).filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Vec::new();
        bytes(&mut any, 2, value.to_string().as_bytes());
        bytes(out, tag, &named(name, &any));
    }
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, tag) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if item[method].is_object() {
            bytes(&mut out, tag, &operation(&item[method]));
        }
    }
    for one in items(&item["parameters"]) {
        bytes(&mut out, 9, &parameter(one));
    }
    out
}

fn operation(told: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    items(&told["tags"]).for_each(|tag| text(&mut out, 1, tag));
    text(&mut out, 3, &told["description"]);
    text(&mut out, 5, &told["operationId"]);
    items(&told["produces"]).for_each(|kind| text(&mut out, 6, kind));
    items(&told["consumes"]).for_each(|kind| text(&mut out, 7, kind));
    for one in items(&told["parameters"]) {
        bytes(&mut out, 8, &parameter(one));
    }
    let mut responses = Vec::new();
    for (code, told) in fields(&told["responses"]) {
        let mut response = Vec::new();
        text(&mut response, 1, &told["description"]);
        if told["schema"].is_object() {
            let mut item = Vec::new();
            bytes(&mut item, 1, &schema(&told["schema"]));
            bytes(&mut response, 2, &item);
        }
        let mut value = Vec::new();
        bytes(&mut value, 1, &response);
        bytes(&mut responses, 1, &named(code, &value));
    }
    bytes(&mut out, 9, &responses);
    extensions(&mut out, 13, told);
    out
}

/// `ParametersItem { Parameter { BodyParameter | NonBodyParameter { Query | Path } } }`.
fn parameter(told: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    let mut parameter = Vec::new();
    if told["in"] == "body" {
        text(&mut inner, 2, &told["name"]);
        text(&mut inner, 3, &told["in"]);
        flag(&mut inner, 4, &told["required"]);
        bytes(&mut inner, 5, &schema(&told["schema"]));
        bytes(&mut parameter, 1, &inner);
    } else {
        flag(&mut inner, 1, &told["required"]);
        text(&mut inner, 2, &told["in"]);
        text(&mut inner, 3, &told["description"]);
        text(&mut inner, 4, &told["name"]);
        let of_query = told["in"] == "query";
        text(&mut inner, if of_query { 6 } else { 5 }, &told["type"]);
        let mut other = Vec::new();
        bytes(&mut other, if of_query { 3 } else { 4 }, &inner);
        bytes(&mut parameter, 2, &other);
    }
    let mut out = Vec::new();
    bytes(&mut out, 1, &parameter);
    out
}

fn schema(node: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &node["$ref"]);
    text(&mut out, 2, &node["format"]);
    text(&mut out, 4, &node["description"]);
    items(&node["required"]).for_each(|name| text(&mut out, 19, name));
    let additional = &node["additionalProperties"];
    if additional.is_object() {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(additional));
        bytes(&mut out, 21, &item);
    }
    if node["type"].is_string() {
        let mut item = Vec::new();
        text(&mut item, 1, &node["type"]);
        bytes(&mut out, 22, &item);
    }
    if node["items"].is_object() {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(&node["items"]));
        bytes(&mut out, 23, &item);
    }
    for one in items(&node["allOf"]) {
        bytes(&mut out, 24, &schema(one));
    }
    if let Some(map) = node["properties"].as_object().filter(|map: &&Map<_, _>| !map.is_empty()) {
        let mut properties = Vec::new();
        for (name, node) in map {
            bytes(&mut properties, 1, &named(name, &schema(node)));
        }
        bytes(&mut out, 25, &properties);
    }
    extensions(&mut out, 31, node);
    out
}

/// How many definitions a document holds.
///
/// # Errors
/// What is no such document.
#[cfg(test)]
pub(super) fn count_definitions(document: &[u8]) -> Result<usize, prost::DecodeError> {
    use prost::encoding::{decode_key, decode_varint};
    let of = |mut rest: &[u8], wanted: u32| -> Result<Vec<Vec<u8>>, prost::DecodeError> {
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (tag, _) = decode_key(&mut rest)?;
            let length = decode_varint(&mut rest)? as usize;
            let (message, more) = rest.split_at(length.min(rest.len()));
            if tag == wanted {
                found.push(message.to_vec());
            }
            rest = more;
        }
        Ok(found)
    };
    let definitions = of(document, 9)?;
    of(definitions.first().map_or(&[], Vec::as_slice), 1).map(|all| all.len())
}
