//! Requests of the kubelet API that switch to a stream: by `Upgrade` on the kubelet port, by an
//! extended CONNECT on the tunnel.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Version};
use hyper::ext::Protocol as ConnectProtocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::refuse;
use crate::stream::upgrade::{Offer, Protocol, Purpose, Refused, switch};

/// The query of a request, in order.
pub type Pairs = Vec<(String, String)>;

/// A request that may be switched.
pub struct Switch {
    on: OnUpgrade,
    offer: Offer,
    headers: HeaderMap,
    http2: bool,
}

impl Switch {
    /// Takes it out of a request.
    ///
    /// # Errors
    /// The answer to a request that asks for no switch.
    pub fn of(request: &mut Request) -> Result<Self, Box<Response>> {
        let protocol = request.extensions().get::<ConnectProtocol>();
        let offer = Offer::of(request.headers(), protocol.map(ConnectProtocol::as_str));
        let on = request.extensions_mut().remove::<OnUpgrade>();
        let (Some(offer), Some(on)) = (offer, on) else {
            return Err(Box::new(refused(&Refused::NoUpgrade)));
        };
        let http2 = request.version() == Version::HTTP_2;
        Ok(Self { on, offer, headers: request.headers().clone(), http2 })
    }

    /// The protocol to switch to.
    ///
    /// # Errors
    /// The answer to a client that speaks none that is known.
    pub fn choose(&self, purpose: Purpose) -> Result<Protocol, Box<Response>> {
        self.offer.choose(purpose).map_err(|error| Box::new(refused(&error)))
    }

    /// Switches: the answer, and what runs `work` on the connection once that was sent.
    pub fn to<F, Fut>(self, protocol: Protocol, work: F) -> Response
    where
        F: FnOnce(TokioIo<Upgraded>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let Self { on, offer, headers, http2 } = self;
        tokio::spawn(async move {
            match on.await {
                Ok(upgraded) => work(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "a connection was not switched"),
            }
        });
        let answer = switch(offer.transport, Some(protocol.name()), &headers, http2);
        answer.map(|()| axum::body::Body::empty()).into_response()
    }
}

fn refused(error: &Refused) -> Response {
    refuse(error.status(), error.to_string())
}

/// Whether a flag of the query is set.
pub fn flag(query: &Pairs, name: &str) -> bool {
    let value = query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    !matches!(value, None | Some("" | "0" | "false"))
}

/// 404 of a pod that is not here.
pub fn no_pod(namespace: &str, pod: &str) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("pod \"{pod}\" in namespace \"{namespace}\" not found"))
}
