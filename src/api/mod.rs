//! What a Kubernetes object is: the kinds, their schema, defaults, validation and patches.
//!
//! An object is a [`serde_json::Value`]. Everything here is pure: no I/O, no tokio, no wall clock.
//!
//! **Invariant:** a kind is a row in [`kinds`], types in [`schema`], and pure functions of its
//! own; nothing generic knows a kind by name.

pub mod cel;
pub mod cron;
pub mod custom;
pub mod defaults;
pub mod field;
pub mod fields;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod schema_docs;
pub mod selector;
pub mod status;
pub mod validation;

/// An object as it goes over the wire.
pub type Object = serde_json::Value;

/// What a base64 text holds; nothing for one that is none.
pub fn decode_base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}
