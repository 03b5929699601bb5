//! The key that signs service-account tokens (JWS, RFC 7515, ES256), and its public half as a
//! JSON Web Key Set (RFC 7517).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{IdentityError, disk};

/// A signing key.
#[derive(Clone)]
pub struct ServiceAccountKey {
    id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    /// The point on the curve, `0x04 ‖ x ‖ y`.
    point: Vec<u8>,
    public_pem: String,
}

impl std::fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ServiceAccountKey {
    /// Opens `service-account.key` in `dir`, or makes it.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] where the file holds no P-256 key.
    pub fn open_or_create(dir: &Path) -> Result<Self, IdentityError> {
        disk::private_dir(dir)?;
        let path = dir.join("service-account.key");
        if let Some(pem) = disk::read(&path)? {
            let damaged = |e: IdentityError| IdentityError::Damaged { path, why: e.to_string() };
            return Self::from_pem(&pem).map_err(damaged);
        }
        let key = KeyPair::generate().map_err(IdentityError::crypto("a key"))?;
        disk::write_private(&path, key.serialize_pem().as_bytes())?;
        Self::from_pem(&key.serialize_pem())
    }

    /// A key that lives in memory only.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn ephemeral() -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::crypto("a key"))?;
        Self::from_pem(&key.serialize_pem())
    }

    fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let unreadable = |why: String| IdentityError::unreadable("the signing key", why);
        let key = KeyPair::from_pem(pem).map_err(|e| unreadable(e.to_string()))?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(unreadable("it is no ECDSA P-256 key".into()));
        }
        let public_pem = key.public_key_pem();
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())),
            signing: EncodingKey::from_ec_pem(pem.as_bytes())
                .map_err(|e| unreadable(e.to_string()))?,
            verifying: DecodingKey::from_ec_pem(public_pem.as_bytes())
                .map_err(|e| unreadable(e.to_string()))?,
            point: key.public_key_raw().to_vec(),
            public_pem,
        })
    }

    /// The key's `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half, `PUBLIC KEY` PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Signs claims into a compact JWT.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn sign(&self, claims: &Value) -> Result<String, IdentityError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
            .map_err(|e| IdentityError::Crypto { what: "a token", why: e.to_string() })
    }

    /// The claims of a JWT that this key has signed; nothing else of it is judged, neither times
    /// nor audience. `None` when another key signed it, or nobody.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let read = jsonwebtoken::decode::<Value>(token, &self.verifying, &validation).ok()?;
        Some(read.claims)
    }

    /// The public half as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_verified_by_the_key_that_signed_it_and_by_no_other() {
        let (ours, theirs) = (ServiceAccountKey::ephemeral(), ServiceAccountKey::ephemeral());
        let (ours, theirs) = (ours.expect("a key"), theirs.expect("a key"));
        let claims = json!({"sub": "system:serviceaccount:default:web", "exp": 1});
        let token = ours.sign(&claims).expect("a token");
        assert_eq!(ours.verify(&token), Some(claims));
        assert_eq!(theirs.verify(&token), None);
        let unsigned = format!("{}.", token.rsplit_once('.').expect("three parts").0);
        assert_eq!(ours.verify(&unsigned), None);
    }

    #[test]
    fn the_key_on_disk_is_found_again_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let first = ServiceAccountKey::open_or_create(dir.path()).expect("a key");
        let second = ServiceAccountKey::open_or_create(dir.path()).expect("the key");
        assert_eq!(first.id(), second.id());
        assert_eq!(first.jwks(), second.jwks());
        let file = std::fs::metadata(dir.path().join("service-account.key")).expect("the file");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
}
