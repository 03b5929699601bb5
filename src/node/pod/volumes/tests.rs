//! Volumes on a real disk.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::payload::{PayloadError, Sources};
use super::*;
use crate::node::pod::env::{Data, Lookup};
use crate::node::pod::fields::Facts;

struct Known;

fn data(key: &'static str, value: &'static str) -> &'static Data {
    Box::leak(Box::new([(key.to_owned(), value.as_bytes().to_vec())].into()))
}

impl Lookup for Known {
    fn config_map(&self, name: &str) -> Option<&Data> {
        match name {
            "cfg" => Some(data("config.yaml", "a: 1")),
            "kube-root-ca.crt" => Some(data("ca.crt", "CERT")),
            _ => None,
        }
    }

    fn secret(&self, name: &str) -> Option<&Data> {
        (name == "sec").then(|| data("pass", "hunter2"))
    }
}

fn volume(value: serde_json::Value) -> Volume {
    serde_json::from_value(value).expect("a volume")
}

fn payload(volume: &Volume) -> Result<Payload, PayloadError> {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}}))
        .expect("a pod");
    let tokens: BTreeMap<String, String> = [("token".to_owned(), "JWT".to_owned())].into();
    let facts = Facts::default();
    Sources { pod: &pod, facts: &facts, lookup: &Known, tokens: &tokens }.payload(volume)
}

fn text(payload: &Payload, path: &str) -> String {
    String::from_utf8(payload[path].bytes.clone()).expect("text")
}

#[test]
fn items_choose_keys_paths_and_modes() {
    let files = payload(&volume(json!({"name": "v", "configMap": {
        "name": "cfg", "defaultMode": 0o400,
        "items": [{"key": "config.yaml", "path": "etc/app.yaml"}],
    }})))
    .expect("files");
    assert_eq!(text(&files, "etc/app.yaml"), "a: 1");
    assert_eq!(files["etc/app.yaml"].mode, 0o400);
    let missing = volume(json!({"name": "v", "secret": {
        "secretName": "sec", "items": [{"key": "none", "path": "x"}]}}));
    let error = payload(&missing).expect_err("a key is missing").to_string();
    assert_eq!(error, "references non-existent secret key: none");
}

#[test]
fn what_is_optional_may_be_missing() {
    let optional = volume(json!({"name": "v", "configMap": {"name": "none", "optional": true}}));
    assert_eq!(payload(&optional), Ok(Payload::new()));
    let needed = volume(json!({"name": "v", "configMap": {"name": "none"}}));
    assert_eq!(payload(&needed).expect_err("missing").to_string(), "configmap \"none\" not found");
}

#[test]
fn the_service_account_volume_has_token_ca_and_namespace() {
    let files = payload(&volume(json!({"name": "kube-api-access", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})))
    .expect("files");
    assert_eq!(text(&files, "token"), "JWT");
    assert_eq!(text(&files, "ca.crt"), "CERT");
    assert_eq!(text(&files, "namespace"), "ns");
}

#[test]
fn host_paths_are_mounted_only_where_the_node_allows() {
    let dir = tempfile::tempdir().expect("a directory");
    let allowed = dir.path().join("ok");
    let other = dir.path().join("other");
    fs::create_dir_all(&allowed).expect("made");
    fs::create_dir_all(&other).expect("made");
    symlink(&other, allowed.join("out")).expect("linked");
    let volumes = Volumes::new(&dir.path().join("volumes"), "u", vec![allowed.clone()]);
    let now = Timestamp::UNIX_EPOCH;
    let try_path = |path: &Path, kind: &str| {
        let v = volume(json!({"name": "h", "hostPath": {"path": path, "type": kind}}));
        volumes.set_up(&v, &Payload::new(), now).map_err(|e| e.to_string())
    };
    assert!(try_path(&allowed, "").is_ok());
    assert!(try_path(&allowed.join("a/b"), "DirectoryOrCreate").is_ok());
    assert!(try_path(&allowed, "File").expect_err("a directory").contains("is not a file"));
    for (kind, what) in [("Socket", "socket file"), ("CharDevice", "character device")] {
        let told = try_path(&allowed, kind).expect_err("a directory");
        assert!(told.ends_with(&format!("is not a {what}")), "{told}");
    }
    for outside in [other.clone(), allowed.join("out"), allowed.join("../other")] {
        let error = try_path(&outside, "").expect_err("outside");
        assert!(error.contains("--allow-host-path"), "{error}");
    }
    assert!(try_path(&allowed.join("out/new"), "DirectoryOrCreate").is_err());
    assert!(!other.join("new").exists());
}

#[test]
fn sub_paths_stay_inside_and_are_made_where_they_may_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::new(dir.path(), "u", Vec::new());
    let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
        {"name": "data", "emptyDir": {}},
        {"name": "cfg", "configMap": {"name": "cfg"}},
    ]}}))
    .expect("a pod");
    for v in pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).expect("volumes") {
        volumes.set_up(v, &payload(v).expect("files"), Timestamp::UNIX_EPOCH).expect("set up");
    }
    symlink("/etc", dir.path().join("u/data/evil")).expect("linked");
    let mounts = |mount: serde_json::Value| {
        let container: Container =
            serde_json::from_value(json!({"name": "app", "volumeMounts": [mount]})).expect("ok");
        volumes.mounts(&pod, &container, |name| (name == "POD").then_some("p-0"))
    };
    let made = mounts(json!({"name": "data", "mountPath": "d", "subPathExpr": "$(POD)/x"}))
        .expect("mounted");
    assert!(made[0].host.ends_with("u/data/p-0/x") && made[0].host.is_dir());
    assert_eq!((made[0].guest.as_str(), made[0].read_only), ("/d", false));
    let file = mounts(json!({"name": "cfg", "mountPath": "/c.yaml", "subPath": "config.yaml"}))
        .expect("mounted");
    assert!(file[0].host.is_file() && file[0].read_only);
    for bad in ["evil", "../x", "/etc", "evil/new"] {
        let error = mounts(json!({"name": "data", "mountPath": "/d", "subPath": bad}));
        assert!(error.is_err(), "{bad}");
    }
    let unknown = mounts(json!({"name": "none", "mountPath": "/d"})).expect_err("no such volume");
    assert!(unknown.to_string().contains("names no volume"));
}

#[test]
fn kinds_that_cannot_be_mounted_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::new(dir.path(), "u", Vec::new());
    let claim = volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
    let error = volumes.set_up(&claim, &Payload::new(), Timestamp::UNIX_EPOCH);
    assert_eq!(
        error.expect_err("not supported").to_string(),
        "MountVolume.SetUp failed for volume \"v\" : persistentVolumeClaim volumes are not supported by this node"
    );
}

#[test]
fn an_empty_dir_in_memory_lies_elsewhere_and_goes_with_the_pod() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = dir.path().join("memory");
    let volumes =
        Volumes::new(&dir.path().join("disk"), "u", Vec::new()).with_memory(Some(memory.clone()));
    let cache = volume(json!({"name": "cache", "emptyDir": {"medium": "Memory"}}));
    let data = volume(json!({"name": "data", "emptyDir": {}}));
    for v in [&cache, &data] {
        volumes.set_up(v, &Payload::new(), Timestamp::UNIX_EPOCH).expect("set up");
        fs::write(volumes.path(v).join("x"), b"x").expect("written");
    }
    assert_eq!(volumes.path(&cache), memory.join("u/cache"));
    assert!(volumes.path(&data).starts_with(dir.path().join("disk/u")));
    volumes.remove().expect("removed");
    assert!(!memory.join("u").exists() && !dir.path().join("disk/u").exists());
}

#[test]
fn what_holds_more_than_its_limit_is_told_as_the_kubelet_tells_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::new(dir.path(), "u", Vec::new());
    let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
        {"name": "free", "emptyDir": {}},
        {"name": "data", "emptyDir": {"sizeLimit": "1Mi"}},
    ]}}))
    .expect("a pod");
    let all = pod.spec.as_ref().and_then(|s| s.volumes.clone()).expect("volumes");
    for v in &all {
        volumes.set_up(v, &Payload::new(), Timestamp::UNIX_EPOCH).expect("set up");
    }
    fs::create_dir(volumes.path(&all[1]).join("sub")).expect("made");
    fs::write(volumes.path(&all[1]).join("sub/a"), vec![1; 500 << 10]).expect("written");
    fs::write(volumes.path(&all[0]).join("a"), vec![1; 3 << 20]).expect("written");
    assert_eq!(volumes.over_limit(&pod, None), None);
    let told = volumes.over_limit(&pod, Some(2 << 20)).expect("too much together");
    assert!(told.starts_with("Pod ephemeral local storage usage exceeds"), "{told}");
    fs::write(volumes.path(&all[1]).join("sub/b"), vec![1; 700 << 10]).expect("written");
    assert_eq!(
        volumes.over_limit(&pod, None).as_deref(),
        Some("Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ")
    );
}

#[test]
fn a_sub_path_of_a_config_map_keeps_what_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::new(dir.path(), "u", Vec::new());
    let v = json!({"name": "cfg", "configMap": {"name": "cfg"}});
    let pod: Pod =
        serde_json::from_value(json!({"spec": {"containers": [], "volumes": [v]}})).expect("a pod");
    let v = volume(v);
    let set = |text: &str, second| {
        let file = super::payload::File { bytes: text.into(), mode: 0o644 };
        let files = Payload::from([("key".to_owned(), file)]);
        let at = Timestamp::from_second(second).expect("a time");
        volumes.set_up(&v, &files, at).expect("set up");
    };
    set("old", 1);
    let container: Container = serde_json::from_value(json!({"name": "app", "volumeMounts": [
        {"name": "cfg", "mountPath": "/whole"},
        {"name": "cfg", "mountPath": "/one", "subPath": "key"},
    ]}))
    .expect("a container");
    let mounts = volumes.mounts(&pod, &container, |_| None).expect("mounted");
    set("new", 2);
    assert_eq!(fs::read_to_string(mounts[0].host.join("key")).expect("there"), "new");
    assert_eq!(fs::read_to_string(&mounts[1].host).expect("there"), "old");
}

#[test]
fn propagation_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::new(dir.path(), "u", Vec::new());
    let pod: Pod = serde_json::from_value(
        json!({"spec": {"containers": [], "volumes": [{"name": "d", "emptyDir": {}}]}}),
    )
    .expect("a pod");
    let container: Container = serde_json::from_value(json!({"name": "app", "volumeMounts": [
        {"name": "d", "mountPath": "/d", "mountPropagation": "Bidirectional"}]}))
    .expect("a container");
    let told = volumes.mounts(&pod, &container, |_| None).expect_err("refused").to_string();
    assert!(told.contains("mountPropagation Bidirectional is not possible here"), "{told}");
}
