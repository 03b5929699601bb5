//! The scale subresource: `autoscaling/v1` `Scale` over `spec.replicas` of its parent.

use axum::body::Body;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answered, Context, not_allowed, subresource, write};
use crate::api::Object;
use crate::api::custom::{at, put_at};
use crate::api::kinds::Subresource;
use crate::api::patch;
use crate::api::schema;
use crate::api::status::{ApiError, FieldError, FieldErrorKind};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::negotiate::Offer;
use crate::apiserver::registry::update::{MODIFIED, Target};
use crate::apiserver::respond;
use crate::apiserver::strategy::Part;

pub(super) async fn serve(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let target = Target { resource, namespace: context.namespace(resource), name };
    let scale = match context.attributes.verb.as_str() {
        "get" => {
            let entry = context.registry().entry(target).await?;
            of_parent(resource, &encoding::decode(resource, &entry)?)
        }
        "update" => {
            let expected = subresource::expected(resource, Subresource::Scale);
            let (sent, _) = write::decode(context, expected, body).await?;
            store(context, target, &|_| Ok(sent.clone())).await?
        }
        "patch" => {
            let (patch_type, bytes) = write::read_patch(context, body).await?;
            if patch_type == patch::PatchType::Apply {
                return apply(context, target, &bytes).await;
            }
            let of = Subresource::Scale.kind(&resource.kind);
            // Merge keys and types come from the kind Scale itself, which is no row of its own.
            let mut kind = (*resource.kind).clone();
            kind.group = of.group.into();
            kind.version = of.version.into();
            kind.kind = of.kind.into();
            kind.schema = of.schema.into();
            kind.custom = None;
            let validation = context.field_validation()?;
            let change = |scale: &Object| {
                let patched = patch::apply(&kind, scale, &bytes, patch_type)?;
                let expected = schema::Expected::from(&kind);
                Ok(schema::normalize(expected, patched, validation)?.0)
            };
            store(context, target, &change).await?
        }
        _ => return Err(not_allowed()),
    };
    Ok(respond::value(StatusCode::OK, &scale, style).await)
}

/// Apply a configuration of the scale: the number of replicas is what it can say.
async fn apply(context: &Context, target: Target<'_>, bytes: &[u8]) -> Answered {
    let (_, style) = context.accepted(Offer::Plain)?;
    let sent = super::apply::read(context, bytes)?.0;
    check(target, &sent)?;
    let mut config = json!({
        "apiVersion": target.resource.api_version,
        "kind": target.resource.kind.kind,
        "metadata": {"name": target.name},
    });
    if let Some(replicas) = sent["spec"].get("replicas") {
        put_at(&mut config, replicas_path(target.resource), replicas.clone());
    }
    let about = |name: &str| name != "status";
    let change = super::apply::Change { resource: target.resource, config: &config, about: &about };
    let written = change.write(context, target, Some(Part::Main), &|new, _| Ok(new)).await?;
    let scale = of_parent(target.resource, &encoding::decode(target.resource, &written.entry)?);
    Ok(respond::value(StatusCode::OK, &scale, style).await)
}

type ScaleChange<'a> = dyn Fn(&Object) -> Result<Object, ApiError> + Send + Sync + 'a;

/// Write what became of the scale into its parent.
async fn store(
    context: &Context,
    target: Target<'_>,
    change: &ScaleChange<'_>,
) -> Result<Object, ApiError> {
    let call = context.call(context.dry_run()?);
    let parent = |old: &Object| {
        let before = of_parent(target.resource, old);
        let scale = change(&before)?;
        check(target, &scale)?;
        for precondition in ["uid", "resourceVersion"] {
            let wanted = scale["metadata"][precondition].as_str().unwrap_or_default();
            let there = old["metadata"][precondition].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != there {
                return Err(target.conflict(MODIFIED));
            }
        }
        let mut new = old.clone();
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        put_at(&mut new, replicas_path(target.resource), replicas.into());
        Ok(new)
    };
    let registry = context.registry();
    let written = registry.update_as(&call, target, Some(Part::Main), false, &parent).await?;
    Ok(of_parent(target.resource, &encoding::decode(target.resource, &written.entry)?))
}

fn check(target: Target<'_>, scale: &Object) -> Result<(), ApiError> {
    let sent = scale["metadata"]["name"].as_str().unwrap_or_default();
    if !sent.is_empty() && sent != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let error = FieldError {
        kind: FieldErrorKind::Invalid,
        path: "spec.replicas".into(),
        message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
    };
    Err(ApiError::invalid("autoscaling", "Scale", target.name, &[error]))
}

/// Where the replicas stand that are asked for.
fn replicas_path(resource: &Resource) -> &str {
    let scale = resource.kind.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    scale.map_or("spec.replicas", |paths| &paths.spec_replicas)
}

/// The scale of an object.
fn of_parent(resource: &Resource, parent: &Object) -> Object {
    let paths = resource.kind.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !parent["metadata"][field].is_null() {
            metadata[field] = parent["metadata"][field].clone();
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = at(parent, replicas_path(resource)).as_i64().filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    let ready = at(parent, paths.map_or("status.replicas", |paths| &paths.status_replicas));
    let mut status = json!({"replicas": ready.as_i64().unwrap_or(0)});
    let selector = match paths {
        Some(paths) => at(parent, &paths.selector).as_str().unwrap_or_default().to_owned(),
        None => selector_text(&parent["spec"]["selector"]),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}

/// A label selector as the text of a query parameter.
fn selector_text(selector: &Value) -> String {
    let plain = selector.as_object().is_some_and(|map| map.values().all(Value::is_string));
    let labels = if plain { selector } else { &selector["matchLabels"] };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = rule["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        match rule["operator"].as_str() {
            Some("In") => terms.push(format!("{key} in ({values})")),
            Some("NotIn") => terms.push(format!("{key} notin ({values})")),
            Some("Exists") => terms.push(key.to_owned()),
            Some("DoesNotExist") => terms.push(format!("!{key}")),
            _ => {}
        }
    }
    terms.join(",")
}
