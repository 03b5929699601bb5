//! Protobuf, written from its end to its beginning.
//!
//! The length of a message stands before it. Written backwards, as Go's generated code does too,
//! it is known when its turn comes, and nothing is measured twice or moved.

/// How a value lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
}

/// Bytes in reverse order.
#[derive(Debug, Default)]
pub(super) struct Backwards(Vec<u8>);

impl Backwards {
    /// The bytes in their order.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().rev());
    }

    pub(super) fn varint(&mut self, mut number: u64) {
        let mut digits = [0u8; 10];
        let mut count = 0;
        loop {
            let low = u8::try_from(number & 0x7f).expect("seven bits");
            number >>= 7;
            digits[count] = if number == 0 { low } else { low | 0x80 };
            count += 1;
            if number == 0 {
                break;
            }
        }
        self.bytes(&digits[..count]);
    }

    pub(super) fn key(&mut self, number: u32, wire: Wire) {
        self.varint(u64::from(number) << 3 | wire as u64);
    }

    /// A varint field. Negative numbers take ten bytes, as in Go.
    pub(super) fn number(&mut self, field: u32, number: i64) {
        self.varint(number.cast_unsigned());
        self.key(field, Wire::Varint);
    }

    /// A string or bytes field.
    pub(super) fn text(&mut self, field: u32, text: &[u8]) {
        self.bytes(text);
        self.varint(text.len() as u64);
        self.key(field, Wire::Length);
    }

    /// A field that holds a message, which `write` writes.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let before = self.0.len();
        write(self);
        let length = self.0.len() - before;
        self.varint(length as u64);
        self.key(field, Wire::Length);
    }
}
