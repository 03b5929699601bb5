//! Server-side apply over the wire.

use super::write::respond_written;
use super::{Answered, Context};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::fields::{Managers, Operation, Writer};
use crate::api::patch::{self, Apply, LAST_APPLIED};
use crate::api::schema::{self, FieldValidation};
use crate::api::status::ApiError;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::Written;
use crate::apiserver::registry::update::Target;
use crate::apiserver::strategy::Part;
use crate::base::clock::rfc3339_seconds;

fn refused(error: crate::api::status::FieldError) -> ApiError {
    ApiError::invalid("meta.k8s.io", "PatchOptions", "", &[error])
}

/// 422 for `force` on a patch that is no apply.
pub(super) fn refuse_force(context: &Context) -> Result<(), ApiError> {
    match context.query.optional_flag("force") {
        Some(_) => {
            let path = Path::new("force");
            Err(refused(path.forbidden("may not be specified for non-apply patch")))
        }
        None => Ok(()),
    }
}

/// The configuration in a body, and warnings about it.
pub(super) fn read(context: &Context, bytes: &[u8]) -> Result<(Object, Vec<String>), ApiError> {
    let manager = context.query.get("fieldManager");
    if manager.is_empty() {
        return Err(refused(Path::new("fieldManager").required("is required for apply patch")));
    }
    if manager.len() > super::MANAGER_MAX {
        return Err(refused(Path::new("fieldManager").too_long(super::MANAGER_MAX)));
    }
    let (config, duplicates) = schema::yaml_with_duplicates(bytes)
        .map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))?;
    if !config.is_object() {
        return Err(ApiError::bad_request(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot \
             unmarshal into Go value of type map[string]interface {}",
        ));
    }
    let warnings = match (context.field_validation()?, duplicates) {
        (FieldValidation::Strict, Some(why)) => {
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {why}")));
        }
        (FieldValidation::Warn, Some(why)) => vec![why],
        _ => Vec::new(),
    };
    Ok((config, warnings))
}

/// A configuration on its way into an object.
pub(super) struct Change<'a> {
    pub resource: &'a Resource,
    pub config: &'a Object,
    /// Which fields at the top of the object the write is about.
    pub about: &'a (dyn Fn(&str) -> bool + Sync),
}

type Merge<'a> = dyn Fn(Object, &Object) -> Result<Object, ApiError> + Send + Sync + 'a;

impl Change<'_> {
    /// Apply it. `merge` makes the new state from what came of the apply and what was there.
    pub(super) async fn write(
        &self,
        context: &Context,
        target: Target<'_>,
        part: Option<Part>,
        merge: &Merge<'_>,
    ) -> Result<Written, ApiError> {
        let call = context.call_to_apply(context.dry_run()?);
        let now = rfc3339_seconds(context.registry().clock().now());
        let writer = Writer {
            manager: &call.manager,
            operation: Operation::Apply,
            api_version: &self.resource.api_version,
            subresource: &context.attributes.subresource,
            now: &now,
        };
        let normalize = |merged| {
            patch::decoded(&self.resource.kind, merged, FieldValidation::Ignore).map(|d| d.0)
        };
        let apply = Apply {
            at: self.resource.node(),
            config: self.config,
            writer,
            force: context.query.flag("force"),
            about: self.about,
            normalize: &normalize,
        };
        let change = |old: &Object| {
            let mut live = old.clone();
            let there = live["metadata"].as_object_mut().and_then(|m| m.remove("managedFields"));
            let managers = there.and_then(Managers::parse).unwrap_or_default();
            let (mut new, managers) = apply.to(&live, managers)?;
            follow_client_side(&writer, self.config, &live, &mut new);
            let mut new = merge(new, old)?;
            new["metadata"]["managedFields"] = managers.into_value();
            Ok(new)
        };
        context.registry().update_as(&call, target, part, false, &change).await
    }
}

/// Where kubectl applied from the client before, its annotation goes on saying what was applied
/// last, so that it may go back.
fn follow_client_side(writer: &Writer<'_>, config: &Object, live: &Object, new: &mut Object) {
    let before = &live["metadata"]["annotations"][LAST_APPLIED];
    if writer.manager != "kubectl" || !before.is_string() || !writer.subresource.is_empty() {
        return;
    }
    let mut last = config.clone();
    if let Some(metadata) = last["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(|a| a.as_object_mut()) {
            annotations.remove(LAST_APPLIED);
        }
    }
    new["metadata"]["annotations"][LAST_APPLIED] = format!("{last}\n").into();
}

/// `application/apply-patch+yaml` to an object, or to what a subresource shows of it.
pub(super) async fn apply(
    context: &Context,
    resource: &Resource,
    name: &str,
    bytes: &[u8],
    part: Option<Part>,
    merge: &Merge<'_>,
) -> Answered {
    let (config, warnings) = read(context, bytes)?;
    check(resource, &config)?;
    let has_status = resource.kind.serves(crate::api::kinds::Subresource::Status);
    let about = |field: &str| match part {
        Some(Part::Status) => {
            field == "status" || (field == "metadata" && resource.strategy.status_takes_metadata())
        }
        _ => !(has_status && field == "status" && context.attributes.subresource.is_empty()),
    };
    let target = Target { resource, namespace: context.namespace(resource), name };
    let change = Change { resource, config: &config, about: &about };
    let written = change.write(context, target, part, merge).await?;
    respond_written(context, resource, written, warnings).await
}

/// 400 for a configuration of something else.
fn check(resource: &Resource, config: &Object) -> Result<(), ApiError> {
    let text = |field: &str| config[field].as_str().unwrap_or_default();
    if text("kind").is_empty() {
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{config}'")));
    }
    if text("apiVersion").is_empty() {
        return Err(ApiError::bad_request(format!("Object 'apiVersion' is missing in '{config}'")));
    }
    let wanted = &resource.api_version;
    if text("apiVersion") != wanted || text("kind") != resource.kind.kind {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: \
             {wanted}",
            text("apiVersion")
        )));
    }
    if config["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}
