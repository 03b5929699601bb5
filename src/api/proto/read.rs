//! Protobuf, read piece by piece, and what can be wrong with it in the words of Go's generated
//! code.

use thiserror::Error;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("unexpected EOF")]
    End,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: negative length found during unmarshaling")]
    Length,
    #[error("proto: unexpected end of group")]
    Group,
    #[error("proto: illegal wireType {0}")]
    Wire(u8),
    #[error("proto: {message}: illegal tag {tag} (wire type {wire})")]
    Tag { message: String, tag: i64, wire: u8 },
    #[error("proto: {0}: wiretype end group for non-group")]
    EndGroup(String),
    #[error("proto: wrong wireType = {wire} for field {field}")]
    Field { field: String, wire: u8 },
    #[error("proto: messages are nested too deep")]
    Depth,
    #[error("proto: field {field}: {why}")]
    Value { field: String, why: String },
}

/// The part of a message that was not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub &'a [u8]);

/// The key of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub number: u32,
    pub wire: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(Malformed::End)?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed::End)?;
        self.0 = rest;
        Ok(head)
    }

    /// What a length stands before.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        if i64::try_from(length).is_err() {
            return Err(Malformed::Length);
        }
        self.take(usize::try_from(length).map_err(|_| Malformed::End)?)
    }

    pub(super) fn fixed64(&mut self) -> Result<[u8; 8], Malformed> {
        let bytes = self.take(8)?;
        Ok(bytes.try_into().expect("eight bytes"))
    }

    /// The key of the next field of `message`.
    pub(super) fn key(&mut self, message: &str) -> Result<Key, Malformed> {
        let key = self.varint()?;
        let wire = u8::try_from(key & 7).expect("three bits");
        // Go takes a number as 32 bits with a sign.
        let tag = i64::from((key >> 3) as i32);
        if wire == 4 {
            return Err(Malformed::EndGroup(message.to_owned()));
        }
        match u32::try_from(tag) {
            Ok(number) if number > 0 => Ok(Key { number, wire }),
            _ => Err(Malformed::Tag { message: message.to_owned(), tag, wire }),
        }
    }

    /// Pass over the value of a field that nobody knows.
    pub(super) fn skip(&mut self, wire: u8) -> Result<(), Malformed> {
        let mut groups = 0u32;
        let mut wire = wire;
        loop {
            match wire {
                0 => _ = self.varint()?,
                1 => _ = self.take(8)?,
                2 => _ = self.bytes()?,
                3 => groups += 1,
                4 => groups = groups.checked_sub(1).ok_or(Malformed::Group)?,
                5 => _ = self.take(4)?,
                other => return Err(Malformed::Wire(other)),
            }
            if groups == 0 {
                return Ok(());
            }
            wire = u8::try_from(self.varint()? & 7).expect("three bits");
        }
    }
}
