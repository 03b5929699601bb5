//! rustls configurations of everybody in the cluster: TLS 1.2 and 1.3 with `ring`, sessions
//! resumed, one CA trusted.
//!
//! | who | verifies |
//! |---|---|
//! | API server | a client's certificate against the CA, where the client shows one |
//! | client | the server's certificate against the CA, for the name it dialled |
//! | client with only a join token | the same, the CA being the one of the token's hash |
//! | node to node | both certificates against the CA, and that they name nodes |

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use super::identity::{Identity, IdentityError, JoinToken, node_of};

/// ALPN of an agent's connection on which the API server sends the requests.
pub const ALPN_TUNNEL: &[u8] = b"coracle-tunnel";
/// ALPN of the link between two nodes.
pub const ALPN_PEER: &[u8] = b"coracle-peer";
/// ALPN of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Sessions that a client remembers, and that a server keeps for clients of TLS 1.2.
const SESSIONS_MAX: usize = 1024;

pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(default_provider()));
    PROVIDER.clone()
}

fn crypto(what: &'static str) -> impl Fn(rustls::Error) -> IdentityError {
    move |error| IdentityError::Crypto { what, why: error.to_string() }
}

fn roots(ca: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(ca.clone().into_owned())
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    Ok(Arc::new(roots))
}

/// The API server's listener: clients may show a certificate, and one that is shown must be
/// signed by `ca` and inside its time.
///
/// # Errors
/// [`IdentityError`] where the CA certificate cannot be used.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    ca: &CertificateDer<'_>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(crypto("the TLS configuration"))?;
    let config = builder.with_client_cert_verifier(verifier).with_cert_resolver(certificate);
    finish_server(config, alpn)
}

fn finish_server(
    mut config: ServerConfig,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, IdentityError> {
    config.alpn_protocols = alpn.iter().map(|&name| name.to_vec()).collect();
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.ticketer = Ticketer::new().map_err(crypto("session tickets"))?;
    Ok(Arc::new(config))
}

/// A server that takes no client certificates as proof but offers its own (the kubelet API).
///
/// # Errors
/// [`IdentityError`] where the identity or the CA cannot be used.
pub fn server_config_with(
    identity: &Identity,
    ca: &CertificateDer<'_>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(crypto("the TLS configuration"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())
        .map_err(crypto("the TLS configuration"))?;
    finish_server(config, alpn)
}

/// A client that trusts `ca` and shows `identity`, where it has one.
///
/// # Errors
/// [`IdentityError`] where the CA or the identity cannot be used.
pub fn client_config(
    ca: &CertificateDer<'_>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider())
        .build()
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    client_with(verifier, identity, alpn)
}

pub(super) fn client_with(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, IdentityError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(crypto("the TLS configuration"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain(), identity.key())
            .map_err(crypto("the TLS configuration"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|&name| name.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// What pods trust when they speak https: the machine's own roots, and the cluster's CA, so that
/// `https://kubernetes.default` is trusted too. They show no certificate.
///
/// # Errors
/// [`IdentityError`] where the CA cannot be used.
pub fn pod_client_config(ca: &CertificateDer<'_>) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some of the machine's trusted roots cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
        .add(ca.clone().into_owned())
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))?;
    client_with(verifier, None, &[ALPN_HTTP1])
}

/// A node's end of node links, for connections it makes: the other end must show the certificate
/// of node `expected`.
///
/// # Errors
/// [`IdentityError`] where the CA or the identity cannot be used.
pub fn peer_client_config(
    ca: &CertificateDer<'_>,
    identity: &Identity,
    expected: &str,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let accepts = Accepts::Node { name: expected.to_owned(), nodes: node_verifier(ca)? };
    let verifier = Arc::new(Verifier { accepts });
    client_with(verifier, Some(identity), &[ALPN_PEER])
}

/// A node's end of node links, for connections it takes: the other end must show a certificate
/// signed by `ca`; that it is a node's is checked after the handshake ([`node_of`]).
///
/// # Errors
/// [`IdentityError`] where the CA or the identity cannot be used.
pub fn peer_server_config(
    ca: &CertificateDer<'_>,
    identity: &Identity,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(crypto("the TLS configuration"))?
        .with_client_cert_verifier(node_verifier(ca)?)
        .with_single_cert(identity.chain(), identity.key())
        .map_err(crypto("the TLS configuration"))?;
    finish_server(config, &[ALPN_PEER])
}

/// Both ends of a node link show the node's client certificate, the one that proves a node to the
/// API server too; so both are verified as clients.
fn node_verifier(ca: &CertificateDer<'_>) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .build()
        .map_err(|error| IdentityError::unreadable("the CA certificate", error))
}

/// Connects to `address` as `server_name` and answers the CA certificate (DER) that `token` names,
/// once the server has proved with a certificate of that CA that it is who it should be. Nothing
/// secret has been sent by then.
///
/// # Errors
/// [`IdentityError::Token`] when the server belongs to another cluster; [`IdentityError::Crypto`]
/// when it cannot be reached.
pub async fn fetch_ca(
    address: &str,
    server_name: &str,
    token: &JoinToken,
) -> Result<CertificateDer<'static>, IdentityError> {
    let failed = |why: String| IdentityError::Crypto { what: "a connection to the server", why };
    let accepts = Accepts::CaOfHash(token.clone(), Mutex::new(None));
    let verifier = Arc::new(Verifier { accepts });
    let config = client_with(verifier.clone(), None, &[ALPN_HTTP1])?;
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|error| failed(format!("{server_name:?} is no host name: {error}")))?;
    let tcp = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|error| failed(format!("{address}: {error}")))?;
    let shaken = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
    let Accepts::CaOfHash(_, found) = &verifier.accepts else {
        unreachable!("it was made as CaOfHash above")
    };
    match (shaken, found.lock().take()) {
        (Ok(_), Some(Ok(ca))) => Ok(ca),
        (_, Some(Err(error))) => Err(error),
        (Err(error), _) => Err(failed(format!("{address}: {error}"))),
        (Ok(_), None) => Err(failed(format!("{address}: it showed no certificate"))),
    }
}

/// Which certificates a [`Verifier`] takes, besides their being signed by the CA.
#[derive(Debug)]
enum Accepts {
    /// That of the node of this name, whatever address it was dialled at.
    Node { name: String, nodes: Arc<dyn ClientCertVerifier> },
    /// One for the dialled name, of the CA that the token names and the chain carries.
    CaOfHash(JoinToken, Mutex<Option<Result<CertificateDer<'static>, IdentityError>>>),
}

#[derive(Debug)]
struct Verifier {
    accepts: Accepts,
}

/// The CA in the chain that the token names.
fn find_ca(
    token: &JoinToken,
    chain: &[CertificateDer<'_>],
) -> Result<Arc<RootCertStore>, IdentityError> {
    let Some(last) = chain.last() else {
        let why = "cannot be verified: the server sends no CA certificate; is it a Coracle \
                   server?";
        return Err(IdentityError::Token(why.into()));
    };
    token.verify_ca(last)?;
    roots(last)
}

/// Whether the node called `name` shows its certificate.
fn verify_node(
    name: &str,
    nodes: &dyn ClientCertVerifier,
    chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
    now: UnixTime,
) -> Result<(), rustls::Error> {
    nodes.verify_client_cert(chain.0, chain.1, now)?;
    match node_of(chain.0) {
        Some(found) if found == name => Ok(()),
        Some(found) => {
            Err(rustls::Error::General(format!("expected node {name:?}, found node {found:?}")))
        }
        None => Err(rustls::Error::General(format!(
            "expected node {name:?}, found no node's certificate"
        ))),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (token, ca) = match &self.accepts {
            Accepts::Node { name, nodes } => {
                verify_node(name, &**nodes, (end_entity, intermediates), now)?;
                return Ok(ServerCertVerified::assertion());
            }
            Accepts::CaOfHash(token, ca) => (token, ca),
        };
        let roots = find_ca(token, intermediates).map_err(|error| {
            *ca.lock() = Some(Err(error.clone()));
            rustls::Error::General(error.to_string())
        })?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            now,
            algorithms.all,
        )?;
        rustls::client::verify_server_name(&parsed, server_name)?;
        let last = intermediates.last().expect("find_ca has read it");
        *ca.lock() = Some(Ok(last.clone().into_owned()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
