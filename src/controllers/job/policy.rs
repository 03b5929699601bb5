//! `podFailurePolicy` (KEP-3329) and `successPolicy` (KEP-3998).

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy,
};

use super::indexes::Indexes;
use crate::controllers::view::{JobPod, Phase, Pod};

/// What the failure of a pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the backoff limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// Whether only pods that have really ended are replaced and counted.
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether the pod counts as failed. One that is being deleted does, unless the Job waits for it.
pub fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    pod.phase == Phase::Failed
        || (pod.deleting.is_some() && pod.phase != Phase::Succeeded && !replaces_only_failed(spec))
}

/// What the failure of `pod` means: the first rule that fits says.
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let nothing = JobPod::default();
    let told = pod.job.as_deref().unwrap_or(&nothing);
    for (at, rule) in policy.iter().flat_map(|policy| policy.rules.iter().enumerate()) {
        let why = if let Some(wanted) = &rule.on_exit_codes {
            told.exits.iter().find(|(name, code)| fits(wanted, name, *code)).map(|(name, code)| {
                format!("Container {name} for pod {} failed with exit code {code}", pod.key)
            })
        } else {
            let patterns = rule.on_pod_conditions.iter().flatten();
            let met = patterns.into_iter().find(|pattern| {
                let status = pattern.status.as_deref().unwrap_or("True");
                told.conditions.iter().any(|(kind, is)| *kind == pattern.type_ && is == status)
            });
            met.map(|pattern| format!("Pod {} has condition {}", pod.key, pattern.type_))
        };
        let Some(why) = why else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
            "FailIndex" => Verdict::FailIndex,
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn fits(wanted: &PodFailurePolicyOnExitCodesRequirement, name: &str, code: i32) -> bool {
    let named = wanted.container_name.as_ref().is_none_or(|wanted| wanted == name);
    let listed = wanted.values.contains(&code);
    named && code != 0 && listed == (wanted.operator == "In")
}

/// Whether one more failure of that index would be one too many, `pod` being the last one.
pub fn index_is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let Some(limit) = spec.backoff_limit_per_index.filter(|_| is_failed(spec, pod)) else {
        return false;
    };
    match verdict(spec.pod_failure_policy.as_ref(), pod) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        _ => pod.job.as_ref().is_some_and(|job| job.failures >= limit),
    }
}

/// Why the Job is successful already, if it is.
pub fn success(policy: &SuccessPolicy, completions: i32, succeeded: &Indexes) -> Option<String> {
    policy.rules.iter().enumerate().find_map(|(at, rule)| {
        let count = match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let count = succeeded.shared(&wanted);
                if rule.succeeded_count.is_none() && count < wanted.total() {
                    return None;
                }
                count
            }
            None => succeeded.total(),
        };
        rule.succeeded_count
            .is_none_or(|least| count >= least)
            .then(|| format!("Matched rules at index {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::Key;
    use serde_json::json;

    fn policy(rule: serde_json::Value) -> PodFailurePolicy {
        serde_json::from_value(json!({"rules": [rule]})).expect("a policy")
    }

    fn pod(code: i32, condition: &str) -> Pod {
        Pod {
            key: Key::new("default", "p"),
            phase: Phase::Failed,
            job: Some(Box::new(JobPod {
                exits: vec![("main".to_owned(), code)],
                conditions: vec![(condition.to_owned(), "True".to_owned())],
                ..JobPod::default()
            })),
            ..Pod::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_says_what_a_failure_means() {
        let codes = |action: &str, operator: &str, values: &[i32]| {
            policy(json!({"action": action,
                "onExitCodes": {"operator": operator, "values": values}}))
        };
        let cases = [
            (codes("Ignore", "In", &[42]), pod(42, ""), Verdict::Ignore),
            (codes("Ignore", "In", &[42]), pod(1, ""), Verdict::Count),
            (codes("FailIndex", "NotIn", &[1]), pod(2, ""), Verdict::FailIndex),
            (codes("FailIndex", "NotIn", &[1]), pod(0, ""), Verdict::Count),
            (
                codes("FailJob", "In", &[3]),
                pod(3, ""),
                Verdict::FailJob(
                    "Container main for pod default/p failed with exit code 3 matching FailJob \
                     rule at index 0"
                        .to_owned(),
                ),
            ),
            (
                policy(json!({"action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget"}]})),
                pod(1, "DisruptionTarget"),
                Verdict::Ignore,
            ),
        ];
        for (policy, pod, expected) in cases {
            assert_eq!(verdict(Some(&policy), &pod), expected, "{policy:?}");
        }
    }

    #[test]
    fn a_success_policy_wants_all_its_indexes_or_as_many_as_it_says() {
        let rule = |rule: serde_json::Value| -> SuccessPolicy {
            serde_json::from_value(json!({"rules": [rule]})).expect("a policy")
        };
        let done = Indexes::parse("0,2-3", 10);
        let cases = [
            (rule(json!({"succeededIndexes": "2-3"})), true),
            (rule(json!({"succeededIndexes": "2-4"})), false),
            (rule(json!({"succeededIndexes": "2-4", "succeededCount": 2})), true),
            (rule(json!({"succeededCount": 4})), false),
            (rule(json!({"succeededCount": 3})), true),
        ];
        for (policy, expected) in cases {
            assert_eq!(success(&policy, 10, &done).is_some(), expected, "{policy:?}");
        }
    }
}
