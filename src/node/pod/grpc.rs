//! The gRPC health check (`grpc.health.v1.Health/Check`) on one HTTP/2 connection. Its two
//! messages have one field each, so they are written and read by hand.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

const SERVING: u8 = 1;

/// Asks whether `service` is serving.
pub async fn check<S>(stream: S, address: SocketAddr, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connection.await.map_err(|e| format!("grpc: {e}"))?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(question(service)))
        .map_err(|e| format!("grpc: {e}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| format!("grpc: {e}"))?;
        let code = |headers: &http::HeaderMap| {
            headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let early = code(response.headers());
        let body = response.into_body().collect().await.map_err(|e| format!("grpc: {e}"))?;
        let status = early.or_else(|| body.trailers().and_then(code));
        match status.as_deref() {
            Some("0") => verdict(&body.to_bytes()),
            Some("12") => Err(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .to_owned(),
            ),
            other => Err(format!("health rpc failed with status code {}", other.unwrap_or("none"))),
        }
    }
    .await;
    driver.abort();
    answer
}

/// A HealthCheckRequest with its length prefix: field 1 is the service's name.
fn question(service: &str) -> Bytes {
    let name = &service.as_bytes()[..service.len().min(127)];
    let mut message = BytesMut::new();
    if !name.is_empty() {
        message.put_u8(0x0a);
        message.put_u8(u8::try_from(name.len()).expect("cut to 127 bytes"));
        message.put_slice(name);
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a short message"));
    framed.put_slice(&message);
    framed.freeze()
}

/// A HealthCheckResponse: field 1 is the status; one that is missing is UNKNOWN.
fn verdict(framed: &[u8]) -> Result<(), String> {
    match framed.get(5..) {
        Some([0x08, SERVING, ..]) => Ok(()),
        Some([0x08, 2, ..]) => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Some([0x08, 3, ..]) => {
            Err("service unhealthy (responded with \"SERVICE_UNKNOWN\")".to_owned())
        }
        _ => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_grpc_frames_them() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(verdict(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert!(verdict(&[0, 0, 0, 0, 2, 8, 2]).expect_err("not serving").contains("NOT_SERVING"));
        assert!(verdict(&[]).expect_err("nothing").contains("UNKNOWN"));
    }
}
