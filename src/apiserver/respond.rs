//! From what a handler found to an HTTP response: forms, media types, compression, statuses.

use std::collections::VecDeque;
use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use serde_json::Value;

use super::negotiate::Media;
use crate::api::proto;
use crate::api::status::ApiError;

/// Responses above this are compressed where the client accepts it, as in Kubernetes.
const GZIP_ABOVE: usize = 128 * 1024;

/// How the response is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub media: Media,
    /// For people to read.
    pub pretty: bool,
    /// The client accepts gzip.
    pub gzip: bool,
}

impl Style {
    /// JSON, as a machine reads it.
    pub const PLAIN: Self = Self { media: Media::Json, pretty: false, gzip: false };
}

/// Whether a client accepts gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(http::header::ACCEPT_ENCODING).iter();
    texts.filter_map(|v| v.to_str().ok()).flat_map(|t| t.split(',')).any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    })
}

/// A body of chunks that are there already; its length is known.
struct Chunks(VecDeque<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|chunk| chunk.len() as u64).sum())
    }
}

/// JSON that is there as one piece.
pub async fn json(status: StatusCode, bytes: Bytes, style: Style) -> Response<Body> {
    json_chunks(status, vec![bytes], style).await
}

/// JSON that is there in pieces.
pub async fn json_chunks(
    status: StatusCode,
    mut chunks: Vec<Bytes>,
    mut style: Style,
) -> Response<Body> {
    if style.media == Media::Protobuf {
        match protobuf(&chunks) {
            Some(bytes) => chunks = vec![bytes],
            // As in Kubernetes: what has no other form is told in JSON.
            None => style.media = Media::Json,
        }
    }
    if style.media == Media::Yaml || (style.pretty && style.media == Media::Json) {
        chunks = vec![rewrite(&chunks, style)];
    }
    encoded(status, chunks, style).await
}

/// What is written in the media type already.
pub async fn encoded(status: StatusCode, mut chunks: Vec<Bytes>, style: Style) -> Response<Body> {
    let total: usize = chunks.iter().map(Bytes::len).sum();
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, style.media.content_type())
        .header(http::header::CACHE_CONTROL, "no-cache, private");
    if style.gzip && total > GZIP_ABOVE {
        let squeezed = tokio::task::spawn_blocking(move || gzip(&chunks)).await;
        let squeezed = squeezed.expect("compressing to memory does not panic");
        response = response.header(CONTENT_ENCODING, "gzip").header(VARY, "Accept-Encoding");
        chunks = vec![squeezed];
    }
    let body = match chunks.len() {
        1 => Body::from(chunks.pop().expect("one chunk")),
        _ => Body::new(Chunks(chunks.into())),
    };
    response.body(body).expect("a response of fixed headers")
}

/// A value.
pub fn value(
    status: StatusCode,
    value: &Value,
    style: Style,
) -> impl Future<Output = Response<Body>> + Send + use<> {
    json(status, value.to_string().into(), style)
}

/// Text, for what is no object.
pub fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header("X-Content-Type-Options", "nosniff")
        .body(Body::from(body.into()))
        .expect("a response of fixed headers")
}

/// An error as its `Status`.
pub async fn error(error: ApiError, style: Style) -> Response<Body> {
    let status = StatusCode::from_u16(error.reason.code()).expect("a status code");
    let mut response = value(status, &error.to_status(), style).await;
    let details = error.details.as_deref();
    if let Some(seconds) = details.and_then(|d| d["retryAfterSeconds"].as_u64()) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The `Warning` headers of a response (RFC 7234 §5.5, code 299).
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

fn rewrite(chunks: &[Bytes], style: Style) -> Bytes {
    let value: Value = match serde_json::from_slice(&chunks.concat()) {
        Ok(value) => value,
        Err(_) => return chunks.concat().into(),
    };
    match style.media {
        Media::Yaml => serde_saphyr::to_string(&value).unwrap_or_default().into(),
        _ => {
            let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
            text.push('\n');
            text.into()
        }
    }
}

/// JSON as protobuf. `None` where it has no form in it.
fn protobuf(chunks: &[Bytes]) -> Option<Bytes> {
    let value: Value = match chunks {
        [one] => serde_json::from_slice(one).ok()?,
        _ => serde_json::from_slice(&chunks.concat()).ok()?,
    };
    proto::encode(&value)
}

fn gzip(chunks: &[Bytes]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    for chunk in chunks {
        encoder.write_all(chunk).expect("memory takes every write");
    }
    encoder.finish().expect("memory takes every write").into()
}

/// Drop the body, as a HEAD is answered.
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::empty())
}
