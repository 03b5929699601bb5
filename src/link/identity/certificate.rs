//! What a certificate says, and a certificate together with its key.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::{IdentityError, NODE_PREFIX, NODES_GROUP, disk};

/// What a certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The subject's CN: the name of the user.
    pub common_name: String,
    /// The subject's O, in order: the groups of the user.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub client_auth: bool,
    pub server_auth: bool,
    /// The public key, as DER of `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`IdentityError::Unreadable`] when `der` is no X.509 certificate.
    pub fn read(der: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |why: String| IdentityError::unreadable("the certificate", why);
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        let (common_name, organizations) = subject(cert.subject());
        let (mut dns_names, mut ips) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = cert.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => ips.extend(ip(bytes)),
                    _ => {}
                }
            }
        }
        let purposes = cert.extended_key_usage().ok().flatten();
        let purpose = |test: fn(&x509_parser::extensions::ExtendedKeyUsage<'_>) -> bool| {
            purposes.as_ref().is_some_and(|p| p.value.any || test(p.value))
        };
        let time = |seconds: i64| {
            Timestamp::from_second(seconds).map_err(|error| unreadable(error.to_string()))
        };
        Ok(Self {
            common_name,
            organizations,
            dns_names,
            ips,
            not_before: time(cert.validity().not_before.timestamp())?,
            not_after: time(cert.validity().not_after.timestamp())?,
            client_auth: purpose(|p| p.client_auth),
            server_auth: purpose(|p| p.server_auth),
            public_key: cert.public_key().raw.to_vec(),
        })
    }

    /// Whether `now` lies inside the certificate's time.
    ///
    /// # Errors
    /// [`IdentityError::Validity`] says which end it is past.
    pub fn check_validity(&self, now: Timestamp) -> Result<(), IdentityError> {
        let why = if now < self.not_before {
            format!("is not valid before {}: check this machine's clock", self.not_before)
        } else if now > self.not_after {
            format!("expired at {}", self.not_after)
        } else {
            return Ok(());
        };
        Err(IdentityError::Validity { subject: self.common_name.clone(), why })
    }

    /// The name of the node whose certificate this is.
    pub fn node(&self) -> Option<&str> {
        let name = self.common_name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())?;
        self.organizations.iter().any(|group| group == NODES_GROUP).then_some(name)
    }
}

/// The name of the node that a certificate was issued to.
pub fn node_of(der: &[u8]) -> Option<String> {
    Facts::read(der).ok()?.node().map(str::to_owned)
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The common name and the organizations of a subject.
pub(super) fn subject(name: &X509Name<'_>) -> (String, Vec<String>) {
    let common_name = name.iter_common_name().next().and_then(|cn| cn.as_str().ok());
    let organizations = name.iter_organization().filter_map(|o| o.as_str().ok());
    (common_name.unwrap_or_default().to_owned(), organizations.map(str::to_owned).collect())
}

/// Every certificate of a PEM text, in order.
///
/// # Errors
/// [`IdentityError::Unreadable`] where there is none.
pub fn certificates_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| IdentityError::unreadable("the certificate", error))?;
    if certificates.is_empty() {
        return Err(IdentityError::unreadable("the certificate", "no CERTIFICATE block in it"));
    }
    Ok(certificates)
}

/// A certificate (first of its chain) with its private key.
#[derive(Clone)]
pub struct Identity {
    /// The chain, the holder's certificate first, PEM.
    pub certificate_pem: String,
    /// The key, PKCS #8 PEM.
    pub key_pem: String,
    facts: Facts,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Identity {
    /// Puts a certificate and its key together.
    ///
    /// # Errors
    /// [`IdentityError::Unreadable`] where they cannot be read or do not belong together.
    pub fn new(certificate_pem: String, key_pem: String) -> Result<Self, IdentityError> {
        let chain = certificates_from_pem(&certificate_pem)?;
        let facts = Facts::read(&chain[0])?;
        let key = rcgen::KeyPair::from_pem(&key_pem)
            .map_err(|error| IdentityError::unreadable("the private key", error))?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != facts.public_key {
            let why = format!("it does not belong to the certificate of {:?}", facts.common_name);
            return Err(IdentityError::unreadable("the private key", why));
        }
        Ok(Self { certificate_pem, key_pem, facts })
    }

    /// Reads `NAME.crt` and `NAME.key` in `dir`; `None` where one is missing.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] where they cannot be used.
    pub fn load(dir: &Path, name: &str) -> Result<Option<Self>, IdentityError> {
        let (crt, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let (Some(certificate), Some(key)) = (disk::read(&crt)?, disk::read(&key)?) else {
            return Ok(None);
        };
        let damaged = |e: IdentityError| IdentityError::Damaged { path: crt, why: e.to_string() };
        Self::new(certificate, key).map(Some).map_err(damaged)
    }

    /// Writes `NAME.key` and `NAME.crt` into `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), IdentityError> {
        disk::private_dir(dir)?;
        disk::write_private(&dir.join(format!("{name}.key")), self.key_pem.as_bytes())?;
        disk::write_public(&dir.join(format!("{name}.crt")), self.certificate_pem.as_bytes())
    }

    /// What the certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The chain as rustls wants it.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        certificates_from_pem(&self.certificate_pem)
            .expect("it was parsed when it was put together")
    }

    /// The key as rustls wants it.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .expect("it was parsed when it was put together")
    }

    /// Whether less than a third of the certificate's lifetime is left.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let Facts { not_before, not_after, .. } = self.facts;
        let lifetime = not_after.duration_since(not_before);
        not_after.duration_since(now) < lifetime / 3
    }
}
