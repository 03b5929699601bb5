//! The token that lets an agent join: `K10<sha256 of the CA certificate>::<id>.<secret>`.
//!
//! The hash lets the agent verify the server before it sends the secret; `<id>.<secret>` is a
//! Kubernetes bootstrap token, kept by the server as the Secret
//! `kube-system/bootstrap-token-<id>`.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::IdentityError;

const PREFIX: &str = "K10";
const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA's DER certificate, lower-case hexadecimal.
    pub ca_sha256: String,
    /// Six characters of `[a-z0-9]`; no secret.
    pub id: String,
    /// Sixteen characters of `[a-z0-9]`.
    pub secret: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}::{}.{}", self.ca_sha256, self.id, self.secret)
    }
}

impl JoinToken {
    /// A new token for the cluster whose CA has this hash.
    pub fn generate(ca_sha256: &str) -> Self {
        let ca_sha256 = ca_sha256.to_owned();
        Self { ca_sha256, id: random(ID_LEN), secret: random(SECRET_LEN) }
    }

    /// What goes into `Authorization: Bearer`.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Splits a bearer token into id and secret, where it is a bootstrap token.
    pub fn split_bearer(bearer: &str) -> Option<(&str, &str)> {
        let (id, secret) = bearer.split_once('.')?;
        (is_word(id, ID_LEN) && is_word(secret, SECRET_LEN)).then_some((id, secret))
    }

    /// Whether `certificate` is the CA that the token names.
    ///
    /// # Errors
    /// [`IdentityError::Token`] when it is another.
    pub fn verify_ca(&self, certificate: &CertificateDer<'_>) -> Result<(), IdentityError> {
        let found = hex::encode(Sha256::digest(certificate));
        if found == self.ca_sha256 {
            return Ok(());
        }
        Err(IdentityError::Token(format!(
            "is for another cluster: it names the CA {}, the server has {found}; take the token \
             from the server's data directory (join-token)",
            self.ca_sha256
        )))
    }
}

impl FromStr for JoinToken {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let malformed = || {
            IdentityError::Token(
                "is malformed: expected K10<sha256 of the CA>::<id>.<secret>, as the server \
                 writes it into its data directory (join-token)"
                    .into(),
            )
        };
        let rest = text.trim().strip_prefix(PREFIX).ok_or_else(malformed)?;
        let (hash, bearer) = rest.split_once("::").ok_or_else(malformed)?;
        let (id, secret) = Self::split_bearer(bearer).ok_or_else(malformed)?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hash {
            return Err(malformed());
        }
        let ca_sha256 = hash.to_ascii_lowercase();
        Ok(Self { ca_sha256, id: id.to_owned(), secret: secret.to_owned() })
    }
}

fn is_word(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// `len` characters of the alphabet, each equally likely.
fn random(len: usize) -> String {
    let mut text = String::with_capacity(len);
    let mut byte = [0u8; 1];
    while text.len() < len {
        SystemRandom::new().fill(&mut byte).expect("the system has randomness");
        // 252 is the largest multiple of 36 in a byte: above it a remainder would be biased.
        if byte[0] < 252 {
            text.push(ALPHABET[usize::from(byte[0]) % ALPHABET.len()] as char);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_written_and_read() {
        let token = JoinToken::generate(&"ab".repeat(32));
        assert_eq!(token.to_string().parse::<JoinToken>().expect("a token"), token);
        assert_eq!(JoinToken::split_bearer(&token.bearer()), Some((&*token.id, &*token.secret)));
    }

    #[test]
    fn a_malformed_token_says_what_is_expected() {
        let short = format!("K10{}::abcdef.short", "ab".repeat(32));
        let upper = format!("K10{}::ABCDEF.0123456789abcdef", "ab".repeat(32));
        for text in ["", "hello", "K10::a.b", &short, &upper, "K10zz::abcdef.0123456789abcdef"] {
            let error = text.parse::<JoinToken>().expect_err(text);
            assert!(error.to_string().contains("expected K10<sha256"), "{error}");
        }
    }

    #[test]
    fn a_token_of_another_cluster_is_told() {
        let token = JoinToken::generate(&"ab".repeat(32));
        let error = token.verify_ca(&CertificateDer::from(vec![1])).expect_err("another CA");
        assert!(error.to_string().contains("another cluster"), "{error}");
    }
}
