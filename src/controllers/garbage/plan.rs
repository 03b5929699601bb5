//! What to do with an object, given what is known of its owners
//! (`pkg/controller/garbagecollector/garbagecollector.go`).
//!
//! **Invariant:** an object with an owner that lives is never deleted.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::{FOREGROUND, Node, ORPHAN};
use crate::client::rest::Propagation;

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It lives.
    Solid,
    /// It is gone, or something else has its name.
    Absent,
    /// It waits for its dependents to be deleted.
    Waiting,
}

/// What to do with an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Nothing,
    /// Write these owner references in the place of those it has.
    SetOwners(Vec<OwnerReference>),
    /// Delete it, in this way.
    Delete(Propagation),
}

/// What to do with a foreground-deleted object: nothing while dependents block it.
#[derive(Debug, Clone, PartialEq)]
pub enum Foreground {
    /// No dependent blocks it: drop the finalizer.
    Done,
    /// Look at these dependents.
    Wait(Vec<String>),
}

/// What to do with the object of this metadata, whose owners are in the states `owners`.
/// `blocked_by` are its dependents.
pub fn plan(meta: &ObjectMeta, owners: &[Owner], dependents: &[Arc<Node>]) -> Action {
    let references = meta.owner_references.clone().unwrap_or_default();
    if references.is_empty() || meta.deletion_timestamp.is_some() {
        return Action::Nothing;
    }
    let count = |state: Owner| owners.iter().filter(|owner| **owner == state).count();
    if count(Owner::Solid) > 0 {
        if count(Owner::Absent) + count(Owner::Waiting) == 0 {
            return Action::Nothing;
        }
        let solid = references.into_iter().zip(owners);
        let kept = solid.filter(|(_, state)| **state == Owner::Solid);
        return Action::SetOwners(kept.map(|(reference, _)| reference).collect());
    }
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    if count(Owner::Waiting) > 0 && !dependents.is_empty() {
        // Its owner waits for all that is below it, so that is to go first here as well.
        return Action::Delete(Propagation::Foreground);
    }
    Action::Delete(if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

/// What to do with an object that is being deleted in the foreground.
pub fn foreground(uid: &str, dependents: &[Arc<Node>]) -> Foreground {
    let blocking: Vec<&Arc<Node>> = dependents.iter().filter(|node| node.blocks(uid)).collect();
    if blocking.is_empty() {
        return Foreground::Done;
    }
    Foreground::Wait(
        blocking.iter().filter(|node| !node.foreground).map(|node| node.uid.clone()).collect(),
    )
}

/// The owner references that unblock an object which is in a circle: it waits for a dependent that
/// itself waits. Nothing changes where no dependent waits.
pub fn unblocked(meta: &ObjectMeta, dependents: &[Arc<Node>]) -> Option<Vec<OwnerReference>> {
    let circle = dependents.iter().any(|node| node.foreground);
    let mut references = meta.owner_references.clone().unwrap_or_default();
    let blocks = references.iter().any(|reference| reference.block_owner_deletion == Some(true));
    if !circle || !blocks {
        return None;
    }
    for reference in &mut references {
        reference.block_owner_deletion = Some(false);
    }
    Some(references)
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::node;
    use super::*;
    use serde_json::json;

    fn meta(owners: &[&str], finalizer: Option<&str>) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid,
                "blockOwnerDeletion": true})
            })
            .collect();
        let finalizers: Vec<_> = finalizer.into_iter().collect();
        serde_json::from_value(json!({"uid": "x", "ownerReferences": owners,
            "finalizers": finalizers}))
        .expect("metadata")
    }

    #[test]
    fn an_object_goes_only_without_an_owner_that_lives() {
        use Owner::{Absent, Solid, Waiting};
        type Case<'a> = (&'a [Owner], Option<&'a str>, Action);
        let cases: [Case<'_>; 6] = [
            (&[Solid], None, Action::Nothing),
            (&[Absent], None, Action::Delete(Propagation::Background)),
            (&[Waiting], None, Action::Delete(Propagation::Background)),
            (&[Absent], Some(ORPHAN), Action::Delete(Propagation::Orphan)),
            (&[Absent], Some(FOREGROUND), Action::Delete(Propagation::Foreground)),
            (&[Absent], Some("other"), Action::Delete(Propagation::Background)),
        ];
        for (owners, finalizer, expected) in cases {
            assert_eq!(plan(&meta(&["o"], finalizer), owners, &[]), expected, "{owners:?}");
        }
    }

    #[test]
    fn dangling_references_are_dropped_while_an_owner_lives() {
        let action = plan(&meta(&["gone", "here"], None), &[Owner::Absent, Owner::Solid], &[]);
        let Action::SetOwners(kept) = action else { panic!("{action:?}") };
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].uid, "here");
    }

    #[test]
    fn below_an_owner_that_waits_deletion_goes_on_in_the_foreground() {
        let action = plan(&meta(&["o"], None), &[Owner::Waiting], &[node("d", &["x"], None)]);
        assert_eq!(action, Action::Delete(Propagation::Foreground));
    }

    #[test]
    fn a_foreground_deletion_waits_for_those_that_block_it() {
        let dependents = [node("a", &["x"], None), node("b", &["!x"], None)];
        assert_eq!(foreground("x", &dependents), Foreground::Wait(vec!["b".to_owned()]));
        assert_eq!(foreground("x", &dependents[..1]), Foreground::Done);
    }

    #[test]
    fn a_circle_of_foreground_deletions_is_broken() {
        let waits = [node("d", &["!x"], Some(FOREGROUND))];
        let references = unblocked(&meta(&["d"], None), &waits).expect("it is a circle");
        assert_eq!(references[0].block_owner_deletion, Some(false));
        assert!(unblocked(&meta(&["d"], None), &[node("d", &["!x"], None)]).is_none());
    }
}
