//! Certificate requests (PKCS #10): made by a node, read and judged by the signer.

use std::net::IpAddr;
use std::str::FromStr;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::IdentityError;
use super::certificate::{ip, subject};

/// A key usage, as `certificates.k8s.io` `KeyUsage` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    DigitalSignature,
    KeyEncipherment,
    ClientAuth,
    ServerAuth,
}

impl Usage {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DigitalSignature => "digital signature",
            Self::KeyEncipherment => "key encipherment",
            Self::ClientAuth => "client auth",
            Self::ServerAuth => "server auth",
        }
    }
}

impl FromStr for Usage {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        [Self::DigitalSignature, Self::KeyEncipherment, Self::ClientAuth, Self::ServerAuth]
            .into_iter()
            .find(|usage| usage.as_str() == text)
            .ok_or_else(|| IdentityError::Refused(format!("usage {text:?} is not signed here")))
    }
}

/// What a certificate request asks for; its signature has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// DER of `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

/// Reads a PEM request and verifies that its sender holds the key.
///
/// # Errors
/// [`IdentityError::Unreadable`] and [`IdentityError::Refused`].
pub fn read_request(pem: &str) -> Result<Requested, IdentityError> {
    let unreadable = |why: String| IdentityError::unreadable("the certificate request", why);
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unreadable(error.to_string()))?;
    let (_, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
    let refused = |why: String| IdentityError::Refused(why);
    request.verify_signature().map_err(|_| refused("its signature is not by its key".into()))?;
    let info = &request.certification_request_info;
    let (common_name, organizations) = subject(&info.subject);
    let mut asked = Requested {
        common_name,
        organizations,
        dns_names: Vec::new(),
        ips: Vec::new(),
        emails: Vec::new(),
        uris: Vec::new(),
        public_key: info.subject_pki.raw.to_vec(),
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => asked.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => asked.emails.push((*name).to_owned()),
                GeneralName::URI(name) => asked.uris.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => asked.ips.extend(ip(bytes)),
                other => {
                    return Err(refused(format!("subject alternative name {other:?} is unknown")));
                }
            }
        }
    }
    Ok(asked)
}

/// A new key and a request for a certificate on it.
#[derive(Clone)]
pub struct CertificateRequest {
    /// PKCS #10 PEM, for `spec.request`.
    pub request_pem: String,
    /// PKCS #8 PEM; goes into [`super::Identity::new`] once the certificate has come.
    pub key_pem: String,
}

impl CertificateRequest {
    /// Makes a P-256 key and a request that names `common_name`, `organizations` and `sans` (DNS
    /// names or IP addresses).
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] where a name cannot stand in a certificate.
    pub fn new(
        common_name: &str,
        organizations: &[&str],
        sans: &[String],
    ) -> Result<Self, IdentityError> {
        let failed = IdentityError::crypto("a certificate request");
        let key = KeyPair::generate().map_err(&failed)?;
        let organizations: Vec<String> = organizations.iter().map(|&o| o.to_owned()).collect();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(common_name, &organizations)?;
        params.subject_alt_names = alternative_names(sans)?;
        let request = params.serialize_request(&key).map_err(&failed)?;
        Ok(Self { request_pem: request.pem().map_err(&failed)?, key_pem: key.serialize_pem() })
    }
}

/// The subject. Kubernetes reads groups from repeated organizations; the library that encodes
/// them takes each attribute type once, so a second organization goes in under its plain object
/// identifier, and a third is refused rather than lost.
pub(super) fn distinguished_name(
    common_name: &str,
    organizations: &[String],
) -> Result<DistinguishedName, IdentityError> {
    let mut name = DistinguishedName::new();
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    if organizations.len() > types.len() {
        let why =
            format!("at most {} organizations are signed, not {organizations:?}", types.len());
        return Err(IdentityError::Refused(why));
    }
    for (kind, organization) in types.into_iter().zip(organizations) {
        name.push(kind, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    Ok(name)
}

/// Each name as an IP address where it is one, else as a DNS name.
pub(super) fn alternative_names(names: &[String]) -> Result<Vec<SanType>, IdentityError> {
    let one = |name: &String| match name.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => name
            .as_str()
            .try_into()
            .map(SanType::DnsName)
            .map_err(|_| IdentityError::Refused(format!("{name:?} is no DNS name"))),
    };
    names.iter().map(one).collect()
}

/// The two lists that usages go into.
pub(super) fn usages(usages: &[Usage]) -> (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>) {
    let (mut plain, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        match usage {
            Usage::DigitalSignature => plain.push(KeyUsagePurpose::DigitalSignature),
            Usage::KeyEncipherment => plain.push(KeyUsagePurpose::KeyEncipherment),
            Usage::ClientAuth => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            Usage::ServerAuth => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
        }
    }
    (plain, extended)
}
