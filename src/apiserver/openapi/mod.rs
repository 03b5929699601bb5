//! The OpenAPI documents: `/openapi/v3` (an index and a document a group version) and
//! `/openapi/v2` (JSON and gnostic's protobuf), made from the kinds table, k8s-openapi's schemas
//! and the facts of [`crate::api::schema`].
//!
//! A document is built when it is first asked for, and kept compressed: idle, a server that nobody
//! asked holds none of this.
//!
//! **Invariant:** the hash of a document changes with the kinds it tells of.

mod gnostic;
mod paths;
mod schemas;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::kinds::KindTable;

/// The Kubernetes release whose types are served.
const RELEASE: &str = "v1.37.0";

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Which dialect a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// A document on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200, or 304 where the client has it already.
    pub code: u16,
    pub content_type: &'static str,
    /// With its quotes.
    pub etag: String,
    /// Empty for a 304.
    pub body: Bytes,
}

/// The documents of one kinds table.
pub struct Documents {
    table: Arc<KindTable>,
    hash: String,
    /// By name, compressed.
    built: Mutex<HashMap<String, Arc<[u8]>>>,
}

impl Documents {
    /// The documents of `table`; nothing is built yet.
    pub fn new(table: Arc<KindTable>) -> Self {
        let mut hash = Sha256::new();
        hash.update(RELEASE);
        hash.update(env!("CARGO_PKG_VERSION"));
        for row in table.rows() {
            hash.update(format!("{row:?}"));
        }
        let hash = hex::encode_upper(hash.finalize());
        Self { table, hash, built: Mutex::new(HashMap::new()) }
    }

    /// Answers a GET below `/openapi`; `None`: there is no such document.
    ///
    /// `path` is `/openapi/v2`, `/openapi/v3` or `/openapi/v3/apis/apps/v1`, without the query.
    pub fn answer(&self, path: &str, accept: &str, if_none_match: &str) -> Option<Answer> {
        let path = path.trim_end_matches('/');
        let (name, content_type) = match path {
            "/openapi/v2" if accept.contains("proto-openapi.spec.v2") => ("v2.pb", V2_PROTOBUF),
            "/openapi/v2" => ("v2", "application/json"),
            "/openapi/v3" => ("v3", "application/json"),
            _ => {
                let name = path.strip_prefix("/openapi/v3/")?;
                self.group_version(name)?;
                (name, "application/json")
            }
        };
        let etag = format!("\"{}-{name}\"", self.hash);
        if !if_none_match.is_empty() && if_none_match.contains(etag.trim_matches('"')) {
            return Some(Answer { code: 304, content_type, etag, body: Bytes::new() });
        }
        Some(Answer { code: 200, content_type, etag, body: self.document(name) })
    }

    /// `apis/apps/v1` or `api/v1` as group and version, where it is served.
    fn group_version<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let (group, version) = match name.strip_prefix("apis/") {
            Some(rest) => rest.split_once('/')?,
            None => ("", name.strip_prefix("api/")?),
        };
        let served = self.table.rows().iter().any(|k| k.group == group && k.version == version);
        served.then_some((group, version))
    }

    fn document(&self, name: &str) -> Bytes {
        if let Some(packed) = self.built.lock().get(name).cloned() {
            return unpack(&packed);
        }
        let bytes = match name {
            "v3" => self.index().to_string().into_bytes(),
            "v2" => self.v2().to_string().into_bytes(),
            "v2.pb" => gnostic::document(&self.v2()),
            _ => self.v3(name).to_string().into_bytes(),
        };
        self.built.lock().insert(name.to_owned(), pack(&bytes));
        bytes.into()
    }

    fn index(&self) -> Value {
        let mut paths = Map::new();
        for group in self.table.groups() {
            for version in &group.versions {
                let name = match group.group.as_str() {
                    "" => format!("api/{version}"),
                    group => format!("apis/{group}/{version}"),
                };
                let url = format!("/openapi/v3/{name}?hash={}", self.hash);
                paths.insert(name, json!({"serverRelativeURL": url}));
            }
        }
        json!({"paths": paths})
    }

    fn v3(&self, name: &str) -> Value {
        let (group, version) = self.group_version(name).unwrap_or_default();
        let kinds: Vec<_> = self.table.in_version(group, version);
        let schemas = schemas::of(&kinds, Dialect::V3);
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": RELEASE},
            "paths": paths::of(&kinds, Dialect::V3),
            "components": {"schemas": schemas},
        })
    }

    fn v2(&self) -> Value {
        let kinds: Vec<_> = self.table.rows().iter().collect();
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": RELEASE},
            "paths": paths::of(&kinds, Dialect::V2),
            "definitions": schemas::of(&kinds, Dialect::V2),
        })
    }
}

fn pack(bytes: &[u8]) -> Arc<[u8]> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("a Vec takes every write");
    encoder.finish().expect("a Vec takes every write").into()
}

fn unpack(packed: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(packed)
        .read_to_end(&mut bytes)
        .expect("what was packed here can be unpacked");
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents() -> Documents {
        Documents::new(Arc::new(KindTable::builtin()))
    }

    fn json_of(documents: &Documents, path: &str) -> Value {
        let answer = documents.answer(path, "application/json", "").expect(path);
        serde_json::from_slice(&answer.body).expect("a JSON document")
    }

    fn refs(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(name)) = map.get("$ref") {
                    into.push(name.clone());
                }
                map.values().for_each(|v| refs(v, into));
            }
            Value::Array(list) => list.iter().for_each(|v| refs(v, into)),
            _ => {}
        }
    }

    #[test]
    fn every_group_version_has_a_document_without_dangling_references() {
        let documents = documents();
        let index = json_of(&documents, "/openapi/v3");
        let names = index["paths"].as_object().expect("paths");
        assert!(names.contains_key("api/v1") && names.contains_key("apis/apps/v1"));
        for name in names.keys() {
            let document = json_of(&documents, &format!("/openapi/v3/{name}"));
            let mut named = Vec::new();
            refs(&document, &mut named);
            assert!(!named.is_empty());
            for reference in named {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{name}: {reference}");
            }
        }
        assert!(documents.answer("/openapi/v3/apis/none/v1", "", "").is_none());
    }

    #[test]
    fn kubectl_finds_what_it_looks_for_before_it_applies() {
        let document = json_of(&documents(), "/openapi/v3/apis/apps/v1");
        let item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &document["paths"][item]["patch"];
        let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
        for wanted in ["fieldValidation", "dryRun", "fieldManager"] {
            let parameters = patch["parameters"].as_array().expect("parameters");
            let found = parameters.iter().any(|p| p["name"] == wanted && p["in"] == "query");
            assert!(found, "{wanted}");
        }
        let content = patch["requestBody"]["content"].as_object().expect("content");
        assert!(content.contains_key("application/strategic-merge-patch+json"));
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([gvk]));
        assert!(deployment["description"].as_str().is_some_and(|d| d.contains("Deployment")));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }

    #[test]
    fn a_document_that_the_client_has_is_not_sent_again() {
        let documents = documents();
        let first = documents.answer("/openapi/v2", "application/json", "").expect("a document");
        let again = documents.answer("/openapi/v2", "application/json", &first.etag);
        assert_eq!(again.map(|a| (a.code, a.body.len())), Some((304, 0)));
        let kept = documents.answer("/openapi/v2", "application/json", "").expect("a document");
        assert_eq!(kept, first);
    }

    #[test]
    fn the_protobuf_form_holds_every_definition() {
        let documents = documents();
        let json = json_of(&documents, "/openapi/v2");
        let accept = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        let answer = documents.answer("/openapi/v2", accept, "").expect("a document");
        let definitions = json["definitions"].as_object().map_or(0, Map::len);
        assert_eq!(gnostic::count_definitions(&answer.body), Ok(definitions));
        assert!(definitions > 300);
    }
}
