//! SPDY/3.1 frames (draft-mbelshe-httpbis-spdy-00 with 3.1's session window): bytes to frames and
//! back, without I/O.
//!
//! ```text
//!  control  |1| version 3 (15) | type (16) |     data  |0|  stream id (31)  |
//!           | flags (8) | length (24)      |           | flags (8) | length (24) |
//!           | payload                      |           | payload                 |
//! ```
//!
//! The payload of a data frame is handed out as it comes in, so a large frame is never gathered.
//!
//! **Invariant:** a decoder keeps at most one control frame of [`CONTROL_BYTES_MAX`], and the
//! header block in it inflates to at most [`HEADER_BYTES_MAX`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The largest control frame that is read.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// The largest header block, inflated.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// The largest stream id and window.
pub const MAX_31: u32 = 0x7fff_ffff;
/// The largest payload of a data frame that the format can tell.
pub const DATA_BYTES_MAX: usize = 0xff_ffff;

const HEAD: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// Names (lower case) and values. A name may come with several values.
pub type Headers = Vec<(String, String)>;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        /// The stream that it belongs to, 0 for none.
        associated: u32,
        /// 0 (first) to 7.
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    /// Ids and values; their flags have no meaning here.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// Of a stream, or of the whole session (0).
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Data, or a piece of what the peer sent as one frame.
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
}

/// What makes the rest of a session unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("SPDY version {0}, expected 3")]
    Version(u16),
    #[error("a control frame of {0} bytes, more than {CONTROL_BYTES_MAX}")]
    TooLarge(usize),
    #[error("a frame of type {0} that is too short or too long")]
    Length(u16),
    #[error("a header block that cannot be read: {0}")]
    Headers(&'static str),
}

/// Reads frames.
pub struct Decoder {
    input: BytesMut,
    inflate: Decompress,
    /// What is still to come of a data frame.
    data: Option<DataLeft>,
    /// Bytes of a control frame of unknown type that are still to be skipped.
    skip: usize,
}

#[derive(Clone, Copy)]
struct DataLeft {
    stream: u32,
    fin: bool,
    bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { input: BytesMut::new(), inflate: Decompress::new(true), data: None, skip: 0 }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("waiting", &self.input.len()).finish()
    }
}

impl Decoder {
    /// Where further input goes. All of it is to be read by [`Self::decode`] before more is put in.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The next frame, if enough of it is there.
    ///
    /// # Errors
    /// [`FrameError`]; nothing more can be read then.
    pub fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(left) = self.data {
                return Ok(self.data(left));
            }
            if self.skip > 0 {
                let skipped = self.skip.min(self.input.len());
                self.input.advance(skipped);
                self.skip -= skipped;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            let Some(head) = self.input.first_chunk::<HEAD>().copied() else { return Ok(None) };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = head[4];
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first >> 31 == 0 {
                self.input.advance(HEAD);
                let left = DataLeft { stream: first, fin: flags & FIN != 0, bytes: length };
                if length == 0 {
                    let DataLeft { stream, fin, .. } = left;
                    return Ok(Some(Frame::Data { stream, fin, data: Bytes::new() }));
                }
                self.data = Some(left);
                continue;
            }
            let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            let kind = u16::from_be_bytes([head[2], head[3]]);
            if !(1..=9).contains(&kind) || kind == 5 {
                // As the draft wants it: who does not know a frame passes over it.
                self.input.advance(HEAD);
                self.skip = length;
                continue;
            }
            if length > CONTROL_BYTES_MAX {
                return Err(FrameError::TooLarge(length));
            }
            if self.input.len() < HEAD + length {
                return Ok(None);
            }
            self.input.advance(HEAD);
            let payload = self.input.split_to(length).freeze();
            return self.control(kind, flags, payload).map(Some);
        }
    }

    fn data(&mut self, left: DataLeft) -> Option<Frame> {
        if self.input.is_empty() {
            return None;
        }
        let data = self.input.split_to(left.bytes.min(self.input.len())).freeze();
        let bytes = left.bytes - data.len();
        self.data = (bytes > 0).then_some(DataLeft { bytes, ..left });
        Some(Frame::Data { stream: left.stream, fin: left.fin && bytes == 0, data })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FIN != 0;
        let fixed = match kind {
            1 => 10,
            2 | 4 | 6 | 8 => 4,
            _ => 8,
        };
        let exact = matches!(kind, 3 | 6 | 7 | 9);
        if payload.len() < fixed || (exact && payload.len() != fixed) {
            return Err(FrameError::Length(kind));
        }
        let first = payload.get_u32();
        let stream = first & MAX_31;
        Ok(match kind {
            1 => {
                let associated = payload.get_u32() & MAX_31;
                let priority = payload.get_u8() >> 5;
                let _slot = payload.get_u8();
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                let headers = self.headers(&payload)?;
                Frame::SynStream { stream, associated, priority, fin, unidirectional, headers }
            }
            2 => Frame::SynReply { stream, fin, headers: self.headers(&payload)? },
            3 => Frame::RstStream { stream, status: payload.get_u32() },
            4 => {
                if payload.len() != (first as usize).saturating_mul(8) {
                    return Err(FrameError::Length(kind));
                }
                let mut settings = Vec::with_capacity(payload.len() / 8);
                while payload.has_remaining() {
                    settings.push((payload.get_u32() & 0xff_ffff, payload.get_u32()));
                }
                Frame::Settings(settings)
            }
            6 => Frame::Ping(first),
            7 => Frame::GoAway { last: stream, status: payload.get_u32() },
            8 => Frame::Headers { stream, fin, headers: self.headers(&payload)? },
            _ => Frame::WindowUpdate { stream, delta: payload.get_u32() & MAX_31 },
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        parse_headers(&self.inflated(block)?)
    }

    /// Inflates a block, which continues the stream of all blocks before it.
    fn inflated(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= HEADER_BYTES_MAX {
                    return Err(FrameError::Headers("it is too large"));
                }
                plain.reserve(plain.len().min(HEADER_BYTES_MAX - plain.len()));
            }
            let (read, wrote) = (self.inflate.total_in(), plain.len());
            let done = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(used..).unwrap_or_default();
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    let wrong = |_| FrameError::Headers("it needs another dictionary");
                    self.inflate.set_dictionary(&DICTIONARY).map_err(wrong)?;
                }
                Err(_) => return Err(FrameError::Headers("it is not compressed with zlib")),
                Ok(Status::StreamEnd) if block.is_empty() => return Ok(plain),
                Ok(Status::StreamEnd) => {
                    return Err(FrameError::Headers("the compression has ended"));
                }
                Ok(Status::Ok | Status::BufError) => {
                    let room = plain.len() < plain.capacity();
                    if block.is_empty() && room {
                        return Ok(plain);
                    }
                    if used == 0 && plain.len() == wrote && room {
                        return Err(FrameError::Headers("the compression does not go on"));
                    }
                }
            }
        }
    }
}

/// Reads the names and values of an inflated block.
fn parse_headers(mut block: &[u8]) -> Result<Headers, FrameError> {
    fn word<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = block.split_first_chunk::<4>()?;
        let (word, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *block = rest;
        Some(word)
    }
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| FrameError::Headers("it is not text"));
        text.map(str::to_owned)
    };
    let short = FrameError::Headers("it is too short");
    let (count, rest) = block.split_first_chunk::<4>().ok_or(short.clone())?;
    block = rest;
    let mut headers = Headers::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let name = text(word(&mut block).ok_or(short.clone())?)?;
        if name.is_empty() {
            return Err(FrameError::Headers("a name is empty"));
        }
        // Several values of one name stand one behind the other, divided by a NUL.
        for value in word(&mut block).ok_or(short.clone())?.split(|byte| *byte == 0) {
            headers.push((name.clone(), text(value)?));
        }
    }
    if !block.is_empty() {
        return Err(FrameError::Headers("something follows it"));
    }
    Ok(headers)
}

/// Writes frames.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        Self { deflate }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// Appends a frame to `out`. Data is at most [`DATA_BYTES_MAX`] long, names are lower case.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        let flag = |fin: bool| if fin { FIN } else { 0 };
        match frame {
            Frame::Data { stream, fin, data } => {
                out.put_u32(stream & MAX_31);
                put_length(out, flag(*fin), data.len());
                out.extend_from_slice(data);
            }
            Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
                let mut payload = BytesMut::new();
                payload.put_u32(stream & MAX_31);
                payload.put_u32(associated & MAX_31);
                payload.put_u8(priority << 5);
                payload.put_u8(0);
                self.put_headers(headers, &mut payload);
                let one_way = if *unidirectional { UNIDIRECTIONAL } else { 0 };
                control(out, 1, flag(*fin) | one_way, &payload);
            }
            Frame::SynReply { stream, fin, headers } => {
                let payload = self.with_headers(*stream, headers);
                control(out, 2, flag(*fin), &payload);
            }
            Frame::RstStream { stream, status } => pair(out, 3, stream & MAX_31, *status),
            Frame::Settings(settings) => {
                let mut payload = BytesMut::new();
                payload.put_u32(u32::try_from(settings.len()).expect("few settings"));
                for (id, value) in settings {
                    payload.put_u32(id & 0xff_ffff);
                    payload.put_u32(*value);
                }
                control(out, 4, 0, &payload);
            }
            Frame::Ping(id) => control(out, 6, 0, &id.to_be_bytes()),
            Frame::GoAway { last, status } => pair(out, 7, last & MAX_31, *status),
            Frame::Headers { stream, fin, headers } => {
                let payload = self.with_headers(*stream, headers);
                control(out, 8, flag(*fin), &payload);
            }
            Frame::WindowUpdate { stream, delta } => {
                pair(out, 9, stream & MAX_31, delta & MAX_31);
            }
        }
    }

    fn with_headers(&mut self, stream: u32, headers: &Headers) -> BytesMut {
        let mut payload = BytesMut::new();
        payload.put_u32(stream & MAX_31);
        self.put_headers(headers, &mut payload);
        payload
    }

    fn put_headers(&mut self, headers: &Headers, payload: &mut BytesMut) {
        let mut joined: Vec<(&str, String)> = Vec::new();
        for (name, value) in headers {
            match joined.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.push('\0');
                    values.push_str(value);
                }
                None => joined.push((name, value.clone())),
            }
        }
        let mut plain = Vec::new();
        let length = |n: usize| u32::try_from(n).expect("headers are short").to_be_bytes();
        plain.extend_from_slice(&length(joined.len()));
        for (name, value) in joined {
            for word in [name, &value] {
                plain.extend_from_slice(&length(word.len()));
                plain.extend_from_slice(word.as_bytes());
            }
        }
        self.deflated(&plain, payload);
    }

    /// Compresses up to a sync flush, behind which the peer has all of it.
    fn deflated(&mut self, mut plain: &[u8], payload: &mut BytesMut) {
        let mut block = Vec::with_capacity(plain.len() + 64);
        loop {
            let read = self.deflate.total_in();
            let done = self.deflate.compress_vec(plain, &mut block, FlushCompress::Sync);
            done.expect("compressing into memory does not fail");
            let used = usize::try_from(self.deflate.total_in() - read).unwrap_or(usize::MAX);
            plain = plain.get(used..).unwrap_or_default();
            if plain.is_empty() && block.len() < block.capacity() {
                break;
            }
            block.reserve(256);
        }
        payload.extend_from_slice(&block);
    }
}

fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    debug_assert!(length <= DATA_BYTES_MAX);
    let length = u32::try_from(length).expect("a frame is shorter than 16 MiB");
    out.put_u32(u32::from(flags) << 24 | (length & 0xff_ffff));
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, payload: &[u8]) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_length(out, flags, payload.len());
    out.extend_from_slice(payload);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&first.to_be_bytes());
    payload[4..].copy_from_slice(&second.to_be_bytes());
    control(out, kind, 0, &payload);
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
