//! Answering and asking over `wasi:http`.

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// Answers with a status and a text.
pub fn respond(out: ResponseOutparam, status: u16, body: &[u8]) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let _ = headers.set("content-length", &[body.len().to_string().into_bytes()]);
    send(out, headers, status, |sink| crate::write_all(sink, body));
}

/// Answers with a status and a body that `write` produces piece by piece.
pub fn respond_with(
    out: ResponseOutparam,
    status: u16,
    write: impl FnOnce(&OutputStream) -> Result<(), String>,
) {
    send(out, Fields::new(), status, write);
}

fn send(
    out: ResponseOutparam,
    headers: Fields,
    status: u16,
    write: impl FnOnce(&OutputStream) -> Result<(), String>,
) {
    let response = OutgoingResponse::new(headers);
    if response.set_status_code(status).is_err() {
        let _ = response.set_status_code(500);
    }
    let body = response.body().expect("a new response has its body");
    ResponseOutparam::set(out, Ok(response));
    let sink = body.write().expect("a new body has its stream");
    let written = write(&sink);
    drop(sink);
    if written.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

/// Copies the body of a request, as it comes.
pub fn copy(request: &IncomingRequest, sink: &OutputStream) -> Result<(), String> {
    let body = request.consume().map_err(|()| "the body was taken".to_string())?;
    let stream = body.stream().map_err(|()| "the stream was taken".to_string())?;
    each_chunk(&stream, |chunk| crate::write_all(sink, chunk))
}

fn each_chunk(
    stream: &InputStream,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    loop {
        match stream.blocking_read(65_536) {
            Ok(chunk) => take(&chunk)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

/// An answer that was fetched whole.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// GETs a URL with further headers.
pub fn fetch(url: &str, further: &[(&str, &str)]) -> Result<Answer, String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((other, _)) => return Err(format!("unknown scheme: {other}")),
        None => (Scheme::Http, url),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let headers = Fields::new();
    for (name, value) in further {
        headers
            .append(name, value.as_bytes())
            .map_err(|error| format!("header {name}: {error:?}"))?;
    }
    let request = OutgoingRequest::new(headers);
    let taken = |()| format!("not a URL: {url}");
    request.set_method(&Method::Get).map_err(taken)?;
    request.set_scheme(Some(&scheme)).map_err(taken)?;
    request.set_authority(Some(authority)).map_err(taken)?;
    request.set_path_with_query(Some(path)).map_err(taken)?;
    let future = wasip2::http::outgoing_handler::handle(request, None)
        .map_err(|error| format!("{error:?}"))?;
    future.subscribe().block();
    let response = future
        .get()
        .expect("its pollable was ready")
        .expect("taken once")
        .map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let headers = response.headers().entries();
    let body = response.consume().map_err(|()| "the body was taken".to_string())?;
    let mut bytes = Vec::new();
    {
        let stream = body.stream().map_err(|()| "the stream was taken".to_string())?;
        each_chunk(&stream, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
    }
    drop(IncomingBody::finish(body));
    Ok(Answer { status, headers, body: bytes })
}
