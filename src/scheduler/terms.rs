//! What pods ask of labels: of nodes' and of other pods'.
//!
//! The API's types are turned once into forms that can be compared, hashed and matched quickly.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    self, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Written;

use super::pod::Labels;
use crate::api::selector::{LabelSelector, Operator, Requirement};

/// One term of a node selector: everything in it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// On `metadata.name`, the only field that a node can be selected by.
    pub names: Vec<Requirement>,
    /// It holds for no node: it is empty, or asks for a field that there is not.
    pub never: bool,
}

impl NodeTerm {
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let known = fields.iter().all(|field| field.key == "metadata.name");
        let read: Option<Vec<Requirement>> = expressions.iter().map(node_requirement).collect();
        let names: Option<Vec<Requirement>> = fields.iter().map(node_requirement).collect();
        let empty = expressions.is_empty() && fields.is_empty();
        let never = empty || !known || read.is_none() || names.is_none();
        Self { labels: read.unwrap_or_default(), names: names.unwrap_or_default(), never }
    }

    /// Whether it holds for a node.
    pub fn holds(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.never
            && self.labels.iter().all(|r| r.fits(labels.get(&r.key).map(String::as_str)))
            && self.names.iter().all(|r| r.fits(Some(name)))
    }

    /// The only nodes for which it can hold, where it names some.
    pub fn pinned(&self) -> Option<&[String]> {
        let named = self.names.iter().find(|r| r.operator == Operator::In)?;
        Some(&named.values)
    }
}

fn node_requirement(written: &NodeSelectorRequirement) -> Option<Requirement> {
    let values = written.values.clone().unwrap_or_default();
    let operator = operator(&written.operator)?;
    let one_number = matches!(operator, Operator::GreaterThan | Operator::LessThan);
    if one_number && values.len() != 1 {
        return None;
    }
    Some(Requirement { key: written.key.clone(), operator, values })
}

fn operator(written: &str) -> Option<Operator> {
    Some(match written {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    })
}

/// A label selector object; `None` selects nothing, and so does one that cannot be read.
pub fn selector(written: Option<&Written>) -> LabelSelector {
    let Some(written) = written else { return LabelSelector::nothing() };
    let mut requirements: Vec<Requirement> = Vec::new();
    for (key, value) in written.match_labels.iter().flatten() {
        requirements.push(is(key, value));
    }
    for expression in written.match_expressions.iter().flatten() {
        let Some(operator) = operator(&expression.operator) else {
            return LabelSelector::nothing();
        };
        let values = expression.values.clone().unwrap_or_default();
        requirements.push(Requirement { key: expression.key.clone(), operator, values });
    }
    LabelSelector::of(requirements)
}

fn is(key: &str, value: &str) -> Requirement {
    let (key, values) = (key.to_owned(), vec![value.to_owned()]);
    Requirement { key, operator: Operator::In, values }
}

/// `selector`, with the pod's own values of `keys` (`matchLabelKeys`), and without those of
/// `but_not` (`mismatchLabelKeys`). Keys that the pod does not have are left out.
fn with_own(
    selector: LabelSelector,
    keys: Option<&Vec<String>>,
    but_not: Option<&Vec<String>>,
    own: &BTreeMap<String, String>,
) -> LabelSelector {
    let mut requirements = selector.requirements().to_vec();
    if selector == LabelSelector::nothing() {
        return selector;
    }
    for (keys, operator) in [(keys, Operator::In), (but_not, Operator::NotIn)] {
        for key in keys.into_iter().flatten() {
            let Some(value) = own.get(key) else { continue };
            let requirement = Requirement { operator, ..is(key, value) };
            // The API may have written it into the selector already.
            if !requirements.contains(&requirement) {
                requirements.push(requirement);
            }
        }
    }
    LabelSelector::of(requirements)
}

/// A term of pod affinity or anti-affinity: pods that it speaks of, and what "near" is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodTerm {
    pub topology_key: String,
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    pub namespace_selector: Option<LabelSelector>,
}

impl PodTerm {
    pub fn of(term: &PodAffinityTerm, namespace: &str, own: &BTreeMap<String, String>) -> Self {
        let written = selector(term.label_selector.as_ref());
        let (keys, but_not) = (term.match_label_keys.as_ref(), term.mismatch_label_keys.as_ref());
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        let namespace_selector = term.namespace_selector.as_ref();
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: with_own(written, keys, but_not, own),
            namespaces,
            namespace_selector: namespace_selector.map(|s| selector(Some(s))),
        }
    }

    /// Whether it speaks of a pod; `namespace_labels`: of the pod's namespace.
    pub fn matches(
        &self,
        pod: &Labels,
        namespace_labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let there = self.namespaces.iter().any(|namespace| **namespace == *pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.matches(|key| namespace_labels?.get(key).map(String::as_str))
            });
        there && self.selector.matches(|key| pod.get(key))
    }
}

/// The terms of a pod's affinity to other pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PodTerms {
    pub required: Vec<PodTerm>,
    pub preferred: Vec<(i64, PodTerm)>,
    pub anti_required: Vec<PodTerm>,
    pub anti_preferred: Vec<(i64, PodTerm)>,
}

impl PodTerms {
    pub fn of(affinity: &v1::Affinity, namespace: &str, own: &BTreeMap<String, String>) -> Self {
        let term = |term: &PodAffinityTerm| PodTerm::of(term, namespace, own);
        let weighted = |weighted: &v1::WeightedPodAffinityTerm| {
            (i64::from(weighted.weight), term(&weighted.pod_affinity_term))
        };
        let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let required =
            near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred =
            near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let anti_required =
            far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let anti_preferred =
            far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self {
            required: required.into_iter().flatten().map(term).collect(),
            preferred: preferred.into_iter().flatten().map(weighted).collect(),
            anti_required: anti_required.into_iter().flatten().map(term).collect(),
            anti_preferred: anti_preferred.into_iter().flatten().map(weighted).collect(),
        }
    }

    /// Whether the pod asks nothing of other pods.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.preferred.is_empty()
            && self.anti_required.is_empty()
            && self.anti_preferred.is_empty()
    }
}

/// What becomes of a pod that would make a spread too uneven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenUnsatisfiable {
    DoNotSchedule,
    ScheduleAnyway,
}

/// Whether a rule of the pod's decides which nodes count for a spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inclusion {
    Honor,
    Ignore,
}

/// A topology spread constraint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    pub max_skew: i64,
    pub topology_key: String,
    pub when: WhenUnsatisfiable,
    /// `None`, for constraints that the profile gives: the pods of one workload.
    pub selector: Option<LabelSelector>,
    pub min_domains: i64,
    pub node_affinity: Inclusion,
    pub node_taints: Inclusion,
}

impl Constraint {
    pub fn of(written: &TopologySpreadConstraint, own: &BTreeMap<String, String>) -> Self {
        let inclusion = |policy: Option<&String>, otherwise| match policy.map(String::as_str) {
            Some("Honor") => Inclusion::Honor,
            Some("Ignore") => Inclusion::Ignore,
            _ => otherwise,
        };
        let labels = selector(written.label_selector.as_ref());
        Self {
            max_skew: i64::from(written.max_skew),
            topology_key: written.topology_key.clone(),
            when: match written.when_unsatisfiable.as_str() {
                "ScheduleAnyway" => WhenUnsatisfiable::ScheduleAnyway,
                _ => WhenUnsatisfiable::DoNotSchedule,
            },
            selector: Some(with_own(labels, written.match_label_keys.as_ref(), None, own)),
            min_domains: i64::from(written.min_domains.unwrap_or(1)),
            node_affinity: inclusion(written.node_affinity_policy.as_ref(), Inclusion::Honor),
            node_taints: inclusion(written.node_taints_policy.as_ref(), Inclusion::Ignore),
        }
    }
}
