//! Whose signature an image needs, and whether it has it: cosign's signatures (`sha256-HEX.sig`
//! beside the image, payloads of simple signing) by keys that a file names.
//!
//! ```yaml
//! rules:                                  # the first one that fits decides
//! - images: ["registry.example/team/*"]   # full names, without tag; * is any text
//!   namespaces: [prod]                    # left out: all
//!   keyFiles: [/etc/coracle/team.pub]     # or keys: ["-----BEGIN PUBLIC KEY-----…"]
//! - images: ["docker.io/*"]
//!   unsigned: refuse                      # or allow
//! ```
//!
//! What no rule fits needs no signature. The signatures are kept with the image, so that a node that
//! is cut off can look at them again.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::keyring::glob;
use super::manifest::Document;
use super::problem::Problem;
use super::pull::Source;
use super::reference::Version;
use super::store::Store;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// A longer payload is not looked at, nor more signatures than this.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;
const SIGNATURES_MAX: usize = 64;

/// One signature of an image, as cosign made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub payload: String,
    /// Base64.
    pub signature: String,
}

/// A key that signatures are made by.
#[derive(Clone)]
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

impl Key {
    fn parse(pem: &str) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "a key is no PUBLIC KEY in PEM".to_owned())?;
        let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref())
            .map_err(|error| format!("a key cannot be read: {error}"))?;
        let oid = info.algorithm.algorithm.to_id_string();
        let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
        let algorithm: &'static dyn VerificationAlgorithm = match (oid.as_str(), curve.as_str()) {
            ("1.2.840.10045.2.1", "1.2.840.10045.3.1.7") => &signature::ECDSA_P256_SHA256_ASN1,
            ("1.2.840.10045.2.1", "1.3.132.0.34") => &signature::ECDSA_P384_SHA384_ASN1,
            ("1.2.840.113549.1.1.1", _) => &signature::RSA_PKCS1_2048_8192_SHA256,
            ("1.3.101.112", _) => &signature::ED25519,
            _ => {
                return Err(format!(
                    "a key is of a kind ({oid}) that is not known: P-256, P-384, RSA and Ed25519 are"
                ));
            }
        };
        Ok(Self { algorithm, bytes: info.subject_public_key.data.to_vec() })
    }

    fn has_signed(&self, signed: &Signed) -> bool {
        let Ok(signature) = STANDARD.decode(signed.signature.trim()) else { return false };
        let key = UnparsedPublicKey::new(self.algorithm, &self.bytes);
        key.verify(signed.payload.as_bytes(), &signature).is_ok()
    }
}

#[derive(Clone)]
enum Demand {
    Nothing,
    Refuse,
    Keys(Vec<Key>),
}

#[derive(Clone)]
struct Rule {
    images: Vec<String>,
    namespaces: Vec<String>,
    demand: Demand,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<RuleFile>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RuleFile {
    images: Vec<String>,
    namespaces: Vec<String>,
    keys: Vec<String>,
    key_files: Vec<PathBuf>,
    unsigned: Option<Unsigned>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unsigned {
    Allow,
    Refuse,
}

/// See the module.
#[derive(Clone, Default)]
pub struct SignaturePolicy {
    rules: Vec<Rule>,
}

impl std::fmt::Debug for SignaturePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignaturePolicy({} rules)", self.rules.len())
    }
}

impl SignaturePolicy {
    /// Reads a file.
    ///
    /// # Errors
    /// What in it cannot be used.
    pub fn load(path: &Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    /// # Errors
    /// What in it cannot be used.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let rules = file.rules.into_iter().enumerate().map(|(at, rule)| {
            let named = |why: String| format!("rules[{at}]: {why}");
            let mut keys = rule.keys;
            for path in &rule.key_files {
                let text = std::fs::read_to_string(path);
                keys.push(text.map_err(|e| named(format!("{}: {e}", path.display())))?);
            }
            let demand = match (keys.is_empty(), rule.unsigned) {
                (false, None) => {
                    let keys = keys.iter().map(|key| Key::parse(key)).collect::<Result<_, _>>();
                    Demand::Keys(keys.map_err(named)?)
                }
                (true, Some(Unsigned::Allow)) => Demand::Nothing,
                (true, Some(Unsigned::Refuse)) => Demand::Refuse,
                _ => {
                    let why = "a rule has keys or keyFiles, or else unsigned: allow or refuse";
                    return Err(named(why.to_owned()));
                }
            };
            Ok(Rule { images: rule.images, namespaces: rule.namespaces, demand })
        });
        Ok(Self { rules: rules.collect::<Result<_, String>>()? })
    }

    /// What is asked of an image, by its full name without tag, in a namespace.
    fn demand(&self, image: &str, namespace: &str) -> &Demand {
        let fits = |patterns: &[String], text: &str| {
            patterns.is_empty()
                || patterns.iter().any(|pattern| glob(pattern.as_bytes(), text.as_bytes()))
        };
        let mut rules = self.rules.iter();
        let found =
            rules.find(|rule| fits(&rule.images, image) && fits(&rule.namespaces, namespace));
        found.map_or(&Demand::Nothing, |rule| &rule.demand)
    }

    /// Whether signatures matter for an image.
    pub fn asks(&self, image: &str, namespace: &str) -> bool {
        !matches!(self.demand(image, namespace), Demand::Nothing)
    }

    /// Judges an image by the signatures that there are of it; `digests` are those that it goes by.
    ///
    /// # Errors
    /// Why it may not run.
    pub fn judge(
        &self,
        image: &str,
        namespace: &str,
        digests: &[&str],
        signatures: &[Signed],
    ) -> Result<(), String> {
        let keys = match self.demand(image, namespace) {
            Demand::Nothing => return Ok(()),
            Demand::Refuse => {
                return Err(format!("the policy of this node refuses images of {image}"));
            }
            Demand::Keys(keys) => keys,
        };
        let good = |signed: &&Signed| {
            digests.contains(&named_digest(&signed.payload).as_str())
                && keys.iter().any(|key| key.has_signed(signed))
        };
        match (signatures.iter().find(good), signatures.len()) {
            (Some(_), _) => Ok(()),
            (None, 0) => Err(format!(
                "{image} has no signature, and the policy of this node asks for one: sign it with \
                 `cosign sign --key`"
            )),
            (None, count) => Err(format!(
                "none of the {count} signatures of {image} is by a key that the policy of this node \
                 names, for this image"
            )),
        }
    }
}

/// Which image a payload of simple signing speaks of.
fn named_digest(payload: &str) -> String {
    let payload: Value = serde_json::from_str(payload).unwrap_or_default();
    let digest = &payload["critical"]["image"]["docker-manifest-digest"];
    digest.as_str().unwrap_or_default().to_owned()
}

/// The signatures beside an image.
///
/// # Errors
/// The source cannot be asked; that there are none is no error.
pub async fn fetch(
    source: &dyn Source,
    digest: &str,
    store: &std::sync::Arc<Store>,
) -> Result<Vec<Signed>, Problem> {
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let document = match source.document(&Version::Tag(tag)).await {
        Err(Problem::NotFound(_)) => return Ok(Vec::new()),
        other => other?,
    };
    let Ok(Document::Manifest(manifest)) = Document::parse(&document.bytes) else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for layer in manifest.layers.iter().take(SIGNATURES_MAX) {
        let signature = layer.annotations.get(SIGNATURE);
        let (Some(signature), true) = (signature, layer.media_type == PAYLOAD) else { continue };
        if layer.size > PAYLOAD_BYTES_MAX {
            continue;
        }
        let _kept = store.blobs.keep([layer.digest.clone()]);
        if !store.blobs.has(&layer.digest) {
            source.blob(layer, store).await?;
        }
        let payload = store.blobs.read(&layer.digest, PAYLOAD_BYTES_MAX)?;
        if let Ok(payload) = String::from_utf8(payload) {
            all.push(Signed { payload, signature: signature.clone() });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use serde_json::json;

    use super::*;

    struct Signer {
        pem: String,
        pair: EcdsaKeyPair,
    }

    impl Signer {
        fn new() -> Self {
            let key = rcgen::KeyPair::generate().expect("a key");
            let der = key.serialize_der();
            let random = SystemRandom::new();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &random);
            Self { pem: key.public_key_pem(), pair: pair.expect("the same key") }
        }

        fn sign(&self, digest: &str) -> Signed {
            let payload = json!({"critical": {
                "identity": {"docker-reference": ""},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            }})
            .to_string();
            let signature = self.pair.sign(&SystemRandom::new(), payload.as_bytes());
            let signature = STANDARD.encode(signature.expect("signed").as_ref());
            Signed { payload, signature }
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let (ours, theirs) = (Signer::new(), Signer::new());
        let rules = json!({"rules": [
            {"images": ["r.example/team/*"], "namespaces": ["prod"], "keys": [ours.pem]},
            {"images": ["r.example/bad*"], "unsigned": "refuse"},
            {"images": ["r.example/*"], "unsigned": "allow"},
            {"namespaces": ["prod"], "keys": [ours.pem, theirs.pem]},
        ]});
        let policy = SignaturePolicy::parse(&rules.to_string()).expect("a policy");
        let (a, b) = ("sha256:a", "sha256:b");
        let judge = |image: &str, namespace: &str, signatures: &[Signed]| {
            policy.judge(image, namespace, &[a], signatures)
        };
        assert_eq!(judge("r.example/team/app", "prod", &[theirs.sign(a), ours.sign(a)]), Ok(()));
        let told = judge("r.example/team/app", "prod", &[theirs.sign(a)]).expect_err("theirs");
        assert!(told.contains("none of the 1 signatures"), "{told}");
        let told = judge("r.example/team/app", "prod", &[ours.sign(b)]).expect_err("another image");
        assert!(told.contains("none of the 1"), "{told}");
        let told = judge("r.example/team/app", "prod", &[]).expect_err("none");
        assert!(told.contains("has no signature"), "{told}");
        assert_eq!(judge("r.example/team/app", "dev", &[]), Ok(()));
        assert!(judge("r.example/bad/x", "dev", &[ours.sign(a)]).is_err());
        assert_eq!(judge("docker.io/library/x", "prod", &[theirs.sign(a)]), Ok(()));
        assert!(!policy.asks("docker.io/library/x", "dev"));
        let mut forged = ours.sign(a);
        forged.payload = forged.payload.replace("critical", "Critical");
        assert!(judge("r.example/team/app", "prod", &[forged]).is_err());
    }

    #[test]
    fn policies_that_say_nothing_clear_are_refused() {
        for (text, expected) in [
            ("rules: [{images: [x]}]", "rules[0]"),
            ("rules: [{keys: [x]}]", "PEM"),
            ("rules: [{keyFiles: [/none]}]", "/none"),
            ("rules: [{unsigned: maybe}]", "maybe"),
            ("rule: []", "rule"),
        ] {
            let told = SignaturePolicy::parse(text).expect_err(text);
            assert!(told.contains(expected), "{told}");
        }
    }
}
