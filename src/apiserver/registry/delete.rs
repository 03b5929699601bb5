//! Delete.
//!
//! ```text
//!            grace > 0, finalizers, held                  nothing holds it any more
//! live ───────────────────────────────────▶ deleting ───────────────────────────────▶ gone
//!   │                                        deletionTimestamp = now + grace            ▲
//!   └────────────────────────────── nothing holds it, no grace ─────────────────────────┘
//! ```
//!
//! **Invariant:** `deletionTimestamp` once set stays, and only ever moves closer.

use serde_json::{Value as Json, json};

use super::update::Target;
use super::{Call, Registry, Written, meta, store_error, ttl};
use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::admission::Operation;
use crate::apiserver::encoding;
use crate::apiserver::strategy::Grace;
use crate::base::clock::rfc3339_seconds;
use crate::store::{Entry, Expect, StoreError, Write};

const TRIES: usize = 32;

/// The finalizer that keeps an object until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an object until its dependents no longer name it.
pub const ORPHAN: &str = "orphan";

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From the object that a client sent (or that its query parameters make up).
    ///
    /// # Errors
    /// 400 for values that mean nothing, 422 where two say different things.
    pub fn parse(options: &Object) -> Result<Self, ApiError> {
        let invalid = |kind, field: &str, message: &str| {
            let error = crate::api::status::FieldError {
                kind,
                path: field.to_owned(),
                message: message.to_owned(),
            };
            ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error])
        };
        use crate::api::status::FieldErrorKind::{Invalid, NotSupported};
        let orphans = options["orphanDependents"].as_bool();
        let policy = options["propagationPolicy"].as_str().filter(|p| !p.is_empty());
        let propagation = match (orphans, policy) {
            (Some(_), Some(_)) => {
                let message = "Invalid value: null: orphanDependents and deletionPropagation \
                               cannot be both set";
                return Err(invalid(Invalid, "propagationPolicy", message));
            }
            (Some(true), None) | (None, Some("Orphan")) => Some(Propagation::Orphan),
            (Some(false), None) | (None, Some("Background")) => Some(Propagation::Background),
            (None, Some("Foreground")) => Some(Propagation::Foreground),
            (None, None) => None,
            (None, Some(other)) => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Background\", \
                     \"Foreground\", \"Orphan\""
                );
                return Err(invalid(NotSupported, "propagationPolicy", &message));
            }
        };
        let dry_run = match options["dryRun"].as_array().map(Vec::as_slice) {
            None | Some([]) => false,
            Some([Json::String(all)]) if all == "All" => true,
            Some(other) => {
                let message = format!(
                    "Unsupported value: {}: supported values: \"All\"",
                    Json::from(other.to_vec())
                );
                return Err(invalid(NotSupported, "dryRun", &message));
            }
        };
        let precondition =
            |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        Ok(Self {
            // Kubernetes reads a negative grace period as "at once, but not by force": one second.
            grace_seconds: options["gracePeriodSeconds"]
                .as_i64()
                .map(|s| if s < 0 { 1 } else { s }),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
            dry_run,
        })
    }
}

impl Registry {
    /// Delete an object, or begin to.
    ///
    /// # Errors
    /// 403, 404 and 409 as Kubernetes words them.
    pub(crate) async fn delete_as(
        &self,
        call: &Call<'_>,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Written, ApiError> {
        let key = target.key();
        for _ in 0..TRIES {
            let Some(entry) = self.store.get(&key).await.map_err(|e| store_error(&e))? else {
                return Err(target.not_found());
            };
            let shown = self.one_in_version(target.resource, entry.clone()).await?;
            let old = encoding::decode(target.resource, &shown)?;
            match_preconditions(target, options, &old)?;
            call.check(Operation::Delete, target.resource, Some(&old), &old).await?;
            if let Some(written) = self.delete_once(target, options, &entry, &old).await? {
                return Ok(written);
            }
        }
        Err(target.conflict(super::update::MODIFIED))
    }

    /// One try. `None`: the object has changed since `entry` was read.
    async fn delete_once(
        &self,
        target: Target<'_>,
        options: &DeleteOptions,
        entry: &Entry,
        old: &Object,
    ) -> Result<Option<Written>, ApiError> {
        let resource = target.resource;
        let mut new = old.clone();
        set_propagation(&mut new, options.propagation);
        let holds = !meta::finalizers(&new).is_empty() || resource.strategy.held(&new);
        let grace = match resource.strategy.grace(old, options.grace_seconds) {
            Grace::Immediate => 0,
            Grace::Seconds(seconds) => seconds.max(0),
        };
        let stays = holds || grace > 0;
        if stays && !self.begin(target, &mut new, grace) && new == *old {
            return Ok(Some(Written::stored(Self::as_written(resource, entry.clone(), &new))));
        }
        let value = self.to_stored(resource, &new).await?;
        let shown = |entry| Written::stored(Self::as_written(resource, entry, &new));
        let (key, expect) = (entry.key.clone(), Expect::Modified(entry.modified));
        if options.dry_run {
            let entry = Entry { value, ..entry.clone() };
            return Ok(Some(Written { deleted: !stays, ..shown(entry) }));
        }
        let write = if stays {
            Write::Put { key, value, expect, ttl: ttl(resource) }
        } else {
            Write::Delete { key, value, expect }
        };
        match self.store.write(write).await {
            Ok(entry) => {
                self.observed.written(&resource.kind.storage);
                match self.hook(resource) {
                    Some(hook) if stays => hook.written(&new),
                    Some(hook) => hook.release(old),
                    None => {}
                }
                Ok(Some(Written { deleted: !stays, ..shown(entry) }))
            }
            Err(StoreError::Conflict(_)) => Ok(None),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Mark the object as being deleted, or bring the end closer. Answers whether it did.
    fn begin(&self, target: Target<'_>, new: &mut Object, grace: i64) -> bool {
        let now = self.clock.now();
        let end = rfc3339_seconds(now + jiff::SignedDuration::from_secs(grace));
        if meta::is_deleting(new) {
            let before = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            if grace >= before {
                return false;
            }
            new["metadata"]["deletionTimestamp"] = end.into();
            new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            return true;
        }
        new["metadata"]["deletionTimestamp"] = end.into();
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if let Some(generation) = new["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
            new["metadata"]["generation"] = (generation + 1).into();
        }
        target.resource.strategy.prepare_delete(new);
        true
    }
}

fn match_preconditions(
    target: Target<'_>,
    options: &DeleteOptions,
    old: &Object,
) -> Result<(), ApiError> {
    let uid = meta::text(old, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(target.conflict(&format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated"
        )));
    }
    let version = meta::text(old, "resourceVersion");
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return Err(target.conflict(&format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the \
             ResourceVersion in record ({version}). The object might have been modified"
        )));
    }
    Ok(())
}

/// What becomes of dependents is written into the finalizers, for the garbage collector.
fn set_propagation(object: &mut Object, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let before = meta::finalizers(object);
    let mut after: Vec<&str> = before
        .iter()
        .copied()
        .filter(|f| !matches!(*f, FOREGROUND | ORPHAN) || Some(*f) == wanted)
        .collect();
    if let Some(wanted) = wanted.filter(|w| !after.contains(w)) {
        after.push(wanted);
    }
    if after == before {
        return;
    }
    let after: Json = json!(after);
    if let Some(map) = object["metadata"].as_object_mut() {
        if after.as_array().is_some_and(Vec::is_empty) {
            map.remove("finalizers");
        } else {
            map.insert("finalizers".into(), after);
        }
    }
}
