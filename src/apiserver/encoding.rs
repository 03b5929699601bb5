//! How objects lie in the store and how they leave it (design D2).
//!
//! Stored bytes are JSON of the form `{"metadata":{…},…}` without `kind`, `apiVersion` and
//! `metadata.resourceVersion`. A read puts those in front and copies the rest:
//!
//! ```text
//! {"kind":"Pod","apiVersion":"v1",  "metadata":{  "resourceVersion":"42",  "name":"a",…},"spec":…}
//! └─ head of the served version ─┘  └─────── spliced ────────────────────┘ └─ stored bytes[13..] ─┘
//! ```
//!
//! So every version of a kind whose fields are the same is served from the same bytes, and a GET,
//! a LIST and a watch event decode nothing. A version that differs ([`Conversion`]) is decoded.
//!
//! **Invariant:** stored bytes begin with [`PREFIX`] and hold at least one metadata field, so
//! that a comma may follow the number.
//!
//! [`Conversion`]: super::strategy::Conversion

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::catalog::Resource;
use crate::api::Object;
use crate::api::status::ApiError;
use crate::store::Entry;

/// What all stored bytes begin with.
pub const PREFIX: &[u8] = b"{\"metadata\":{";

const SPLICE: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";

/// Lists are handed on in chunks of about this size.
const CHUNK: usize = 128 * 1024;

/// The stored bytes of an object (in its stored form).
pub fn encode(object: &Object) -> Bytes {
    let mut out = BytesMut::with_capacity(1024).writer();
    out.get_mut().put_slice(PREFIX);
    let empty = Map::new();
    let metadata = object["metadata"].as_object().unwrap_or(&empty);
    put_members(&mut out, metadata.iter().filter(|(key, _)| *key != "resourceVersion"), true);
    out.get_mut().put_u8(b'}');
    let rest = object.as_object().into_iter().flatten();
    let rest = rest.filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
    put_members(&mut out, rest, false);
    out.get_mut().put_u8(b'}');
    out.into_inner().freeze()
}

type Out = bytes::buf::Writer<BytesMut>;

fn put_members<'a>(
    out: &mut Out,
    members: impl Iterator<Item = (&'a String, &'a Value)>,
    mut first: bool,
) {
    for (key, value) in members {
        if !std::mem::take(&mut first) {
            out.get_mut().put_u8(b',');
        }
        serde_json::to_writer(&mut *out, key).expect("a string can be written to memory");
        out.get_mut().put_u8(b':');
        serde_json::to_writer(&mut *out, value).expect("a value can be written to memory");
    }
}

/// The object of an entry, in the version of `resource`.
///
/// # Errors
/// 500 when the stored bytes are damaged.
pub fn decode(resource: &Resource, entry: &Entry) -> Result<Object, ApiError> {
    let mut object: Object = serde_json::from_slice(&entry.value.bytes).map_err(|e| {
        ApiError::internal(format!("the stored object {} cannot be read: {e}", entry.key))
    })?;
    if let Some(conversion) = resource.strategy.conversion() {
        conversion.to_served(&mut object);
    }
    object["kind"] = Value::String(resource.kind.kind.to_string());
    object["apiVersion"] = Value::String(resource.api_version.clone());
    if entry.modified > 0 {
        object["metadata"]["resourceVersion"] = Value::String(entry.modified.to_string());
    }
    Ok(object)
}

/// Only the metadata of an entry, as a `PartialObjectMetadata`.
///
/// # Errors
/// 500 when the stored bytes are damaged.
pub fn decode_metadata(entry: &Entry) -> Result<Object, ApiError> {
    #[derive(serde::Deserialize)]
    struct Only {
        metadata: Value,
    }
    let only: Only = serde_json::from_slice(&entry.value.bytes).map_err(|e| {
        ApiError::internal(format!("the stored object {} cannot be read: {e}", entry.key))
    })?;
    let mut metadata = only.metadata;
    if entry.modified > 0 {
        metadata["resourceVersion"] = Value::String(entry.modified.to_string());
    }
    Ok(serde_json::json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
    }))
}

/// How much room an object takes on the wire at most, besides its stored bytes.
const ROOM: usize = 96;

/// One object as JSON, `kind` and `apiVersion` included.
///
/// # Errors
/// 500 when the bytes must be decoded and are damaged.
pub fn object(resource: &Resource, entry: &Entry) -> Result<Bytes, ApiError> {
    let mut out = BytesMut::with_capacity(entry.value.bytes.len() + resource.head.len() + ROOM);
    put_object(&mut out, resource, entry, true)?;
    Ok(out.freeze())
}

/// Append one object as JSON.
///
/// # Errors
/// 500 when the bytes must be decoded and are damaged.
pub fn put_object(
    out: &mut BytesMut,
    resource: &Resource,
    entry: &Entry,
    with_kind: bool,
) -> Result<(), ApiError> {
    if resource.strategy.conversion().is_some() {
        let mut object = decode(resource, entry)?;
        if let (false, Some(map)) = (with_kind, object.as_object_mut()) {
            map.remove("kind");
            map.remove("apiVersion");
        }
        out.put_slice(&serde_json::to_vec(&object).expect("a value can be written to memory"));
        return Ok(());
    }
    out.put_slice(if with_kind { &resource.head } else { b"{" });
    if entry.modified == 0 {
        out.put_slice(&entry.value.bytes[1..]);
        return Ok(());
    }
    out.put_slice(SPLICE);
    put_number(out, entry.modified);
    out.put_slice(b"\",");
    out.put_slice(&entry.value.bytes[PREFIX.len()..]);
    Ok(())
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// What stands in `metadata` of a list.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    /// The revision of the snapshot.
    pub revision: u64,
    /// The token for the next page.
    pub continue_token: Option<String>,
    /// How many objects follow the page, where that is known.
    pub remaining: Option<u64>,
}

impl ListMeta {
    /// As `metav1.ListMeta`.
    pub fn to_value(&self) -> Value {
        let mut meta = serde_json::json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = Value::String(token.clone());
            if let Some(remaining) = self.remaining {
                meta["remainingItemCount"] = remaining.into();
            }
        }
        meta
    }
}

/// A list as chunks of JSON.
///
/// # Errors
/// 500 when bytes must be decoded and are damaged.
pub fn list(
    resource: &Resource,
    meta: &ListMeta,
    entries: &[Entry],
) -> Result<Vec<Bytes>, ApiError> {
    let total: usize = entries.iter().map(|e| e.value.bytes.len() + ROOM).sum();
    let mut chunks = Vec::with_capacity(total / CHUNK + 1);
    let mut out = BytesMut::with_capacity(CHUNK.min(total + 256) + 4096);
    out.put_slice(
        format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            resource.kind.list_kind(),
            resource.api_version,
            meta.to_value()
        )
        .as_bytes(),
    );
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        // Items of built-in kinds carry no type of their own, as Kubernetes' typed lists.
        put_object(&mut out, resource, entry, resource.kind.custom.is_some())?;
        if out.len() >= CHUNK {
            chunks
                .push(std::mem::replace(&mut out, BytesMut::with_capacity(CHUNK + 4096)).freeze());
        }
    }
    out.put_slice(b"]}");
    chunks.push(out.freeze());
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::catalog::tests::resource;
    use crate::store::Value as Stored;

    fn entry(object: &Object, modified: u64) -> Entry {
        let value = Stored { bytes: encode(object), attrs: Bytes::new() };
        Entry { key: "/pods/a".into(), value, created: 1, modified }
    }

    #[test]
    fn a_read_splices_the_number_and_the_type_in() {
        let pods = resource("", "v1", "pods");
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"nodeName": "n"},
        });
        let entry = entry(&pod, 42);
        assert_eq!(&entry.value.bytes[..], br#"{"metadata":{"name":"a"},"spec":{"nodeName":"n"}}"#);
        let bytes = object(&pods, &entry).expect("sound bytes");
        let read: Object = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(read["metadata"]["resourceVersion"], "42");
        assert_eq!(read, decode(&pods, &entry).expect("sound bytes"));
    }

    #[test]
    fn an_object_that_was_not_written_has_no_resource_version() {
        let pods = resource("", "v1", "pods");
        let entry = entry(&json!({"metadata": {"name": "a"}}), 0);
        let bytes = object(&pods, &entry).expect("sound bytes");
        assert_eq!(&bytes[..], br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#);
    }

    #[test]
    fn a_list_is_one_json_document_whatever_its_chunks() {
        let pods = resource("", "v1", "pods");
        let entries: Vec<Entry> = (0..3000)
            .map(|n| entry(&json!({"metadata": {"name": format!("pod-{n}"), "uid": "x"}}), n + 1))
            .collect();
        let meta = ListMeta { revision: 9, continue_token: Some("t".into()), remaining: Some(2) };
        let chunks = list(&pods, &meta, &entries).expect("sound bytes");
        assert!(chunks.len() > 1, "several chunks");
        let read: Object = serde_json::from_slice(&chunks.concat()).expect("JSON");
        assert_eq!(read["kind"], "PodList");
        assert_eq!(read["metadata"]["remainingItemCount"], 2);
        assert_eq!(read["items"].as_array().map(Vec::len), Some(3000));
        assert_eq!(read["items"][2999]["metadata"]["resourceVersion"], "3000");
    }
}
