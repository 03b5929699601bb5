//! One row of the log: what was written at a revision, as bytes.
//!
//! All numbers are little-endian. The layout is version 1:
//!
//! ```text
//! 0      1     2        10        18          26       30         34
//! version kind created  previous  expires_ms  key_len  attrs_len  key attrs bytes
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Entry, Event, EventKind, Revision, Value};

const VERSION: u8 = 1;
const HEAD: usize = 34;

/// A row that is not what the writer writes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the row of revision {revision} is damaged ({what})")]
pub struct Damaged {
    pub revision: Revision,
    pub what: &'static str,
}

/// An event with what the log keeps beside it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The event.
    pub event: Arc<Event>,
    /// The revision of the value that the key had before; 0: none.
    pub previous: Revision,
    /// When the key expires, in milliseconds since 1970; 0: never.
    pub expires_ms: u64,
}

impl Record {
    /// How many bytes [`Self::encode`] fills.
    pub fn encoded_len(&self) -> usize {
        let Entry { key, value, .. } = &self.event.entry;
        HEAD + key.len() + value.attrs.len() + value.bytes.len()
    }

    /// Writes the row into `out`, which is [`Self::encoded_len`] long.
    pub fn encode(&self, out: &mut [u8]) {
        let Entry { key, value, created, .. } = &self.event.entry;
        out[0] = VERSION;
        out[1] = match self.event.kind {
            EventKind::Created => 0,
            EventKind::Modified => 1,
            EventKind::Deleted => 2,
        };
        out[2..10].copy_from_slice(&created.to_le_bytes());
        out[10..18].copy_from_slice(&self.previous.to_le_bytes());
        out[18..26].copy_from_slice(&self.expires_ms.to_le_bytes());
        out[26..30].copy_from_slice(&(key.len() as u32).to_le_bytes());
        out[30..34].copy_from_slice(&(value.attrs.len() as u32).to_le_bytes());
        let (key_out, rest) = out[HEAD..].split_at_mut(key.len());
        let (attrs_out, bytes_out) = rest.split_at_mut(value.attrs.len());
        key_out.copy_from_slice(key.as_bytes());
        attrs_out.copy_from_slice(&value.attrs);
        bytes_out.copy_from_slice(&value.bytes);
    }

    /// Reads the row of `revision`. `previous_attrs` of the event is left empty: it lies in the
    /// row of `previous`.
    ///
    /// # Errors
    /// [`Damaged`] when the bytes are not a row.
    pub fn decode(revision: Revision, row: &[u8]) -> Result<Self, Damaged> {
        let head = Head::decode(revision, row)?;
        let damaged = |what| Damaged { revision, what };
        let body = &row[HEAD..];
        let (key_len, attrs_len) = (u32_at(row, 26) as usize, u32_at(row, 30) as usize);
        if key_len.saturating_add(attrs_len) > body.len() {
            return Err(damaged("its lengths exceed it"));
        }
        let key =
            std::str::from_utf8(&body[..key_len]).map_err(|_| damaged("its key is no text"))?;
        // One allocation for both: the object and its attributes live and die together.
        let value = Bytes::copy_from_slice(&body[key_len..]);
        let value = Value { attrs: value.slice(..attrs_len), bytes: value.slice(attrs_len..) };
        let entry = Entry { key: key.into(), value, created: head.created, modified: revision };
        let event = Event { revision, kind: head.kind, entry, previous_attrs: None };
        Ok(Self { event: Arc::new(event), previous: head.previous, expires_ms: u64_at(row, 18) })
    }
}

/// What compaction needs to know of a row.
pub struct Head {
    pub kind: EventKind,
    pub created: Revision,
    pub previous: Revision,
}

impl Head {
    /// Reads the fixed part of the row of `revision`.
    ///
    /// # Errors
    /// [`Damaged`] when the bytes are not a row.
    pub fn decode(revision: Revision, row: &[u8]) -> Result<Self, Damaged> {
        let damaged = |what| Damaged { revision, what };
        if row.len() < HEAD {
            return Err(damaged("it is too short"));
        }
        if row[0] != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let kind = match row[1] {
            0 => EventKind::Created,
            1 => EventKind::Modified,
            2 => EventKind::Deleted,
            _ => return Err(damaged("its kind is unknown")),
        };
        Ok(Self { kind, created: u64_at(row, 2), previous: u64_at(row, 10) })
    }
}

/// The key of a row, without the rest.
///
/// # Errors
/// [`Damaged`] when the bytes are not a row.
pub fn key(revision: Revision, row: &[u8]) -> Result<&str, Damaged> {
    Head::decode(revision, row)?;
    let end = HEAD.saturating_add(u32_at(row, 26) as usize);
    let bytes = row.get(HEAD..end).ok_or(Damaged { revision, what: "its lengths exceed it" })?;
    std::str::from_utf8(bytes).map_err(|_| Damaged { revision, what: "its key is no text" })
}

fn u32_at(row: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(row: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let value = Value { bytes: Bytes::from_static(b"{}"), attrs: Bytes::from_static(b"app=a") };
        let entry = Entry { key: "pods/default/a".into(), value, created: 3, modified: 9 };
        let event = Event { revision: 9, kind: EventKind::Modified, entry, previous_attrs: None };
        Record { event: Arc::new(event), previous: 7, expires_ms: 12 }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let record = record();
        let mut row = vec![0; record.encoded_len()];
        record.encode(&mut row);
        let back = Record::decode(9, &row).expect("a row");
        assert_eq!(back.event.entry, record.event.entry);
        assert_eq!((back.previous, back.expires_ms, back.event.kind), (7, 12, EventKind::Modified));
        assert_eq!(key(9, &row).expect("a row"), "pods/default/a");
    }

    #[test]
    fn a_damaged_row_is_told_by_its_revision() {
        let record = record();
        let mut row = vec![0; record.encoded_len()];
        record.encode(&mut row);
        for broken in [&row[..20], &[9; 60], &row[..HEAD + 3]] {
            let error = Record::decode(9, broken).expect_err("no row");
            assert!(error.to_string().contains("revision 9"), "{error}");
        }
    }
}
