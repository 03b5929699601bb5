//! One HTTPS request to what is no part of the cluster's own machinery: a webhook, an API server
//! that extends this one. What it is trusted by is said with each.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::BoxError;
use super::identity::Identity;
use super::tls::{ALPN_HTTP1, client_with, provider};

/// A connection, whatever it runs over.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why a request got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboundError {
    #[error("tls: {0}")]
    Tls(String),
    #[error("{0}")]
    Http(String),
}

/// What the other end is trusted by.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// PEM; empty: the machine's own roots.
    pub ca_bundle: Vec<u8>,
    /// Anybody is trusted.
    pub anyone: bool,
}

impl Trust {
    /// As a TLS configuration, showing `identity` where there is one.
    ///
    /// # Errors
    /// [`OutboundError::Tls`] for a bundle without certificates.
    pub fn config(&self, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, OutboundError> {
        let wrong = |why: String| OutboundError::Tls(why);
        let verifier: Arc<dyn ServerCertVerifier> = if self.anyone {
            Arc::new(Anyone)
        } else {
            let roots = self.roots()?;
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| wrong(error.to_string()))?
        };
        client_with(verifier, identity, &[ALPN_HTTP1]).map_err(|error| wrong(error.to_string()))
    }

    fn roots(&self) -> Result<RootCertStore, OutboundError> {
        let mut roots = RootCertStore::empty();
        if self.ca_bundle.is_empty() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        }
        for certificate in CertificateDer::pem_slice_iter(&self.ca_bundle) {
            let certificate =
                certificate.map_err(|error| OutboundError::Tls(format!("caBundle: {error}")))?;
            roots.add(certificate).map_err(|e| OutboundError::Tls(format!("caBundle: {e}")))?;
        }
        if roots.is_empty() {
            return Err(OutboundError::Tls(
                "unable to load root certificates: unable to parse bytes as PEM block".into(),
            ));
        }
        Ok(roots)
    }
}

/// TLS over a connection, with the other end known by `name`.
///
/// # Errors
/// [`OutboundError::Tls`] where it cannot prove the name.
pub async fn secure<C: Connection>(
    connection: C,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<C>, OutboundError> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| OutboundError::Tls(format!("{name:?} is no host name: {error}")))?;
    let shaken = tokio_rustls::TlsConnector::from(config).connect(name, connection).await;
    shaken.map_err(|error| OutboundError::Tls(error.to_string()))
}

/// One request over a connection of its own; `request` carries path and `Host`.
///
/// # Errors
/// [`OutboundError::Http`] where there is no answer.
pub async fn send<C, B>(
    connection: C,
    request: Request<B>,
) -> Result<Response<Incoming>, OutboundError>
where
    C: Connection + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let http = |error: hyper::Error| OutboundError::Http(error.to_string());
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(http)?;
    tokio::spawn(async move {
        // The answer tells what went wrong, where anybody waits for it.
        let _ = driver.with_upgrades().await;
    });
    sender.send_request(request).await.map_err(http)
}

/// Takes every certificate: what `insecureSkipTLSVerify` asks for.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
