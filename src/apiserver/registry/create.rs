//! Create.

use bytes::Bytes;

use super::{Call, Registry, Written, store_error, ttl};
use crate::api::Object;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::admission::Operation;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::meta;
use crate::apiserver::{attrs, encoding};
use crate::store::{Entry, Expect, StoreError, Value, Write};

/// How many generated names are tried before the conflict is told.
const NAME_TRIES: usize = 8;

impl Registry {
    /// Create an object that was decoded in the version of `resource`.
    ///
    /// # Errors
    /// 400, 403, 409 and 422 as Kubernetes words them.
    pub(crate) async fn create_as(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        namespace: &str,
        mut object: Object,
    ) -> Result<Written, ApiError> {
        let strategy = &resource.strategy;
        if resource.kind.custom.as_ref().is_some_and(|custom| custom.terminating) {
            return Err(ApiError::new(
                Reason::MethodNotAllowed,
                format!(
                    "create not allowed while custom resource definition is terminating ({}.{})",
                    resource.kind.plural, resource.kind.group
                ),
            ));
        }
        let sent = object["metadata"].get("managedFields").cloned();
        let mut generated = self.prepare_new(resource, namespace, &mut object)?;
        if let (crate::api::fields::Operation::Apply, Some(managers)) = (call.operation, sent) {
            object["metadata"]["managedFields"] = managers;
        }
        strategy.default(&mut object);
        strategy.prepare_create(&mut object);
        self.manage_new(call, resource, &mut object);
        call.admit(Operation::Create, resource, None, &mut object).await?;
        strategy.default(&mut object);
        if strategy.generation_changes(&object, &object).is_some() {
            object["metadata"]["generation"] = 1.into();
        }
        let reservation = match self.hook(resource) {
            Some(hook) => Some(hook.reserve(&mut object, None, call.dry_run).await?),
            None => None,
        };
        self.refuse_invalid(resource, &object, strategy.validate(&object))?;
        call.check(Operation::Create, resource, None, &object).await?;
        let warnings = strategy.warnings(&object);
        let mut tries = 0;
        let entry = loop {
            let value = self.to_stored(resource, &object).await?;
            match self.put_new(call, resource, (namespace, &object), value).await {
                Ok(entry) => break entry,
                Err(StoreError::Conflict(_)) if generated && tries < NAME_TRIES => {
                    tries += 1;
                    object["metadata"]["name"] = "".into();
                    generated = self.name_new(resource, &mut object)?;
                }
                Err(StoreError::Conflict(_)) => return Err(exists(resource, &object, generated)),
                Err(error) => return Err(store_error(&error)),
            }
        };
        if !call.dry_run {
            self.observed.written(&resource.kind.storage);
        }
        if let (Some(reservation), false) = (reservation, call.dry_run) {
            reservation.keep();
            if let Some(hook) = self.hook(resource) {
                hook.written(&object);
            }
        }
        let entry = Self::as_written(resource, entry, &object);
        Ok(Written { created: true, warnings, ..Written::stored(entry) })
    }

    async fn put_new(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        (namespace, object): (&str, &Object),
        value: Value,
    ) -> Result<Entry, StoreError> {
        let key = resource.kind.key(namespace, meta::text(object, "name"));
        if call.dry_run {
            return match self.store.get(&key).await? {
                Some(there) => Err(StoreError::Conflict(Some(there))),
                None => Ok(Entry { key: key.into(), value, created: 0, modified: 0 }),
            };
        }
        let write =
            Write::Put { key: key.into(), value, expect: Expect::Absent, ttl: ttl(resource) };
        self.store.write(write).await
    }

    /// 422 where rules are broken.
    pub(super) fn refuse_invalid(
        &self,
        resource: &Resource,
        object: &Object,
        errors: Vec<crate::api::status::FieldError>,
    ) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        let name = meta::text(object, "name");
        Err(ApiError::invalid(&resource.kind.group, &resource.kind.kind, name, &errors))
    }
}

fn exists(resource: &Resource, object: &Object, generated: bool) -> ApiError {
    let name = meta::text(object, "name");
    let mut error = ApiError::already_exists(&resource.kind.group, &resource.kind.plural, name);
    if generated {
        error
            .message
            .push_str(", the server was not able to generate a unique name for the object");
    }
    error
}

/// An object as it goes into the store.
pub(super) fn stored_value(resource: &Resource, object: &Object) -> Value {
    let (bytes, attrs): (Bytes, Bytes) = match resource.strategy.conversion() {
        None => (encoding::encode(object), attrs::encode(&resource.stored, object)),
        Some(conversion) => {
            let mut stored = object.clone();
            conversion.to_stored(&mut stored);
            (encoding::encode(&stored), attrs::encode(&resource.stored, &stored))
        }
    };
    Value { bytes, attrs }
}
