//! Identity (keys, certificates, tokens), mTLS connections and streams multiplexed on them.
//!
//! [`identity`] makes and reads what proves who somebody is; [`tls`] turns it into rustls
//! configurations; [`tunnel`] is the connection that an agent dials to its API server and on
//! which the server then sends requests; [`peer`] carries the streams between two nodes; [`outbound`]
//! asks webhooks and other API servers.
//!
//! **Invariant:** every connection made here is TLS with both ends verified against the cluster's
//! CA; what travels on it is not known here.

pub mod identity;
pub mod outbound;
pub mod peer;
pub mod tls;
pub mod tunnel;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// What can go wrong in a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
