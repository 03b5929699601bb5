//! Rules for the volumes of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::relative;
use super::{Errors, one_of, required, required_name, text};
use crate::api::field::Path;
use crate::api::meta::list;
use crate::api::names;
use crate::api::quantity::Quantity;

/// Answers the names of the volumes.
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    path: &Path,
    volumes: &'a Value,
) -> BTreeSet<&'a str> {
    let mut named = BTreeSet::new();
    for (at, volume) in list(volumes).iter().enumerate() {
        let path = path.index(at);
        let name = text(&volume["name"]);
        required_name(errors, &path.child("name"), &volume["name"], names::dns_label);
        if !name.is_empty() && !named.insert(name) {
            errors.push(path.child("name").duplicate(name));
        }
        let mut sources = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, v)| *key != "name" && v.is_object());
        match sources.next() {
            None => errors.push(path.required("must specify a volume type")),
            Some((kind, source)) => self::source(errors, &path.child(kind), kind, source),
        }
        for (more, _) in sources {
            errors.push(path.child(more).forbidden("may not specify more than 1 volume type"));
        }
    }
    named
}

fn source(errors: &mut Errors, path: &Path, kind: &str, source: &Value) {
    match kind {
        "secret" => {
            required(errors, &path.child("secretName"), &source["secretName"]);
            mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            items(errors, &path.child("items"), &source["items"]);
        }
        "configMap" => {
            required(errors, &path.child("name"), &source["name"]);
            mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            items(errors, &path.child("items"), &source["items"]);
        }
        "downwardAPI" => {
            mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            downward(errors, &path.child("items"), &source["items"]);
        }
        "projected" => {
            mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            projections(errors, &path.child("sources"), &source["sources"]);
        }
        "hostPath" => {
            let at = path.child("path");
            let said = text(&source["path"]);
            if said.is_empty() {
                errors.push(at.required(""));
            } else if said.split('/').any(|part| part == "..") {
                errors.push(at.invalid(said, "must not contain '..'"));
            }
            let types = [
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            one_of(errors, &path.child("type"), &source["type"], &types);
        }
        "emptyDir" => {
            let size = text(&source["sizeLimit"]).parse::<Quantity>();
            if let Ok(size) = size
                && size.sign() < 0
            {
                errors.push(
                    path.child("sizeLimit")
                        .forbidden("SizeLimit field must be a valid resource quantity"),
                );
            }
        }
        "persistentVolumeClaim" => {
            required(errors, &path.child("claimName"), &source["claimName"]);
        }
        "csi" => required(errors, &path.child("driver"), &source["driver"]),
        "nfs" => {
            required(errors, &path.child("server"), &source["server"]);
            required(errors, &path.child("path"), &source["path"]);
        }
        _ => {}
    }
}

fn mode(errors: &mut Errors, path: &Path, mode: &Value) {
    if let Some(mode) = mode.as_i64().filter(|m| !(0..=0o777).contains(m)) {
        let rule = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(path.invalid(mode, rule));
    }
}

fn file_path(errors: &mut Errors, path: &Path, said: &Value) {
    match text(said) {
        "" => errors.push(path.required("")),
        said => relative(errors, path, said),
    }
}

fn items(errors: &mut Errors, path: &Path, items: &Value) {
    for (at, item) in list(items).iter().enumerate() {
        let path = path.index(at);
        required(errors, &path.child("key"), &item["key"]);
        file_path(errors, &path.child("path"), &item["path"]);
        mode(errors, &path.child("mode"), &item["mode"]);
    }
}

fn downward(errors: &mut Errors, path: &Path, items: &Value) {
    for (at, item) in list(items).iter().enumerate() {
        let path = path.index(at);
        file_path(errors, &path.child("path"), &item["path"]);
        mode(errors, &path.child("mode"), &item["mode"]);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (false, false) => {
                errors.push(path.required("one of fieldRef and resourceFieldRef is required"));
            }
            (true, true) => {
                errors.push(path.invalid(
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
            _ => {}
        }
    }
}

fn projections(errors: &mut Errors, path: &Path, sources: &Value) {
    for (at, source) in list(sources).iter().enumerate() {
        let path = path.index(at);
        for kind in ["secret", "configMap"] {
            if source[kind].is_object() {
                let path = path.child(kind);
                required(errors, &path.child("name"), &source[kind]["name"]);
                items(errors, &path.child("items"), &source[kind]["items"]);
            }
        }
        if source["downwardAPI"].is_object() {
            let path = path.child("downwardAPI").child("items");
            downward(errors, &path, &source["downwardAPI"]["items"]);
        }
        let token = &source["serviceAccountToken"];
        if token.is_object() {
            let path = path.child("serviceAccountToken");
            file_path(errors, &path.child("path"), &token["path"]);
            let seconds = token["expirationSeconds"].as_i64().unwrap_or(3600);
            if seconds < 600 {
                let at = path.child("expirationSeconds");
                errors.push(at.invalid(seconds, "may not specify a duration less than 10 minutes"));
            }
        }
    }
}
