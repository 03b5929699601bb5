//! Label and field selectors of a request, applied to keys and attribute blocks: nothing is
//! decoded to find out whether an object matches.

use super::attrs::Attrs;
use super::catalog::Resource;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::status::ApiError;

/// What an object must be to be told.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    labels: LabelSelector,
    fields: Vec<FieldRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Name,
    Namespace,
    /// Where in the selectable column.
    Column(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRule {
    place: Place,
    equal: bool,
    value: String,
}

impl Filter {
    /// From the query parameters `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for a selector that does not parse or names a field that cannot be selected by.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(labels)?;
        let fields = FieldSelector::parse(&resource.kind, fields)?;
        let rule = |r: &crate::api::selector::FieldRequirement| {
            let place = match r.field.as_str() {
                "metadata.name" => Place::Name,
                "metadata.namespace" => Place::Namespace,
                other => Place::Column(resource.field_index(other)?),
            };
            Some(FieldRule { place, equal: r.equal, value: r.value.clone() })
        };
        let fields = fields.requirements().iter().filter_map(rule).collect();
        Ok(Self { labels, fields })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The value that the field at `index` of the column must have, where one is asked for.
    pub fn wanted_field(&self, index: usize) -> Option<&str> {
        self.wanted(&Place::Column(index))
    }

    /// The name that the object must have, where one is asked for.
    pub fn wanted_name(&self) -> Option<&str> {
        self.wanted(&Place::Name)
    }

    fn wanted(&self, place: &Place) -> Option<&str> {
        let mut rules = self.fields.iter();
        rules.find(|rule| rule.equal && rule.place == *place).map(|rule| rule.value.as_str())
    }

    /// Whether an object with this key and attribute block matches.
    pub fn matches(&self, key: &str, block: &[u8]) -> bool {
        let attrs = Attrs::new(block);
        let fields = self.fields.iter().all(|rule| {
            let value = match rule.place {
                Place::Name => name_of(key),
                Place::Namespace => namespace_of(key),
                Place::Column(index) => attrs.field(index).unwrap_or_default(),
            };
            (value == rule.value) == rule.equal
        });
        fields && self.labels.matches(|key| attrs.label(key))
    }
}

/// The last element of a key.
pub fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

/// The last element but one of a key: the namespace, for namespaced kinds.
pub fn namespace_of(key: &str) -> &str {
    key.rsplit('/').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::attrs;
    use crate::apiserver::catalog::tests::resource;

    fn matches(labels: &str, fields: &str) -> Result<bool, String> {
        let pods = resource("", "v1", "pods");
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "web", "n": "5"}},
            "spec": {"nodeName": "n1", "restartPolicy": "Always"},
        });
        let filter = Filter::parse(&pods, labels, fields).map_err(|e| e.message)?;
        Ok(filter.matches("/pods/ns/a", &attrs::encode(&pods.kind, &pod)))
    }

    #[test]
    fn label_selectors_match_as_kubernetes_matches() {
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,n", true),
            ("app = web , n in (4, 5)", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app notin (db)", true),
            ("!app", false),
            ("!other,app", true),
            ("app=", false),
        ] {
            assert_eq!(matches(selector, ""), Ok(expected), "{selector}");
        }
        for broken in ["app=web,", "=x", "app in web", "app web", "a b=c", "app=-x"] {
            assert!(matches(broken, "").is_err(), "{broken}");
        }
    }

    #[test]
    fn field_selectors_match_the_selectable_fields_alone() {
        for (selector, expected) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("metadata.namespace=ns,spec.nodeName=n1", true),
            ("spec.nodeName=", false),
            ("status.phase=", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(matches("", selector), Ok(expected), "{selector}");
        }
        let refused = matches("", "spec.containers=x");
        assert_eq!(refused, Err("field label not supported: spec.containers".to_owned()));
        assert!(matches("", "foo").is_err());
    }
}
