//! Subresources, and questions that are not stored.

use std::sync::Arc;

use axum::body::Body;
use http::StatusCode;
use serde_json::Value;

use super::{
    Answered, Context, eviction, not_allowed, not_served, pods, proxy, read, scale, stream, write,
};
use crate::api::Object;
use crate::api::kinds::Subresource;
use crate::api::schema::Expected;
use crate::api::status::ApiError;
use crate::apiserver::admission;
use crate::apiserver::catalog::Resource;
use crate::apiserver::negotiate::Offer;
use crate::apiserver::registry::update::Target;
use crate::apiserver::request::ResourcePath;
use crate::apiserver::respond;
use crate::apiserver::strategy::Part;

pub(super) async fn serve(
    context: &Context,
    path: &ResourcePath,
    resource: &Arc<Resource>,
    name: &str,
    subresource: &str,
    body: Body,
) -> Answered {
    let known = Subresource::parse(subresource).filter(|s| resource.kind.serves(*s));
    let Some(subresource) = known else { return Err(not_served()) };
    if resource.namespaced() && path.namespace.is_none() {
        return Err(not_allowed());
    }
    match subresource {
        Subresource::Status => part(context, resource, name, body, Part::Status).await,
        Subresource::Scale => scale::serve(context, resource, name, body).await,
        Subresource::Finalize => only(context, resource, name, body, &["spec", "finalizers"]).await,
        Subresource::Approval => {
            only(context, resource, name, body, &["status", "conditions"]).await
        }
        Subresource::EphemeralContainers => {
            only(context, resource, name, body, &["spec", "ephemeralContainers"]).await
        }
        Subresource::Binding => pods::bind(context, resource, name, body).await,
        Subresource::Eviction => eviction::evict(context, resource, name, body).await,
        Subresource::Log => pods::log(context, resource, name).await,
        Subresource::Proxy => proxy::serve(context, resource, name, &path.rest, body).await,
        Subresource::Token => token(context, resource, name, body).await,
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => {
            stream::serve(context, resource, name, subresource).await
        }
        // Not served yet: discovery tells what will be.
        Subresource::Resize => Err(not_served()),
    }
}

/// Get, replace or patch one part of an object.
async fn part(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
    part: Part,
) -> Answered {
    match context.attributes.verb.as_str() {
        "get" => read::get(context, resource, name).await,
        "update" => write::put(context, resource, name, body, Some(part), &|new, _| Ok(new)).await,
        "patch" => {
            write::patch_part(context, resource, name, body, Some(part), &|new, _| Ok(new)).await
        }
        _ => Err(not_allowed()),
    }
}

/// Get, replace or patch one field of an object and nothing else of it.
async fn only(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
    field: &'static [&'static str; 2],
) -> Answered {
    let merge = |new: Object, old: &Object| {
        let mut merged = old.clone();
        // The resourceVersion and uid that the client named stay preconditions.
        for precondition in ["resourceVersion", "uid"] {
            merged["metadata"][precondition] = new["metadata"][precondition].clone();
        }
        let [outer, inner] = field;
        // An approval and a finalization may change the metadata as well.
        if *inner != "ephemeralContainers" {
            for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
                merged["metadata"][part] = new["metadata"][part].clone();
            }
        }
        match new[*outer][*inner].clone() {
            Value::Null => {
                if let Some(map) = merged[*outer].as_object_mut() {
                    map.remove(*inner);
                }
            }
            value => merged[*outer][*inner] = value,
        }
        Ok(merged)
    };
    match context.attributes.verb.as_str() {
        "get" => read::get(context, resource, name).await,
        "update" => write::put(context, resource, name, body, None, &merge).await,
        "patch" => write::patch_part(context, resource, name, body, None, &merge).await,
        _ => Err(not_allowed()),
    }
}

/// What a subresource takes and answers, for the decoder.
pub(super) fn expected<'a>(resource: &'a Resource, subresource: Subresource) -> Expected<'a> {
    let of = subresource.kind(&resource.kind);
    let own = of.version.is_empty();
    Expected {
        group: if own { &resource.kind.group } else { of.group },
        version: if own { &resource.kind.version } else { of.version },
        kind: of.kind,
        schema: of.schema,
        custom: None,
    }
}

/// `serviceaccounts/token`: the parent must exist.
async fn token(context: &Context, resource: &Resource, name: &str, body: Body) -> Answered {
    if context.attributes.verb != "create" {
        return Err(not_allowed());
    }
    let namespace = context.namespace(resource);
    context.registry().entry(Target { resource, namespace, name }).await?;
    let expected = expected(resource, Subresource::Token);
    let (mut object, warnings) = write::decode(context, expected, body).await?;
    let request = admission::Request {
        operation: admission::Operation::Create,
        attributes: &context.attributes,
        user: &context.user,
        kind: "TokenRequest",
        resource,
        old: None,
        dry_run: false,
        again: false,
        told: &context.told,
    };
    for plugin in &context.server.config.admission {
        plugin.admit(&request, &mut object).await?;
    }
    for plugin in &context.server.config.admission {
        plugin.validate(&request, &object).await?;
    }
    let key = format!("{}/{}/token", resource.kind.group, resource.kind.plural);
    answered(context, &key, object, warnings).await
}

/// A question that is answered and not stored.
pub(super) async fn ask(context: &Context, resource: &Resource, body: Body) -> Answered {
    let (mut object, warnings) = write::decode(context, &*resource.kind, body).await?;
    if resource.kind.group.is_empty() && resource.kind.kind == "Binding" {
        return pods::bind_object(context, &object).await;
    }
    resource.strategy.default(&mut object);
    if resource.namespaced() {
        let namespace = context.namespace(resource);
        crate::apiserver::registry::meta::match_namespace(resource, namespace, &mut object)?;
    }
    let errors = resource.strategy.validate(&object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&resource.kind.group, &resource.kind.kind, "", &errors));
    }
    let key = format!("{}/{}", resource.kind.group, resource.kind.plural);
    answered(context, &key, object, warnings).await
}

async fn answered(context: &Context, key: &str, object: Object, warnings: Vec<String>) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let Some(answer) = context.server.config.answers.get(key) else { return Err(not_served()) };
    let answer = answer.answer(&context.user, &context.attributes, object).await?;
    let mut response = respond::value(StatusCode::CREATED, &answer, style).await;
    respond::warn(&mut response, &warnings);
    Ok(response)
}
