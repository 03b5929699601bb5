//! CustomResourceDefinitions at work: a definition that is written is served at once, and one that
//! is deleted takes its objects with it.
//!
//! ```text
//! created ─ names accepted ─▶ established (served) ─ deleted ─▶ terminating (no creates)
//!                                                                 │ objects deleted one by one
//!                                                                 ▼ finalizer taken away ─▶ gone
//! ```
//!
//! **Invariant:** when a write of a definition is answered, discovery tells of its kinds.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use super::registry::{Hook, Registry, Reservation};
use super::strategy::Part;
use crate::api::Object;
use crate::api::custom;
use crate::api::custom::definition::{self, CLEANUP};
use crate::api::meta;
use crate::api::status::{ApiError, Reason};
use crate::base::clock::rfc3339_seconds;

/// The resource, as group and plural.
pub const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// How long to wait before looking again whether the objects of a definition are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How often a change of names is tried again when others get in between.
const TRIES: usize = 16;

/// The hook of definitions.
pub(super) struct Definitions {
    registry: Weak<Registry>,
    /// The definitions whose objects are being deleted.
    cleaning: Arc<Mutex<HashSet<String>>>,
}

/// Nothing is taken by a definition before it is written.
struct Nothing;

impl Reservation for Nothing {
    fn keep(self: Box<Self>) {}
}

impl Definitions {
    pub(super) fn new(registry: Weak<Registry>) -> Self {
        Self { registry, cleaning: Arc::default() }
    }
}

#[async_trait]
impl Hook for Definitions {
    async fn reserve(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        _: bool,
    ) -> Result<Box<dyn Reservation>, ApiError> {
        let Some(registry) = self.registry.upgrade() else { return Ok(Box::new(Nothing)) };
        let spec_changed = old.is_none_or(|old| old["spec"] != object["spec"]);
        let unsettled = spec_changed || !definition::is_established(object);
        if unsettled && !meta::is_deleting(object) && object["spec"]["names"].is_object() {
            let catalog = registry.catalog();
            let group = object["spec"]["group"].as_str().unwrap_or_default().to_owned();
            let plural = object["spec"]["names"]["plural"].as_str().unwrap_or_default().to_owned();
            let taken = |name: &str| {
                catalog.table().rows().iter().any(|row| {
                    let named = [&*row.plural, &*row.singular, &*row.kind, &*row.list_kind()];
                    row.group == group && row.plural != plural && named.contains(&name)
                })
            };
            let now = rfc3339_seconds(registry.clock().now());
            definition::establish(object, &taken, &now);
        }
        Ok(Box::new(Nothing))
    }

    fn release(&self, object: &Object) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.without_definition(object);
    }

    fn written(&self, object: &Object) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.with_definition(object);
        if meta::is_deleting(object) && meta::finalizers(object).any(|f| f == CLEANUP) {
            let name = meta::name(object).to_owned();
            if self.cleaning.lock().insert(name.clone()) {
                tokio::spawn(clean(registry, self.cleaning.clone(), name, object.clone()));
            }
        }
    }
}

impl Registry {
    /// Serve the kinds of every definition that is stored. Called once, at start.
    ///
    /// # Errors
    /// 500 when the store fails.
    pub async fn load_definitions(&self) -> Result<(), ApiError> {
        let (definitions, _) = self.list(DEFINITIONS, None).await?;
        for object in &definitions {
            self.defined(object);
        }
        Ok(())
    }

    /// Serve the kinds of a definition as it says now.
    fn with_definition(&self, object: &Object) {
        let (group, plural) = named(object);
        self.change_table(&|table| {
            let rest = table.without(group, plural);
            match definition::is_established(object) {
                true => rest.with(custom::rows(object)),
                false => rest,
            }
        });
    }

    /// Serve the kinds of a definition no more.
    fn without_definition(&self, object: &Object) {
        let (group, plural) = named(object);
        self.change_table(&|table| table.without(group, plural));
    }
}

fn named(definition: &Object) -> (&str, &str) {
    let spec = &definition["spec"];
    (
        spec["group"].as_str().unwrap_or_default(),
        spec["names"]["plural"].as_str().unwrap_or_default(),
    )
}

/// Delete the objects of a definition, then let it go.
async fn clean(
    registry: Arc<Registry>,
    cleaning: Arc<Mutex<HashSet<String>>>,
    name: String,
    object: Object,
) {
    if let Err(error) = cleaned(&registry, &name, &object).await {
        tracing::warn!(definition = %name, %error, "the objects of a definition were not deleted");
    }
    cleaning.lock().remove(&name);
}

async fn cleaned(registry: &Arc<Registry>, name: &str, object: &Object) -> Result<(), ApiError> {
    let resource = named(object);
    let why = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    mark(registry, name, &|object, now| {
        definition::set_condition(object, "Terminating", true, why, now);
    })
    .await?;
    loop {
        let objects = match registry.list(resource, None).await {
            Ok((objects, _)) => objects,
            // Not established, so there never was an object.
            Err(error) if error.reason == Reason::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if objects.is_empty() {
            break;
        }
        for object in &objects {
            registry.delete(resource, meta::namespace(object), meta::name(object)).await?;
        }
        if registry.list(resource, None).await?.0.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    finish(registry, name).await
}

/// Change the status of a definition.
async fn mark(
    registry: &Registry,
    name: &str,
    change: &(dyn Fn(&mut Object, &str) + Sync),
) -> Result<(), ApiError> {
    for _ in 0..TRIES {
        let Some(mut object) = registry.get(DEFINITIONS, "", name).await? else { return Ok(()) };
        change(&mut object, &rfc3339_seconds(registry.clock().now()));
        match registry.update(DEFINITIONS, Part::Status, object).await {
            Err(error) if error.reason == Reason::Conflict => {}
            answer => return answer.map(|_| ()),
        }
    }
    Ok(())
}

/// Take the finalizer away.
async fn finish(registry: &Registry, name: &str) -> Result<(), ApiError> {
    for _ in 0..TRIES {
        let Some(mut object) = registry.get(DEFINITIONS, "", name).await? else { return Ok(()) };
        let left: Vec<Value> =
            meta::finalizers(&object).filter(|f| *f != CLEANUP).map(Value::from).collect();
        object["metadata"]["finalizers"] = left.into();
        match registry.update(DEFINITIONS, Part::Main, object).await {
            Err(error) if error.reason == Reason::Conflict => {}
            answer => return answer.map(|_| ()),
        }
    }
    Ok(())
}
