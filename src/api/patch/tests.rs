//! What patches make of objects.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{PatchType, apply, decoded};
use crate::api::kinds::{Kind, KindTable};
use crate::api::schema::FieldValidation;

fn kind(api_version: &str, name: &str) -> Kind {
    (**KindTable::builtin().of(api_version, name).expect("a built-in kind")).clone()
}

fn patched(object: Value, patch: Value, patch_type: PatchType) -> Result<Value, (u16, String)> {
    let bytes = patch.to_string();
    apply(&kind("v1", "Pod"), &object, bytes.as_bytes(), patch_type)
        .map_err(|e| (e.reason.code(), e.message))
}

fn spec(object: Value, patch: Value) -> Value {
    let (object, patch) = (json!({"spec": object}), json!({"spec": patch}));
    patched(object, patch, PatchType::Strategic).expect("a patch that fits")["spec"].clone()
}

#[test]
fn strategic_patches_merge_by_the_schema() {
    let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    let table = [
        (
            json!({"containers": [{"name": "b", "image": "3"}]}),
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]),
        ),
        (
            json!({"containers": [{"name": "c"}]}),
            json!([{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]),
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!([{"name": "b", "image": "2"}]),
        ),
        (
            json!({"containers": [{"$patch": "replace"}, {"name": "z", "image": null}]}),
            json!([{"name": "z"}]),
        ),
        (
            json!({"containers": [{"name": "a", "image": null}]}),
            json!([{"name": "a"}, {"name": "b", "image": "2"}]),
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                   "containers": [{"name": "a", "image": "9"}]}),
            json!([{"name": "b", "image": "2"}, {"name": "a", "image": "9"}]),
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]),
        ),
    ];
    for (patch, want) in table {
        assert_eq!(spec(two.clone(), patch.clone())["containers"], want, "{patch}");
    }
}

#[test]
fn strategic_patches_replace_what_is_atomic() {
    let args = json!({"containers": [{"name": "a", "args": ["1", "2"]}]});
    let new = spec(args, json!({"containers": [{"name": "a", "args": ["3"]}]}));
    assert_eq!(new["containers"][0]["args"], json!(["3"]));
    let tolerations = json!({"tolerations": [{"key": "a"}]});
    let new = spec(tolerations, json!({"tolerations": [{"key": "b"}]}));
    assert_eq!(new["tolerations"], json!([{"key": "b"}]));
}

#[test]
fn retained_keys_clear_the_others() {
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"name": "v", "configMap": {"name": "c"}, "$retainKeys": ["name", "configMap"]}]});
    assert_eq!(spec(volumes, patch)["volumes"], json!([{"name": "v", "configMap": {"name": "c"}}]));
}

#[test]
fn primitive_lists_are_merged_and_deleted_from() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch =
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
    let new = patched(object, patch, PatchType::Strategic).expect("a patch that fits");
    assert_eq!(new["metadata"]["finalizers"], json!(["c", "b"]));
}

#[test]
fn maps_can_be_replaced_and_emptied() {
    let object = json!({"metadata": {"labels": {"a": "1"}}});
    let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
    let new = patched(object.clone(), patch, PatchType::Strategic).expect("a patch that fits");
    assert_eq!(new["metadata"]["labels"], json!({"b": "2"}));
    let patch = json!({"metadata": {"labels": {"$patch": "delete"}}});
    let new = patched(object, patch, PatchType::Strategic).expect("a patch that fits");
    assert_eq!(new["metadata"]["labels"], json!({}));
}

#[test]
fn patches_that_do_not_fit_are_refused() {
    let pod = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"name": "p"}});
    let refused = |patch, kind| patched(pod.clone(), patch, kind).map_err(|e| e.0);
    let no_key = json!({"spec": {"containers": [{"image": "a"}]}});
    assert_eq!(refused(no_key, PatchType::Strategic), Err(422));
    let unknown = json!({"spec": {"$patch": "x"}});
    assert_eq!(refused(unknown, PatchType::Strategic), Err(400));
    assert_eq!(refused(json!([]), PatchType::Merge), Err(400));
    assert_eq!(refused(json!({}), PatchType::Json), Err(400));
    assert_eq!(refused(json!([{"op": "remove", "path": "/x"}]), PatchType::Json), Err(422));
    let test = json!([{"op": "test", "path": "/metadata/name", "value": "q"}]);
    assert_eq!(refused(test, PatchType::Json), Err(422));
    assert_eq!(refused(json!({}), PatchType::Apply), Err(415));
    let doubling: Vec<Value> =
        (0..40).map(|i| json!({"op": "copy", "from": "", "path": format!("/x{i}")})).collect();
    assert_eq!(refused(json!(doubling), PatchType::Json), Err(422));
}

#[test]
fn json_and_merge_patches_change_what_they_name() {
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "1"}}});
    let ops = json!([{"op": "add", "path": "/metadata/labels/b", "value": "2"}]);
    let new = patched(pod.clone(), ops, PatchType::Json).expect("a patch that fits");
    assert_eq!(new["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    let merge = json!({"metadata": {"labels": {"a": null, "c": "3"}}});
    let new = patched(pod, merge, PatchType::Merge).expect("a patch that fits");
    assert_eq!(new["metadata"]["labels"], json!({"c": "3"}));
}

#[test]
fn what_a_patch_makes_is_decoded_strictly() {
    let wrong = json!({"metadata": {"name": "p"}, "spec": {"foo": 1}});
    let told = decoded(&kind("v1", "Pod"), wrong, FieldValidation::Strict).expect_err("a field");
    assert_eq!(told.reason.code(), 422);
    assert!(told.message.ends_with("strict decoding error: unknown field \"spec.foo\""));
    assert!(told.message.starts_with(" \"\" is invalid: patch: Invalid value: "));
}

fn container() -> impl Strategy<Value = Value> {
    ("[a-d]", proptest::option::of("[x-z]")).prop_map(|(name, image)| match image {
        Some(image) => json!({"name": name, "image": image}),
        None => json!({"name": name}),
    })
}

fn containers() -> impl Strategy<Value = Value> {
    proptest::collection::vec(container(), 0..5).prop_map(|mut list| {
        list.sort_by_key(|c| c["name"].to_string());
        list.dedup_by_key(|c| c["name"].to_string());
        json!({"spec": {"containers": list}})
    })
}

proptest! {
    #[test]
    fn applying_a_strategic_patch_twice_changes_nothing_more(object in containers(), patch in containers()) {
        let once = patched(object, patch.clone(), PatchType::Strategic).expect("it fits");
        let twice = patched(once.clone(), patch, PatchType::Strategic).expect("it fits");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_strategic_patch_of_the_object_itself_changes_nothing(object in containers()) {
        let same = patched(object.clone(), object.clone(), PatchType::Strategic).expect("it fits");
        prop_assert_eq!(same, object);
    }

    #[test]
    fn what_a_strategic_patch_says_holds_afterwards(object in containers(), patch in containers()) {
        let new = patched(object.clone(), patch.clone(), PatchType::Strategic).expect("it fits");
        let list = |v: &Value| v["spec"]["containers"].as_array().cloned().unwrap_or_default();
        for wanted in list(&patch) {
            let found = list(&new).into_iter().find(|c| c["name"] == wanted["name"]);
            let found = found.expect("what the patch names is there");
            prop_assert!(wanted["image"].is_null() || found["image"] == wanted["image"]);
        }
        for kept in list(&object) {
            prop_assert!(list(&new).iter().any(|c| c["name"] == kept["name"]));
        }
    }

    #[test]
    fn any_patch_is_taken_or_refused_without_a_panic(bytes in "[\\[\\]{}\":,$a-c/0-9]{0,40}") {
        let pod = json!({"spec": {"containers": [{"name": "a"}]}});
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = apply(&kind("v1", "Pod"), &pod, bytes.as_bytes(), patch_type);
        }
    }
}

#[test]
fn json_patches_find_a_field_that_is_not_there_to_be_null() {
    let object = json!({"metadata": {"name": "a"}});
    let add = json!({"op": "add", "path": "/metadata/finalizers", "value": ["a.b/c"]});
    let test = |path: &str| json!([{"op": "test", "path": path, "value": null}, add]);
    let new = patched(object.clone(), test("/metadata/finalizers"), PatchType::Json);
    assert_eq!(new.expect("a patch that fits")["metadata"]["finalizers"], json!(["a.b/c"]));
    assert!(patched(object.clone(), test("/metadata/name"), PatchType::Json).is_err());
    assert!(patched(object, test("/nowhere/at/all"), PatchType::Json).is_err());
}
