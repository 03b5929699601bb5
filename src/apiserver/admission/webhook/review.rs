//! `AdmissionReview`, written and read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::Hook;
use crate::api::Object;
use crate::api::meta::list;
use crate::api::status::{ApiError, Reason};

/// What a webhook says.
pub(super) struct Answer {
    /// Why not, where it says no.
    pub denied: Option<ApiError>,
    /// A JSON patch.
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// The review that a webhook is asked with.
pub(super) fn write(
    uid: &str,
    mut request: Value,
    (object, old): (&Object, Option<&Object>),
    hook: &Hook,
) -> Value {
    request["uid"] = uid.into();
    request["object"] = object.clone();
    request["oldObject"] = old.cloned().unwrap_or_default();
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", hook.version),
        "request": request,
    })
}

/// What stands in an answer.
///
/// # Errors
/// Why it is none.
pub(super) fn read(body: &[u8], uid: &str, hook: &Hook) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is no AdmissionReview: {error}"))?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("Webhook response was absent".into());
    }
    if hook.version == "v1" {
        let found = response["uid"].as_str().unwrap_or_default();
        if found != uid {
            return Err(format!(
                "received invalid webhook response: expected response.uid={uid:?}, got {found:?}"
            ));
        }
        let said = (review["kind"].as_str(), review["apiVersion"].as_str());
        if said != (Some("AdmissionReview"), Some("admission.k8s.io/v1")) {
            return Err(format!(
                "received invalid webhook response: expected webhook response of \
                 admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
                said.1.unwrap_or_default(),
                said.0.unwrap_or_default()
            ));
        }
    }
    let allowed = response["allowed"] == true;
    let patch = match response["patch"].as_str().filter(|patch| !patch.is_empty()) {
        None => None,
        Some(_) if response["patchType"] != "JSONPatch" && hook.version == "v1" => {
            return Err("invalid webhook response: patchType must be JSONPatch".into());
        }
        Some(patch) => {
            let decoded = STANDARD.decode(patch);
            Some(decoded.map_err(|error| format!("the patch is no base64: {error}"))?)
        }
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Answer {
        denied: (!allowed).then(|| denied(&hook.name, &response["status"])),
        patch: patch.filter(|_| allowed),
        warnings: list(&response["warnings"])
            .iter()
            .filter_map(|warning| warning.as_str().map(str::to_owned))
            .collect(),
        annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// The error that a client gets.
fn denied(webhook: &str, status: &Value) -> ApiError {
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let by = format!("admission webhook {webhook:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"].as_u64().filter(|code| *code >= 400).unwrap_or(400);
    let reason = match code {
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        409 => Reason::Conflict,
        410 => Reason::Gone,
        413 => Reason::RequestEntityTooLarge,
        422 => Reason::Invalid,
        429 => Reason::TooManyRequests,
        500 => Reason::InternalError,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::BadRequest,
    };
    let error = ApiError::new(reason, message);
    match &status["details"] {
        details @ Value::Object(_) => error.with_details(details.clone()),
        _ => error,
    }
}
