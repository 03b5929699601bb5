//! Socket options. The virtual network needs none of them; they are kept as given, with the
//! limits that wasmtime-wasi and Linux put on them.

use super::bindings::wasi::sockets::network::ErrorCode;
use crate::net::STREAM_CAPACITY;

const NANOS_PER_SEC: u64 = 1_000_000_000;
const KEEP_ALIVE_SECS_MAX: u64 = i16::MAX as u64;
const KEEP_ALIVE_COUNT_MAX: u32 = i8::MAX as u32;
const BUFFER_MAX: u64 = i32::MAX as u64;
const BACKLOG_DEFAULT: usize = 128;

/// The options of a socket; accepted sockets start with their listener's.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) backlog: usize,
    pub(super) keep_alive: bool,
    pub(super) keep_alive_idle: u64,
    pub(super) keep_alive_interval: u64,
    pub(super) keep_alive_count: u32,
    pub(super) hop_limit: u8,
    pub(super) receive_buffer: u64,
    pub(super) send_buffer: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: BACKLOG_DEFAULT,
            keep_alive: false,
            keep_alive_idle: 7200 * NANOS_PER_SEC,
            keep_alive_interval: 75 * NANOS_PER_SEC,
            keep_alive_count: 9,
            hop_limit: 64,
            receive_buffer: STREAM_CAPACITY as u64,
            send_buffer: STREAM_CAPACITY as u64,
        }
    }
}

/// A keep-alive time in nanoseconds as it is kept.
pub(super) fn keep_alive_time(value: u64) -> Result<u64, ErrorCode> {
    positive(value)?;
    Ok(value.clamp(NANOS_PER_SEC, KEEP_ALIVE_SECS_MAX * NANOS_PER_SEC))
}

pub(super) fn keep_alive_count(value: u32) -> Result<u32, ErrorCode> {
    positive(u64::from(value))?;
    Ok(value.min(KEEP_ALIVE_COUNT_MAX))
}

pub(super) fn hop_limit(value: u8) -> Result<u8, ErrorCode> {
    positive(u64::from(value))?;
    Ok(value)
}

pub(super) fn buffer_size(value: u64) -> Result<u64, ErrorCode> {
    positive(value)?;
    Ok(value.min(BUFFER_MAX))
}

pub(super) fn backlog(value: u64) -> Result<usize, ErrorCode> {
    positive(value)?;
    Ok(usize::try_from(value.min(BUFFER_MAX)).expect("an i32 fits"))
}

fn positive(value: u64) -> Result<(), ErrorCode> {
    if value == 0 { Err(ErrorCode::InvalidArgument) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_refused_and_the_rest_is_clamped_as_linux_does() {
        assert!(matches!(keep_alive_time(0), Err(ErrorCode::InvalidArgument)));
        assert!(matches!(hop_limit(0), Err(ErrorCode::InvalidArgument)));
        assert!(matches!(backlog(0), Err(ErrorCode::InvalidArgument)));
        assert!(matches!(keep_alive_time(1), Ok(NANOS_PER_SEC)));
        assert!(matches!(keep_alive_count(1000), Ok(127)));
        assert!(matches!(buffer_size(u64::MAX), Ok(BUFFER_MAX)));
    }
}
