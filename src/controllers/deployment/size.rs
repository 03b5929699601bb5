//! How large the ReplicaSets of a Deployment may be: percentages, surge, unavailability and
//! proportional scaling, with Kubernetes' rounding (`pkg/controller/deployment/util`).
//!
//! **Invariant:** the sum of all sizes never rises above `replicas + maxSurge`, and available pods
//! are never taken below `replicas − maxUnavailable`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The size that a maximum allows, kept on each ReplicaSet for proportional scaling.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// `replicas + maxSurge` when the ReplicaSet was last scaled.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// The replicas that the Deployment asks for.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// The replicas that a ReplicaSet asks for.
pub fn asked(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// The available pods that a ReplicaSet reports.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Whether old pods go before new ones come.
pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// What `value` means of `total`: a number, or a percentage with the given rounding.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else {
                return 0;
            };
            let product = percent * i64::from(total);
            let rounded =
                if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
        // 25 % is what the server fills in; this is for objects that it did not see.
        None => scaled(Some(&IntOrString::String("25%".to_owned())), total, round_up),
    }
}

/// `(maxSurge, maxUnavailable)` in pods. Surge is rounded up, unavailability down; where both come
/// out as none, one may be unavailable, or no rollout could ever move.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = replicas(deployment);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods may come on top of the replicas.
pub fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).0
}

/// How many of the replicas may be unavailable.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = replicas(deployment);
    if is_recreate(deployment) || total == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(total)
}

/// The size that the new ReplicaSet should have now, given what all sets (itself included) ask
/// for.
pub fn new_size(deployment: &Deployment, all_asked: i32, new_asked: i32) -> i32 {
    let total = replicas(deployment);
    if is_recreate(deployment) {
        return total;
    }
    if new_asked > total {
        return total;
    }
    let most = total + max_surge(deployment);
    if all_asked >= most {
        return new_asked;
    }
    new_asked + (most - all_asked).min(total - new_asked)
}

/// The sizes to which the old sets should shrink now: first what never became available, then as
/// many as availability allows; oldest first. Sets whose size stays are left out.
pub fn shrink_old<'a>(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[&'a ReplicaSet],
) -> Vec<(&'a ReplicaSet, i32)> {
    let old_asked: i32 = old.iter().map(|set| asked(set)).sum();
    // What a set reports holds only for the size that its controller has seen.
    let stale = |set: &ReplicaSet| {
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        seen.unwrap_or(0) < set.metadata.generation.unwrap_or(0)
    };
    if old_asked == 0 || stale(new) || old.iter().any(|set| stale(set)) {
        return Vec::new();
    }
    // A set that was just shrunk still reports the pods that it is about to delete.
    let available = |set: &ReplicaSet| available(set).min(asked(set));
    let floor = replicas(deployment) - max_unavailable(deployment);
    let new_unavailable = asked(new) - available(new);
    let most = old_asked + asked(new) - floor - new_unavailable;
    if most <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&ReplicaSet, i32)> = old.iter().map(|set| (*set, asked(set))).collect();
    let mut left = most;
    for (set, size) in &mut sizes {
        let unhealthy = (*size - available(set)).min(left);
        *size -= unhealthy;
        left -= unhealthy;
    }
    let all_available = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut spare = all_available - floor;
    for (_, size) in &mut sizes {
        let down = (*size).min(spare).max(0);
        *size -= down;
        spare -= down;
    }
    sizes.retain(|(set, size)| *size != asked(set));
    sizes
}

/// The sizes that the active sets get when the Deployment is scaled in the middle of a rollout:
/// each its share, the largest what is left over. `active` holds the sets with replicas.
pub fn proportional<'a>(
    deployment: &Deployment,
    active: &[&'a ReplicaSet],
) -> Vec<(&'a ReplicaSet, i32)> {
    let total = replicas(deployment);
    let most = if total > 0 { total + max_surge(deployment) } else { 0 };
    let to_add = most - active.iter().map(|set| asked(set)).sum::<i32>();
    let mut sets: Vec<&ReplicaSet> = active.to_vec();
    // The largest first; of equal ones the newer first when growing, the older when shrinking.
    sets.sort_by(|a, b| {
        let age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
        let age = if to_add > 0 { age.reverse() } else { age };
        asked(b).cmp(&asked(a)).then(age).then(a.metadata.name.cmp(&b.metadata.name))
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(sets.len());
    for set in sets {
        let share = if to_add == 0 { 0 } else { proportion(deployment, set, to_add, added) };
        added += share;
        sizes.push((set, asked(set) + share));
    }
    if let (Some(first), true) = (sizes.first_mut(), to_add != 0) {
        first.1 = (first.1 + to_add - added).max(0);
    }
    sizes
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if asked(set) == 0 || to_add == added {
        return 0;
    }
    let (share, allowed) = (fraction(deployment, set), to_add - added);
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

/// By how much the set changes when all sets keep their shares.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    if replicas(deployment) == 0 {
        return -asked(set);
    }
    let annotated = set.metadata.annotations.as_ref().and_then(|all| all.get(MAX));
    let before = annotated
        .and_then(|text| text.parse::<i32>().ok())
        .filter(|before| *before != 0)
        .or_else(|| deployment.status.as_ref().and_then(|status| status.replicas))
        .unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let most = replicas(deployment) + max_surge(deployment);
    let size = f64::from(asked(set)) * f64::from(most) / f64::from(before);
    // Sizes are small numbers: the rounded value fits.
    #[allow(clippy::cast_possible_truncation)]
    let size = size.round() as i32;
    size - asked(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(super) fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let value = |text: &str| match text.parse::<i32>() {
            Ok(number) => json!(number),
            Err(_) => json!(text),
        };
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas,
            "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate":
                {"maxSurge": value(surge), "maxUnavailable": value(unavailable)}}}}))
        .expect("a Deployment")
    }

    fn set(name: &str, asked: i32, available: i32, annotated_max: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {MAX: annotated_max.to_string()},
                "creationTimestamp": format!("2026-01-01T00:00:{}Z", 10 + name.len())},
            "spec": {"replicas": asked, "selector": {}},
            "status": {"replicas": asked, "availableReplicas": available}}))
        .expect("a ReplicaSet")
    }

    #[test]
    fn surge_rounds_up_and_unavailability_down() {
        let cases = [
            (10, "25%", "25%", (3, 2)),
            (1, "25%", "25%", (1, 0)),
            (3, "0", "34%", (0, 1)),
            (2, "0", "10%", (0, 1)),
            (5, "100%", "0", (5, 0)),
            (4, "1", "3", (1, 3)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            let deployment = deployment(replicas, surge, unavailable);
            assert_eq!(fenceposts(&deployment), expected, "{replicas} {surge} {unavailable}");
        }
        assert_eq!(max_unavailable(&deployment(2, "0", "9")), 2);
        assert_eq!(max_unavailable(&deployment(0, "0", "9")), 0);
    }

    #[test]
    fn the_new_set_grows_up_to_the_surge() {
        // replicas, surge, asked by all, asked by new, its new size
        let cases = [
            (10, "0", 0, 0, 10),
            (10, "2", 10, 0, 2),
            (10, "2", 12, 2, 2),
            (10, "2", 9, 9, 10),
            (10, "2", 14, 12, 10),
        ];
        for (replicas, surge, all, new, expected) in cases {
            let deployment = deployment(replicas, surge, "1");
            assert_eq!(new_size(&deployment, all, new), expected, "{replicas} {surge} {all} {new}");
        }
    }

    #[test]
    fn old_sets_shrink_only_as_far_as_availability_allows() {
        let deployment = deployment(10, "2", "2");
        // The new set's two pods are not available yet: only maxUnavailable may go.
        let (new, old) = (set("new", 2, 0, 12), set("old", 10, 10, 12));
        let sizes = shrink_old(&deployment, &new, &[&old]);
        assert_eq!(sizes.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [8]);
        // Once they are, as many more may go.
        let (new, old) = (set("new", 2, 2, 12), set("old", 8, 8, 12));
        let sizes = shrink_old(&deployment, &new, &[&old]);
        assert_eq!(sizes.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn what_never_became_available_goes_first() {
        let deployment = deployment(4, "1", "0");
        let (new, old) = (set("new", 1, 0, 5), set("old", 4, 4, 5));
        assert!(shrink_old(&deployment, &new, &[&old]).is_empty());
        let broken = set("broken", 1, 0, 5);
        let sizes = shrink_old(&deployment, &new, &[&broken, &old]);
        assert_eq!(sizes.len(), 1);
        assert_eq!((sizes[0].0.metadata.name.as_deref(), sizes[0].1), (Some("broken"), 0));
    }

    #[test]
    fn scaling_in_a_rollout_keeps_the_shares() {
        // Kubernetes' documented example: 10 replicas, surge 3, 8 old and 5 new; scaled to 15.
        let deployment = deployment(15, "3", "2");
        let (old, new) = (set("old", 8, 8, 13), set("newer", 5, 0, 13));
        let sizes = proportional(&deployment, &[&old, &new]);
        let size = |name: &str| {
            sizes.iter().find(|(s, _)| s.metadata.name.as_deref() == Some(name)).map(|(_, n)| *n)
        };
        assert_eq!((size("old"), size("newer")), (Some(11), Some(7)));
        let total: i32 = sizes.iter().map(|(_, n)| n).sum();
        assert_eq!(total, 18);
    }

    #[test]
    fn scaling_to_zero_empties_every_set() {
        let deployment = deployment(0, "25%", "25%");
        let (old, new) = (set("old", 8, 8, 13), set("newer", 5, 0, 13));
        let sizes = proportional(&deployment, &[&old, &new]);
        assert!(sizes.iter().all(|(_, size)| *size == 0), "{sizes:?}");
    }
}
