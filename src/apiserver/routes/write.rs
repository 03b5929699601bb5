//! Create, update, patch, delete and deletecollection.

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::apply;
use super::read::{list_options, respond_entry, respond_list};
use super::{Answered, Context, success};
use crate::api::Object;
use crate::api::patch::{self, PatchType};
use crate::api::proto;
use crate::api::schema::{self, Expected, FieldValidation, Format};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::negotiate::{self, Offer};
use crate::apiserver::registry::update::Target;
use crate::apiserver::registry::{DeleteOptions, Written};
use crate::apiserver::respond;
use crate::apiserver::strategy::Part;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// Options come in any group's version.
const DELETE_OPTIONS: Expected<'static> = Expected {
    group: "",
    version: "v1",
    kind: "DeleteOptions",
    schema: "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    custom: None,
};

/// What a body of that media type is written in.
fn format_of(media_type: &str, protobuf: bool) -> Result<Format, ApiError> {
    match media_type {
        // `*/*` and text are what plain HTTP tools send when they are told nothing.
        JSON | "*/*" => Ok(Format::Json),
        YAML | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        _ if protobuf => Err(negotiate::unsupported(&[JSON, YAML, proto::MEDIA_TYPE])),
        _ => Err(negotiate::unsupported(&[JSON, YAML])),
    }
}

/// Decode the body of a create or update. Answers the warnings beside the object.
pub(super) async fn decode<'a>(
    context: &Context,
    expected: impl Into<Expected<'a>>,
    body: Body,
) -> Result<(Object, Vec<String>), ApiError> {
    let expected = expected.into();
    let media_type = negotiate::content_type(&context.headers);
    let protobuf = proto::serves(expected.schema);
    if protobuf && media_type == proto::MEDIA_TYPE {
        let validation = context.field_validation()?;
        return proto::decode(expected, &context.read(body).await?, validation);
    }
    let format = format_of(&media_type, protobuf)?;
    let validation = context.field_validation()?;
    let bytes = context.read(body).await?;
    schema::decode(expected, &bytes, format, validation)
}

/// Answer what a write left behind.
pub(super) async fn respond_written(
    context: &Context,
    resource: &Resource,
    written: Written,
    mut warnings: Vec<String>,
) -> Answered {
    let accepted = context.accepted(Offer::Forms)?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = respond_entry(context, status, resource, &written.entry, accepted).await?;
    warnings.extend(written.warnings);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

pub(super) async fn create(context: &Context, resource: &Resource, body: Body) -> Answered {
    context.accepted(Offer::Forms)?;
    let call = context.call(context.dry_run()?);
    let (object, warnings) = decode(context, &*resource.kind, body).await?;
    let namespace = context.namespace(resource);
    let written = context.registry().create_as(&call, resource, namespace, object).await?;
    respond_written(context, resource, written, warnings).await
}

pub(super) async fn update(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    put(context, resource, name, body, Some(Part::Main), &|new, _| Ok(new)).await
}

/// Replace an object, or what a subresource shows of it. `merge` makes the new state from what
/// the client sent and what is there.
pub(super) async fn put(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
    part: Option<Part>,
    merge: &(dyn Fn(Object, &Object) -> Result<Object, ApiError> + Send + Sync),
) -> Answered {
    context.accepted(Offer::Forms)?;
    let call = context.call(context.dry_run()?);
    let (object, warnings) = decode(context, &*resource.kind, body).await?;
    let target = Target { resource, namespace: context.namespace(resource), name };
    let change = |old: &Object| merge(object.clone(), old);
    let written = context.registry().update_as(&call, target, part, true, &change).await?;
    respond_written(context, resource, written, warnings).await
}

pub(super) async fn patch(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    patch_part(context, resource, name, body, Some(Part::Main), &|new, _| Ok(new)).await
}

/// The patch in the body of a request.
pub(super) async fn read_patch(
    context: &Context,
    body: Body,
) -> Result<(PatchType, Bytes), ApiError> {
    let media_type = negotiate::content_type(&context.headers);
    let patch_type = PatchType::of_media_type(&media_type).ok_or_else(|| {
        negotiate::unsupported(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ])
    })?;
    Ok((patch_type, context.read(body).await?))
}

/// Patch an object, or what a subresource shows of it.
pub(super) async fn patch_part(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
    part: Option<Part>,
    merge: &(dyn Fn(Object, &Object) -> Result<Object, ApiError> + Send + Sync),
) -> Answered {
    context.accepted(Offer::Forms)?;
    let (patch_type, bytes) = read_patch(context, body).await?;
    if patch_type == PatchType::Apply {
        return apply::apply(context, resource, name, &bytes, part, merge).await;
    }
    apply::refuse_force(context)?;
    let validation = context.field_validation()?;
    let call = context.call(context.dry_run()?);
    let target = Target { resource, namespace: context.namespace(resource), name };
    let warnings = Mutex::new(Vec::new());
    let change = |old: &Object| {
        let patched = patch::apply(&resource.kind, old, &bytes, patch_type)?;
        let (new, told) = patch::decoded(&resource.kind, patched, validation)?;
        *warnings.lock() = told;
        merge(new, old)
    };
    let written = context.registry().update_as(&call, target, part, false, &change).await?;
    respond_written(context, resource, written, warnings.into_inner()).await
}

/// The options of a deletion: the body, or else the query.
async fn delete_options(context: &Context, body: Body) -> Result<DeleteOptions, ApiError> {
    let media_type = negotiate::content_type(&context.headers);
    let bytes = context.read(body).await?;
    let mut options = if bytes.is_empty() {
        let mut options = json!({});
        if let Some(seconds) = context.query.number("gracePeriodSeconds")? {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(orphan) = context.query.optional_flag("orphanDependents") {
            options["orphanDependents"] = orphan.into();
        }
        if !context.query.get("propagationPolicy").is_empty() {
            options["propagationPolicy"] = context.query.get("propagationPolicy").into();
        }
        options
    } else if media_type == proto::MEDIA_TYPE {
        proto::decode(DELETE_OPTIONS, &bytes, FieldValidation::Ignore)?.0
    } else {
        match format_of(&media_type, true)? {
            Format::Yaml => schema::yaml_to_json(&bytes).map_err(ApiError::bad_request)?,
            Format::Json => serde_json::from_slice::<Value>(&bytes)
                .map_err(|e| ApiError::bad_request(format!("DeleteOptions cannot be read: {e}")))?,
        }
    };
    let of = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
    if !matches!(of("kind").as_str(), "" | "DeleteOptions") {
        return Err(ApiError::bad_request(format!(
            "{} cannot be handled as a DeleteOptions",
            of("kind")
        )));
    }
    if context.dry_run()? {
        options["dryRun"] = json!(["All"]);
    }
    DeleteOptions::parse(&options)
}

pub(super) async fn delete(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    let options = delete_options(context, body).await?;
    let call = context.call(options.dry_run);
    let target = Target { resource, namespace: context.namespace(resource), name };
    let written = context.registry().delete_as(&call, target, &options).await?;
    if written.deleted && !resource.strategy.returns_deleted() {
        return respond_deleted(context, resource, name, &written).await;
    }
    respond_written(context, resource, written, Vec::new()).await
}

/// A `Status` that names what is gone.
async fn respond_deleted(
    context: &Context,
    resource: &Resource,
    name: &str,
    written: &Written,
) -> Result<Response<Body>, ApiError> {
    let (_, style) = context.accepted(Offer::Forms)?;
    let object = crate::apiserver::encoding::decode_metadata(&written.entry)?;
    let mut status = success(StatusCode::OK);
    if let Some(map) = status.as_object_mut() {
        map.remove("code");
    }
    let mut details = json!({
        "name": name,
        "kind": resource.kind.plural,
        "uid": object["metadata"]["uid"],
    });
    if !resource.kind.group.is_empty() {
        details["group"] = json!(resource.kind.group);
    }
    status["details"] = details;
    Ok(respond::value(StatusCode::OK, &status, style).await)
}

pub(super) async fn delete_collection(
    context: &Context,
    resource: &Resource,
    namespace: Option<&str>,
    body: Body,
) -> Answered {
    let accepted = context.accepted(Offer::Forms)?;
    let options = delete_options(context, body).await?;
    if options.uid.is_some() {
        return Err(ApiError::new(
            Reason::BadRequest,
            "a precondition on the uid makes no sense for a collection",
        ));
    }
    let list = list_options(context, resource)?;
    let call = context.call(options.dry_run);
    let registry = context.registry();
    let listed = registry.delete_collection(&call, resource, namespace, &list, &options).await?;
    respond_list(context, resource, &listed, accepted).await
}
