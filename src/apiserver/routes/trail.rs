//! What the audit log is told of one request.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::apiserver::admission::Told;
use crate::apiserver::audit::{Asked, Audit, BODY_MAX, Level, Record, Stage};
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::listen::Peer;
use crate::apiserver::server::ApiServer;

/// The trail of a request, where a log is kept.
pub(super) struct Trail {
    audit: Arc<Audit>,
    record: Record,
    id: String,
    uri: String,
    user_agent: String,
    source: Option<IpAddr>,
    attributes: Attributes,
}

impl Trail {
    /// Of a request that has just come; `None`: there is no log.
    pub(super) fn begin(
        server: &ApiServer,
        request: &Request<Body>,
        attributes: &Attributes,
    ) -> Option<Arc<Self>> {
        let audit = server.config.audit.clone()?;
        let agent = request.headers().get(header::USER_AGENT);
        Some(Arc::new(Self {
            audit,
            record: Record::default(),
            id: server.config.registry.new_uid(),
            uri: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            user_agent: agent.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned(),
            source: request.extensions().get::<Peer>().map(|peer| peer.0.ip()),
            attributes: attributes.clone(),
        }))
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            uri: &self.uri,
            attributes: &self.attributes,
            user_agent: &self.user_agent,
            source: self.source,
        }
    }

    /// It is known who asks.
    pub(super) fn received(&self, user: &UserInfo, impersonated: Option<&UserInfo>) {
        let who = (user, impersonated);
        self.audit.received(&self.record, who, self.id.clone(), &self.asked());
    }

    /// The body of the request was read.
    pub(super) fn keep_request(&self, body: &Bytes) {
        self.record.keep_request(body);
    }

    /// The answer, on its way out.
    pub(super) async fn end(
        &self,
        response: Response<Body>,
        told: &Told,
        long_running: bool,
    ) -> Response<Body> {
        let code = response.status().as_u16();
        let annotations = told.annotations();
        if long_running {
            let stage = Stage::ResponseStarted;
            self.audit.tell(&self.record, stage, &self.asked(), (code, None), &annotations);
            return response;
        }
        let small = response.body().size_hint().upper().is_some_and(|n| n <= BODY_MAX as u64);
        let (response, object) = match self.record.level() {
            Level::RequestResponse if small => collected(response).await,
            _ => (response, None),
        };
        let stage = Stage::ResponseComplete;
        self.audit.tell(&self.record, stage, &self.asked(), (code, object), &annotations);
        response
    }
}

/// A response whose body is there already, and what it says.
async fn collected(response: Response<Body>) -> (Response<Body>, Option<serde_json::Value>) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    let object = serde_json::from_slice(&bytes).ok();
    (Response::from_parts(parts, Body::from(bytes)), object)
}
