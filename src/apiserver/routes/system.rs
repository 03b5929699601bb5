//! Paths that are about no resource: discovery, health, version, metrics.

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Answered, Context, not_allowed, not_served};
use crate::api::status::ApiError;
use crate::apiserver::discovery::{self, Aggregated};
use crate::apiserver::negotiate::Offer;
use crate::apiserver::respond;

/// The version of Kubernetes whose API this is.
const MAJOR: &str = "1";
const MINOR: &str = "37";

/// `path` has no trailing slash.
pub(super) async fn serve(context: &Context, path: &str) -> Answered {
    if !matches!(context.method, Method::GET | Method::HEAD) {
        return Err(not_allowed());
    }
    match path {
        "/" => root(context).await,
        "/version" => version(context).await,
        "/livez" | "/healthz" | "/readyz" => health(context, &path[1..], None).await,
        "/metrics" => metrics(context).await,
        "/api" | "/apis" => match Aggregated::asked(&context.headers) {
            Some(form) => aggregated(context, path == "/api", form).await,
            None => document(context, path).await,
        },
        "/.well-known/openid-configuration" => issuer(context, path, "application/json").await,
        "/openid/v1/jwks" => issuer(context, path, "application/jwk-set+json").await,
        _ if path.starts_with("/openapi/") => openapi(context, path).await,
        _ => {
            if let Some((probe, check)) = path[1..].split_once('/')
                && matches!(probe, "livez" | "readyz" | "healthz")
            {
                return health(context, probe, Some(check)).await;
            }
            document(context, path).await
        }
    }
}

async fn root(context: &Context) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let catalog = context.registry().catalog();
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in catalog.table().groups().iter().filter(|g| !g.group.is_empty()) {
        paths.push(format!("/apis/{}", group.group));
        paths.extend(group.versions.iter().map(|v| format!("/apis/{}/{v}", group.group)));
    }
    let rest = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(rest.map(str::to_owned));
    Ok(respond::value(StatusCode::OK, &json!({"paths": paths}), style).await)
}

async fn openapi(context: &Context, path: &str) -> Answered {
    let header_of = |name| context.headers.get(name).and_then(|v| v.to_str().ok());
    let accept = header_of(header::ACCEPT).unwrap_or_default().to_owned();
    let known = header_of(header::IF_NONE_MATCH).unwrap_or_default().to_owned();
    let documents = context.registry().catalog().openapi().clone();
    let path = path.to_owned();
    // The first answer builds the document, which takes some milliseconds of computing.
    let built = tokio::task::spawn_blocking(move || documents.answer(&path, &accept, &known));
    let answer = built.await.map_err(ApiError::internal)?.ok_or_else(not_served)?;
    let status = if answer.code == 304 { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut response = respond::text(status, answer.content_type, answer.body);
    let headers = response.headers_mut();
    let tag = HeaderValue::from_str(&answer.etag).expect("hexadecimal digits and a path");
    headers.insert(header::ETAG, tag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// What the issuer of service-account tokens says of itself.
async fn issuer(context: &Context, path: &str, content_type: &'static str) -> Answered {
    let Some(answer) = context.server.config.answers.get(path) else { return Err(not_served()) };
    let document = answer.answer(&context.user, &context.attributes, Value::Null).await?;
    let mut response = respond::text(StatusCode::OK, content_type, document.to_string());
    let cached = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, cached);
    Ok(response)
}

async fn version(context: &Context) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let document = json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+coracle{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{arch}", std::env::consts::OS),
    });
    Ok(respond::value(StatusCode::OK, &document, style).await)
}

async fn document(context: &Context, path: &str) -> Answered {
    let host = context.headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let catalog = context.registry().catalog();
    let mut document = discovery::document(&catalog, path, host);
    if let Some(aggregator) = &context.server.config.aggregator
        && path.starts_with("/apis")
    {
        let others = aggregator.groups(catalog.table()).await?;
        document = merged(document, path, others);
    }
    let document: Value = document.ok_or_else(not_served)?;
    let (_, style) = context.accepted(Offer::Plain)?;
    Ok(respond::value(StatusCode::OK, &document, style).await)
}

/// Discovery with the groups that other servers serve.
fn merged(document: Option<Value>, path: &str, others: Vec<Value>) -> Option<Value> {
    if path == "/apis" {
        let mut document = document?;
        document["groups"].as_array_mut()?.extend(others);
        return Some(document);
    }
    document.or_else(|| {
        let name = path.strip_prefix("/apis/")?;
        let mut group = others.into_iter().find(|group| group["name"] == name)?;
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
        Some(group)
    })
}

async fn aggregated(context: &Context, core: bool, form: Aggregated) -> Answered {
    let catalog = context.registry().catalog();
    let mut document = discovery::aggregated(&catalog, core, form);
    if let (false, Some(aggregator)) = (core, &context.server.config.aggregator) {
        let others = aggregator.discovered(catalog.table()).await?;
        document["items"].as_array_mut().into_iter().for_each(|all| all.extend(others.clone()));
    }
    let text = document.to_string();
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let tag = format!("\"{}\"", hex::encode_upper(digest.as_ref()));
    let same =
        context.headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if same {
        respond::text(StatusCode::NOT_MODIFIED, form.content_type(), "")
    } else {
        respond::text(StatusCode::OK, form.content_type(), text)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// `livez`, `readyz` and `healthz`, whole or one check of them.
async fn health(context: &Context, probe: &str, only: Option<&str>) -> Answered {
    let server = &context.server;
    let ready = probe == "readyz";
    let mut checks = vec![("ping", true), ("store", context.registry().is_open().await)];
    if ready {
        checks.push(("poststarthook/bootstrap", server.is_ready()));
        checks.push(("shutdown", !server.is_stopping()));
    }
    checks.retain(|(name, _)| !context.query.all("exclude").any(|excluded| excluded == *name));
    if let Some(only) = only {
        return match checks.iter().find(|(name, _)| *name == only) {
            Some((_, true)) => Ok(respond::text(StatusCode::OK, "text/plain", "ok")),
            Some((_, false)) => Ok(respond::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("internal server error: {only} check failed\n"),
            )),
            None => Err(not_served()),
        };
    }
    let failed = checks.iter().any(|(_, ok)| !ok);
    let verbose = context.query.all("verbose").next().is_some();
    if !failed && !verbose {
        return Ok(respond::text(StatusCode::OK, "text/plain", "ok"));
    }
    let mut text = String::new();
    for (name, ok) in checks {
        let line = if ok {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed: reason withheld\n")
        };
        text.push_str(&line);
    }
    text.push_str(&format!("{probe} check {}\n", if failed { "failed" } else { "passed" }));
    let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    Ok(respond::text(status, "text/plain; charset=utf-8", text))
}

async fn metrics(context: &Context) -> Answered {
    let registry = context.registry();
    let mut objects = Vec::new();
    for kind in registry.catalog().table().rows() {
        if kind.access == crate::api::kinds::Access::Stored {
            let name = match &*kind.group {
                "" => kind.plural.to_string(),
                group => format!("{}.{group}", kind.plural),
            };
            objects.push((name, registry.count(kind).await?));
        }
    }
    let text = context.server.metrics.scrape(registry.watchers(), registry.revision(), &objects);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(respond::text(StatusCode::OK, content_type, text))
}
