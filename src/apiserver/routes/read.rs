//! Get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};

use super::{Answered, Context};
use crate::api::proto;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::filter::Filter;
use crate::apiserver::negotiate::{Form, Media, Offer};
use crate::apiserver::registry::read::{ListOptions, Listed};
use crate::apiserver::registry::update::Target;
use crate::apiserver::respond::{self, Style};
use crate::apiserver::watch::WatchOptions;
use crate::apiserver::{encoding, table};
use crate::store::Entry;

/// One object in the form that was asked for.
pub(super) async fn respond_entry(
    context: &Context,
    status: StatusCode,
    resource: &Resource,
    entry: &Entry,
    (form, style): (Form, Style),
) -> Answered {
    let bytes = match form {
        Form::Object => encoding::object(resource, entry)?,
        Form::Metadata => encoding::decode_metadata(entry)?.to_string().into(),
        Form::Table(include) => {
            let now = context.registry().clock().now();
            table::of_entry(resource, entry, include, now)?.to_string().into()
        }
    };
    Ok(respond::json(status, bytes, style).await)
}

pub(super) async fn get(context: &Context, resource: &Resource, name: &str) -> Answered {
    let accepted = context.accepted(Offer::Forms)?;
    let namespace = context.namespace(resource);
    let entry = context.registry().entry(Target { resource, namespace, name }).await?;
    respond_entry(context, StatusCode::OK, resource, &entry, accepted).await
}

/// The options of a list, watch or deletecollection.
pub(super) fn list_options(
    context: &Context,
    resource: &Resource,
) -> Result<ListOptions, ApiError> {
    let query = &context.query;
    let limit = query.number("limit")?.unwrap_or(0);
    Ok(ListOptions {
        filter: Filter::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?,
        limit: usize::try_from(limit).unwrap_or(0),
        continue_token: query.get("continue").to_owned(),
        resource_version: query.get("resourceVersion").to_owned(),
        version_match: query.get("resourceVersionMatch").to_owned(),
    })
}

pub(super) async fn list(
    context: &Context,
    resource: &Resource,
    namespace: Option<&str>,
) -> Answered {
    let accepted = context.accepted(Offer::Forms)?;
    let options = list_options(context, resource)?;
    let listed = context.registry().list_as(resource, namespace, &options).await?;
    respond_list(context, resource, &listed, accepted).await
}

/// A list in the form that was asked for.
pub(super) async fn respond_list(
    context: &Context,
    resource: &Resource,
    listed: &Listed,
    (form, style): (Form, Style),
) -> Answered {
    let Listed { meta, entries } = listed;
    if form == Form::Object && style.media == Media::Protobuf {
        let items = entries.iter().rev().map(|entry| encoding::decode(resource, entry));
        if let Some(list) = proto::encode_list(&resource.kind, &meta.to_value(), items)? {
            return Ok(respond::encoded(StatusCode::OK, vec![list], style).await);
        }
    }
    let chunks = match form {
        Form::Object => encoding::list(resource, meta, entries)?,
        Form::Metadata => {
            let items: Result<Vec<_>, ApiError> =
                entries.iter().map(encoding::decode_metadata).collect();
            let list = serde_json::json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta.to_value(),
                "items": items?,
            });
            vec![list.to_string().into()]
        }
        Form::Table(include) => {
            let now = context.registry().clock().now();
            let table = table::of_list(resource, meta, entries, include, now)?;
            vec![table.to_string().into()]
        }
    };
    Ok(respond::json_chunks(StatusCode::OK, chunks, style).await)
}

pub(super) async fn watch(
    context: &Context,
    resource: &Arc<Resource>,
    namespace: Option<&str>,
) -> Answered {
    let (form, style) = context.accepted(Offer::Stream)?;
    let limits = &context.server.config.limits;
    let registry = context.registry();
    if registry.watchers() >= limits.watchers_max {
        return Err(ApiError::new(
            Reason::TooManyRequests,
            "Too many requests, please try again later.",
        )
        .with_details(serde_json::json!({"retryAfterSeconds": 1})));
    }
    let timeout = match context.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => limits.watch_timeout_min.mul_f64(1.0 + registry.fraction()),
    };
    let mut list = list_options(context, resource)?;
    if list.filter.wanted_name().is_none() && !context.attributes.name.is_empty() {
        // The old form of the path, `/watch/…/NAME`.
        let named = format!("metadata.name={}", context.attributes.name);
        list.filter = Filter::parse(resource, context.query.get("labelSelector"), &named)?;
    }
    let options = WatchOptions {
        list,
        bookmarks: context.query.flag("allowWatchBookmarks"),
        initial_events: context.query.optional_flag("sendInitialEvents"),
        timeout,
        form,
        media: style.media,
    };
    let watcher = registry.watch_as(resource, namespace, options).await?;
    let lines = watcher.into_stream().map(Ok::<_, std::convert::Infallible>);
    Ok(Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, style.media.stream_content_type())
        .header(http::header::CACHE_CONTROL, "no-cache, private")
        .body(Body::from_stream(lines))
        .expect("a response of fixed headers"))
}
