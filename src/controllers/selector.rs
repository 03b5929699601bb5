//! Whether labels match a `metav1.LabelSelector` or a plain map.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Whether `selector` selects `labels`. An empty selector selects everything, an expression with
/// an unknown operator nothing.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.as_ref().is_none_or(|wanted| has_all(wanted, labels));
    equal
        && selector.match_expressions.iter().flatten().all(|rule| {
            let value = labels.get(&rule.key);
            let listed = |value: &String| rule.values.iter().flatten().any(|v| v == value);
            match rule.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether `labels` has every pair of `wanted`.
pub fn has_all(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_operator_selects_as_kubernetes_does() {
        let cases = [
            ("In", vec!["a", "b"], labels(&[("x", "a")]), true),
            ("In", vec!["a"], labels(&[]), false),
            ("NotIn", vec!["a"], labels(&[("x", "b")]), true),
            ("NotIn", vec!["a"], labels(&[]), true),
            ("Exists", vec![], labels(&[("x", "")]), true),
            ("DoesNotExist", vec![], labels(&[("x", "")]), false),
            ("Near", vec![], labels(&[("x", "")]), false),
        ];
        for (operator, values, on, expected) in cases {
            let selector = LabelSelector {
                match_labels: None,
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: "x".to_owned(),
                    operator: operator.to_owned(),
                    values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
                }]),
            };
            assert_eq!(matches(&selector, &on), expected, "{operator} {values:?} {on:?}");
        }
    }
}
