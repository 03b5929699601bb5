//! Requests from outside the cluster, a connection each, so that every one is routed anew.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// GETs `path` at `address`.
///
/// # Errors
/// No connection, or no whole answer in time; a status of 400 and above is an answer.
pub async fn http(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    in_time(async {
        let stream = TcpStream::connect(address).await?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header(http::header::HOST, address.to_string())
            .header(http::header::CONNECTION, "close")
            .body(Empty::<bytes::Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    })
    .await
    .with_context(|| format!("GET http://{address}{path}"))
}

/// As [`http`], where only 200 will do: the body.
///
/// # Errors
/// Any other answer.
pub async fn page(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let Answer { status, body } = http(address, path).await?;
    ensure!(status == 200, "GET http://{address}{path}: {status} {body}");
    Ok(body)
}

/// Sends a line for each of `lines` and reads a line for each.
///
/// # Errors
/// No connection, or fewer lines in time.
pub async fn tcp(address: SocketAddr, lines: &[&str]) -> anyhow::Result<Vec<String>> {
    in_time(async {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let mut answers = Vec::new();
        for line in lines {
            stream.get_mut().write_all(format!("{line}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            ensure!(answer.ends_with('\n'), "the connection was closed after {answers:?}");
            answers.push(answer.trim_end().to_owned());
        }
        Ok(answers)
    })
    .await
    .with_context(|| format!("tcp {address}"))
}

/// Sends a datagram and waits for one back.
///
/// # Errors
/// None came in time.
pub async fn udp(address: SocketAddr, data: &[u8]) -> anyhow::Result<Vec<u8>> {
    in_time(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(address).await?;
        socket.send(data).await?;
        let mut buffer = vec![0; 64 << 10];
        let length = socket.recv(&mut buffer).await?;
        buffer.truncate(length);
        Ok(buffer)
    })
    .await
    .with_context(|| format!("udp {address}"))
}

async fn in_time<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => anyhow::bail!("no answer within {PATIENCE:?}"),
    }
}
