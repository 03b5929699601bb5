//! Objects as protobuf, `application/vnd.kubernetes.protobuf`: the form in which Kubernetes' own
//! clients (kubectl among them) send and read the built-in kinds.
//!
//! ```text
//! bytes ─ envelope (magic, apiVersion, kind, raw) ─ raw ─ decode ─▶ JSON ─▶ as any JSON body
//! JSON ─ encode ─ raw ─ envelope ─▶ bytes           (lists, statuses, partial metadata as well)
//! JSON ─ encode ─ envelope ─ WatchEvent ─ length ─▶ a frame of a watch
//! ```
//!
//! Objects stay JSON inside; this module turns them at the border. What it knows of the wire is in
//! `messages.txt`, written by `scripts/proto-table.py`; types of fields come from the schema.
//!
//! **Invariant:** what is decoded is what Go would write as JSON of the same bytes, and what is
//! encoded is, byte by byte, what Go would write of the same object.

mod decode;
mod encode;
mod envelope;
mod read;
#[cfg(test)]
mod round_trips;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use read::Malformed;

use super::Object;
use super::kinds::Kind;
use super::schema::{Expected, FieldValidation, normalize};
use super::status::ApiError;
use decode::Decoder;
use table::{Message, Table};
use write::Backwards;

/// The media type of bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of a watch.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const META_VERSION: &str = "meta.k8s.io/v1";
/// JSON of a body may be nested so deep, which is what its parser takes too.
const DEPTH_MAX: usize = 120;

/// Whether objects of a type in the schema have a form in protobuf.
pub fn serves(schema: &str) -> bool {
    Table::builtin().get(schema).is_some()
}

/// The type of an object by what it says of itself.
fn schema_of(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match (group, kind) {
        ("", "Status" | "DeleteOptions") => format!("{META}{kind}"),
        ("apiextensions.k8s.io", _) => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        ("apiregistration.k8s.io", _) => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        ("", _) => format!("io.k8s.api.core.{version}.{kind}"),
        _ => {
            let package = group.split('.').next().unwrap_or(group);
            format!("io.k8s.api.{package}.{version}.{kind}")
        }
    }
}

/// Decode the body of a request, as [`schema::decode`](super::schema::decode) does for JSON.
///
/// # Errors
/// 400 in Kubernetes' words.
pub fn decode<'a>(
    expected: impl Into<Expected<'a>>,
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), ApiError> {
    let expected = expected.into();
    let body = envelope::open(bytes).map_err(|why| {
        let head = hex::encode(&bytes[..bytes.len().min(30)]);
        let summary = match bytes.len() {
            0 => "<empty>".to_owned(),
            1..=30 => head,
            _ => format!("{head} ..."),
        };
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({summary})",
            expected.kind
        ))
    })?;
    let kind = if body.kind.is_empty() { expected.kind } else { &body.kind };
    let refuse = |why: String| {
        let version = body.api_version.rsplit('/').next().filter(|v| !v.is_empty());
        ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: {why}",
            version.unwrap_or(expected.version),
            expected.kind
        ))
    };
    let mut object = Map::new();
    // Of another kind only its name matters: it is refused.
    if kind == expected.kind {
        let table = Table::builtin();
        let message = table.get(expected.schema);
        let message = message.ok_or_else(|| refuse("the kind has no protobuf form".into()))?;
        let read = Decoder::new(table).message(message, body.raw, &mut object);
        read.map_err(|why| refuse(why.to_string()))?;
    }
    object.insert("kind".into(), kind.into());
    if !body.api_version.is_empty() {
        object.insert("apiVersion".into(), body.api_version.as_str().into());
    }
    let object = Value::Object(object);
    if depth(&object) > DEPTH_MAX {
        return Err(refuse(Malformed::Depth.to_string()));
    }
    normalize(expected, object, validation)
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

/// An object, a list, a status: whatever says its `apiVersion` and `kind`. `None` where that has
/// no form in protobuf (tables, custom resources, discovery).
pub fn encode(object: &Value) -> Option<Bytes> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let raw = raw(api_version, kind, object)?;
    Some(envelope::wrap(api_version, kind, &raw).into())
}

fn raw(api_version: &str, kind: &str, object: &Value) -> Option<Vec<u8>> {
    let table = Table::builtin();
    let find = |api_version: &str, kind: &str| match (api_version, kind) {
        (META_VERSION, "PartialObjectMetadata") => Some(&*PARTIAL_METADATA),
        _ => table.get(&schema_of(api_version, kind)),
    };
    let mut out = Backwards::default();
    if let Some(message) = find(api_version, kind) {
        encode::message(&mut out, table, message, object);
        return Some(out.finish());
    }
    let items = object["items"].as_array()?;
    let message = find(api_version, kind.strip_suffix("List")?)?;
    for item in items.iter().rev() {
        out.message(2, |out| encode::message(out, table, message, item));
    }
    out.message(1, |out| list_metadata(out, &object["metadata"]));
    Some(out.finish())
}

/// A list of a kind whose objects come one by one, **the last one first**, so that there is never
/// more than one of them in memory as JSON. `None` where the kind has no form in protobuf.
///
/// # Errors
/// Those of `items`.
pub fn encode_list<E>(
    of: &Kind,
    meta: &Value,
    items: impl Iterator<Item = Result<Value, E>>,
) -> Result<Option<Bytes>, E> {
    let table = Table::builtin();
    let Some(message) = table.get(&of.schema) else { return Ok(None) };
    let mut out = Backwards::default();
    for item in items {
        let item = item?;
        out.message(2, |out| encode::message(out, table, message, &item));
    }
    out.message(1, |out| list_metadata(out, meta));
    Ok(Some(envelope::wrap(&of.api_version(), &of.list_kind(), &out.finish()).into()))
}

/// `metav1.ListMeta`, which is not among the types of the schema.
fn list_metadata(out: &mut Backwards, meta: &Value) {
    let text = |field: &str| meta[field].as_str().unwrap_or_default().as_bytes();
    if let Some(remaining) = meta["remainingItemCount"].as_i64() {
        out.number(4, remaining);
    }
    out.text(3, text("continue"));
    out.text(2, text("resourceVersion"));
    out.text(1, text("selfLink"));
}

/// `metav1.PartialObjectMetadata`: the metadata of any object.
static PARTIAL_METADATA: LazyLock<Message> = LazyLock::new(|| {
    let of = Table::builtin().get("io.k8s.api.core.v1.ConfigMap").expect("config maps are served");
    let metadata = of.fields.iter().filter(|field| field.name == "metadata").cloned().collect();
    Message { name: "PartialObjectMetadata".into(), fields: metadata }
});

/// An event of a watch as a frame: its length, and a `metav1.WatchEvent` that holds the object.
pub fn frame(event: &str, object: &Value) -> Option<Bytes> {
    let object = encode(object)?;
    let mut out = Backwards::default();
    out.message(2, |out| out.text(1, &object));
    out.text(1, event.as_bytes());
    let event = out.finish();
    let length = u32::try_from(event.len()).ok()?;
    Some([&length.to_be_bytes()[..], &event].concat().into())
}
