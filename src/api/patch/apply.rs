//! Server-side apply: merge what a client applies into an object, by what the schema says and by
//! who manages what (KEP-555, structured-merge-diff).
//!
//! ```text
//! config ─ set of its fields ─▶ the applier's entry, in place of the last one
//! live + config ─ merge ─▶ ─ prune: what it had before and nobody has now ─▶ new
//! live ~ new ─ compare ─▶ changes that others manage: conflicts, or (forced) theirs no more
//! ```
//!
//! **Invariant:** applying the same configuration twice changes nothing the second time.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::api::Object;
use crate::api::fields::{
    Entry, FieldSet, Managers, Node, Operation, Writer, applied, compare, created, element,
};
use crate::api::status::{ApiError, Reason};

/// What an update before the first apply is known by.
const BEFORE_FIRST: &str = "before-first-apply";

/// The annotation of client-side apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An apply.
#[derive(Clone, Copy)]
pub struct Apply<'a> {
    /// What the schema says of the object.
    pub at: Node<'a>,
    pub config: &'a Object,
    pub writer: Writer<'a>,
    /// Take over what others manage.
    pub force: bool,
    /// Which fields of the top of an object this write is about.
    pub about: &'a (dyn Fn(&str) -> bool + Sync),
    /// From the merged form to that of a decoded object.
    pub normalize: &'a (dyn Fn(Value) -> Result<Value, ApiError> + Sync),
}

impl Apply<'_> {
    /// Apply to an object. Answers what becomes of it, and who manages its fields then.
    ///
    /// # Errors
    /// 409 where others manage what would change, 500 (as Kubernetes) for a configuration that
    /// does not fit the schema.
    pub fn to(&self, live: &Object, managers: Managers) -> Result<(Object, Managers), ApiError> {
        self.check()?;
        match self.attempt(live, managers.clone(), self.force) {
            Ok(done) => Ok(done),
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::Conflicts(found)) => {
                let left = self.upgraded(live, found);
                if left.is_empty() {
                    return match self.attempt(live, managers, true) {
                        Ok(done) => Ok(done),
                        Err(Refused::Error(error)) => Err(error),
                        Err(Refused::Conflicts(found)) => Err(conflict(&found)),
                    };
                }
                Err(conflict(&left))
            }
        }
    }

    fn attempt(
        &self,
        live: &Object,
        mut managers: Managers,
        force: bool,
    ) -> Result<(Object, Managers), Refused> {
        let exists = live["metadata"]["uid"].is_string();
        if managers.is_empty() && exists {
            let before = Writer {
                manager: BEFORE_FIRST,
                operation: Operation::Update,
                subresource: "",
                ..self.writer
            };
            managers.create(created(self.at, live), &before);
        }
        let mut config = self.config.clone();
        if let Value::Object(map) = &mut config {
            map.retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind") || (self.about)(name)
            });
        }
        let mut own = applied(self.at, &config);
        own.keep_only(|key| key.strip_prefix("f:").is_none_or(|name| (self.about)(name)));
        let last = managers.replace(own, &self.writer);
        let mut merged = merge(self.at, Some(live), &config);
        // What names the object is nobody's and stays.
        let mut keep = managers.all();
        keep.add(&FieldSet::from_value(json!({"f:metadata": {"f:name": {}}})));
        prune(self.at, &mut merged, &last.0, &keep.0);
        let new = (self.normalize)(merged).map_err(Refused::Error)?;
        let compared = compare(self.at, live, &new);
        if !force {
            let found = self.conflicts(&managers, &compared.changed);
            if !found.is_empty() {
                return Err(Refused::Conflicts(found));
            }
        }
        for entry in &mut managers.0 {
            if !self.writer.owns(entry) {
                entry.fields.subtract(&compared.changed);
                entry.fields.subtract(&compared.removed);
            }
        }
        managers.0.retain(|entry| !entry.fields.is_empty());
        Ok((new, managers))
    }

    fn conflicts(&self, managers: &Managers, changed: &FieldSet) -> Vec<Conflict> {
        let mut found: Vec<Conflict> = managers
            .others(&self.writer)
            .filter_map(|entry| {
                let fields = entry.fields.intersection(changed);
                (!fields.is_empty()).then(|| Conflict { manager: named(entry), fields })
            })
            .collect();
        found.sort_by(|a, b| a.manager.cmp(&b.manager));
        found
    }

    /// What is left of conflicts once kubectl's own client-side apply is no opponent: it goes on
    /// with what it wrote into the annotation.
    fn upgraded(&self, live: &Object, mut conflicts: Vec<Conflict>) -> Vec<Conflict> {
        if self.writer.manager != "kubectl" {
            return conflicts;
        }
        let said = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
        let Ok(last) = serde_json::from_str::<Value>(said) else { return conflicts };
        if last["apiVersion"] != live["apiVersion"] || last["kind"] != live["kind"] {
            return conflicts;
        }
        let allowed = applied(self.at, &last);
        for conflict in &mut conflicts {
            conflict.fields.subtract(&allowed);
        }
        conflicts.retain(|conflict| !conflict.fields.is_empty());
        conflicts
    }

    /// 500 where the configuration does not fit the schema.
    fn check(&self) -> Result<(), ApiError> {
        let mut wrong = Vec::new();
        check(self.at, self.config, &mut String::new(), &mut wrong);
        if wrong.is_empty() {
            return Ok(());
        }
        let text = |field: &str| self.config["metadata"][field].as_str().unwrap_or_default();
        let why = match wrong.as_slice() {
            [one] => one.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        };
        Err(ApiError::new(
            Reason::Unknown,
            format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
                text("namespace"),
                text("name"),
                self.config["apiVersion"].as_str().unwrap_or_default(),
                self.config["kind"].as_str().unwrap_or_default(),
            ),
        ))
    }
}

enum Refused {
    Conflicts(Vec<Conflict>),
    Error(ApiError),
}

/// What one other manager has of what would change.
struct Conflict {
    manager: String,
    fields: FieldSet,
}

/// A manager as conflicts name it.
fn named(entry: &Entry) -> String {
    let mut name = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        name.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == Operation::Update {
        name.push_str(&format!(" using {}", entry.api_version));
        if !entry.time.is_empty() {
            name.push_str(&format!(" at {}", entry.time));
        }
    }
    name
}

/// 409 with a cause a field.
fn conflict(conflicts: &[Conflict]) -> ApiError {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for conflict in conflicts {
        lines.push(format!("conflicts with {}:", conflict.manager));
        for path in conflict.fields.paths() {
            lines.push(format!("- {path}"));
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", conflict.manager),
                "field": path,
            }));
        }
    }
    let message = match causes.as_slice() {
        [one] => format!(
            "Apply failed with 1 conflict: {}: {}",
            one["message"].as_str().unwrap_or_default(),
            one["field"].as_str().unwrap_or_default()
        ),
        _ => format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n")),
    };
    ApiError::new(Reason::Conflict, message).with_details(json!({"causes": causes}))
}

/// What the configuration says goes into what is there.
fn merge(at: Node<'_>, live: Option<&Value>, config: &Value) -> Value {
    match (at, live, config) {
        (
            Node::Struct(..) | Node::Map(..) | Node::Deduced,
            Some(Value::Object(live)),
            Value::Object(config),
        ) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let child = at.member(name).unwrap_or(Node::Leaf);
                let value = merge(child, live.get(name), value);
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Node::Set | Node::List(..), Some(Value::Array(live)), Value::Array(config)) => {
            Value::Array(merge_lists(at, live, config))
        }
        _ => config.clone(),
    }
}

/// The elements of the configuration keep their order; those that only the live list has stay
/// where they are between the ones that both have.
fn merge_lists(at: Node<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let there: HashMap<String, &Value> =
        live.iter().map(|item| (element(at, item), item)).collect();
    let keys: Vec<String> = config.iter().map(|item| element(at, item)).collect();
    let wanted: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut next = 0;
    let put = |merged: &mut Vec<Value>, index: usize| {
        let live = there.get(&keys[index]).copied();
        merged.push(merge(at.element(), live, &config[index]));
    };
    for item in live {
        let key = element(at, item);
        if !wanted.contains(key.as_str()) {
            merged.push(item.clone());
            continue;
        }
        if keys[..next].contains(&key) {
            continue;
        }
        while next < keys.len() {
            put(&mut merged, next);
            next += 1;
            if keys[next - 1] == key {
                break;
            }
        }
    }
    for index in next..keys.len() {
        put(&mut merged, index);
    }
    merged
}

type Tree = Map<String, Value>;

/// Take away what stands in `last` and what nobody keeps.
fn prune(at: Node<'_>, value: &mut Value, last: &Tree, keep: &Tree) {
    let nothing = Tree::new();
    for (key, had) in last.iter().filter(|(key, _)| *key != ".") {
        let had = had.as_object().unwrap_or(&nothing);
        let kept = keep.get(key).and_then(Value::as_object);
        match (at, &mut *value) {
            (Node::Struct(..) | Node::Map(..) | Node::Deduced, Value::Object(map)) => {
                let Some(name) = key.strip_prefix("f:") else { continue };
                let Some(child) = at.member(name) else { continue };
                let Some(inner) = map.get_mut(name) else { continue };
                if prune_one(child, inner, had, kept, at.is_named(name)) {
                    map.remove(name);
                }
            }
            (Node::Set | Node::List(..), Value::Array(items)) => {
                let child = at.element();
                items.retain_mut(|item| {
                    element(at, item) != *key || !prune_one(child, item, had, kept, false)
                });
            }
            _ => {}
        }
    }
}

/// Prune one value. Answers whether it goes as a whole.
fn prune_one(
    at: Node<'_>,
    value: &mut Value,
    had: &Tree,
    kept: Option<&Tree>,
    named: bool,
) -> bool {
    let member = had.is_empty() || had.contains_key(".");
    let nothing = Tree::new();
    match kept {
        None if member || named => true,
        _ => {
            let hollow = |value: &Value| match value {
                Value::Object(map) => map.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            let before = hollow(value);
            prune(at, value, had, kept.unwrap_or(&nothing));
            // A container that lost all it had is gone, unless the applier still wants it.
            !before && hollow(value) && kept.is_none()
        }
    }
}

/// What does not fit the schema, in the words of structured-merge-diff.
fn check(at: Node<'_>, value: &Value, path: &mut String, wrong: &mut Vec<String>) {
    let length = path.len();
    match (at, value) {
        (_, Value::Null) => {}
        (Node::Struct(..) | Node::Map(..), Value::Object(map)) => {
            for (name, value) in map {
                path.push('.');
                path.push_str(name);
                match at.member(name) {
                    Some(child) => check(child, value, path, wrong),
                    None => wrong.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Node::Set | Node::List(..), Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                if let Some(key) = missing_key(at, item) {
                    wrong.push(format!(
                        "{path}: element {index}: associative list with keys has an element that \
                         omits key field {key:?} (and doesn't have default value)"
                    ));
                    continue;
                }
                let key = element(at, item);
                let mut shown = FieldSet::default();
                shown.0.insert(key.clone(), json!({}));
                let shown = shown.paths().pop().unwrap_or_default();
                if !seen.insert(key) {
                    wrong.push(format!("{path}: duplicate entries for key {shown}"));
                }
                path.push_str(&shown);
                check(at.element(), item, path, wrong);
                path.truncate(length);
            }
        }
        (Node::Struct(..) | Node::Map(..), other) => {
            wrong.push(format!("{path}: expected map, got {}", shown(other)));
        }
        (Node::Set | Node::List(..), other) => {
            wrong.push(format!("{path}: expected list, got {}", shown(other)));
        }
        (Node::Leaf | Node::Deduced, _) => {}
    }
}

fn missing_key(at: Node<'_>, item: &Value) -> Option<String> {
    let Node::List(_, _, field) = at else { return None };
    let key = element(at, item);
    let there: Tree = serde_json::from_str(key.strip_prefix("k:").unwrap_or("{}")).ok()?;
    field.map_keys.iter().find(|key| !there.contains_key(&***key)).map(ToString::to_string)
}

/// A value as Go prints its wrapper.
fn shown(value: &Value) -> String {
    let inner = match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    format!("&{{{inner}}}")
}
