//! The rows, found by resource and by kind, and the groups in the order of discovery.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Kind, builtin};

/// A group and its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupVersions {
    /// As `apps`; empty for the core group.
    pub group: String,
    /// The preferred version first.
    pub versions: Vec<String>,
}

/// The table of the kinds that a server serves.
#[derive(Debug, Clone, Default)]
pub struct KindTable {
    rows: Vec<Arc<Kind>>,
    by_resource: HashMap<String, usize>,
    by_kind: HashMap<String, usize>,
    groups: Vec<GroupVersions>,
}

impl KindTable {
    /// The kinds that are built in.
    pub fn builtin() -> Self {
        Self::new(builtin::rows().into_iter().map(Arc::new).collect())
    }

    /// A table of `rows`. Of two rows with one resource or kind the later wins.
    pub fn new(rows: Vec<Arc<Kind>>) -> Self {
        let mut table = Self::default();
        for (at, row) in rows.iter().enumerate() {
            table.by_resource.insert(index(&row.group, &row.version, &row.plural), at);
            table.by_kind.insert(index(&row.group, &row.version, &row.kind), at);
        }
        table.groups = groups(&rows);
        table.rows = rows;
        table
    }

    /// The same table with `rows` added.
    #[must_use]
    pub fn with(&self, rows: impl IntoIterator<Item = Kind>) -> Self {
        let mut all = self.rows.clone();
        all.extend(rows.into_iter().map(Arc::new));
        Self::new(all)
    }

    /// The same table without the resource `plural` of `group`, in all its versions.
    #[must_use]
    pub fn without(&self, group: &str, plural: &str) -> Self {
        let keep = |k: &&Arc<Kind>| !(k.group == group && k.plural == plural);
        Self::new(self.rows.iter().filter(keep).cloned().collect())
    }

    /// The row of a resource, `("apps", "v1", "deployments")`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&index(group, version, plural)).map(|at| &self.rows[*at])
    }

    /// The row of a kind, `("apps", "v1", "Deployment")`.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.by_kind.get(&index(group, version, kind)).map(|at| &self.rows[*at])
    }

    /// The row of a kind by the `apiVersion` and `kind` of an object.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kind(group, version, kind)
    }

    /// The row whose version objects of `kind` are stored in: the first row of the table with
    /// its storage.
    pub fn stored_as<'a>(&'a self, kind: &'a Arc<Kind>) -> &'a Arc<Kind> {
        self.rows.iter().find(|k| k.storage == kind.storage).unwrap_or(kind)
    }

    /// Whether anything is in the table under a group and version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|g| g.group == group && g.versions.iter().any(|v| v == version))
    }

    /// Every row, in the order in which they were given.
    pub fn rows(&self) -> &[Arc<Kind>] {
        &self.rows
    }

    /// The rows of one group and version, by name of the resource.
    pub fn in_version(&self, group: &str, version: &str) -> Vec<&Arc<Kind>> {
        let mut rows: Vec<_> =
            self.rows.iter().filter(|k| k.group == group && k.version == version).collect();
        rows.sort_by(|a, b| a.plural.cmp(&b.plural));
        rows
    }

    /// The groups in the order of discovery, the core group first.
    pub fn groups(&self) -> &[GroupVersions] {
        &self.groups
    }
}

fn index(group: &str, version: &str, name: &str) -> String {
    format!("{group}/{version}/{name}")
}

fn groups(rows: &[Arc<Kind>]) -> Vec<GroupVersions> {
    let mut groups: Vec<GroupVersions> = Vec::new();
    for row in rows {
        let at = groups.iter().position(|g| g.group == row.group).unwrap_or_else(|| {
            groups.push(GroupVersions { group: row.group.to_string(), versions: Vec::new() });
            groups.len() - 1
        });
        if !groups[at].versions.iter().any(|v| *v == row.version) {
            groups[at].versions.push(row.version.to_string());
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
    }
    // A stable sort: groups of one priority by name, as Kubernetes does for custom resources.
    groups.sort_by(|a, b| {
        let rank = |group: &str| (group.is_empty(), group_priority(group));
        rank(&b.group).cmp(&rank(&a.group)).then(a.group.cmp(&b.group))
    });
    groups
}

/// How Kubernetes ranks versions: `v2` before `v1` before `v2beta1` before `v1alpha1`; words last.
fn version_rank(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(major) = rest[..digits].parse::<u64>() else { return (0, 0, 0) };
    match &rest[digits..] {
        "" => (3, major, 0),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (2, major, minor.parse().unwrap_or(0)),
            (_, Some(minor)) => (1, major, minor.parse().unwrap_or(0)),
            _ => (0, 0, 0),
        },
    }
}

/// `groupPriorityMinimum` of the APIService that Kubernetes makes for a group.
pub fn group_priority(group: &str) -> u32 {
    match group {
        "apiregistration.k8s.io" => 20_000,
        "" => 18_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        "resource.k8s.io" => 15_200,
        _ => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_in_the_order_of_kubernetes_discovery() {
        let table = KindTable::builtin();
        let names: Vec<&str> = table.groups().iter().map(|g| g.group.as_str()).collect();
        assert_eq!(names[..4], ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]);
        let autoscaling = table.groups().iter().find(|g| g.group == "autoscaling");
        assert_eq!(autoscaling.map(|g| g.versions.clone()), Some(vec!["v2".into(), "v1".into()]));
    }

    #[test]
    fn versions_of_a_kind_share_its_storage() {
        let table = KindTable::builtin();
        let new = table.resource("events.k8s.io", "v1", "events").expect("a row for events");
        assert_eq!(table.stored_as(new).group, "");
        assert_eq!(new.key("ns", "a"), "/events/ns/a");
        let v1 = table.kind("autoscaling", "v1", "HorizontalPodAutoscaler").expect("a row");
        assert_eq!(table.stored_as(v1).version, "v2");
    }

    #[test]
    fn a_row_can_be_added_and_removed() {
        let table = KindTable::builtin();
        let mut row = (**table.of("apps/v1", "Deployment").expect("a row")).clone();
        row.group = "example.com".into();
        row.plural = "widgets".into();
        row.kind = "Widget".into();
        let more = table.with([row]);
        assert!(more.resource("example.com", "v1", "widgets").is_some());
        assert!(more.groups().iter().any(|g| g.group == "example.com"));
        let less = more.without("example.com", "widgets");
        assert!(less.resource("example.com", "v1", "widgets").is_none());
        assert!(!less.groups().iter().any(|g| g.group == "example.com"));
    }

    #[test]
    fn names_of_resources_and_kinds_are_unique() {
        let table = KindTable::builtin();
        assert_eq!(table.by_resource.len(), table.rows.len());
        assert_eq!(table.by_kind.len(), table.rows.len());
    }

    #[test]
    fn versions_rank_as_kubernetes_ranks_them() {
        let mut versions = ["foo", "v1alpha2", "v1", "v2beta1", "v10", "v2"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1alpha2", "foo"]);
    }
}
