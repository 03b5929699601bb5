//! The path of a request: who asks, may they, what is asked, do it.
//!
//! ```text
//! parse ─▶ authenticate ─▶ impersonate ─▶ authorize ─▶ resource? ─▶ read | write | subresource
//!                401            403           403          404
//! ```

mod apply;
mod eviction;
mod identity;
mod pods;
mod proxy;
mod read;
mod scale;
mod stream;
mod subresource;
mod system;
mod trail;
mod write;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use tracing::Instrument;

use super::admission::Told;
use super::auth::{Attributes, UserInfo};
use super::beside::{Beside, Caller, with_password};
use super::catalog::Resource;
use super::metrics::RequestLabels;
use super::negotiate::{self, Accepted, Form, Media, Offer};
use super::registry::{Call, Registry};
use super::request::{Asked, Query, ResourcePath, attributes, parse_path};
use super::respond::{self, Style};
use super::server::ApiServer;
use super::table::Include;
use crate::api::fields::Operation as FieldOperation;
use crate::api::proto;
use crate::api::schema::FieldValidation;
use crate::api::status::{ApiError, Reason};
use trail::Trail;

/// A request that was authorized, without its body.
pub(super) struct Context {
    pub server: Arc<ApiServer>,
    pub method: Method,
    pub headers: HeaderMap,
    pub query: Query,
    pub user: UserInfo,
    pub attributes: Attributes,
    /// The client's connection, where it asks to switch it to another protocol.
    pub upgrade: Mutex<Option<OnUpgrade>>,
    /// What is said of the request besides its answer.
    pub told: Arc<Told>,
    trail: Option<Arc<Trail>>,
}

/// How long the name of a manager may be, in bytes.
const MANAGER_MAX: usize = 128;

type Answered = Result<Response<Body>, ApiError>;

/// Answer a request.
pub(super) async fn serve(server: Arc<ApiServer>, request: Request<Body>) -> Response<Body> {
    if let Some(beside) = beside(&server, request.uri().path()) {
        return serve_beside(&server, beside.as_ref(), request).await;
    }
    let started = server.config.registry.clock().monotonic();
    let is_head = request.method() == Method::HEAD;
    let (asked, query, told) = understand(&request);
    let span = tracing::debug_span!(
        "request",
        verb = %told.verb, resource = %told.resource, ns = %told.namespace, name = %told.name,
    );
    let mut labels = labels(&server, &told);
    let protobuf = serves_protobuf(&server, &told);
    let style = match &query {
        Ok(query) => error_style(request.headers(), query, protobuf),
        Err(_) => Style::PLAIN,
    };
    let said = Arc::new(Told::default());
    let trail = Trail::begin(&server, &request, &told);
    let long_running = is_long_running(&told);
    let answered = match query {
        Ok(query) => {
            let incoming =
                Incoming { asked, query, told, said: said.clone(), trail: trail.clone() };
            answer(server.clone(), request, incoming).instrument(span).await
        }
        Err(error) => Err(error),
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(error) => respond::error(error, style).await,
    };
    respond::warn(&mut response, &said.warnings());
    if let Some(trail) = trail {
        response = trail.end(response, &said, long_running).await;
    }
    labels.code = response.status().as_u16();
    let took = server.config.registry.clock().monotonic().saturating_sub(started);
    server.metrics.answered(labels, took.as_secs_f64());
    if is_head { respond::without_body(response) } else { response }
}

fn beside(server: &ApiServer, path: &str) -> Option<Arc<dyn Beside>> {
    let below = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = server.config.beside.iter().find(|(prefix, _)| below(prefix));
    found.map(|(_, beside)| beside.clone())
}

async fn serve_beside(
    server: &ApiServer,
    beside: &dyn Beside,
    mut request: Request<Body>,
) -> Response<Body> {
    with_password(&mut request);
    let (parts, body) = request.into_parts();
    let user = identity::authenticate(server, &parts).await;
    let caller = Caller { user, authorizer: server.config.authorizer.clone() };
    beside.serve(caller, Request::from_parts(parts, body)).await
}

fn understand(request: &Request<Body>) -> (Asked, Result<Query, ApiError>, Attributes) {
    let asked = parse_path(request.uri().path());
    let query = Query::parse(request.uri());
    let told = match &query {
        Ok(query) => attributes(request.method(), &asked, query),
        Err(_) => attributes(request.method(), &asked, &Query::default()),
    };
    (asked, query, told)
}

/// Whether the objects that a request is about have a form in protobuf.
fn serves_protobuf(server: &ApiServer, told: &Attributes) -> bool {
    let catalog = server.config.registry.catalog();
    let resource = catalog.resource(&told.group, &told.version, &told.resource);
    resource.is_some_and(|resource| proto::serves(&resource.kind.schema))
}

/// How an error is told: as the client would have it, as far as that is understood.
fn error_style(headers: &HeaderMap, query: &Query, protobuf: bool) -> Style {
    let accepted = negotiate::accepted(headers, Offer::Forms, Include::default(), protobuf);
    let media = match accepted {
        Ok(Accepted { media: Media::Protobuf, .. }) => Media::Protobuf,
        _ => Media::Json,
    };
    Style { pretty: query.flag("pretty"), media, ..Style::PLAIN }
}

/// What the request is counted under: only names that the catalog knows.
fn labels(server: &ApiServer, told: &Attributes) -> RequestLabels {
    let catalog = server.config.registry.catalog();
    let known = catalog.resource(&told.group, &told.version, &told.resource);
    let subresource = crate::api::kinds::Subresource::parse(&told.subresource);
    RequestLabels {
        verb: if known.is_some() { told.verb.clone() } else { "other".into() },
        group: known.map(|k| k.kind.group.to_string()).unwrap_or_default(),
        resource: known.map(|k| k.kind.plural.to_string()).unwrap_or_default(),
        subresource: subresource.map(|s| s.name().to_owned()).unwrap_or_default(),
        code: 0,
    }
}

/// A request, understood.
struct Incoming {
    asked: Asked,
    query: Query,
    told: Attributes,
    said: Arc<Told>,
    trail: Option<Arc<Trail>>,
}

async fn answer(
    server: Arc<ApiServer>,
    request: Request<Body>,
    Incoming { asked, query, told, said, trail }: Incoming,
) -> Answered {
    let (mut parts, body) = request.into_parts();
    let upgrade = Mutex::new(parts.extensions.remove::<OnUpgrade>());
    let asker = identity::authenticate(&server, &parts).await?;
    let user = identity::impersonate(&server, asker.clone(), &parts.headers).await?;
    if let Some(trail) = &trail {
        trail.received(&asker, (user != asker).then_some(&user));
    }
    let long_running = is_long_running(&told);
    let admitted = server.fairness.enter(&user, &told, long_running).await?;
    identity::authorize(&server, &user, &told).await?;
    if let Some(aggregator) = &server.config.aggregator
        && let Some((group, version)) = group_version(&asked)
    {
        let catalog = server.config.registry.catalog();
        let delegate = aggregator.delegate(catalog.table(), group, version).await?;
        if let Some(delegate) = delegate {
            let request = (parts.method, &parts.uri, &parts.headers);
            let answered = aggregator.ask(&delegate, &user, request, body).await;
            return answered.map(|response| admitted.told(response));
        }
    }
    let context = Context {
        server,
        method: parts.method,
        headers: parts.headers,
        query,
        user,
        attributes: told,
        upgrade,
        told: said,
        trail,
    };
    let answered = match asked {
        Asked::Other(path) => system::serve(&context, &path).await,
        Asked::Resource(path) => resource(&context, &path, body).await,
    };
    answered.map(|response| admitted.told(response))
}

/// The group and version that a request is about.
fn group_version(asked: &Asked) -> Option<(&str, &str)> {
    match asked {
        Asked::Resource(path) => Some((&path.group, &path.version)),
        Asked::Other(path) => path.strip_prefix("/apis/")?.split_once('/'),
    }
}

/// Watches and streams run as long as their client likes.
fn is_long_running(told: &Attributes) -> bool {
    let streams = ["log", "exec", "attach", "portforward", "proxy"];
    told.verb == "watch" || streams.contains(&told.subresource.as_str())
}

/// A request about a resource.
async fn resource(context: &Context, path: &ResourcePath, body: Body) -> Answered {
    let catalog = context.registry().catalog();
    let found = catalog.resource(&path.group, &path.version, &path.plural).cloned();
    let Some(resource) = found else { return Err(not_served()) };
    if path.namespace.is_some() && !resource.namespaced() {
        return Err(not_served());
    }
    if is_long_running(&context.attributes) {
        return dispatch(context, path, &resource, body).await;
    }
    let limit = context.server.config.limits.request_timeout;
    match tokio::time::timeout(limit, dispatch(context, path, &resource, body)).await {
        Ok(answered) => answered,
        Err(_) => Err(ApiError::new(
            Reason::Timeout,
            "Timeout: request did not complete within the allotted timeout",
        )),
    }
}

/// Boxed: the handlers' futures are large, and a request should not carry room for all of them.
fn dispatch<'a>(
    context: &'a Context,
    path: &'a ResourcePath,
    resource: &'a Arc<Resource>,
    body: Body,
) -> BoxFuture<'a, Answered> {
    Box::pin(handle(context, path, resource, body))
}

async fn handle(
    context: &Context,
    path: &ResourcePath,
    resource: &Arc<Resource>,
    body: Body,
) -> Answered {
    let verb = context.attributes.verb.as_str();
    if let (Some(name), Some(subresource)) = (&path.name, &path.subresource) {
        return subresource::serve(context, path, resource, name, subresource, body).await;
    }
    if !resource.is_stored() {
        return match verb {
            "create" => subresource::ask(context, resource, body).await,
            _ => Err(not_allowed()),
        };
    }
    if resource.namespaced() && path.namespace.is_none() && !matches!(verb, "list" | "watch") {
        return Err(not_allowed());
    }
    match (verb, &path.name) {
        ("get", Some(name)) => read::get(context, resource, name).await,
        ("list", None) => read::list(context, resource, path.namespace.as_deref()).await,
        ("watch", _) => read::watch(context, resource, path.namespace.as_deref()).await,
        ("create", None) => write::create(context, resource, body).await,
        ("update", Some(name)) => write::update(context, resource, name, body).await,
        ("patch", Some(name)) => write::patch(context, resource, name, body).await,
        ("delete", Some(name)) => write::delete(context, resource, name, body).await,
        ("deletecollection", None) if resource.kind.verbs().contains(&"deletecollection") => {
            write::delete_collection(context, resource, path.namespace.as_deref(), body).await
        }
        _ => Err(not_allowed()),
    }
}

/// 404 of a path that nothing is served under.
pub(super) fn not_served() -> ApiError {
    ApiError::new(Reason::NotFound, "the server could not find the requested resource")
        .with_details(serde_json::json!({}))
}

/// 405.
pub(super) fn not_allowed() -> ApiError {
    ApiError::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
    .with_details(serde_json::json!({}))
}

impl Context {
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.server.config.registry
    }

    /// The namespace of the objects that the request is about.
    pub(super) fn namespace(&self, resource: &Resource) -> &str {
        if resource.namespaced() { &self.attributes.namespace } else { "" }
    }

    /// What a write carries down to the registry.
    pub(super) fn call(&self, dry_run: bool) -> Call<'_> {
        Call {
            user: &self.user,
            attributes: std::borrow::Cow::Borrowed(&self.attributes),
            manager: self.manager().into(),
            operation: FieldOperation::Update,
            dry_run,
            admission: &self.server.config.admission,
            told: self.told.clone(),
        }
    }

    /// What a write of this request does, as one that applies a configuration.
    pub(super) fn call_to_apply(&self, dry_run: bool) -> Call<'_> {
        Call { operation: FieldOperation::Apply, ..self.call(dry_run) }
    }

    /// Under which name what is written is managed: `fieldManager`, or else the name of the
    /// program.
    fn manager(&self) -> &str {
        let named = self.query.get("fieldManager");
        if !named.is_empty() {
            return named;
        }
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        let program = agent.unwrap_or_default().split('/').next().unwrap_or_default();
        match &program[..program.floor_char_boundary(MANAGER_MAX)] {
            "" => "unknown",
            program => program,
        }
    }

    /// The form that the client wants, of those that `offer` names.
    pub(super) fn accepted(&self, offer: Offer) -> Result<(Form, Style), ApiError> {
        let include = Include::parse(self.query.get("includeObject"))?;
        let protobuf = serves_protobuf(&self.server, &self.attributes);
        let accepted = negotiate::accepted(&self.headers, offer, include, protobuf)?;
        let Accepted { form, media } = accepted;
        let style = Style {
            media,
            pretty: self.query.flag("pretty"),
            gzip: respond::accepts_gzip(&self.headers),
        };
        Ok((form, style))
    }

    /// `dryRun`.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        let mut found = false;
        for value in self.query.all("dryRun") {
            match value {
                "All" => found = true,
                "" => {}
                other => {
                    let error = crate::api::status::FieldError {
                        kind: crate::api::status::FieldErrorKind::NotSupported,
                        path: "dryRun".into(),
                        message: format!("Unsupported value: {other:?}: supported values: \"All\""),
                    };
                    return Err(ApiError::invalid("meta.k8s.io", "CreateOptions", "", &[error]));
                }
            }
        }
        Ok(found)
    }

    /// `fieldValidation`.
    pub(super) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        let word = self.query.get("fieldValidation");
        FieldValidation::parse(word).ok_or_else(|| {
            ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {word:?}: supported values: \"Ignore\", \
                 \"Strict\", \"Warn\""
            ))
        })
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 for one that is too large.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, ApiError> {
        let limit = self.server.config.limits.body_bytes_max;
        match Limited::new(body, limit).collect().await {
            Ok(collected) => {
                let bytes = collected.to_bytes();
                if let Some(trail) = &self.trail {
                    trail.keep_request(&bytes);
                }
                Ok(bytes)
            }
            Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {limit}"),
            )),
            Err(error) => {
                Err(ApiError::bad_request(format!("the body of the request broke off: {error}")))
            }
        }
    }
}

/// A `Status` that tells success.
pub(super) fn success(code: StatusCode) -> serde_json::Value {
    serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code.as_u16(),
    })
}
