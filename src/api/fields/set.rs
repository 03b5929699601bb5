//! A set of fields and its algebra.

use serde_json::{Map, Value};

type Tree = Map<String, Value>;

/// What marks a node with something below it as being in the set itself.
const SELF: &str = ".";

/// A set of fields; see the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(pub(in crate::api) Tree);

/// What stands below a node; nothing where it is no object.
fn below(node: &Value) -> Option<&Tree> {
    node.as_object()
}

/// Whether a node is in the set.
pub(super) fn is_member(node: &Tree) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// The children of a node.
fn children(node: &Tree) -> impl Iterator<Item = (&String, &Tree)> {
    node.iter().filter(|(key, _)| *key != SELF).filter_map(|(key, n)| Some((key, below(n)?)))
}

/// A node with children, marked where it is in the set; `None`: there is nothing to keep.
pub(super) fn node(mut tree: Tree, member: bool) -> Option<Value> {
    tree.remove(SELF);
    match (tree.is_empty(), member) {
        (true, false) => return None,
        (false, true) => {
            tree.insert(SELF.to_owned(), Value::Object(Tree::new()));
        }
        _ => {}
    }
    Some(Value::Object(tree))
}

fn union(a: &mut Tree, b: &Tree) {
    for (key, theirs) in children(b) {
        match a.get_mut(key) {
            Some(Value::Object(ours)) => {
                let member = is_member(ours) || is_member(theirs);
                let mut merged = std::mem::take(ours);
                union(&mut merged, theirs);
                if let Some(Value::Object(merged)) = node(merged, member) {
                    *ours = merged;
                }
            }
            _ => {
                a.insert(key.clone(), Value::Object(theirs.clone()));
            }
        }
    }
}

fn difference(a: &mut Tree, b: &Tree) {
    for (key, theirs) in children(b) {
        let Some(Value::Object(ours)) = a.get_mut(key) else { continue };
        let member = is_member(ours) && !is_member(theirs);
        let mut left = std::mem::take(ours);
        difference(&mut left, theirs);
        match node(left, member) {
            Some(left) => a.insert(key.clone(), left),
            None => a.remove(key),
        };
    }
}

fn intersection(a: &Tree, b: &Tree) -> Tree {
    let mut both = Tree::new();
    for (key, ours) in children(a) {
        let Some(theirs) = b.get(key).and_then(below) else { continue };
        let member = is_member(ours) && is_member(theirs);
        if let Some(kept) = node(intersection(ours, theirs), member) {
            both.insert(key.clone(), kept);
        }
    }
    both
}

impl FieldSet {
    /// From its written form (`fieldsV1`). Anything that is no set reads as an empty one.
    pub fn from_value(value: Value) -> Self {
        match value {
            Value::Object(tree) => Self(tree),
            _ => Self::default(),
        }
    }

    /// Its written form.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.keys().all(|key| key == SELF)
    }

    /// Add what is in `other`.
    pub fn add(&mut self, other: &Self) {
        union(&mut self.0, &other.0);
    }

    /// Take away what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        difference(&mut self.0, &other.0);
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersection(&self.0, &other.0))
    }

    /// Take away everything at and below a path of elements, as `["f:status"]`.
    pub fn cut(&mut self, path: &[&str]) {
        fn cut(tree: &mut Tree, path: &[&str]) {
            let Some((first, rest)) = path.split_first() else { return };
            if rest.is_empty() {
                tree.remove(*first);
                return;
            }
            let Some(Value::Object(inner)) = tree.get_mut(*first) else { return };
            let member = is_member(inner);
            let mut left = std::mem::take(inner);
            cut(&mut left, rest);
            match node(left, member) {
                Some(left) => tree.insert((*first).to_owned(), left),
                None => tree.remove(*first),
            };
        }
        cut(&mut self.0, path);
    }

    /// Keep only what is at or below a field of the object.
    pub fn keep_only(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// Every path in the set, as Kubernetes writes it: `.spec.ports[port=80].name`.
    pub fn paths(&self) -> Vec<String> {
        fn walk(tree: &Tree, at: &mut String, into: &mut Vec<String>) {
            for (key, inner) in children(tree) {
                let length = at.len();
                push_element(at, key);
                if is_member(inner) {
                    into.push(at.clone());
                }
                walk(inner, at, into);
                at.truncate(length);
            }
        }
        let mut paths = Vec::new();
        walk(&self.0, &mut String::new(), &mut paths);
        paths
    }
}

fn push_element(path: &mut String, element: &str) {
    let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "k" => {
            let keys: Tree = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            path.push_str(&format!("[{}]", keys.join(",")));
        }
        "v" => path.push_str(&format!("[={rest}]")),
        "i" => path.push_str(&format!("[{rest}]")),
        _ => {
            path.push('.');
            path.push_str(rest);
        }
    }
}
