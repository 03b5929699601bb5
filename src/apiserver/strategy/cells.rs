//! What tables show, in the forms that several kinds share.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, human_duration};
use crate::api::Object;
use crate::api::meta::list;

/// A column of text that is always shown.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", description: "", priority: 0 }
}

/// A column of text that `-o wide` shows.
pub(super) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", description: "", priority: 1 }
}

/// A column of whole numbers.
pub(super) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description: "", priority: 0 }
}

/// A column of yes or no.
pub(super) const fn flag(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", description: "", priority: 0 }
}

/// The name of the object.
pub(super) fn name(object: &Object) -> Value {
    object["metadata"]["name"].clone()
}

/// The text, or `instead` where there is none.
pub(super) fn or(value: &Value, instead: &str) -> Value {
    match value {
        Value::String(text) if !text.is_empty() => value.clone(),
        Value::Number(_) | Value::Bool(_) => Value::String(value.to_string()),
        _ => Value::String(instead.to_owned()),
    }
}

/// The number, or 0.
pub(super) fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The texts of an iterator with commas between, or `instead` where there are none.
pub(super) fn joined<S: AsRef<str>>(texts: impl Iterator<Item = S>, instead: &str) -> Value {
    let texts: Vec<String> = texts.map(|t| t.as_ref().to_owned()).collect();
    Value::String(if texts.is_empty() { instead.to_owned() } else { texts.join(",") })
}

/// How long ago a moment was: `5m3s`, `<unknown>` where there is none.
pub(super) fn since(at: &Value, now: Timestamp) -> String {
    match at.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(at) => human_duration(now.duration_since(at).as_secs()),
        None => "<unknown>".into(),
    }
}

/// The names of the containers of a pod spec.
pub(super) fn container_names(spec: &Value) -> Value {
    of_containers(spec, "name")
}

/// The images of the containers of a pod spec.
pub(super) fn container_images(spec: &Value) -> Value {
    of_containers(spec, "image")
}

fn of_containers(spec: &Value, field: &str) -> Value {
    let containers = list(&spec["containers"]).iter();
    Value::String(containers.filter_map(|c| c[field].as_str()).collect::<Vec<_>>().join(","))
}

/// A map of labels, `a=b,c=d`, or `<none>`.
pub(super) fn labels(labels: &Value) -> Value {
    let pairs = labels.as_object().into_iter().flatten();
    joined(pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())), "<none>")
}

/// A label selector as kubectl writes it: `a=b,c in (d,e),!f`.
pub(super) fn selector(selector: &Value) -> Value {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        equal.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    for expression in list(&selector["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            list(&expression["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    joined(parts.iter(), "<none>")
}
