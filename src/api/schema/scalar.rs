//! Scalars as Kubernetes reads and writes them: times, base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::base::clock::{rfc3339_micros, rfc3339_seconds};

/// A `metav1.Time`: whole seconds in UTC.
pub(super) fn time(text: &str) -> Result<String, String> {
    parse_time(text, "2006-01-02T15:04:05Z07:00").map(rfc3339_seconds)
}

/// A `metav1.MicroTime`: six decimals in UTC.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    parse_time(text, "2006-01-02T15:04:05.000000Z07:00").map(rfc3339_micros)
}

fn parse_time(text: &str, layout: &str) -> Result<Timestamp, String> {
    let fits = text.is_ascii() && text.get(10..11) == Some("T");
    match text.parse::<Timestamp>() {
        Ok(at) if fits => Ok(at),
        _ => {
            let shown: String = text.chars().take(60).collect();
            Err(format!("parsing time {shown:?} as {layout:?}: cannot parse {shown:?} as \"2006\""))
        }
    }
}

/// Base64 as Go reads it (line ends are skipped) and writes it.
pub(super) fn base64(text: &str) -> Result<String, String> {
    let plain: String;
    let text = if text.contains(['\n', '\r']) {
        plain = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        &plain
    } else {
        text
    };
    match STANDARD.decode(text) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                _ => text.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}
