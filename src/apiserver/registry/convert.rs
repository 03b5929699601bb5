//! Objects of custom kinds whose versions a webhook converts: from the version that they were
//! stored in to the one that is asked for, and back.
//!
//! What comes out looks like a stored entry of the other version, so everything above reads it as
//! it reads any other. Which version an entry was stored in stands at the end of its attributes.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value as Json;

use super::Registry;
use crate::api::Object;
use crate::api::custom::Custom;
use crate::api::status::ApiError;
use crate::apiserver::catalog::Resource;
use crate::apiserver::{attrs, encoding};
use crate::store::{Entry, Value};

/// Asks a kind's webhook.
#[async_trait]
pub trait Converter: Send + Sync + 'static {
    /// The objects, in the version `desired` (`GROUP/VERSION`), in the same order.
    ///
    /// # Errors
    /// Why they were not converted, in words.
    async fn convert(
        &self,
        custom: &Custom,
        desired: &str,
        objects: Vec<Object>,
    ) -> Result<Vec<Object>, String>;
}

/// What converts, where a server has it.
pub(in crate::apiserver) type Converting = Option<Arc<dyn Converter>>;

/// The definition, where its versions are converted by a webhook.
fn converted(resource: &Resource) -> Option<&Custom> {
    resource.kind.custom.as_deref().filter(|custom| custom.webhook.is_object())
}

/// Entries in the version of `resource`.
///
/// # Errors
/// 500 where the webhook fails.
pub(in crate::apiserver) async fn in_version(
    converter: &Converting,
    resource: &Resource,
    mut entries: Vec<Entry>,
) -> Result<Vec<Entry>, ApiError> {
    let Some(custom) = converted(resource) else { return Ok(entries) };
    let wanted = &*resource.kind.version;
    let mut by_version: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let stored = attrs::version(&entry.value.attrs).unwrap_or(&resource.stored.version);
        if stored != wanted {
            by_version.entry(stored.to_owned()).or_default().push(index);
        }
    }
    for (version, indexes) in by_version {
        let objects = indexes
            .iter()
            .map(|index| {
                let mut object: Object = serde_json::from_slice(&entries[*index].value.bytes)
                    .map_err(ApiError::internal)?;
                object["apiVersion"] = format!("{}/{version}", resource.kind.group).into();
                object["kind"] = resource.kind.kind.to_string().into();
                Ok(object)
            })
            .collect::<Result<Vec<_>, ApiError>>()?;
        let new = ask(converter, resource, custom, wanted, objects).await?;
        for (index, object) in indexes.into_iter().zip(new) {
            entries[index].value.bytes = encoding::encode(&object);
        }
    }
    Ok(entries)
}

async fn ask(
    converter: &Converting,
    resource: &Resource,
    custom: &Custom,
    version: &str,
    objects: Vec<Object>,
) -> Result<Vec<Object>, ApiError> {
    let desired = format!("{}/{version}", resource.kind.group);
    let failed = |why: &str| {
        ApiError::internal(format!(
            "conversion webhook for {}, Kind={} failed: {why}",
            resource.api_version, resource.kind.kind
        ))
    };
    let Some(converter) = converter else { return Err(failed("this server asks no webhooks")) };
    let before: Vec<Json> = objects.iter().map(|object| object["metadata"].clone()).collect();
    let new = converter.convert(custom, &desired, objects).await.map_err(|why| failed(&why))?;
    if new.len() != before.len() {
        let why = format!("returned {} objects, expected {}", new.len(), before.len());
        return Err(failed(&why));
    }
    let kept = new.into_iter().zip(before).map(|(mut object, before)| {
        if object["apiVersion"] != desired.as_str() || object["kind"] != *resource.kind.kind {
            return Err(failed("returned an object of another version or kind"));
        }
        for field in ["name", "namespace", "uid"] {
            if object["metadata"][field] != before[field] {
                return Err(failed("must not change the identity of an object"));
            }
        }
        // Of the metadata, labels and annotations are the webhook's to change.
        let mut metadata = before;
        for field in ["labels", "annotations"] {
            metadata[field] = object["metadata"][field].clone();
            if metadata[field].is_null()
                && let Some(map) = metadata.as_object_mut()
            {
                map.remove(field);
            }
        }
        object["metadata"] = metadata;
        Ok(object)
    });
    kept.collect()
}

impl Registry {
    /// Conversion webhooks are asked by `converter` from now on.
    pub fn set_converter(&self, converter: Arc<dyn Converter>) {
        // The first one stays: nobody has another.
        let _ = self.converter.set(converter);
    }

    pub(in crate::apiserver) fn converting(&self) -> Converting {
        self.converter.get().cloned()
    }

    /// An entry in the version of `resource`.
    pub(super) async fn one_in_version(
        &self,
        resource: &Resource,
        entry: Entry,
    ) -> Result<Entry, ApiError> {
        if converted(resource).is_none() {
            return Ok(entry);
        }
        let all = in_version(&self.converting(), resource, vec![entry]).await?;
        all.into_iter().next().ok_or_else(|| ApiError::internal("the entry was lost"))
    }

    /// An object as it goes into the store, in the version that its kind is stored in.
    pub(super) async fn to_stored(
        &self,
        resource: &Resource,
        object: &Object,
    ) -> Result<Value, ApiError> {
        let Some(custom) = converted(resource) else {
            return Ok(super::create::stored_value(resource, object));
        };
        let stored = &*resource.stored.version;
        let mut value = if stored == resource.kind.version {
            super::create::stored_value(resource, object)
        } else {
            let (converter, objects) = (self.converting(), vec![object.clone()]);
            let new = ask(&converter, resource, custom, stored, objects).await?;
            super::create::stored_value(resource, &new[0])
        };
        value.attrs = attrs::with_version(&value.attrs, stored);
        Ok(value)
    }

    /// What a write left behind, in the version of `resource`: as it was written, where it was.
    pub(super) fn as_written(resource: &Resource, entry: Entry, object: &Object) -> Entry {
        if converted(resource).is_none() {
            return entry;
        }
        let mut shown = entry;
        shown.value.bytes = encoding::encode(object);
        shown
    }
}
