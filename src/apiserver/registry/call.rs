//! What a write carries from the request path down to the store, and what it brings back.

use std::sync::Arc;

use crate::api::Object;
use crate::api::fields::Operation as FieldOperation;
use crate::api::status::ApiError;
use crate::apiserver::admission::{Operation, Plugin, Request, Told};
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::catalog::Resource;
use crate::store::Entry;

/// Who writes, and how.
pub struct Call<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// What they asked for.
    pub attributes: std::borrow::Cow<'a, Attributes>,
    /// The name under which what it writes is managed.
    pub manager: std::borrow::Cow<'a, str>,
    /// Whether it applies a configuration (which then says who manages what) or just writes.
    pub operation: FieldOperation,
    /// Do everything but the write.
    pub dry_run: bool,
    /// The plugins that the write goes through; none for the server's own writes.
    pub admission: &'a [Arc<dyn Plugin>],
    /// What plugins say besides.
    pub told: Arc<Told>,
}

static SERVER: UserInfo = UserInfo {
    name: String::new(),
    uid: String::new(),
    groups: Vec::new(),
    extra: std::collections::BTreeMap::new(),
};

impl Call<'static> {
    /// A write of the server itself.
    pub fn internal(resource: &Resource, namespace: &str, verb: &str) -> Self {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: resource.kind.group.to_string(),
            version: resource.kind.version.to_string(),
            resource: resource.kind.plural.to_string(),
            namespace: namespace.to_owned(),
            ..Attributes::default()
        };
        Self {
            user: &SERVER,
            attributes: std::borrow::Cow::Owned(attributes),
            manager: "coracle".into(),
            operation: FieldOperation::Update,
            dry_run: false,
            admission: &[],
            told: Arc::default(),
        }
    }
}

impl Call<'_> {
    fn request<'r>(
        &'r self,
        operation: Operation,
        resource: &'r Resource,
        old: Option<&'r Object>,
    ) -> Request<'r> {
        Request {
            operation,
            attributes: &self.attributes,
            user: self.user,
            kind: &resource.kind.kind,
            resource,
            old,
            dry_run: self.dry_run,
            again: false,
            told: &self.told,
        }
    }

    /// Let every plugin change the object.
    pub(super) async fn admit(
        &self,
        operation: Operation,
        resource: &Resource,
        old: Option<&Object>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        if self.admission.is_empty() {
            return Ok(());
        }
        let before = object["metadata"].clone();
        let mut request = self.request(operation, resource, old);
        for plugin in self.admission {
            plugin.admit(&request, object).await?;
        }
        if self.told.take_changed() {
            request.again = true;
            for plugin in self.admission {
                plugin.admit(&request, object).await?;
            }
            self.told.take_changed();
        }
        keep_identity(object, &before);
        Ok(())
    }

    /// Let every plugin refuse the object.
    pub(super) async fn check(
        &self,
        operation: Operation,
        resource: &Resource,
        old: Option<&Object>,
        object: &Object,
    ) -> Result<(), ApiError> {
        let request = self.request(operation, resource, old);
        for plugin in self.admission {
            plugin.validate(&request, object).await?;
        }
        Ok(())
    }
}

/// What the server says of an object no plugin and no webhook changes.
fn keep_identity(object: &mut Object, before: &serde_json::Value) {
    let Some(map) = object["metadata"].as_object_mut() else { return };
    for field in ["uid", "namespace", "creationTimestamp", "resourceVersion", "generation"] {
        match before.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}

/// What a write left behind.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now (as it would be, for a dry run), or its last state.
    pub entry: Entry,
    /// It did not exist before.
    pub created: bool,
    /// It does not exist any more.
    pub deleted: bool,
    /// Words for the `Warning` header.
    pub warnings: Vec<String>,
}

impl Written {
    pub(super) fn stored(entry: Entry) -> Self {
        Self { entry, created: false, deleted: false, warnings: Vec::new() }
    }
}
