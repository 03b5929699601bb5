//! Names, times and owners of objects.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use serde::Deserialize;

/// Namespace and name of an object; the namespace of a cluster-scoped one is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// A key; `namespace` is empty for a cluster-scoped object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of the object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Anything with metadata: the typed kinds, and [`Partial`].
pub trait Object {
    fn meta(&self) -> &ObjectMeta;
}

impl<K: k8s_openapi::Metadata<Ty = ObjectMeta>> Object for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}

/// Only the metadata of an object of any kind (`meta.k8s.io/v1` `PartialObjectMetadata`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Partial {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
}

impl Object for Partial {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// `metav1.Time` of `at`, in whole seconds as it will be written.
pub fn time(at: Timestamp) -> Time {
    Time(
        k8s_openapi::jiff::Timestamp::from_second(at.as_second())
            .expect("both crates share the range of timestamps"),
    )
}

/// `metav1.MicroTime` of `at`.
pub fn micro_time(at: Timestamp) -> MicroTime {
    MicroTime(
        k8s_openapi::jiff::Timestamp::from_nanosecond(at.as_nanosecond())
            .expect("both crates share the range of timestamps"),
    )
}

/// The timestamp that a `metav1.Time` tells.
pub fn timestamp(time: &Time) -> Timestamp {
    Timestamp::from_nanosecond(time.0.as_nanosecond())
        .expect("both crates share the range of timestamps")
}

/// The owner that controls the object, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference to a typed object, as an Event's `involvedObject`.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_with_its_namespace_only_where_it_has_one() {
        assert_eq!(Key::new("default", "web").to_string(), "default/web");
        assert_eq!(Key::new("", "node-1").to_string(), "node-1");
    }

    #[test]
    fn times_survive_the_way_there_and_back() {
        let at: Timestamp = "2026-03-04T05:06:07Z".parse().expect("a timestamp");
        assert_eq!(timestamp(&time(at)), at);
    }
}
