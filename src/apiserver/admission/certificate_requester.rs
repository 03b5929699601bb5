//! Writes into a CertificateSigningRequest who made it: whatever the client said of that is
//! replaced, since approvers and signers decide by it.

use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::status::ApiError;

/// The plugin. Kubernetes does this in the kind's strategy (`PrepareForCreate`), which here does
/// not know the user.
#[derive(Debug, Clone, Copy)]
pub struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let create =
            request.operation == Operation::Create && request.attributes.subresource.is_empty();
        if request.kind != "CertificateSigningRequest" || !create {
            return Ok(());
        }
        let Some(spec) = object.get_mut("spec").and_then(|spec| spec.as_object_mut()) else {
            return Ok(());
        };
        let user = request.user;
        for (field, value, is_empty) in [
            ("username", json!(user.name), user.name.is_empty()),
            ("uid", json!(user.uid), user.uid.is_empty()),
            ("groups", json!(user.groups), user.groups.is_empty()),
            ("extra", json!(user.extra), user.extra.is_empty()),
        ] {
            if is_empty {
                spec.remove(field);
            } else {
                spec.insert(field.to_owned(), value);
            }
        }
        Ok(())
    }
}
