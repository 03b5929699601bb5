//! The attribute block: what selectors need to know of an object, beside its bytes, so that a
//! filtered list or watch decodes nothing.
//!
//! Layout, integers little-endian: one byte format (1); u32 number of labels, and for each the
//! u32 lengths of key and value followed by both; u32 number of fields, and for each a u32 length
//! and the value. Fields come in the order of the `selectable` column of the kind that objects
//! are stored as. Of kinds whose versions a webhook converts, the version follows as a u32 length and
//! the text.
//!
//! **Invariant:** a block that this module wrote is read back whole; any other block (a torn or
//! foreign one) reads as one without labels and fields, never as a panic.

use bytes::Bytes;

use crate::api::Object;
use crate::api::kinds::Kind;

const FORMAT: u8 = 1;

/// The block of an object in its stored form.
pub fn encode(kind: &Kind, object: &Object) -> Bytes {
    let mut block = vec![FORMAT];
    let labels = object["metadata"]["labels"].as_object();
    let labels: Vec<(&str, &str)> =
        labels.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect();
    put_len(&mut block, labels.len());
    for (key, value) in labels {
        put_len(&mut block, key.len());
        put_len(&mut block, value.len());
        block.extend_from_slice(key.as_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    put_len(&mut block, kind.selectable.len());
    for path in kind.selectable.iter() {
        let value = kind.selectable_value(object, path).unwrap_or_default();
        put_len(&mut block, value.len());
        block.extend_from_slice(value.as_bytes());
    }
    block.into()
}

/// The same block with the version that the object is stored in behind it.
pub fn with_version(block: &Bytes, version: &str) -> Bytes {
    let mut all = block.to_vec();
    put_len(&mut all, version.len());
    all.extend_from_slice(version.as_bytes());
    all.into()
}

/// The version behind a block, where one was put there.
pub fn version(block: &[u8]) -> Option<&str> {
    let mut at = Attrs::new(block).0;
    for _ in 0..take_len(&mut at)? {
        let (key, value) = (take_len(&mut at)?, take_len(&mut at)?);
        at = at.get(key.checked_add(value)?..)?;
    }
    for _ in 0..take_len(&mut at)? {
        let len = take_len(&mut at)?;
        at = at.get(len..)?;
    }
    let len = take_len(&mut at)?;
    take_str(&mut at, len)
}

fn put_len(block: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("an object is smaller than 4 GiB");
    block.extend_from_slice(&len.to_le_bytes());
}

/// A block that is being read.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Read a block.
    pub fn new(block: &'a [u8]) -> Self {
        match block.split_first() {
            Some((&FORMAT, rest)) => Self(rest),
            _ => Self(&[]),
        }
    }

    /// The labels, in key order.
    pub fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut at = self.0;
        let count = take_len(&mut at).unwrap_or(0);
        (0..count).map_while(move |_| {
            let (key, value) = (take_len(&mut at)?, take_len(&mut at)?);
            Some((take_str(&mut at, key)?, take_str(&mut at, value)?))
        })
    }

    /// The value of a label.
    pub fn label(self, key: &str) -> Option<&'a str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of the selectable field at `index` of the column.
    pub fn field(self, index: usize) -> Option<&'a str> {
        let mut at = self.0;
        for _ in 0..take_len(&mut at)? {
            let (key, value) = (take_len(&mut at)?, take_len(&mut at)?);
            at = at.get(key + value..)?;
        }
        if index >= take_len(&mut at)? {
            return None;
        }
        for _ in 0..index {
            let len = take_len(&mut at)?;
            at = at.get(len..)?;
        }
        let len = take_len(&mut at)?;
        take_str(&mut at, len)
    }
}

fn take_len(at: &mut &[u8]) -> Option<usize> {
    let (len, rest) = at.split_first_chunk::<4>()?;
    *at = rest;
    Some(u32::from_le_bytes(*len) as usize)
}

fn take_str<'a>(at: &mut &'a [u8], len: usize) -> Option<&'a str> {
    let (text, rest) = at.split_at_checked(len)?;
    *at = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds::KindTable;

    #[test]
    fn labels_and_fields_are_read_back() {
        let table = KindTable::builtin();
        let kind = table.of("v1", "Pod").expect("a row for pods");
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "web", "tier": ""}},
            "spec": {"nodeName": "n1"},
        });
        let block = encode(kind, &pod);
        let attrs = Attrs::new(&block);
        assert_eq!(attrs.label("app"), Some("web"));
        assert_eq!(attrs.label("tier"), Some(""));
        assert_eq!(attrs.label("none"), None);
        let node = kind.selectable.iter().position(|p| p == "spec.nodeName").expect("a field");
        assert_eq!(attrs.field(node), Some("n1"));
        assert_eq!(attrs.field(99), None);
        assert_eq!(version(&block), None);
        let versioned = with_version(&block, "v1beta1");
        assert_eq!(version(&versioned), Some("v1beta1"));
        assert_eq!(Attrs::new(&versioned).label("app"), Some("web"));
    }

    #[test]
    fn a_torn_block_reads_as_an_empty_one() {
        let table = KindTable::builtin();
        let kind = table.of("v1", "Pod").expect("a row for pods");
        let block = encode(kind, &json!({"metadata": {"labels": {"app": "web"}}}));
        for cut in 0..block.len() {
            let attrs = Attrs::new(&block[..cut]);
            let _ = (attrs.label("app"), attrs.field(1), version(&block[..cut]));
        }
        assert_eq!(Attrs::new(b"\x07nonsense").labels().count(), 0);
    }
}
