//! Revisions: which ReplicaSet is the newest, what its annotations say, which ones are forgotten
//! (`kubectl rollout history|undo` read and write exactly these).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::size::{self, DESIRED, MAX, asked};
use crate::controllers::view::Templated;

/// The revision of a ReplicaSet, or of a Deployment's newest one.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a ReplicaSet had before, with commas.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// How long the list of former revisions may get, in characters.
const HISTORY_MAX: usize = 2000;

type Sets = [Arc<Templated<ReplicaSet>>];

/// The sets with the oldest first.
pub fn by_age(sets: &mut [Arc<Templated<ReplicaSet>>]) {
    sets.sort_by(|a, b| {
        let (a, b) = (&a.object.metadata, &b.object.metadata);
        a.creation_timestamp.cmp(&b.creation_timestamp).then_with(|| a.name.cmp(&b.name))
    });
}

/// The set whose template is the Deployment's; of several the oldest, so that the choice stays.
pub fn newest(digest: &str, by_age: &Sets) -> Option<usize> {
    by_age.iter().position(|set| set.digest == digest)
}

/// The revision in the annotations; 0 where there is none.
pub fn revision(annotations: Option<&BTreeMap<String, String>>) -> i64 {
    annotations.and_then(|all| all.get(REVISION)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The highest revision of the sets.
pub fn highest<'a>(sets: impl Iterator<Item = &'a ReplicaSet>) -> i64 {
    sets.map(|set| revision(set.metadata.annotations.as_ref())).max().unwrap_or(0)
}

/// The annotations that tell how large all may be.
pub fn sizes(deployment: &Deployment) -> [(String, String); 2] {
    let total = size::replicas(deployment);
    [
        (DESIRED.to_owned(), total.to_string()),
        (MAX.to_owned(), (total + size::max_surge(deployment)).to_string()),
    ]
}

/// Whether the set's annotations tell other sizes than the Deployment's.
pub fn sizes_differ(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let annotations = set.metadata.annotations.clone().unwrap_or_default();
    sizes(deployment).iter().any(|(name, value)| annotations.get(name) != Some(value))
}

/// The annotations of a new set.
pub fn annotations_of_new(deployment: &Deployment, revision: i64) -> BTreeMap<String, String> {
    let mut annotations = copied(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.extend(sizes(deployment));
    annotations
}

fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    annotations
}

/// What must change in the annotations of the set that is now the newest: what the Deployment's
/// say, and a higher revision where it had a lower one, which then goes to its history.
pub fn updated_annotations(
    deployment: &Deployment,
    set: &ReplicaSet,
    new_revision: i64,
) -> BTreeMap<String, String> {
    let have = set.metadata.annotations.clone().unwrap_or_default();
    let mut change = copied(deployment);
    change.retain(|name, value| have.get(name) != Some(value));
    let old = revision(Some(&have));
    if old < new_revision {
        change.insert(REVISION.to_owned(), new_revision.to_string());
        if old > 0 {
            let mut history: Vec<String> = have
                .get(REVISION_HISTORY)
                .map(|text| text.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.push(old.to_string());
            while history.join(",").len() > HISTORY_MAX {
                history.remove(0);
            }
            change.insert(REVISION_HISTORY.to_owned(), history.join(","));
        }
    }
    change
}

/// The old sets that the history limit leaves no room for, lowest revision first.
pub fn forgotten<'a>(deployment: &Deployment, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let limit = deployment.spec.revision_history_limit;
    let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return Vec::new() };
    let mut alive: Vec<&ReplicaSet> =
        old.iter().copied().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|set| {
        (revision(set.metadata.annotations.as_ref()), set.metadata.creation_timestamp.clone())
    });
    alive.truncate(surplus);
    alive.retain(|set| {
        let status = set.status.clone().unwrap_or_default();
        let observed = status.observed_generation.unwrap_or(0);
        status.replicas == 0 && asked(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(limit: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {"kubernetes.io/change-cause": "new image",
                "kubectl.kubernetes.io/last-applied-configuration": "{}", REVISION: "1"}},
            "spec": {"revisionHistoryLimit": limit, "selector": {}, "template": {}}}))
        .expect("a Deployment")
    }

    fn set(revision: i64, replicas: i32, history: Option<&str>) -> ReplicaSet {
        let mut value = json!({"metadata": {"name": format!("web-{revision}"), "generation": 1,
                "annotations": {REVISION: revision.to_string()}},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "observedGeneration": 1}});
        if let Some(history) = history {
            value["metadata"]["annotations"][REVISION_HISTORY] = json!(history);
        }
        serde_json::from_value(value).expect("a ReplicaSet")
    }

    #[test]
    fn a_set_that_is_rolled_back_to_gets_a_new_revision_and_keeps_its_old_ones() {
        let change = updated_annotations(&deployment(10), &set(2, 0, Some("1")), 5);
        assert_eq!(change[REVISION], "5");
        assert_eq!(change[REVISION_HISTORY], "1,2");
        assert_eq!(change["kubernetes.io/change-cause"], "new image");
        assert_eq!(change.len(), 3);
    }

    #[test]
    fn the_newest_set_changes_nothing_when_all_is_said() {
        let mut newest = set(5, 3, None);
        let annotations = newest.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/change-cause".to_owned(), "new image".to_owned());
        assert!(updated_annotations(&deployment(10), &newest, 5).is_empty());
    }

    #[test]
    fn the_oldest_revisions_beyond_the_limit_are_forgotten_unless_they_have_pods() {
        let sets = [set(3, 0, None), set(1, 0, None), set(2, 1, None), set(4, 0, None)];
        let old: Vec<&ReplicaSet> = sets.iter().collect();
        let names = |limit| -> Vec<String> {
            forgotten(&deployment(limit), &old)
                .iter()
                .map(|set| set.metadata.name.clone().unwrap_or_default())
                .collect()
        };
        assert_eq!(names(10), Vec::<String>::new());
        assert_eq!(names(2), ["web-1"]);
        assert_eq!(names(0), ["web-1", "web-3", "web-4"]);
    }
}
