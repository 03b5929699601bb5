//! The cluster's certificate authority.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rcgen::{PublicKeyData, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::csr::{alternative_names, distinguished_name, usages};
use super::{Identity, IdentityError, Usage, disk, read_request};
use crate::base::clock::SharedClock;

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates start this long before now, so that a machine whose clock is a little behind
/// takes them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What a new identity is to say.
#[derive(Debug, Clone)]
pub struct IdentityRequest {
    /// The name of the user or of the server.
    pub common_name: String,
    /// The groups of the user; at most two.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses under which a server is reached.
    pub sans: Vec<String>,
    pub usages: Vec<Usage>,
    pub lifetime: Duration,
}

/// A certificate authority: a self-signed certificate and its key.
pub struct Ca {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
    clock: SharedClock,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("sha256", &self.sha256()).finish_non_exhaustive()
    }
}

impl Ca {
    /// Opens `ca.crt` and `ca.key` in `dir`, or makes them where both are missing.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] where only one of them is there or they do not belong together;
    /// [`IdentityError::Validity`] when the CA has expired.
    pub fn open_or_create(dir: &Path, clock: SharedClock) -> Result<Self, IdentityError> {
        disk::private_dir(dir)?;
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (disk::read(&crt)?, disk::read(&key)?) {
            (None, None) => {
                let made = make_ca(clock.now())?;
                disk::write_private(&key, made.1.as_bytes())?;
                disk::write_public(&crt, made.0.as_bytes())?;
                Self::from_pem(&made.0, &made.1, clock)
            }
            (Some(certificate), Some(private)) => Self::from_pem(&certificate, &private, clock)
                .map_err(|error| match error {
                    expired @ IdentityError::Validity { .. } => expired,
                    error => IdentityError::Damaged { path: crt, why: error.to_string() },
                }),
            (crt_found, _) => {
                let missing = if crt_found.is_some() { key } else { crt };
                let why = "is missing beside its other half".to_owned();
                Err(IdentityError::Damaged { path: missing, why })
            }
        }
    }

    /// A CA that lives in memory only.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn ephemeral(clock: SharedClock) -> Result<Self, IdentityError> {
        let (certificate, key) = make_ca(clock.now())?;
        Self::from_pem(&certificate, &key, clock)
    }

    fn from_pem(
        certificate_pem: &str,
        key_pem: &str,
        clock: SharedClock,
    ) -> Result<Self, IdentityError> {
        let identity = Identity::new(certificate_pem.to_owned(), key_pem.to_owned())?;
        identity.facts().check_validity(clock.now())?;
        let certificate = identity.chain().swap_remove(0);
        let key = KeyPair::from_pem(key_pem).map_err(IdentityError::crypto("the CA"))?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(IdentityError::crypto("the CA"))?;
        Ok(Self {
            certificate_pem: identity.certificate_pem.clone(),
            certificate,
            not_after: identity.facts().not_after,
            issuer,
            clock,
        })
    }

    /// The certificate that everybody in the cluster trusts, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The same as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the DER certificate, in lower-case hexadecimal: what a join token carries.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// [`IdentityError::Refused`] for names that cannot stand in a certificate.
    pub fn issue(&self, request: &IdentityRequest) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::crypto("a key"))?;
        let names = alternative_names(&request.sans)?;
        let subject = (request.common_name.as_str(), request.organizations.as_slice());
        let certificate = self.sign(subject, names, &request.usages, request.lifetime, &key)?;
        Identity::new(certificate, key.serialize_pem())
    }

    /// Signs a PEM request: its subject and its alternative names as they stand, for `usages` and
    /// at most `lifetime`. Whether it may have them is for the caller to judge, with
    /// [`read_request`]. Answers PEM.
    ///
    /// # Errors
    /// [`IdentityError::Unreadable`] and [`IdentityError::Refused`].
    pub fn sign_csr(
        &self,
        request_pem: &str,
        for_usages: &[Usage],
        lifetime: Duration,
    ) -> Result<String, IdentityError> {
        let asked = read_request(request_pem)?;
        let key = SubjectPublicKeyInfo::from_der(&asked.public_key)
            .map_err(|error| IdentityError::Refused(format!("its key is not signed: {error}")))?;
        let ips = asked.ips.iter().map(ToString::to_string);
        let names: Vec<String> = asked.dns_names.iter().cloned().chain(ips).collect();
        let mut names = alternative_names(&names)?;
        let text = |name: &String| {
            let refused = |_| IdentityError::Refused(format!("{name:?} is not plain ASCII"));
            name.as_str().try_into().map_err(refused)
        };
        for email in &asked.emails {
            names.push(SanType::Rfc822Name(text(email)?));
        }
        for uri in &asked.uris {
            names.push(SanType::URI(text(uri)?));
        }
        let subject = (asked.common_name.as_str(), asked.organizations.as_slice());
        self.sign(subject, names, for_usages, lifetime, &key)
    }

    fn sign(
        &self,
        (common_name, organizations): (&str, &[String]),
        names: Vec<SanType>,
        for_usages: &[Usage],
        lifetime: Duration,
        key: &impl PublicKeyData,
    ) -> Result<String, IdentityError> {
        let now = self.clock.now();
        let end = now.checked_add(lifetime).unwrap_or(self.not_after).min(self.not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(common_name, organizations)?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = offset(now - BACKDATE);
        params.not_after = offset(end);
        (params.key_usages, params.extended_key_usages) = usages(for_usages);
        let signed = params.signed_by(key, &self.issuer);
        Ok(signed.map_err(IdentityError::crypto("a certificate"))?.pem())
    }
}

fn make_ca(now: Timestamp) -> Result<(String, String), IdentityError> {
    let failed = IdentityError::crypto("the CA");
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = CertificateParams::default();
    // A name of its own, so that two clusters' CAs in one trust store are told apart.
    let tag = hex::encode(&Sha256::digest(key.subject_public_key_info())[..4]);
    params.distinguished_name = distinguished_name(&format!("coracle-ca-{tag}"), &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    params.not_before = offset(now - BACKDATE);
    params.not_after = offset(now + CA_LIFETIME);
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn offset(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second()).expect("years that jiff and time share")
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
