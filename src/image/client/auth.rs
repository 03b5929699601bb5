//! What a registry asks for before it gives anything: basic credentials, or a token from somewhere
//! else (Distribution Specification, token authentication; RFC 9110 section 11).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::image::keyring::Login;

/// A longer header is not looked at.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// One challenge of `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    /// Those that are understood, in order.
    pub fn parse(header: &str) -> Vec<Self> {
        let header = &header[..header.floor_char_boundary(HEADER_BYTES_MAX)];
        let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for part in parts(header) {
            let (left, value) = match part.split_once('=') {
                Some((left, value)) => (left.trim(), Some(unquoted(value.trim()))),
                None => (part.trim(), None),
            };
            let (scheme, name) = match left.split_once(char::is_whitespace) {
                Some((scheme, name)) => (Some(scheme), name.trim()),
                None if value.is_none() => (Some(left), ""),
                None => (None, left),
            };
            if let Some(scheme) = scheme {
                found.push((scheme.to_ascii_lowercase(), Vec::new()));
            }
            if let (Some((_, parameters)), Some(value)) = (found.last_mut(), value) {
                parameters.push((name.to_ascii_lowercase(), value));
            }
        }
        found
            .into_iter()
            .filter_map(|(scheme, parameters)| Self::of(&scheme, &parameters))
            .collect()
    }

    fn of(scheme: &str, parameters: &[(String, String)]) -> Option<Self> {
        let get = |name: &str| {
            let found = parameters.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: get("realm"),
                service: get("service"),
                scope: get("scope"),
            }),
            _ => None,
        }
    }
}

/// Splits at commas that stand outside of quotes.
fn parts(text: &str) -> Vec<&str> {
    let (mut all, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                all.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(&text[start..]);
    all.retain(|part| !part.trim().is_empty());
    all
}

fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"') else { return text.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let (mut out, mut chars) = (String::new(), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What a login is without asking for a token.
pub fn direct(login: &Login) -> Option<String> {
    match login {
        Login::Basic { user, password } => Some(basic(user, password)),
        Login::Bearer(token) => Some(format!("Bearer {token}")),
        Login::Identity(_) => None,
    }
}

/// The answer of a token server.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct TokenAnswer {
    token: String,
    access_token: String,
}

impl TokenAnswer {
    /// What stands behind `Authorization:`.
    pub fn authorization(self) -> Option<String> {
        let token = if self.token.is_empty() { self.access_token } else { self.token };
        let fits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| format!("Bearer {token}"))
    }
}

/// Form and query encoding.
pub fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: &str, scope: &str| Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.into(),
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    "registry.docker.io",
                    "repository:a/b:pull,push",
                )],
            ),
            (r#"Basic realm="x, y""#, vec![Challenge::Basic]),
            (
                r#"basic realm=x, BEARER Realm="http://t",  service=s"#,
                vec![Challenge::Basic, bearer("http://t", "s", "")],
            ),
            ("Negotiate", vec![]),
            (r#"Bearer realm="a\"b""#, vec![bearer("a\"b", "", "")]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in "\\PC{0,200}", odd in "[a-z=\", \\\\]{0,60}") {
            let _ = Challenge::parse(&header);
            let _ = Challenge::parse(&odd);
        }
    }
}
