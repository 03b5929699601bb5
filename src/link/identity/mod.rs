//! Keys, certificates and tokens: made, kept on disk, read, and told apart.
//!
//! One certificate authority signs everything in the cluster: the API server's serving
//! certificate, the administrator's, and each node's. Keys are ECDSA P-256; files with a key are
//! 0600 in folders of 0700, written to a temporary name and renamed, so that a crash leaves the
//! old file or the new one.
//!
//! **Invariant:** a private key is never in an error, a log line or a `Debug` output.

mod ca;
mod certificate;
mod csr;
mod disk;
mod join_token;
mod kubeconfig;
mod service_account;
mod serving;
pub mod signer;

use std::path::PathBuf;

pub use ca::{Ca, IdentityRequest};
pub use certificate::{Facts, Identity, certificates_from_pem, node_of};
pub use csr::{CertificateRequest, Requested, Usage, read_request};
pub use disk::{private_dir, write_private, write_public};
pub use join_token::JoinToken;
pub use kubeconfig::kubeconfig;
pub use service_account::ServiceAccountKey;
pub use serving::{ServingCertificate, serving_names};

/// The group that every node's certificate names as its organization.
pub const NODES_GROUP: &str = "system:nodes";
/// What the common name of every node's certificate starts with.
pub const NODE_PREFIX: &str = "system:node:";
/// The group that may do everything.
pub const MASTERS_GROUP: &str = "system:masters";

/// Why an identity could not be made, read or trusted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    /// A file holds something else than it should.
    #[error("{}: {why}; restore the file from a backup, or remove it to have a new one made", path.display())]
    Damaged { path: PathBuf, why: String },
    /// A certificate is outside its time.
    #[error("the certificate of {subject:?} {why}")]
    Validity { subject: String, why: String },
    /// Text that is no certificate, key or request.
    #[error("{what} cannot be read: {why}")]
    Unreadable { what: &'static str, why: String },
    /// A request asks for what is not signed.
    #[error("the certificate request is refused: {0}")]
    Refused(String),
    /// A join token that is not one, or not of this cluster.
    #[error("the join token {0}")]
    Token(String),
    /// The cryptographic library failed.
    #[error("making {what} failed: {why}")]
    Crypto { what: &'static str, why: String },
}

impl IdentityError {
    pub(super) fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |error| Self::Crypto { what, why: error.to_string() }
    }

    pub(super) fn unreadable(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Unreadable { what, why: why.to_string() }
    }
}
