//! The patch that brings an object from what it is to what its manifest says, and takes away what
//! an earlier manifest said and this one no longer does: client-side apply.
//!
//! ```text
//! original (the manifest applied last)  ──┐ what is gone from it is taken away
//! modified (the manifest now)           ──┼─ patch
//! current  (the object in the cluster)  ──┘ what differs from the manifest is changed
//! ```
//!
//! With the type of the object it is a strategic merge patch (lists are merged by their keys, with
//! `$setElementOrder`, `$retainKeys` and deletions), without one a JSON merge patch. What the
//! manifest never said stays as it is in the cluster.
//!
//! **Invariant:** pure; an empty patch means that the object is as its manifest says.

use serde_json::{Map, Value, json};

use super::strategic::{DELETE_PRIMITIVES, DIRECTIVE, Here, ORDER, RETAIN_KEYS, There};
use crate::api::schema::Type;

type JsonMap = Map<String, Value>;

/// Makes the patch; `of` is the type of the object where it is known.
pub fn three_way(of: Option<&Type>, original: &Value, modified: &Value, current: &Value) -> Value {
    let here = of.map_or(Here::Unknown, Here::Struct);
    let strategic = of.is_some();
    let empty = JsonMap::new();
    let states = States {
        original: original.as_object().unwrap_or(&empty),
        modified: modified.as_object().unwrap_or(&empty),
        current: current.as_object().unwrap_or(&empty),
    };
    Value::Object(diff_map(states, here, strategic))
}

#[derive(Clone, Copy)]
struct States<'a> {
    original: &'a JsonMap,
    modified: &'a JsonMap,
    current: &'a JsonMap,
}

fn diff_map(states: States<'_>, here: Here<'_>, strategic: bool) -> JsonMap {
    let mut patch = JsonMap::new();
    let none = Value::Null;
    for (name, wanted) in states.modified.iter().filter(|(_, wanted)| !wanted.is_null()) {
        let original = states.original.get(name).unwrap_or(&none);
        let there = here.field(name);
        match (states.current.get(name), wanted) {
            (None | Some(Value::Null), _) => {
                patch.insert(name.clone(), wanted.clone());
            }
            (Some(Value::Object(is)), Value::Object(wanted)) if !there.strategy.replace => {
                let empty = JsonMap::new();
                let original = original.as_object().unwrap_or(&empty);
                let inner = States { original, modified: wanted, current: is };
                let mut change = diff_map(inner, there.here, strategic);
                if change.is_empty() {
                    continue;
                }
                if strategic && there.strategy.retain_keys {
                    retain_keys(&mut change, wanted);
                }
                patch.insert(name.clone(), Value::Object(change));
            }
            (Some(Value::Array(is)), Value::Array(wanted)) if strategic && there.strategy.merge => {
                let original = original.as_array().map(Vec::as_slice).unwrap_or_default();
                diff_list(name, [original, wanted, is], there, &mut patch);
            }
            (Some(is), wanted) if is != wanted => {
                patch.insert(name.clone(), wanted.clone());
            }
            _ => {}
        }
    }
    let gone = |name: &&String| states.modified.get(*name).is_none_or(Value::is_null);
    for name in states.original.keys().filter(gone) {
        if states.current.get(name).is_some_and(|is| !is.is_null()) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

fn retain_keys(change: &mut JsonMap, wanted: &JsonMap) {
    let keys: Vec<&String> = wanted.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect();
    change.insert(RETAIN_KEYS.to_owned(), json!(keys));
}

/// What must change in a list that is merged.
fn diff_list(name: &str, lists: [&[Value]; 3], there: There<'_>, patch: &mut JsonMap) {
    let [original, wanted, is] = lists;
    match there.merge_key {
        Some(key) if wanted.iter().chain(is).all(|e| e.get(key).is_some()) => {
            diff_elements(name, [original, wanted, is], key, there, patch);
        }
        // Without keys to go by the list is taken as a whole.
        Some(_) => {
            if wanted != is {
                let mut whole = vec![json!({DIRECTIVE: "replace"})];
                whole.extend(wanted.iter().cloned());
                patch.insert(name.to_owned(), Value::Array(whole));
            }
        }
        None => diff_primitives(name, [original, wanted, is], patch),
    }
}

fn diff_elements(
    name: &str,
    [original, wanted, is]: [&[Value]; 3],
    key: &str,
    there: There<'_>,
    patch: &mut JsonMap,
) {
    let by_key = |list: &'_ [Value], id: &Value| list.iter().position(|e| e.get(key) == Some(id));
    let empty = JsonMap::new();
    let mut changes = Vec::new();
    for element in wanted {
        let id = &element[key];
        let (Some(at), Some(element)) = (by_key(is, id), element.as_object()) else {
            changes.push(element.clone());
            continue;
        };
        let before = by_key(original, id).and_then(|at| original[at].as_object());
        let states = States {
            original: before.unwrap_or(&empty),
            modified: element,
            current: is[at].as_object().unwrap_or(&empty),
        };
        let mut change = diff_map(states, there.here, true);
        if change.is_empty() {
            continue;
        }
        if there.strategy.retain_keys {
            retain_keys(&mut change, element);
        }
        change.insert(key.to_owned(), id.clone());
        changes.push(Value::Object(change));
    }
    for element in original {
        let Some(id) = element.get(key) else { continue };
        if by_key(wanted, id).is_none() && by_key(is, id).is_some() {
            changes.push(json!({DIRECTIVE: "delete", key: id}));
        }
    }
    let ids = |list: &[Value]| -> Vec<Value> { list.iter().map(|e| e[key].clone()).collect() };
    if changes.is_empty() && is_in_order(&ids(wanted), &ids(is)) {
        return;
    }
    let order: Vec<Value> = ids(wanted).into_iter().map(|id| json!({key: id})).collect();
    patch.insert(format!("{ORDER}{name}"), Value::Array(order));
    if !changes.is_empty() {
        patch.insert(name.to_owned(), Value::Array(changes));
    }
}

fn diff_primitives(name: &str, [original, wanted, is]: [&[Value]; 3], patch: &mut JsonMap) {
    let added: Vec<Value> = wanted.iter().filter(|v| !is.contains(v)).cloned().collect();
    let gone = |v: &&Value| !wanted.contains(v) && is.contains(v);
    let gone: Vec<Value> = original.iter().filter(gone).cloned().collect();
    if added.is_empty() && gone.is_empty() && is_in_order(wanted, is) {
        return;
    }
    patch.insert(format!("{ORDER}{name}"), Value::Array(wanted.to_vec()));
    if !added.is_empty() {
        patch.insert(name.to_owned(), Value::Array(added));
    }
    if !gone.is_empty() {
        patch.insert(format!("{DELETE_PRIMITIVES}{name}"), Value::Array(gone));
    }
}

/// Whether what is wanted stands in `is` in the order that is wanted.
fn is_in_order(wanted: &[Value], is: &[Value]) -> bool {
    let places = wanted.iter().filter_map(|id| is.iter().position(|i| i == id));
    places.collect::<Vec<_>>().is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KindTable;
    use crate::api::patch::{self, PatchType};
    use crate::api::schema::Schema;

    fn deployment() -> &'static Type {
        Schema::builtin().get("io.k8s.api.apps.v1.Deployment").expect("it is built in")
    }

    /// The object after the patch, which must be empty when made again.
    fn applied(original: &Value, modified: &Value, current: &Value) -> (Value, Value) {
        let kinds = KindTable::builtin();
        let kind = kinds.of("apps/v1", "Deployment").expect("it is built in");
        let made = three_way(Some(deployment()), original, modified, current);
        let bytes = made.to_string();
        let object = patch::apply(kind, current, bytes.as_bytes(), PatchType::Strategic);
        let object = object.expect("the patch fits");
        let again = three_way(Some(deployment()), modified, modified, &object);
        assert_eq!(again, json!({}), "{made} made {object}");
        (made, object)
    }

    fn of_pod(spec: Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    #[test]
    fn what_the_cluster_added_stays() {
        let manifest = of_pod(json!({"containers": [{"name": "a", "image": "i:1"}]}));
        let current = of_pod(json!({"restartPolicy": "Always",
            "containers": [{"name": "a", "image": "i:1", "imagePullPolicy": "Always"}]}));
        assert_eq!(applied(&manifest, &manifest, &current).0, json!({}));
        let newer = of_pod(json!({"containers": [{"name": "a", "image": "i:2"}]}));
        let (made, object) = applied(&manifest, &newer, &current);
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container, &json!({"name": "a", "image": "i:2", "imagePullPolicy": "Always"}));
        assert_eq!(
            made,
            of_pod(json!({
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"name": "a", "image": "i:2"}],
            }))
        );
    }

    #[test]
    fn what_the_manifest_no_longer_says_goes() {
        let old = of_pod(json!({"hostname": "h", "containers": [{"name": "a"}, {"name": "b"}]}));
        let new = of_pod(json!({"containers": [{"name": "b"}]}));
        let current = of_pod(json!({"hostname": "h",
            "containers": [{"name": "a"}, {"name": "b"}, {"name": "sidecar"}]}));
        let (_, object) = applied(&old, &new, &current);
        let expected = of_pod(json!({"containers": [{"name": "b"}, {"name": "sidecar"}]}));
        assert_eq!(object, expected);
    }

    #[test]
    fn order_is_restored() {
        let manifest = of_pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let current = of_pod(json!({"containers": [{"name": "b"}, {"name": "a"}]}));
        let (_, object) = applied(&manifest, &manifest, &current);
        assert_eq!(object, manifest);
    }

    #[test]
    fn one_source_of_a_volume_takes_the_place_of_another() {
        let old = of_pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
        let new = of_pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}));
        let current = of_pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
        assert_eq!(applied(&old, &new, &current).1, new);
        let elsewhere = of_pod(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}));
        assert_eq!(applied(&old, &new, &elsewhere).1, new, "$retainKeys drops what others set");
    }

    #[test]
    fn lists_of_plain_values_are_merged() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let new = json!({"metadata": {"finalizers": ["b", "c"]}});
        let current = json!({"metadata": {"finalizers": ["a", "b", "x"]}});
        let (_, object) = applied(&old, &new, &current);
        let left = object["metadata"]["finalizers"].as_array().expect("a list");
        assert_eq!(left.len(), 3);
        assert!(["b", "c", "x"].iter().all(|f| left.contains(&json!(f))), "{object}");
    }

    #[test]
    fn without_a_type_lists_are_taken_whole() {
        let old = json!({"spec": {"a": 1, "list": [{"name": "x"}]}});
        let new = json!({"spec": {"list": [{"name": "y"}]}});
        let current = json!({"spec": {"a": 1, "b": 2, "list": [{"name": "x"}]}});
        let made = three_way(None, &old, &new, &current);
        assert_eq!(made, json!({"spec": {"a": null, "list": [{"name": "y"}]}}));
    }
}
