//! Names outside the cluster: the question goes to the node's resolvers as it came.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::net::fabric::FabricConfig;

/// How long one resolver may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Resolvers that are asked, one after the other.
const RESOLVERS: usize = 3;

/// The resolvers in use.
pub(super) fn resolvers(config: &FabricConfig) -> Vec<SocketAddr> {
    if let Some(given) = &config.upstream_dns {
        return given.clone();
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse(&text)
}

fn parse(resolv_conf: &str) -> Vec<SocketAddr> {
    let words = resolv_conf.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
            _ => None,
        })
        .map(|ip| SocketAddr::new(ip, 53))
        .take(RESOLVERS)
        .collect()
}

/// The first answer that a resolver gives.
pub(super) async fn forward(resolvers: &[SocketAddr], question: &[u8]) -> Option<Vec<u8>> {
    for resolver in resolvers {
        match tokio::time::timeout(TIMEOUT, ask(*resolver, question)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(%resolver, error = %error, "a resolver failed");
            }
            Err(_) => tracing::debug!(%resolver, "a resolver does not answer"),
        }
    }
    None
}

async fn ask(resolver: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr =
        if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut answer = vec![0u8; 4096];
    loop {
        let len = socket.recv(&mut answer).await?;
        let truncated = len > 2 && answer[2] & 0b10 != 0;
        if len >= 12 && answer[..2] == question[..2] {
            if truncated {
                return ask_tcp(resolver, question).await;
            }
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0u8; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_as_the_c_library_reads_them() {
        let text = "# a comment\nsearch example.org\nnameserver 192.0.2.53\n\
                    nameserver fd00::53 # last\noptions ndots:5\n";
        let expected: Vec<SocketAddr> = vec![
            "192.0.2.53:53".parse().expect("an address"),
            "[fd00::53]:53".parse().expect("an address"),
        ];
        assert_eq!(parse(text), expected);
    }
}
