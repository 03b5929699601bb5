//! An event on its way to watchers: encoded once a form, however many watchers want it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::api::proto;
use crate::api::status::ApiError;
use crate::apiserver::catalog::Resource;
use crate::apiserver::filter::Filter;
use crate::apiserver::negotiate::{Form, Media};
use crate::apiserver::{encoding, table};
use crate::store::{Entry, Event, EventKind};

/// `type` of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A form that an event was encoded in: version of the kind, form, media type, type.
type Key = (usize, Form, Media, Kind);

/// An event that is shared by all watchers of a kind.
pub struct Told {
    /// The event.
    pub event: Arc<Event>,
    lines: Mutex<Vec<(Key, Bytes)>>,
}

impl Told {
    /// Not encoded yet.
    pub fn new(event: Arc<Event>) -> Self {
        Self { event, lines: Mutex::default() }
    }

    /// What the event is to a watcher with this filter: an object that begins to match is added,
    /// one that ceases to is deleted. `None`: nothing.
    pub fn seen_by(&self, filter: &Filter) -> Option<Kind> {
        seen_by(&self.event, filter)
    }

    /// The event as a line or frame.
    pub fn line(
        &self,
        resource: &Arc<Resource>,
        (form, media): (Form, Media),
        kind: Kind,
        now: Timestamp,
    ) -> Result<Bytes, ApiError> {
        let key = (Arc::as_ptr(resource) as usize, form, media, kind);
        let mut lines = self.lines.lock();
        if let Some((_, line)) = lines.iter().find(|(k, _)| *k == key) {
            return Ok(line.clone());
        }
        let line = line(resource, (form, media), kind, &self.event.entry, now)?;
        lines.push((key, line.clone()));
        Ok(line)
    }
}

/// What an event is to a watcher with this filter.
pub fn seen_by(event: &Event, filter: &Filter) -> Option<Kind> {
    let key = &event.entry.key;
    let now = filter.is_empty() || filter.matches(key, &event.entry.value.attrs);
    let before = || match &event.previous_attrs {
        Some(block) => filter.is_empty() || filter.matches(key, block),
        None => now,
    };
    match event.kind {
        EventKind::Created => now.then_some(Kind::Added),
        EventKind::Deleted => before().then_some(Kind::Deleted),
        EventKind::Modified => match (before(), now) {
            (true, true) => Some(Kind::Modified),
            (false, true) => Some(Kind::Added),
            (true, false) => Some(Kind::Deleted),
            (false, false) => None,
        },
    }
}

/// `{"type":"ADDED","object":…}` and a line feed, or a frame of protobuf.
pub fn line(
    resource: &Resource,
    (form, media): (Form, Media),
    kind: Kind,
    entry: &Entry,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    if media == Media::Protobuf {
        let object = match form {
            Form::Metadata => encoding::decode_metadata(entry)?,
            _ => encoding::decode(resource, entry)?,
        };
        return frame(kind.as_str(), &object);
    }
    let mut out = BytesMut::with_capacity(entry.value.bytes.len() + 192);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_str().as_bytes());
    out.put_slice(b"\",\"object\":");
    match form {
        Form::Object => encoding::put_object(&mut out, resource, entry, true)?,
        Form::Metadata => put_value(&mut out, &encoding::decode_metadata(entry)?),
        Form::Table(include) => {
            put_value(&mut out, &table::of_entry(resource, entry, include, now)?);
        }
    }
    out.put_slice(b"}\n");
    Ok(out.freeze())
}

/// An event as protobuf.
///
/// # Errors
/// 500 where the object has no form in it, which negotiation does not let come to pass.
pub fn frame(kind: &str, object: &serde_json::Value) -> Result<Bytes, ApiError> {
    let frame = proto::frame(kind, object);
    frame.ok_or_else(|| ApiError::internal(format!("{} has no protobuf form", object["kind"])))
}

fn put_value(out: &mut BytesMut, value: &serde_json::Value) {
    serde_json::to_writer(out.writer(), value).expect("a value can be written to memory");
}
