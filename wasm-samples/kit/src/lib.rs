//! What the guests share: files by path, sockets, http, over the raw `wasi` interfaces. Built for
//! `wasm32-unknown-unknown`, where `std` itself knows no files and no sockets.

pub mod fs;
pub mod http;
pub mod net;

use wasip2::io::streams::OutputStream;

/// The value of an environment variable.
pub fn env(name: &str) -> Option<String> {
    wasip2::cli::environment::get_environment()
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// Writes to standard output.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Writes bytes to standard output.
pub fn print_bytes(bytes: &[u8]) {
    let _ = write_all(&wasip2::cli::stdout::get_stdout(), bytes);
}

/// Writes to standard error.
pub fn eprint(text: &str) {
    let _ = write_all(&wasip2::cli::stderr::get_stderr(), text.as_bytes());
}

/// Writes all of `bytes` and flushes.
pub fn write_all(stream: &OutputStream, bytes: &[u8]) -> Result<(), String> {
    for chunk in bytes.chunks(4096) {
        stream.blocking_write_and_flush(chunk).map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}
