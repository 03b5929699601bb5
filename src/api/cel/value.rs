//! JSON to values and back.
//!
//! Objects keep the names of their fields as they are; an expression that has to write one in
//! another way (`x__dash__y`, `__namespace__`) is understood where the field is looked up.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map};
use serde_json::{Map as JsonMap, Value as Json};

use super::Type;
use kube_cel::cel::objects::OptionalValue;

/// A value of which nothing is known but its JSON.
pub fn from_json(json: &Json) -> Value {
    from_json_typed(json, &Type::Dyn)
}

/// A value whose type is known: times, durations, bytes and doubles become what they are.
pub fn from_json_typed(json: &Json, of: &Type) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) if !matches!(of, Type::Double) => Value::Int(int),
            (None, Some(uint)) if !matches!(of, Type::Double) => Value::UInt(uint),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => from_text(text, of),
        Json::Array(items) => {
            let inner = match of {
                Type::List(inner) => inner,
                _ => &Type::Dyn,
            };
            let items: Vec<Value> = items.iter().map(|item| from_json_typed(item, inner)).collect();
            Value::List(Arc::new(items))
        }
        Json::Object(map) => {
            let members = map.iter().map(|(name, inner)| {
                let value = match of {
                    Type::Map(_, inner_type) => from_json_typed(inner, inner_type),
                    Type::Object(fields) => {
                        let known = fields.field(name).unwrap_or(Type::Dyn);
                        from_json_typed(inner, &known)
                    }
                    _ => from_json(inner),
                };
                (Key::String(Arc::new(name.clone())), value)
            });
            Value::Map(Map { map: Arc::new(members.collect()) })
        }
    }
}

fn from_text(text: &str, of: &Type) -> Value {
    let plain = || Value::String(Arc::new(text.to_owned()));
    match of {
        Type::Timestamp => {
            super::library::call("timestamp", None, &[plain()]).unwrap_or_else(|_| plain())
        }
        Type::Duration => {
            super::library::call("duration", None, &[plain()]).unwrap_or_else(|_| plain())
        }
        Type::Bytes => {
            use base64::Engine;
            match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Value::Bytes(Arc::new(bytes)),
                Err(_) => plain(),
            }
        }
        _ => plain(),
    }
}

/// A value as JSON; `None` where it has no such form.
pub fn to_json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float(number) => serde_json::Number::from_f64(*number).map(Json::Number)?,
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => {
            use base64::Engine;
            Json::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
        }
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        Value::Map(map) => {
            let mut object = JsonMap::new();
            for (key, inner) in map.map.iter() {
                object.insert(key.to_string(), to_json(inner)?);
            }
            Json::Object(object)
        }
        Value::Timestamp(time) => Json::String(time.to_rfc3339().replace("+00:00", "Z")),
        Value::Opaque(opaque) => {
            match opaque.downcast_ref::<OptionalValue>().map(OptionalValue::value) {
                Some(Some(inner)) => to_json(inner)?,
                Some(None) => Json::Null,
                None => return None,
            }
        }
        Value::Duration(_) => match super::library::call("string", Some(value.clone()), &[]) {
            Ok(Value::String(text)) => Json::String(text.to_string()),
            _ => return None,
        },
        Value::Function(..) => return None,
    })
}

/// A map of names to values.
pub(super) fn map(members: HashMap<Key, Value>) -> Value {
    Value::Map(Map { map: Arc::new(members) })
}

/// The field of an object that an expression writes as `name`: Kubernetes' escapes undone.
pub(super) fn unescaped(name: &str) -> Option<String> {
    if !name.contains("__") {
        return None;
    }
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && !word.is_empty()
        && word.chars().all(|c| c.is_ascii_lowercase())
        && !matches!(word, "dot" | "dash" | "slash" | "underscores")
    {
        return Some(word.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        let after = &rest[at..];
        let escapes =
            [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
        match escapes.iter().find(|(escape, _)| after.starts_with(escape)) {
            Some((escape, plain)) => {
                out.push_str(plain);
                rest = &after[escape.len()..];
            }
            None => {
                out.push_str("__");
                rest = &after[2..];
            }
        }
    }
    out.push_str(rest);
    Some(out)
}
