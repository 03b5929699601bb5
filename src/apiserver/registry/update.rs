//! Update: replace, patch, and every write of a subresource that changes its parent.

use super::{Call, Registry, Written, meta, store_error, ttl};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::admission::Operation;
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::strategy::Part;
use crate::store::{Entry, Expect, StoreError, Write};

/// How often a write that names no resourceVersion is tried again when others get in between.
const TRIES: usize = 32;

/// What a stale resourceVersion is told.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Which object.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub resource: &'a Resource,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Target<'_> {
    /// 404.
    pub fn not_found(&self) -> ApiError {
        let kind = &self.resource.kind;
        ApiError::not_found(&kind.group, &kind.plural, self.name)
    }

    /// 409.
    pub fn conflict(&self, why: &str) -> ApiError {
        let kind = &self.resource.kind;
        ApiError::conflict(&kind.group, &kind.plural, self.name, why)
    }

    /// Its key.
    pub fn key(&self) -> String {
        self.resource.kind.key(self.namespace, self.name)
    }
}

/// Makes the new object from the current one. Called again when the object changed in between.
pub type Change<'a> = dyn Fn(&Object) -> Result<Object, ApiError> + Send + Sync + 'a;

impl Registry {
    /// Change an object. `part`: what the write is about; `None` for a subresource whose `change`
    /// touches by itself only what it may. `replaces`: the new object came whole from the client, so a missing
    /// resourceVersion means "whatever is there now" and a missing object may be created where
    /// the kind allows it.
    ///
    /// # Errors
    /// 400, 403, 404, 409 and 422 as Kubernetes words them.
    pub(crate) async fn update_as(
        &self,
        call: &Call<'_>,
        target: Target<'_>,
        part: Option<Part>,
        replaces: bool,
        change: &Change<'_>,
    ) -> Result<Written, ApiError> {
        let key = target.key();
        for _ in 0..TRIES {
            let Some(entry) = self.store.get(&key).await.map_err(|e| store_error(&e))? else {
                let applies = call.operation == crate::api::fields::Operation::Apply;
                let creates = part == Some(Part::Main)
                    && call.attributes.subresource.is_empty()
                    && (applies || (replaces && target.resource.strategy.creates_on_update()));
                if !creates {
                    return Err(target.not_found());
                }
                let object = change(&serde_json::json!({"metadata": {}}))?;
                return self.create_as(call, target.resource, target.namespace, object).await;
            };
            let shown = self.one_in_version(target.resource, entry.clone()).await?;
            let old = encoding::decode(target.resource, &shown)?;
            let mut new = change(&old)?;
            let named = self.match_preconditions(target, replaces, &new, &old)?;
            match self.swap(call, target, part, &entry, &old, &mut new).await? {
                Some(written) => return Ok(written),
                None if named && replaces => return Err(target.conflict(MODIFIED)),
                None => {}
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// uid and resourceVersion in the new object are preconditions. Answers whether it names a
    /// resourceVersion.
    fn match_preconditions(
        &self,
        target: Target<'_>,
        replaces: bool,
        new: &Object,
        old: &Object,
    ) -> Result<bool, ApiError> {
        let (uid, there) = (meta::text(new, "uid"), meta::text(old, "uid"));
        if !uid.is_empty() && uid != there {
            return Err(target.conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {there}"
            )));
        }
        let version = meta::text(new, "resourceVersion");
        if matches!(version, "" | "0") {
            if replaces && !target.resource.strategy.updates_unconditionally() {
                let error = crate::api::status::FieldError {
                    kind: crate::api::status::FieldErrorKind::Invalid,
                    path: "metadata.resourceVersion".into(),
                    message: "Invalid value: 0: must be specified for an update".into(),
                };
                let kind = &target.resource.kind;
                return Err(ApiError::invalid(&kind.group, &kind.kind, target.name, &[error]));
            }
            return Ok(false);
        }
        if version.parse::<u64>().is_err() {
            return Err(ApiError::bad_request(format!(
                "metadata.resourceVersion: Invalid value: {version:?}: must be a number"
            )));
        }
        if version != meta::text(old, "resourceVersion") {
            return Err(target.conflict(MODIFIED));
        }
        Ok(true)
    }

    /// One try. `None`: the object has changed since `entry` was read.
    async fn swap(
        &self,
        call: &Call<'_>,
        target: Target<'_>,
        part: Option<Part>,
        entry: &Entry,
        old: &Object,
        new: &mut Object,
    ) -> Result<Option<Written>, ApiError> {
        let resource = target.resource;
        let strategy = &resource.strategy;
        let sent = new["metadata"].get_mut("managedFields").map(serde_json::Value::take);
        meta::prepare_change(resource, target.namespace, target.name, new, old)?;
        strategy.default(new);
        if let Some(part) = part {
            strategy.prepare_update(part, new, old);
        }
        self.manage_change(call, resource, part, sent.unwrap_or_default(), new, old);
        call.admit(Operation::Update, resource, Some(old), new).await?;
        strategy.default(new);
        if strategy.generation_changes(new, old) == Some(true) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
        let reservation = match self.hook(resource) {
            Some(hook) => Some(hook.reserve(new, Some(old), call.dry_run).await?),
            None => None,
        };
        let mut errors = meta::check_change(new, old);
        errors.extend(strategy.validate_change(part, new, old));
        self.refuse_invalid(resource, new, errors)?;
        call.check(Operation::Update, resource, Some(old), new).await?;
        let warnings = strategy.warnings(new);
        let value = self.to_stored(resource, new).await?;
        let shown = |entry| Written::stored(Self::as_written(resource, entry, new));
        if value == entry.value {
            // Nothing changed: nothing is written, and nobody is told.
            return Ok(Some(Written { warnings, ..shown(entry.clone()) }));
        }
        if call.dry_run {
            let entry = Entry { value, ..entry.clone() };
            return Ok(Some(Written { warnings, ..shown(entry) }));
        }
        let gone = goes_with_update(resource, new);
        let expect = Expect::Modified(entry.modified);
        let key = entry.key.clone();
        let write = if gone {
            Write::Delete { key, value, expect }
        } else {
            Write::Put { key, value, expect, ttl: ttl(resource) }
        };
        match self.store.write(write).await {
            Ok(entry) => {
                self.observed.written(&resource.kind.storage);
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                match self.hook(resource) {
                    Some(hook) if gone => hook.release(new),
                    Some(hook) => hook.written(new),
                    None => {}
                }
                Ok(Some(Written { warnings, deleted: gone, ..shown(entry) }))
            }
            Err(StoreError::Conflict(_)) => Ok(None),
            Err(error) => Err(store_error(&error)),
        }
    }
}

/// Whether an object that is being deleted has nothing left that holds it.
fn goes_with_update(resource: &Resource, object: &Object) -> bool {
    meta::is_deleting(object)
        && meta::finalizers(object).is_empty()
        && !resource.strategy.held(object)
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}
