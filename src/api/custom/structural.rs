//! A structural schema, compiled: what pruning, defaulting and validation walk along.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::rules::Rule;
use crate::api::schema::ListType;

/// A node of a schema.
#[derive(Debug, Default)]
pub struct Structural {
    /// As `object`; empty: any.
    pub(super) kind: String,
    pub(super) nullable: bool,
    pub(super) int_or_string: bool,
    pub(super) preserve: bool,
    pub(super) embedded: bool,
    pub(super) properties: BTreeMap<String, Structural>,
    /// What members look like that are no properties.
    pub(super) additional: Option<Box<Structural>>,
    pub(super) items: Option<Box<Structural>>,
    pub(super) default: Option<Value>,
    pub(super) list_type: Option<ListType>,
    pub(super) map_keys: Vec<String>,
    pub(super) atomic_map: bool,
    pub(super) checks: Checks,
    pub(super) rules: Vec<Rule>,
}

/// The rules of a node about values.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub choices: Vec<Value>,
    pub format: String,
    /// As it is written, with what it compiled to.
    pub pattern: Option<(String, Regex)>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub above_minimum: bool,
    pub below_maximum: bool,
    pub multiple_of: Option<f64>,
    pub length: (Option<u64>, Option<u64>),
    pub items: (Option<u64>, Option<u64>),
    pub properties: (Option<u64>, Option<u64>),
    pub unique: bool,
    pub required: Vec<String>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn list(value: &Value) -> Vec<Structural> {
    value.as_array().into_iter().flatten().map(Structural::parse).collect()
}

/// Lengths may come as `3.0`.
fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64))
}

impl Structural {
    /// From `openAPIV3Schema`. What is no schema reads as one without rules.
    pub fn parse(source: &Value) -> Self {
        let flag = |field: &str| source[field] == true;
        let text = |field: &str| source[field].as_str().unwrap_or_default().to_owned();
        let pattern = source["pattern"].as_str();
        let pattern = pattern.and_then(|p| Some((p.to_owned(), Regex::new(p).ok()?)));
        Self {
            kind: text("type"),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties: source["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, inner)| (name.clone(), Self::parse(inner)))
                .collect(),
            additional: match &source["additionalProperties"] {
                Value::Object(map) => Some(Box::new(Self::parse(&Value::Object(map.clone())))),
                Value::Bool(true) => Some(Box::new(Self { preserve: true, ..Default::default() })),
                _ => None,
            },
            items: source["items"].is_object().then(|| Box::new(Self::parse(&source["items"]))),
            default: source.get("default").filter(|d| !d.is_null()).cloned(),
            list_type: match source["x-kubernetes-list-type"].as_str() {
                Some("map") => Some(ListType::Map),
                Some("set") => Some(ListType::Set),
                Some(_) => Some(ListType::Atomic),
                None => None,
            },
            map_keys: texts(&source["x-kubernetes-list-map-keys"]),
            atomic_map: source["x-kubernetes-map-type"] == "atomic",
            rules: crate::api::meta::list(&source["x-kubernetes-validations"])
                .iter()
                .filter_map(Rule::parse)
                .collect(),
            checks: Checks {
                choices: source["enum"].as_array().cloned().unwrap_or_default(),
                format: text("format"),
                pattern,
                minimum: source["minimum"].as_f64(),
                maximum: source["maximum"].as_f64(),
                above_minimum: flag("exclusiveMinimum"),
                below_maximum: flag("exclusiveMaximum"),
                multiple_of: source["multipleOf"].as_f64(),
                length: (count(&source["minLength"]), count(&source["maxLength"])),
                items: (count(&source["minItems"]), count(&source["maxItems"])),
                properties: (count(&source["minProperties"]), count(&source["maxProperties"])),
                unique: flag("uniqueItems"),
                required: texts(&source["required"]),
                all_of: list(&source["allOf"]),
                any_of: list(&source["anyOf"]),
                one_of: list(&source["oneOf"]),
                not: source["not"].is_object().then(|| Box::new(Self::parse(&source["not"]))),
            },
        }
    }

    /// What a member of an object looks like; `None`: the schema does not know it.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Drop what the schema does not know. `resource`: the value is a whole object, whose type and
    /// metadata always stay.
    pub(super) fn prune(
        &self,
        value: &mut Value,
        resource: bool,
        path: &mut String,
        dropped: &mut Vec<String>,
    ) {
        let length = path.len();
        match value {
            Value::Object(map) => {
                let resource = resource || self.embedded;
                let named = |name: &str| matches!(name, "apiVersion" | "kind" | "metadata");
                let mut unknown: Vec<String> = Vec::new();
                for (name, inner) in map.iter_mut() {
                    if resource && named(name) {
                        continue;
                    }
                    match self.member(name) {
                        Some(schema) => {
                            if !path.is_empty() {
                                path.push('.');
                            }
                            path.push_str(name);
                            schema.prune(inner, false, path, dropped);
                            path.truncate(length);
                        }
                        None if self.preserve => {}
                        None => unknown.push(name.clone()),
                    }
                }
                for name in unknown {
                    map.remove(&name);
                    let dot = if path.is_empty() { "" } else { "." };
                    dropped.push(format!("{path}{dot}{name}"));
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    schema.prune(item, false, path, dropped);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// Go to the metadata of every object that is embedded in this one.
    pub(super) fn embedded_metadata(
        &self,
        value: &mut Value,
        path: &mut String,
        visit: &mut dyn FnMut(&str, &mut Value) -> Result<(), String>,
    ) -> Result<(), String> {
        let length = path.len();
        match value {
            Value::Object(map) => {
                if let (true, Some(metadata)) = (self.embedded, map.get_mut("metadata")) {
                    visit(path, metadata)?;
                }
                for (name, inner) in map.iter_mut() {
                    let Some(schema) = self.member(name) else { continue };
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    schema.embedded_metadata(inner, path, visit)?;
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    schema.embedded_metadata(item, path, visit)?;
                    path.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether any field is an object of its own.
    pub(super) fn has_embedded(&self) -> bool {
        self.embedded
            || self.properties.values().any(Self::has_embedded)
            || self.additional.as_deref().is_some_and(Self::has_embedded)
            || self.items.as_deref().is_some_and(Self::has_embedded)
    }

    /// Whether any field has a default.
    pub(super) fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self.additional.as_deref().is_some_and(Self::has_defaults)
            || self.items.as_deref().is_some_and(Self::has_defaults)
    }

    /// Set what is left out and has a default.
    pub(super) fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    let Some(default) = &schema.default else { continue };
                    let missing = match map.get(name) {
                        None => true,
                        Some(there) => there.is_null() && !schema.nullable,
                    };
                    if missing {
                        map.insert(name.clone(), default.clone());
                    }
                }
                for (name, inner) in map.iter_mut() {
                    if let Some(schema) = self.member(name) {
                        let absent = inner.is_null() && !schema.nullable;
                        if let (true, Some(default)) = (absent, &schema.default) {
                            *inner = default.clone();
                        }
                        schema.fill(inner);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.fill(item));
                }
            }
            _ => {}
        }
    }
}

/// The rules that make a schema structural. Answers what is wrong, path first.
pub(super) fn check(source: &Value, path: &str, at: Place, wrong: &mut Vec<(String, Fault)>) {
    let Value::Object(schema) = source else { return };
    let free = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        || schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() && (!free || at == Place::Root) {
        wrong.push((format!("{path}.type"), Fault::Missing(at.told())));
    }
    if at == Place::Root && !kind.is_empty() && kind != "object" {
        wrong.push((format!("{path}.type"), Fault::NotObject(kind.to_owned())));
    }
    let pattern = schema.get("pattern").and_then(Value::as_str).unwrap_or_default();
    if let Err(error) = Regex::new(pattern) {
        let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        wrong.push((format!("{path}.pattern"), Fault::Pattern(pattern.to_owned(), why)));
    }
    if kind == "array" && !schema.contains_key("items") {
        wrong.push((format!("{path}.items"), Fault::Missing("must be specified")));
    }
    let empty = Map::new();
    for (name, inner) in schema.get("properties").and_then(Value::as_object).unwrap_or(&empty) {
        check(inner, &format!("{path}.properties[{name}]"), Place::Field, wrong);
    }
    if let Some(items) = schema.get("items") {
        check(items, &format!("{path}.items"), Place::Item, wrong);
    }
    if let Some(additional @ Value::Object(_)) = schema.get("additionalProperties") {
        check(additional, &format!("{path}.additionalProperties"), Place::Field, wrong);
    }
    if schema.get("additionalProperties").is_some_and(Value::is_object)
        && schema.contains_key("properties")
    {
        let why = "additionalProperties and properties are mutual exclusive";
        wrong.push((format!("{path}.additionalProperties"), Fault::Forbidden(why)));
    }
    list_rules(schema, path, wrong);
}

fn list_rules(schema: &Map<String, Value>, path: &str, wrong: &mut Vec<(String, Fault)>) {
    let keys = schema.get("x-kubernetes-list-map-keys");
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    match list_type {
        Some("map") if keys.is_none() => {
            let why = "must not be empty if x-kubernetes-list-type is map";
            wrong.push((format!("{path}.x-kubernetes-list-map-keys"), Fault::Missing(why)));
        }
        Some("map" | "set" | "atomic") | None => {}
        Some(other) => {
            let at = format!("{path}.x-kubernetes-list-type");
            wrong.push((at, Fault::ListType(other.to_owned())));
        }
    }
}

/// Where a schema stands in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Field,
    Item,
}

impl Place {
    fn told(self) -> &'static str {
        match self {
            Self::Root => "must not be empty at the root",
            Self::Field => "must not be empty for specified object fields",
            Self::Item => "must not be empty for specified array items",
        }
    }
}

/// What is wrong with a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Missing(&'static str),
    NotObject(String),
    Forbidden(&'static str),
    Pattern(String, String),
    ListType(String),
}
