//! A DNS client that trusts nobody: one question by UDP, one answer (RFC 1035).

use kit::net::Udp;
use wasip2::sockets::network::IpAddress;

/// The IPv4 addresses of `name`, asked of `server` itself.
pub fn ask(name: &str, server: &str) -> Result<Vec<IpAddress>, String> {
    let answer = Udp::exchange(&question(name)?, server, 53)?;
    addresses(&answer).ok_or_else(|| format!("{server} sent no DNS answer"))?.map_err(|code| {
        let reason = match code {
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            5 => "REFUSED",
            _ => "an error",
        };
        format!("{server} can't find {name}: {reason}")
    })
}

fn question(name: &str) -> Result<Vec<u8>, String> {
    // Identifier 7, recursion desired, one question.
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(format!("'{name}' is not a DNS name"));
        }
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    // The root, type A, class IN.
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

/// The A records of an answer, or its response code; `None` where it is not an answer.
fn addresses(message: &[u8]) -> Option<Result<Vec<IpAddress>, u8>> {
    let code = message.get(3)? & 15;
    if code != 0 {
        return Some(Err(code));
    }
    let count = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    let mut rest = after_name(message.get(12..)?)?.get(4..)?;
    let mut found = Vec::new();
    for _ in 0..count {
        rest = after_name(rest)?;
        let length = usize::from(u16::from_be_bytes([*rest.get(8)?, *rest.get(9)?]));
        let data = rest.get(10..10 + length)?;
        if let (&[0, 1], &[a, b, c, d]) = (rest.get(..2)?, data) {
            found.push(IpAddress::Ipv4((a, b, c, d)));
        }
        rest = &rest[10 + length..];
    }
    Some(Ok(found))
}

fn after_name(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        match *rest.first()? {
            0 => return rest.get(1..),
            length if length >= 0xc0 => return rest.get(2..),
            length => rest = rest.get(1 + usize::from(length)..)?,
        }
    }
}
