//! What lies around every message: the magic bytes and `runtime.Unknown`, which says what the
//! message is.

use super::read::{Malformed, Reader};
use super::write::Backwards;

const MAGIC: &[u8] = b"k8s\0";

/// What an envelope says.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// # Errors
/// In the words of Kubernetes' serializer.
pub(super) fn open(bytes: &[u8]) -> Result<Envelope<'_>, String> {
    if bytes.is_empty() {
        return Err("empty data".into());
    }
    let Some(body) = bytes.strip_prefix(MAGIC) else {
        return Err(format!(
            "provided data does not appear to be a protobuf message, expected prefix [{}]",
            MAGIC.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
        ));
    };
    if body.is_empty() {
        return Err("empty body".into());
    }
    unknown(body).map_err(|why| why.to_string())
}

fn unknown(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let mut envelope = Envelope::default();
    let mut reader = Reader(body);
    while !reader.is_empty() {
        let key = reader.key("Unknown")?;
        match (key.number, key.wire) {
            (1, 2) => type_meta(reader.bytes()?, &mut envelope)?,
            (2, 2) => envelope.raw = reader.bytes()?,
            (number @ 1..=4, wire) if wire != 2 => {
                let fields = ["TypeMeta", "Raw", "ContentEncoding", "ContentType"];
                let field = fields[number as usize - 1].to_owned();
                return Err(Malformed::Field { field, wire });
            }
            (_, wire) => reader.skip(wire)?,
        }
    }
    Ok(envelope)
}

fn type_meta(bytes: &[u8], envelope: &mut Envelope<'_>) -> Result<(), Malformed> {
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        let key = reader.key("TypeMeta")?;
        match (key.number, key.wire) {
            (number @ 1..=2, 2) => {
                let text = String::from_utf8_lossy(reader.bytes()?).into_owned();
                match number {
                    1 => envelope.api_version = text,
                    _ => envelope.kind = text,
                }
            }
            (number @ 1..=2, wire) => {
                let field = if number == 1 { "APIVersion" } else { "Kind" };
                return Err(Malformed::Field { field: field.to_owned(), wire });
            }
            (_, wire) => reader.skip(wire)?,
        }
    }
    Ok(())
}

/// A message with its envelope.
pub(super) fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Backwards::default();
    // The content type and encoding, which are those of protobuf itself.
    out.text(4, b"");
    out.text(3, b"");
    out.text(2, raw);
    out.message(1, |out| {
        out.text(2, kind.as_bytes());
        out.text(1, api_version.as_bytes());
    });
    out.bytes(MAGIC);
    out.finish()
}
