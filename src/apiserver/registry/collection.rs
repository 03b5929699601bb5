//! Delete a collection: every object that a list shows, one by one.

use super::read::{ListOptions, Listed};
use super::update::Target;
use super::{Call, DeleteOptions, Registry};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::filter::{name_of, namespace_of};

impl Registry {
    /// Delete what a list of the same options shows. Answers that list, in the state after.
    ///
    /// # Errors
    /// As list and delete; objects that went in between are no error.
    pub(crate) async fn delete_collection(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Listed, ApiError> {
        let mut listed = self.list_as(resource, namespace, list).await?;
        let mut deleted = Vec::with_capacity(listed.entries.len());
        for entry in &listed.entries {
            let target = Target {
                resource,
                namespace: if resource.namespaced() { namespace_of(&entry.key) } else { "" },
                name: name_of(&entry.key),
            };
            match self.delete_as(call, target, options).await {
                Ok(written) => deleted.push(written.entry),
                Err(error) if error.reason == Reason::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        listed.entries = deleted;
        Ok(listed)
    }
}
