//! Asking a webhook: POST of JSON over TLS, with what it is trusted by.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use super::config::{Place, Target};
use crate::apiserver::reach::Reach;
use crate::link::outbound::{Trust, secure, send};

/// An answer is at most so large, in bytes.
const ANSWER_MAX: usize = 10 * 1024 * 1024;

/// Asks webhooks, of admission and of conversion.
pub struct Caller {
    reach: Arc<Reach>,
}

impl Caller {
    /// Reaches them by `reach`.
    pub fn new(reach: Arc<Reach>) -> Self {
        Self { reach }
    }

    /// The body of the answer, within `timeout`.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn call(
        &self,
        target: &Target,
        review: &Value,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let url = url(target);
        let told = |why: String| format!("Post {url:?}: {why}");
        let asked = self.ask(target, review, timeout);
        match tokio::time::timeout(timeout, asked).await {
            Ok(answered) => answered.map_err(told),
            Err(_) => Err(told("context deadline exceeded".into())),
        }
    }

    async fn ask(
        &self,
        target: &Target,
        review: &Value,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let (stream, name, authority) = match &target.place {
            Place::Service { namespace, name, port } => {
                let stream = self.reach.service(namespace, name, *port).await;
                let host = format!("{name}.{namespace}.svc");
                (stream, host.clone(), format!("{host}:{port}"))
            }
            Place::Host { host, port } => {
                (self.reach.host(host, *port).await, host.clone(), format!("{host}:{port}"))
            }
            Place::Nowhere(url) => return Err(format!("{url:?} is no URL")),
        };
        let stream = stream.map_err(|error| error.to_string())?;
        let trust = Trust { ca_bundle: target.ca_bundle.clone(), anyone: false };
        let config = trust.config(None).map_err(|error| error.to_string())?;
        let stream = secure(stream, &name, config).await.map_err(|error| error.to_string())?;
        let request = Request::post(format!("{}?timeout={}s", target.path, timeout.as_secs()))
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(http::header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| error.to_string())?;
        let response = send(stream, request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if status != StatusCode::OK {
            let shown = String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
            return Err(format!("the server answered {status}: {shown}"));
        }
        Ok(body)
    }
}

fn url(target: &Target) -> String {
    match &target.place {
        Place::Service { namespace, name, port } => {
            format!("https://{name}.{namespace}.svc:{port}{}", target.path)
        }
        Place::Host { host, port } => format!("https://{host}:{port}{}", target.path),
        Place::Nowhere(url) => url.clone(),
    }
}
