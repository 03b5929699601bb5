//! Strategic merge patch: a merge patch that knows, by the schema, which lists are merged and by
//! what key.
//!
//! Directives (design proposals "strategic merge patch" and "preserve order in strategic merge
//! patch"): `$patch: replace|delete|merge` in a map or an element, `$retainKeys`,
//! `$setElementOrder/FIELD` and `$deleteFromPrimitiveList/FIELD`.

use serde_json::{Map, Value};

use super::does_not_fit;
use crate::api::Object;
use crate::api::schema::{Field, PatchStrategy, Schema, Shape, Type};
use crate::api::status::ApiError;

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const ORDER: &str = "$setElementOrder/";
pub(super) const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

pub(super) fn apply(of: &Type, object: &Object, patch: Value) -> Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (object.clone(), patch) else {
        return Err(bad("the patch is not a JSON object"));
    };
    merge_map(original, patch, Here::Struct(of)).map(Value::Object)
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::bad_request(why)
}

/// What the schema says of the map that is being merged.
#[derive(Clone, Copy)]
pub(super) enum Here<'s> {
    Struct(&'s Type),
    MapOf(&'s Shape),
    Unknown,
}

/// What the schema says of one value in it.
#[derive(Clone, Copy)]
pub(super) struct There<'s> {
    pub(super) here: Here<'s>,
    pub(super) strategy: PatchStrategy,
    pub(super) merge_key: Option<&'s str>,
}

fn here(shape: &Shape) -> Here<'_> {
    match shape {
        Shape::Type(id) => Here::Struct(Schema::builtin().type_of(*id)),
        Shape::Map(inner) => Here::MapOf(inner),
        Shape::List(inner) => here(inner),
        _ => Here::Unknown,
    }
}

impl<'s> Here<'s> {
    pub(super) fn field(self, name: &str) -> There<'s> {
        let plain = |here| There { here, strategy: PatchStrategy::default(), merge_key: None };
        match self {
            Self::Struct(of) => match of.field(name) {
                Some(field) => of_field(field),
                None => plain(Here::Unknown),
            },
            Self::MapOf(shape) => plain(here(shape)),
            Self::Unknown => plain(Here::Unknown),
        }
    }
}

fn of_field(field: &Field) -> There<'_> {
    There {
        here: here(&field.shape),
        strategy: field.strategy,
        merge_key: field.merge_key.as_deref(),
    }
}

type JsonMap = Map<String, Value>;

fn merge_map(
    mut original: JsonMap,
    mut patch: JsonMap,
    here: Here<'_>,
) -> Result<JsonMap, ApiError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) => match word.as_str() {
            "replace" => return Ok(plain_map(patch)),
            "delete" => return Ok(JsonMap::new()),
            "merge" => {}
            other => return Err(bad(format!("unknown patch type found: {other}"))),
        },
        Some(other) => return Err(bad(format!("unknown patch type found: {other}"))),
    }
    retain_keys(&mut original, &mut patch)?;
    delete_primitives(&mut original, &mut patch)?;
    set_order(&mut original, &mut patch, here)?;
    for (name, value) in patch {
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let there = here.field(&name);
        let merged = match (original.remove(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !there.strategy.replace => {
                Value::Object(merge_map(old, new, there.here)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if there.strategy.merge => {
                Value::Array(merge_list(old, new, there)?)
            }
            (_, new) => plain(new),
        };
        original.insert(name, merged);
    }
    Ok(original)
}

/// `$retainKeys`: what it does not name goes.
fn retain_keys(original: &mut JsonMap, patch: &mut JsonMap) -> Result<(), ApiError> {
    let Some(listed) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(listed) = listed else {
        return Err(bad("invalid patch format of retainKeys: must be a list"));
    };
    let named = |key: &str| listed.iter().any(|l| l == key);
    let directive = |key: &str| key.starts_with('$');
    if patch.iter().any(|(k, v)| !v.is_null() && !directive(k) && !named(k)) {
        return Err(bad("invalid patch format of retainKeys: a field of the patch is not in it"));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$deleteFromPrimitiveList/FIELD`: these elements go.
fn delete_primitives(original: &mut JsonMap, patch: &mut JsonMap) -> Result<(), ApiError> {
    for (name, gone) in take_prefixed(patch, DELETE_PRIMITIVES) {
        let Value::Array(gone) = gone else {
            return Err(bad("invalid patch format of primitive list: must be a list"));
        };
        if let Some(Value::Array(list)) = original.get_mut(&name) {
            list.retain(|value| !gone.contains(value));
        }
    }
    Ok(())
}

fn take_prefixed(patch: &mut JsonMap, prefix: &str) -> Vec<(String, Value)> {
    let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
    keys.into_iter()
        .filter_map(|key| patch.remove(&key).map(|v| (key[prefix.len()..].to_owned(), v)))
        .collect()
}

/// `$setElementOrder/FIELD`: the list of that field is merged, then brought into this order.
fn set_order(original: &mut JsonMap, patch: &mut JsonMap, here: Here<'_>) -> Result<(), ApiError> {
    for (name, order) in take_prefixed(patch, ORDER) {
        let Value::Array(order) = order else {
            return Err(bad("invalid patch format of setElementOrder list: must be a list"));
        };
        let there = here.field(&name);
        let old = match original.remove(&name) {
            Some(Value::Array(list)) => Some(list),
            Some(other) => {
                original.insert(name, other);
                continue;
            }
            None => None,
        };
        let new = match patch.get(&name) {
            Some(Value::Array(_)) => match patch.remove(&name) {
                Some(Value::Array(list)) => Some(list),
                _ => None,
            },
            _ => None,
        };
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => plain_list(new),
            (Some(old), Some(new)) if there.strategy.merge => merge_list(old, new, there)?,
            (Some(_), Some(new)) => plain_list(new),
        };
        let ordered = in_order(merged, &order, &server_order, there.merge_key)?;
        original.insert(name, Value::Array(ordered));
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, there: There<'_>) -> Result<Vec<Value>, ApiError> {
    let mut all = old.iter().chain(&new);
    let maps = all.clone().any(Value::is_object);
    if all.clone().any(Value::is_array) {
        return Err(does_not_fit("lists of lists are not supported"));
    }
    if maps && !all.all(Value::is_object) {
        return Err(bad("the elements of a list in the patch have different types"));
    }
    let server_order = old.clone();
    if !maps {
        let mut merged: Vec<Value> = Vec::new();
        for value in old.into_iter().chain(new.iter().cloned()) {
            if !merged.contains(&value) {
                merged.push(value);
            }
        }
        return in_order(merged, &new, &server_order, None);
    }
    let Some(key) = there.merge_key else {
        return Err(bad("cannot merge lists without merge key"));
    };
    let (mut merged, new, replaced) = special_elements(old, new, key)?;
    if replaced {
        return Ok(new);
    }
    let order = new.clone();
    for element in new {
        let id = id_of(&element, key)?.clone();
        let at = merged.iter().position(|m| m.get(key) == Some(&id));
        match (at, element) {
            (Some(at), Value::Object(patch)) => {
                let Value::Object(old) = merged[at].take() else {
                    return Err(bad("the elements of a list have different types"));
                };
                merged[at] = Value::Object(merge_map(old, patch, there.here)?);
            }
            (_, element) => merged.push(plain(element)),
        }
    }
    in_order(merged, &order, &server_order, Some(key))
}

/// Do what elements with a `$patch` say. Answers what is left of the list, what is left of the
/// patch, and whether the patch replaces the list.
fn special_elements(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>, bool), ApiError> {
    let mut left = Vec::new();
    let mut replaced = false;
    for element in new {
        match element.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default().to_owned()) {
            None => left.push(element),
            Some(word) => match word.as_str() {
                "replace" => replaced = true,
                "delete" => {
                    let id = id_of(&element, key)?;
                    old.retain(|m| m.get(key) != Some(id));
                }
                "merge" => {
                    let mut element = element;
                    element.as_object_mut().map(|e| e.remove(DIRECTIVE));
                    left.push(element);
                }
                other => return Err(bad(format!("unknown patch type found: {other}"))),
            },
        }
    }
    if replaced {
        left = plain_list(left);
    }
    Ok((old, left, replaced))
}

fn id_of<'a>(element: &'a Value, key: &str) -> Result<&'a Value, ApiError> {
    element.get(key).ok_or_else(|| {
        does_not_fit(&format!("map: {element} does not contain declared merge key: {key}"))
    })
}

/// Elements that `order` names come in its order; the others keep their place among them by what
/// the server had.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, ApiError> {
    fn id<'a>(value: &'a Value, key: Option<&str>) -> Option<&'a Value> {
        match key {
            Some(key) => value.get(key),
            None => Some(value),
        }
    }
    let place = |value: &Value, within: &[Value]| {
        id(value, key).and_then(|i| within.iter().position(|w| id(w, key) == Some(i)))
    };
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|value| place(value, order).is_some());
    named.sort_by_cached_key(|value| place(value, order));
    others.sort_by_cached_key(|value| place(value, server_order).unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let server_first = match (others.peek(), named.peek()) {
            (None, None) => return Ok(all),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(name)) => {
                match (place(other, server_order), place(name, server_order)) {
                    (Some(other), Some(name)) => other < name,
                    _ => false,
                }
            }
        };
        all.extend(if server_first { others.next() } else { named.next() });
    }
}

/// A value of the patch that is taken as it is: without nulls and directives.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(list) => Value::Array(plain_list(list)),
        other => other,
    }
}

fn plain_map(map: JsonMap) -> JsonMap {
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key))
        .map(|(key, value)| (key, plain(value)))
        .collect()
}

fn plain_list(list: Vec<Value>) -> Vec<Value> {
    let special = |v: &Value| matches!(v[DIRECTIVE].as_str(), Some("delete" | "replace"));
    list.into_iter().filter(|v| !special(v)).map(plain).collect()
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE
        || key == RETAIN_KEYS
        || key.starts_with(ORDER)
        || key.starts_with(DELETE_PRIMITIVES)
}
