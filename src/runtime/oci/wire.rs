//! What a container's monitor and the agent say to each other: a byte that tells the kind, four
//! that give the length (big endian), and so many bytes. Both are of one program; nothing else
//! reaches the socket.

use std::io::{self, Read};

/// The socket, in the container's directory.
pub const SOCKET: &str = "monitor.sock";
/// A longer frame is a mistake.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the monitor: bytes for standard input, and its end.
    Stdin = 0,
    StdinEnd = 1,
    /// Columns and rows, two bytes each.
    Resize = 2,
    /// The output is wanted from now on.
    Attach = 3,
    /// Only the end is wanted.
    Watch = 4,
    /// To the agent.
    Stdout = 10,
    Stderr = 11,
    /// The container has ended; how is in its directory.
    Exited = 12,
}

impl Kind {
    pub fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Stdin,
            Self::StdinEnd,
            Self::Resize,
            Self::Attach,
            Self::Watch,
            Self::Stdout,
            Self::Stderr,
            Self::Exited,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame's bytes.
pub fn frame(kind: Kind, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 5);
    bytes.push(kind as u8);
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The kind and the length that a frame begins with.
pub fn head(bytes: [u8; 5]) -> io::Result<(Kind, usize)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = Kind::of(bytes[0]).ok_or_else(|| wrong("a frame of an unknown kind"))?;
    let len = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if len > FRAME_BYTES_MAX { Err(wrong("a frame that is too long")) } else { Ok((kind, len)) }
}

/// The next frame; none at the end.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut bytes = [0u8; 5];
    match from.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (kind, len) = head(bytes)?;
    let mut data = vec![0u8; len];
    from.read_exact(&mut data)?;
    Ok(Some((kind, data)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            byte in prop::sample::select(vec![0u8, 1, 2, 3, 4, 10, 11, 12]),
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let kind = Kind::of(byte).expect("a kind");
            let bytes = frame(kind, &data);
            let mut from = bytes.as_slice();
            prop_assert_eq!(read(&mut from).expect("a frame"), Some((kind, data)));
            prop_assert_eq!(read(&mut from).expect("the end"), None);
        }

        #[test]
        fn whatever_comes_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut from = bytes.as_slice();
            while let Ok(Some(_)) = read(&mut from) {}
        }
    }
}
