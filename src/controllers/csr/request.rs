//! What a PKCS #10 request (RFC 2986) asks for.

use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The names in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Alternative names of other kinds (mail addresses, URIs, …).
    pub others: usize,
}

/// The names in a request in PEM.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(pem: &[u8]) -> Result<Names, String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem)
        .map_err(|error| format!("spec.request is not PEM: {error}"))?;
    if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
        return Err(format!("spec.request is a PEM block of type {:?}", block.label));
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("spec.request is no certificate request: {error}"))?;
    let subject = &request.certification_request_info.subject;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).unwrap_or_default()
    };
    let mut names = Names {
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        ..Names::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(ip) => names.ips.push(ip),
                    None => names.others += 1,
                },
                _ => names.others += 1,
            }
        }
    }
    Ok(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_request_are_read() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params =
            rcgen::CertificateParams::new(vec!["one".to_owned(), "127.0.0.1".to_owned()])
                .expect("valid names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:one");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let names = parse(pem.as_bytes()).expect("it is valid");
        assert_eq!(names.common_name, "system:node:one");
        assert_eq!(names.organizations, ["system:nodes"]);
        assert_eq!(names.dns, ["one"]);
        assert_eq!(names.ips, [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        assert!(parse(b"hello").expect_err("no PEM").starts_with("spec.request is not PEM"));
    }
}
