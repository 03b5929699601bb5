//! JSON patch, over the `json-patch` crate, with Kubernetes' bounds and errors.

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::{PATCHED_MAX, does_not_fit};
use crate::api::Object;
use crate::api::status::{ApiError, Reason};

const OPERATIONS_MAX: usize = 10_000;

pub(super) fn apply(object: &Object, patch: &[u8]) -> Result<Value, ApiError> {
    let Patch(operations) =
        serde_json::from_slice(patch).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in &operations {
        // Copies of copies would double the object with every operation.
        if let PatchOperation::Copy(copy) = operation
            && let Ok(source) = copy.from.resolve(&patched)
        {
            copied += source.to_string().len();
            if copied > PATCHED_MAX {
                return Err(does_not_fit(
                    "Unable to complete the copy, the accumulated size increase of copy is too \
                     large",
                ));
            }
        }
        if is_test_of_nothing(operation, &patched) {
            continue;
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| does_not_fit(&told(operation, &error.kind)))?;
    }
    Ok(patched)
}

/// A field that is not there is as good as null; kube-rs's finalizers count on it.
fn is_test_of_nothing(operation: &PatchOperation, object: &Object) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let parent = test.path.parent().and_then(|parent| parent.resolve(object).ok());
    test.value.is_null()
        && parent.is_some_and(Value::is_object)
        && test.path.resolve(object).is_err()
}

fn told(operation: &PatchOperation, why: &PatchErrorKind) -> String {
    let name = match operation {
        PatchOperation::Test(test) => {
            return format!("testing value {} failed: test failed", test.path);
        }
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
    };
    let path = operation.path();
    match why {
        PatchErrorKind::InvalidPointer | PatchErrorKind::InvalidFromPointer => format!(
            "{name} operation does not apply: doc is missing path: \"{path}\": missing value"
        ),
        other => format!("{name} operation does not apply: {other}"),
    }
}
