//! The volume claims of a StatefulSet's pods: their names, and who owns them, so that they go when
//! `persistentVolumeClaimRetentionPolicy` says so.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::controllers::pods::Owner;
use crate::controllers::view::Pod;

/// The name of the claim that the pod of `ordinal` has for a template.
pub fn name(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The names of the set's claim templates.
pub fn templates(set: &StatefulSet) -> Vec<&str> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.filter_map(|claim| claim.metadata.name.as_deref()).collect()
}

/// The claims of an ordinal.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let meta = &template.metadata;
            let mut labels = meta.labels.clone().unwrap_or_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name(meta.name.as_deref().unwrap_or_default(), set_name, ordinal)),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels).filter(|labels| !labels.is_empty()),
                    annotations: meta.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            }
        })
        .collect()
}

/// `(whenDeleted, whenScaled)`: whether claims go then.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let goes = |said: Option<&String>| said.is_some_and(|said| said == "Delete");
    (
        goes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        goes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    )
}

/// The owners that a claim must have, where they are other than those it has.
///
/// A claim of a pod that is scaled away belongs to the pod, and goes with it; one that goes with
/// the set belongs to the set. A claim that something else controls is left alone.
pub fn owners(
    set: &StatefulSet,
    owner: &Owner,
    pod: Option<&Pod>,
    is_scaled_away: bool,
    claim: &ObjectMeta,
) -> Option<Vec<OwnerReference>> {
    let (when_deleted, when_scaled) = policy(set);
    let by_pod = when_scaled && is_scaled_away;
    let by_set = when_deleted && !by_pod;
    let have = claim.owner_references.clone().unwrap_or_default();
    let is_ours = |other: &OwnerReference| {
        other.uid == owner.uid || (other.kind == "Pod" && other.api_version == "v1")
    };
    if have.iter().any(|other| other.controller == Some(true) && !is_ours(other)) {
        return None;
    }
    let mut want: Vec<_> = have.iter().filter(|other| !is_ours(other)).cloned().collect();
    if by_set {
        want.push(owner.reference());
    }
    if let Some(pod) = pod.filter(|_| by_pod) {
        want.push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.key.name.clone(),
            uid: pod.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
    }
    let uids = |owners: &[OwnerReference]| -> Vec<String> {
        let mut uids: Vec<_> = owners.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    (uids(&have) != uids(&want)).then_some(want)
}

/// Whether the claim still belongs to a pod that is gone and will go with it: a new pod must wait
/// for that.
pub fn is_stale(claim: &ObjectMeta, pod_uid: Option<&str>) -> bool {
    claim.deletion_timestamp.is_some()
        || claim
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Pod" && Some(owner.uid.as_str()) != pod_uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::Key;
    use serde_json::json;

    fn set(when_deleted: &str, when_scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "set"},
            "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}],
                "persistentVolumeClaimRetentionPolicy":
                    {"whenDeleted": when_deleted, "whenScaled": when_scaled}}}))
        .expect("a StatefulSet")
    }

    #[test]
    fn a_claim_is_named_after_its_template_and_its_pod() {
        let made = claims(&set("Retain", "Retain"), 3);
        assert_eq!(made[0].metadata.name.as_deref(), Some("data-db-3"));
        let labels = made[0].metadata.labels.as_ref().expect("labels");
        assert_eq!(labels["app"], "db");
    }

    #[test]
    fn claims_belong_to_whom_the_retention_policy_says() {
        let pod = Pod { key: Key::new("default", "db-0"), uid: "pod".to_owned(), ..Pod::default() };
        let cases = [
            ("Retain", "Retain", false, vec![]),
            ("Retain", "Retain", true, vec![]),
            ("Delete", "Retain", false, vec!["set"]),
            ("Delete", "Retain", true, vec!["set"]),
            ("Retain", "Delete", false, vec![]),
            ("Retain", "Delete", true, vec!["pod"]),
            ("Delete", "Delete", false, vec!["set"]),
            ("Delete", "Delete", true, vec!["pod"]),
        ];
        for (when_deleted, when_scaled, scaled, expected) in cases {
            let set = set(when_deleted, when_scaled);
            let owner = Owner::of::<StatefulSet>(&set.metadata);
            let mut claim = ObjectMeta::default();
            if let Some(owners) = owners(&set, &owner, Some(&pod), scaled, &claim) {
                claim.owner_references = Some(owners);
            }
            let uids: Vec<_> =
                claim.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).collect();
            assert_eq!(uids, expected, "{when_deleted} {when_scaled} {scaled}");
            assert_eq!(owners_again(&set, &owner, &pod, scaled, &claim), None);
        }
    }

    fn owners_again(
        set: &StatefulSet,
        owner: &Owner,
        pod: &Pod,
        scaled: bool,
        claim: &ObjectMeta,
    ) -> Option<Vec<OwnerReference>> {
        owners(set, owner, Some(pod), scaled, claim)
    }

    #[test]
    fn a_new_pod_waits_for_a_claim_that_goes_with_the_old_one() {
        let set = set("Retain", "Delete");
        let owner = Owner::of::<StatefulSet>(&set.metadata);
        let pod = Pod { uid: "old".to_owned(), ..Pod::default() };
        let owners = owners(&set, &owner, Some(&pod), true, &ObjectMeta::default());
        let claim = ObjectMeta { owner_references: owners, ..ObjectMeta::default() };
        assert!(is_stale(&claim, None));
        assert!(!is_stale(&claim, Some("old")));
        assert!(!is_stale(&ObjectMeta::default(), None));
    }
}
