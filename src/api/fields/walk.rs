//! From objects to field sets: what an object holds, and how two objects differ.
//!
//! Two styles, as in structured-merge-diff: what is *applied* owns leaves, elements of lists and
//! keys of maps; what a *comparison* finds added owns every node on the way besides.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::node::{Node, element};
use super::set::{FieldSet, node};

type Tree = Map<String, Value>;

/// Fields that nobody manages: they name the object, or the server owns them.
fn is_stripped(in_metadata: bool, name: &str) -> bool {
    if in_metadata {
        matches!(
            name,
            "name"
                | "namespace"
                | "creationTimestamp"
                | "selfLink"
                | "uid"
                | "clusterName"
                | "generation"
                | "managedFields"
                | "resourceVersion"
        )
    } else {
        matches!(name, "apiVersion" | "kind")
    }
}

/// Walk the two levels at the top of an object, where fields are stripped.
fn strip(tree: &mut Tree) {
    tree.retain(|key, _| !key.strip_prefix("f:").is_some_and(|name| is_stripped(false, name)));
    if let Some(Value::Object(metadata)) = tree.remove("f:metadata") {
        let mut metadata = metadata;
        metadata.retain(|key, _| !key.strip_prefix("f:").is_some_and(|n| is_stripped(true, n)));
        if let Some(metadata) = node(metadata, false) {
            tree.insert("f:metadata".into(), metadata);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Applied,
    Added,
}

/// The set of an object that a client applies.
pub fn applied(at: Node<'_>, object: &Value) -> FieldSet {
    let mut tree = below(at, object, Style::Applied, false);
    strip(&mut tree);
    FieldSet(tree)
}

/// The set of an object that did not exist before.
pub fn created(at: Node<'_>, object: &Value) -> FieldSet {
    let mut tree = below(at, object, Style::Added, true);
    strip(&mut tree);
    FieldSet(tree)
}

/// What lies below a value. `on_top`: everything above it is there in an empty object as well, so
/// that the structs among its fields are no news.
fn below(at: Node<'_>, value: &Value, style: Style, on_top: bool) -> Tree {
    let mut tree = Tree::new();
    match (at, value) {
        (Node::Struct(..) | Node::Map(..) | Node::Deduced, Value::Object(map)) => {
            for (name, value) in map {
                let Some(child) = at.member(name) else { continue };
                let is_struct = matches!(child, Node::Struct(..));
                let inner = below(child, value, style, on_top && is_struct);
                let hollow = inner.is_empty();
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let member = match style {
                    _ if empty || !at.is_named(name) => true,
                    Style::Applied => is_whole(child, value),
                    Style::Added => !(on_top && always_there(at, name, child)) || hollow,
                };
                if let Some(inner) = node(inner, member) {
                    tree.insert(format!("f:{name}"), inner);
                }
            }
        }
        (Node::Set | Node::List(..), Value::Array(items)) => {
            for item in items {
                let inner = below(at.element(), item, style, false);
                let inner = node(inner, true).expect("a member is kept");
                tree.insert(element(at, item), inner);
            }
        }
        _ => {}
    }
    tree
}

/// Whether a value is owned as a whole.
fn is_whole(at: Node<'_>, value: &Value) -> bool {
    match at {
        Node::Leaf => true,
        Node::Struct(..) | Node::Map(..) => false,
        Node::Deduced => !value.is_object(),
        Node::Set | Node::List(..) => false,
    }
}

/// Whether Kubernetes writes a field of an empty struct: structs, and what is required.
fn always_there(at: Node<'_>, name: &str, child: Node<'_>) -> bool {
    let required = match at {
        Node::Struct(_, of) => of.field(name).is_some_and(|field| field.required),
        _ => false,
    };
    matches!(child, Node::Struct(..)) || (required && !matches!(child, Node::Leaf))
}

/// How an object differs from an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is new or has another value.
    pub changed: FieldSet,
    /// What is gone.
    pub removed: FieldSet,
}

impl Compared {
    /// Whether they say the same.
    pub fn is_same(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compare an object with what it was.
pub fn compare(at: Node<'_>, old: &Value, new: &Value) -> Compared {
    let (mut changed, mut removed) = (Tree::new(), Tree::new());
    differ(at, old, new, &mut changed, &mut removed);
    strip(&mut changed);
    strip(&mut removed);
    Compared { changed: FieldSet(changed), removed: FieldSet(removed) }
}

/// Compare two values that are both there. Answers whether the value itself counts as modified.
fn differ(at: Node<'_>, old: &Value, new: &Value, changed: &mut Tree, removed: &mut Tree) -> bool {
    match (at, old, new) {
        (
            Node::Struct(..) | Node::Map(..) | Node::Deduced,
            Value::Object(old),
            Value::Object(new),
        ) => {
            for (name, was) in old {
                let Some(child) = at.member(name) else { continue };
                let key = || format!("f:{name}");
                match new.get(name) {
                    Some(is) => both(child, key, was, is, changed, removed),
                    None => put_whole(removed, key(), child, was),
                }
            }
            for (name, is) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                let Some(child) = at.member(name) else { continue };
                put_whole(changed, format!("f:{name}"), child, is);
            }
            false
        }
        (Node::Set | Node::List(..), Value::Array(old), Value::Array(new)) => {
            let mut before: HashMap<String, &Value> =
                old.iter().map(|item| (element(at, item), item)).collect();
            for is in new {
                let key = element(at, is);
                match before.remove(&key) {
                    Some(was) => both(at.element(), || key.clone(), was, is, changed, removed),
                    None if changed.contains_key(&key) => {}
                    None => put_whole(changed, key, at.element(), is),
                }
            }
            for (key, was) in before {
                put_whole(removed, key, at.element(), was);
            }
            false
        }
        _ => old != new,
    }
}

fn both(
    child: Node<'_>,
    key: impl Fn() -> String,
    was: &Value,
    is: &Value,
    changed: &mut Tree,
    removed: &mut Tree,
) {
    if was == is {
        return;
    }
    let (mut news, mut gone) = (Tree::new(), Tree::new());
    let modified = differ(child, was, is, &mut news, &mut gone);
    if modified {
        news = below(child, is, Style::Added, false);
        gone = below(child, was, Style::Added, false);
    }
    if let Some(news) = node(news, modified) {
        changed.insert(key(), news);
    }
    if let Some(gone) = node(gone, false) {
        removed.insert(key(), gone);
    }
}

/// A value that is on one side only.
fn put_whole(into: &mut Tree, key: String, at: Node<'_>, value: &Value) {
    let inner = below(at, value, Style::Added, false);
    into.insert(key, node(inner, true).expect("a member is kept"));
}
