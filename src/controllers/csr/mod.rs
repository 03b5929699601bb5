//! Approves, signs and cleans up CertificateSigningRequests.

pub(crate) mod plan;
pub(crate) mod request;
pub(crate) mod run;
