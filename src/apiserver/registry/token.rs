//! Continue tokens: where the next page begins, and of which snapshot.
//!
//! A token is the base64url form of `{"v":"meta.k8s.io/v1","rv":N,"start":"key"}`; `rv` -1 stands
//! for "whatever is there now" (an inconsistent continuation). A token is only ever applied below
//! the prefix of the list that it came with, so a forged one reads nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::api::status::ApiError;

const VERSION: &str = "meta.k8s.io/v1";

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The snapshot; `None`: the newest.
    pub revision: Option<u64>,
    /// The last key of the page before, below the prefix of the list.
    pub after: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    /// As it goes to the client.
    pub fn encode(&self) -> String {
        let rv = self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        let wire = Wire { v: VERSION.into(), rv, start: self.after.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).expect("a token can be written"))
    }

    /// As it came back.
    ///
    /// # Errors
    /// 400 when it is not one of ours.
    pub fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| invalid())?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        if wire.v != VERSION || wire.start.is_empty() || wire.start.contains("..") {
            return Err(invalid());
        }
        let revision = match wire.rv {
            -1 => None,
            rv if rv > 0 => Some(rv.unsigned_abs()),
            _ => return Err(invalid()),
        };
        Ok(Self { revision, after: wire.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        for revision in [Some(7), None] {
            let token = Token { revision, after: "ns/a".into() };
            assert_eq!(Token::decode(&token.encode()).expect("one of ours"), token);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "x", "e30", "!!!", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0"]
        {
            assert!(Token::decode(text).is_err(), "{text}");
        }
    }
}
