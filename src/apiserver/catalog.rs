//! The kinds that are served, each with its strategy and what is worked out once for it.
//!
//! **Invariant:** generic code reaches a kind only through its [`Resource`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::openapi::Documents;
use super::strategy::Strategy;
use crate::api::fields::Node;
use crate::api::kinds::{Access, Kind, KindTable, Scope};
use crate::api::schema::Schema;

/// Finds the strategy of a kind.
pub type Strategies = Arc<dyn Fn(&Kind) -> Arc<dyn Strategy> + Send + Sync>;

/// A served kind.
pub struct Resource {
    /// Its row.
    pub kind: Arc<Kind>,
    /// The row of the version that its objects are stored in.
    pub stored: Arc<Kind>,
    /// What it does differently.
    pub strategy: Arc<dyn Strategy>,
    /// As `apps/v1`.
    pub api_version: String,
    /// What its objects begin with on the wire: `{"kind":"Pod","apiVersion":"v1",`.
    pub head: Bytes,
}

impl Resource {
    fn new(kind: Arc<Kind>, stored: Arc<Kind>, strategy: Arc<dyn Strategy>) -> Self {
        let api_version = kind.api_version();
        let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{api_version}\",", kind.kind);
        Self { kind, stored, strategy, api_version, head: head.into() }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.kind.scope == Scope::Namespaced
    }

    /// Whether its objects are stored.
    pub fn is_stored(&self) -> bool {
        self.kind.access == Access::Stored
    }

    /// What the schema says of its objects, for field sets and apply.
    pub fn node(&self) -> Node<'_> {
        match &self.kind.custom {
            Some(custom) => custom.node(),
            None => Node::of_type(Schema::builtin(), &self.kind.schema),
        }
    }

    /// Where `path` stands in the selectable column, which is also where the attribute block has
    /// its value (the rows of one storage name their fields in one order).
    pub fn field_index(&self, path: &str) -> Option<usize> {
        self.kind.selectable.iter().position(|p| p == path)
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({} {})", self.api_version, self.kind.plural)
    }
}

/// The kinds that are served at one moment.
pub struct Catalog {
    table: KindTable,
    by_resource: HashMap<String, Arc<Resource>>,
    openapi: Arc<Documents>,
}

impl Catalog {
    /// The kinds of `table` with their strategies.
    pub fn new(table: KindTable, strategies: &Strategies) -> Self {
        let mut by_resource = HashMap::new();
        for kind in table.rows() {
            let stored = table.stored_as(kind).clone();
            let resource = Resource::new(kind.clone(), stored, strategies(kind));
            by_resource.insert(index(&kind.group, &kind.version, &kind.plural), Arc::new(resource));
        }
        let openapi = Arc::new(Documents::new(Arc::new(table.clone())));
        Self { table, by_resource, openapi }
    }

    /// The OpenAPI documents of the table.
    pub fn openapi(&self) -> &Arc<Documents> {
        &self.openapi
    }

    /// The table.
    pub fn table(&self) -> &KindTable {
        &self.table
    }

    /// A resource by group, version and plural.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_resource.get(&index(group, version, plural))
    }

    /// A resource in the preferred version of its group.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let versions = self.table.groups().iter().find(|g| g.group == group)?;
        versions.versions.iter().find_map(|version| self.resource(group, version, plural))
    }

    /// Whether anything is served under a group and version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.table.serves(group, version)
    }
}

fn index(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    struct Plain;
    impl Strategy for Plain {}

    /// A resource of the built-in table with a strategy that does nothing.
    pub(crate) fn resource(group: &str, version: &str, plural: &str) -> Arc<Resource> {
        let plain: Strategies = Arc::new(|_| Arc::new(Plain));
        let catalog = Catalog::new(KindTable::builtin(), &plain);
        catalog.resource(group, version, plural).expect("a built-in kind").clone()
    }

    #[test]
    fn rows_of_one_storage_name_their_selectable_fields_in_one_order() {
        let table = KindTable::builtin();
        for kind in table.rows() {
            let stored = table.stored_as(kind);
            assert_eq!(stored.selectable.len(), kind.selectable.len(), "{}", kind.schema);
        }
    }
}
