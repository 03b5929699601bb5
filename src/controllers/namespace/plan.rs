//! What the conditions of a terminating Namespace say, and whether it may go
//! (`pkg/controller/namespace/deletion`).
//!
//! **Invariant:** a Namespace goes only when every kind was asked and none has anything left.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;

use crate::client::meta::time;

/// What became of one kind's objects.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// As `pods.` or `deployments.apps`.
    pub resource: String,
    /// How many are still there.
    pub remaining: usize,
    /// Their finalizers, with how many objects have each.
    pub finalizers: BTreeMap<String, usize>,
    /// The longest grace period of those that remain, in seconds.
    pub grace_seconds: i64,
    /// Why they could not be deleted.
    pub error: Option<String>,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub conditions: Vec<NamespaceCondition>,
    /// Nothing is left: drop the finalizer.
    pub finalize: bool,
    /// The longest that it makes sense to wait before looking again, in seconds.
    pub wait_seconds: i64,
}

/// One condition: type, reason and message when all is well, reason and message when not.
fn condition(
    kind: &str,
    ok: (&str, &str),
    bad: Option<(&str, String)>,
    now: Timestamp,
) -> NamespaceCondition {
    let (status, reason, message) = match bad {
        Some((reason, message)) => ("True", reason, message),
        None => ("False", ok.0, ok.1.to_owned()),
    };
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(time(now)),
    }
}

/// What to do after a round of deleting; `undiscovered` names the groups that could not be asked.
pub fn plan(
    old: &[NamespaceCondition],
    undiscovered: &[String],
    contents: &[Content],
    now: Timestamp,
) -> Plan {
    let errors: Vec<&str> = contents.iter().filter_map(|c| c.error.as_deref()).collect();
    let remaining: Vec<String> = contents
        .iter()
        .filter(|content| content.remaining > 0)
        .map(|c| format!("{} has {} resource instances", c.resource, c.remaining))
        .collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in contents.iter().flat_map(|content| &content.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let held: Vec<String> =
        finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect();
    let some = |list: &[String], reason: &'static str, words: &str| {
        (!list.is_empty()).then(|| (reason, format!("{words}: {}", list.join(", "))))
    };
    let undiscovered_told = (!undiscovered.is_empty()).then(|| {
        let count = undiscovered.len();
        let list = undiscovered.join(", ");
        ("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {list}"))
    });
    let errors_told = (!errors.is_empty()).then(|| {
        let count = errors.len();
        let list = errors.join(", ");
        (
            "ContentDeletionFailed",
            format!("Failed to delete all resource types, {count} remaining: {list}"),
        )
    });
    let conditions = vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            undiscovered_told,
            now,
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
            now,
        ),
        condition(
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            errors_told,
            now,
        ),
        condition(
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            some(&remaining, "SomeResourcesRemain", "Some resources are remaining"),
            now,
        ),
        condition(
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            some(
                &held,
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining",
            ),
            now,
        ),
    ];
    let finalize = undiscovered.is_empty() && errors.is_empty() && remaining.is_empty();
    let grace = contents.iter().map(|content| content.grace_seconds).max().unwrap_or(0);
    Plan {
        conditions: conditions.into_iter().map(|new| merged(old, new)).collect(),
        finalize,
        wait_seconds: (grace / 2 + 1).clamp(1, 15),
    }
}

/// The new condition; its time of transition stays while it says the same.
fn merged(old: &[NamespaceCondition], mut new: NamespaceCondition) -> NamespaceCondition {
    if let Some(old) = old.iter().find(|old| old.type_ == new.type_)
        && old.status == new.status
    {
        new.last_transition_time = old.last_transition_time.clone();
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn true_ones(plan: &Plan) -> Vec<(&str, &str)> {
        let told = plan.conditions.iter().filter(|c| c.status == "True");
        told.map(|c| (c.type_.as_str(), c.message.as_deref().unwrap_or_default())).collect()
    }

    #[test]
    fn an_empty_namespace_goes() {
        let plan = plan(&[], &[], &[Content::default()], at(1));
        assert!(plan.finalize);
        assert!(true_ones(&plan).is_empty());
    }

    #[test]
    fn what_remains_is_told_and_waited_for() {
        let content = Content {
            resource: "pods.".to_owned(),
            remaining: 2,
            finalizers: [("example.com/keep".to_owned(), 1)].into(),
            grace_seconds: 30,
            error: None,
        };
        let plan = plan(&[], &[], &[content], at(1));
        assert!(!plan.finalize);
        assert_eq!(plan.wait_seconds, 15);
        assert_eq!(
            true_ones(&plan),
            [
                (
                    "NamespaceContentRemaining",
                    "Some resources are remaining: pods. has 2 resource instances"
                ),
                (
                    "NamespaceFinalizersRemaining",
                    "Some content in the namespace has finalizers remaining: example.com/keep in \
                     1 resource instances"
                )
            ]
        );
    }

    #[test]
    fn a_kind_that_cannot_be_asked_or_emptied_keeps_the_namespace() {
        let failed = Content { error: Some("no".to_owned()), ..Content::default() };
        assert!(!plan(&[], &[], &[failed], at(1)).finalize);
        assert!(!plan(&[], &["x/v1: gone".to_owned()], &[], at(1)).finalize);
    }

    #[test]
    fn the_time_of_a_condition_stays_while_it_says_the_same() {
        let first = plan(&[], &[], &[], at(1));
        let second = plan(&first.conditions, &[], &[], at(9));
        assert_eq!(first.conditions, second.conditions);
    }
}
