//! Switching protocols: what a request offers, what is chosen, and how that is answered.
//!
//! Over HTTP/1.1 the client asks with `Upgrade`; over HTTP/2 with an extended CONNECT (RFC 8441),
//! whose `:protocol` is handed in. WebSocket clients name what they want to speak in
//! `Sec-WebSocket-Protocol`, SPDY clients in `X-Stream-Protocol-Version`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::spdy::SPDY;

/// Where SPDY clients name protocols, one value each.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Remote commands: statuses instead of texts on the error channel.
pub const V4: &str = "v4.channel.k8s.io";
/// And a message that closes a channel.
pub const V5: &str = "v5.channel.k8s.io";
/// Port-forward over SPDY.
pub const PORT_FORWARD: &str = "portforward.k8s.io";
/// Port-forward over SPDY over WebSocket.
pub const TUNNELED_PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
/// A token in place of the `Authorization` header, which browsers cannot send.
pub const BEARER_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// What an accept key is made with (RFC 6455, 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Protocols that one request may offer.
const OFFERS_MAX: usize = 64;

/// The two ways to switch to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Spdy,
}

impl Transport {
    /// As in `Upgrade` and `:protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Spdy => SPDY,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let known = [Self::WebSocket, Self::Spdy];
        known.into_iter().find(|known| text.trim().eq_ignore_ascii_case(known.name()))
    }

    /// Where the protocols are named.
    pub fn protocol_header(self) -> HeaderName {
        match self {
            Self::WebSocket => SEC_WEBSOCKET_PROTOCOL,
            Self::Spdy => STREAM_PROTOCOL,
        }
    }
}

/// What a client offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub transport: Transport,
    /// In the order of its liking.
    pub protocols: Vec<String>,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    RemoteCommand,
    PortForward,
}

/// What is spoken once the protocols are switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    WebSocketV4,
    WebSocketV5,
    SpdyV4,
    ForwardWebSocket,
    /// SPDY inside WebSocket messages.
    ForwardTunnel,
    ForwardSpdy,
}

impl Protocol {
    /// The protocols of a purpose over a transport, the newest first.
    fn known(purpose: Purpose, transport: Transport) -> &'static [(&'static str, Self)] {
        match (purpose, transport) {
            (Purpose::RemoteCommand, Transport::WebSocket) => {
                &[(V5, Self::WebSocketV5), (V4, Self::WebSocketV4)]
            }
            (Purpose::RemoteCommand, Transport::Spdy) => &[(V4, Self::SpdyV4)],
            (Purpose::PortForward, Transport::WebSocket) => {
                &[(TUNNELED_PORT_FORWARD, Self::ForwardTunnel), (V4, Self::ForwardWebSocket)]
            }
            (Purpose::PortForward, Transport::Spdy) => &[(PORT_FORWARD, Self::ForwardSpdy)],
        }
    }

    /// As the headers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocketV5 => V5,
            Self::WebSocketV4 | Self::SpdyV4 | Self::ForwardWebSocket => V4,
            Self::ForwardTunnel => TUNNELED_PORT_FORWARD,
            Self::ForwardSpdy => PORT_FORWARD,
        }
    }
}

/// Why nothing is switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("unable to upgrade: missing upgrade headers in request")]
    NoUpgrade,
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {client:?}, server \
         accepts {server:?}"
    )]
    NoProtocol { client: Vec<String>, server: Vec<&'static str> },
}

impl Refused {
    /// The status to answer with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoUpgrade => StatusCode::BAD_REQUEST,
            Self::NoProtocol { .. } => StatusCode::FORBIDDEN,
        }
    }
}

impl Offer {
    /// Reads it off a request; `protocol` is the `:protocol` of an extended CONNECT. `None` where
    /// it does not ask for any of the transports.
    pub fn of(headers: &HeaderMap, protocol: Option<&str>) -> Option<Self> {
        let transport = match protocol {
            Some(protocol) => Transport::parse(protocol)?,
            None => {
                let wanted = list(headers, &CONNECTION);
                if !wanted.iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
                    return None;
                }
                list(headers, &UPGRADE).iter().find_map(|word| Transport::parse(word))?
            }
        };
        let mut protocols = list(headers, &transport.protocol_header());
        protocols.truncate(OFFERS_MAX);
        Some(Self { transport, protocols })
    }

    /// The protocol to speak: of what the client likes, the first that is known.
    ///
    /// # Errors
    /// [`Refused::NoProtocol`].
    pub fn choose(&self, purpose: Purpose) -> Result<Protocol, Refused> {
        let known = Protocol::known(purpose, self.transport);
        let chosen = self.protocols.iter().find_map(|offered| {
            known.iter().find(|(name, _)| name == offered).map(|(_, protocol)| *protocol)
        });
        chosen.ok_or_else(|| Refused::NoProtocol {
            client: self
                .protocols
                .iter()
                .filter(|name| !name.starts_with(BEARER_PREFIX))
                .cloned()
                .collect(),
            server: known.iter().map(|(name, _)| *name).collect(),
        })
    }
}

/// The words of a header that is a comma-separated list.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The answer that switches: 101 over HTTP/1.1, 200 over HTTP/2. `protocol` is named to the client
/// where there is one.
pub fn switch(
    transport: Transport,
    protocol: Option<&str>,
    request: &HeaderMap,
    http2: bool,
) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    if let Some(value) = protocol.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(transport.protocol_header(), value);
    }
    if http2 {
        return response;
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(transport.name()));
    if let (Transport::WebSocket, Some(key)) = (transport, request.get(SEC_WEBSOCKET_KEY)) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept_key(key.as_bytes()));
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
}

/// What a server answers to a WebSocket key.
fn accept_key(key: &[u8]) -> HeaderValue {
    let mut sha1 = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(ACCEPT_GUID.as_bytes());
    let text = STANDARD.encode(sha1.finish());
    HeaderValue::from_str(&text).expect("base64 is a header value")
}

/// The headers with which a client asks to switch over HTTP/1.1. `key` is 16 random bytes.
pub fn ask(transport: Transport, protocols: &[&str], key: [u8; 16]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(transport.name()));
    match transport {
        Transport::WebSocket => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            let key = HeaderValue::from_str(&STANDARD.encode(key)).expect("base64");
            headers.insert(SEC_WEBSOCKET_KEY, key);
            if let Ok(all) = HeaderValue::from_str(&protocols.join(", ")) {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, all);
            }
        }
        Transport::Spdy => {
            for one in protocols.iter().filter_map(|name| HeaderValue::from_str(name).ok()) {
                headers.append(STREAM_PROTOCOL, one);
            }
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_first_protocol_that_both_know_is_chosen() {
        let offer = |pairs: &[(&str, &str)]| Offer::of(&headers(pairs), None).expect("an offer");
        let kubectl = offer(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "v9.channel.k8s.io, v5.channel.k8s.io,v4.channel.k8s.io"),
        ]);
        assert_eq!(kubectl.choose(Purpose::RemoteCommand), Ok(Protocol::WebSocketV5));
        assert_eq!(kubectl.choose(Purpose::PortForward), Ok(Protocol::ForwardWebSocket));
        let old = offer(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ]);
        assert_eq!(old.choose(Purpose::RemoteCommand), Ok(Protocol::SpdyV4));
        let refused = old.choose(Purpose::PortForward).expect_err("it offers no port-forward");
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert!(refused.to_string().contains("\"v3.channel.k8s.io\"], server accepts"));
    }

    #[test]
    fn only_an_upgrade_that_is_known_is_an_offer() {
        assert_eq!(Offer::of(&headers(&[("upgrade", "websocket")]), None), None);
        let h2c = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(Offer::of(&h2c, None), None);
        let connect = Offer::of(&headers(&[("sec-websocket-protocol", V4)]), Some("websocket"));
        assert_eq!(
            connect,
            Some(Offer { transport: Transport::WebSocket, protocols: vec![V4.to_owned()] })
        );
        assert_eq!(Offer::of(&HeaderMap::new(), Some("connect-udp")), None);
    }

    #[test]
    fn the_answer_holds_what_the_standard_wants() {
        // The example of RFC 6455, 1.3.
        let request = headers(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        let answer = switch(Transport::WebSocket, Some(V5), &request, false);
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], V5);
        let answer = switch(Transport::Spdy, Some(V4), &request, true);
        assert_eq!((answer.status(), answer.headers().len()), (StatusCode::OK, 1));
        assert_eq!(answer.headers()[STREAM_PROTOCOL], V4);
    }
}
