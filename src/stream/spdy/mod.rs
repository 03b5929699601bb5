//! SPDY/3.1, as Kubernetes' older clients speak it, and newer ones inside a WebSocket.
//!
//! [`frame`] knows the bytes, [`Session`] the streams.

mod dictionary;
pub mod frame;
mod session;
mod state;

pub use frame::{Frame, FrameError, Headers};
pub use session::{Incoming, Role, Session, Stream};

/// The value of the `Upgrade` header.
pub const SPDY: &str = "SPDY/3.1";

/// The first value of a header, whose name is given in lower case.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
