//! The patches that Kubernetes takes: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and
//! strategic merge patch.
//!
//! **Invariant:** pure, and bounded: what a patch makes is at most [`PATCHED_MAX`] bytes of JSON
//! more than what was there.

mod apply;
mod json;
mod strategic;
#[cfg(test)]
mod tests;
mod three_way;

pub use three_way::three_way;

pub use apply::{Apply, LAST_APPLIED};
use serde_json::Value;

use super::Object;
use super::field::Path;
use super::kinds::Kind;
use super::schema::{self, FieldValidation, Schema};
use super::status::{ApiError, Reason};

/// What `copy` operations of one patch may add together.
pub const PATCHED_MAX: usize = 3 * 1024 * 1024;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply, in YAML or JSON.
    Apply,
}

impl PatchType {
    /// By the media type of a request, without its parameters.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Apply a patch to an object of `kind`. The result is raw: it still has to go through
/// [`decoded`].
///
/// # Errors
/// 400 for what is no patch, 413 for one that is too large, 415 for a type that the kind does not
/// take, 422 for a patch that does not fit the object.
pub fn apply(
    kind: &Kind,
    object: &Object,
    patch: &[u8],
    patch_type: PatchType,
) -> Result<Value, ApiError> {
    match patch_type {
        PatchType::Json => json::apply(object, patch),
        PatchType::Merge => {
            let patch = parse(patch)?;
            let mut merged = object.clone();
            json_patch::merge(&mut merged, &patch);
            Ok(merged)
        }
        PatchType::Strategic => match Schema::builtin().get(&kind.schema) {
            Some(of) => strategic::apply(of, object, parse(patch)?),
            None => Err(unsupported("application/json-patch+json, application/merge-patch+json")),
        },
        PatchType::Apply => Err(unsupported(
            "application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json",
        )),
    }
}

/// Decode what [`apply`] made. Answers the object and the warnings.
///
/// # Errors
/// 422 in Kubernetes' words.
pub fn decoded(
    kind: &Kind,
    patched: Value,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), ApiError> {
    let shown = patched.to_string();
    schema::normalize(kind, patched, validation).map_err(|error| {
        let head = format!("cannot be handled as a {}: ", kind.kind);
        match error.message.split_once(&head) {
            Some((_, why)) => {
                let shown = shown.chars().take(1024).collect::<String>();
                ApiError::invalid("", "", "", &[Path::new("patch").invalid(shown, why)])
            }
            None => error,
        }
    })
}

fn parse(patch: &[u8]) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(ApiError::bad_request("error decoding patch: the patch is not a JSON object"))
}

fn unsupported(accepted: &str) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted}"
        ),
    )
}

/// 422 as Kubernetes answers where a patch does not fit.
fn does_not_fit(why: &str) -> ApiError {
    ApiError::new(Reason::Invalid, "the server rejected our request due to an error in our request")
        .with_details(serde_json::json!({
            "causes": [{"reason": "UnexpectedServerResponse", "message": why}],
        }))
}
