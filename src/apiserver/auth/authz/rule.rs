//! Rules of roles: what one allows, whether some cover another, how they are written in messages
//! (Kubernetes' `component-helpers/auth/rbac/validation`).

use serde::Deserialize;

use crate::apiserver::auth::Attributes;

const ALL: &str = "*";

/// A `rbac.authorization.k8s.io` `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "list")]
    pub urls: Vec<String>,
}

/// A list that may be null.
fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted || item == ALL)
}

impl Rule {
    /// The rule that allows everything about resources, and the one about every other path.
    pub fn everything() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), urls: all(), ..Self::default() },
        ]
    }

    /// Whether the rule allows a request.
    pub fn allows(&self, asked: &Attributes) -> bool {
        if !has_or_all(&self.verbs, &asked.verb) {
            return false;
        }
        if asked.resource.is_empty() {
            return self.urls.iter().any(|url| covers_url(url, &asked.path));
        }
        has_or_all(&self.api_groups, &asked.group)
            && self.has_resource(&asked.resource, &asked.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, &asked.name))
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|known| {
            if known == ALL {
                return true;
            }
            match (known.split_once('/'), subresource) {
                (None, "") => known == resource,
                (Some((of, part)), part_asked) if !part_asked.is_empty() => {
                    part == part_asked && (of == resource || of == ALL)
                }
                _ => false,
            }
        })
    }

    /// Whether the rule allows all that `part`, one of [`Self::broken_down`], allows.
    fn covers(&self, part: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            has(mine, ALL) || theirs.iter().all(|item| has(mine, item))
        };
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.urls.is_empty() {
            return part.urls.iter().all(|url| self.urls.iter().any(|u| covers_url(u, url)));
        }
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|name| has(&self.resource_names, name)));
        all(&self.api_groups, &part.api_groups)
            && names
            && part.resources.iter().all(|resource| {
                let below = resource.split_once('/').map(|(_, part)| format!("*/{part}"));
                has_or_all(&self.resources, resource)
                    || below.is_some_and(|below| has(&self.resources, &below))
            })
    }

    /// The rule as rules of one verb, group, resource and name (or of one verb and path) each.
    fn broken_down(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for url in &self.urls {
                parts.push(Self { verbs: one(verb), urls: one(url), ..Self::default() });
            }
            for (group, resource) in
                self.api_groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
            {
                let whole = Self {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Self::default()
                };
                if self.resource_names.is_empty() {
                    parts.push(whole);
                    continue;
                }
                let named = self.resource_names.iter();
                parts.extend(named.map(|n| Self { resource_names: one(n), ..whole.clone() }));
            }
        }
        parts
    }

    /// As Kubernetes writes it in messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let fields = fields.iter().filter(|(_, list)| !list.is_empty());
        let fields: Vec<String> =
            fields.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", fields.join(", "))
    }
}

/// A list as Go's `%q` writes it: `["a" "b"]`.
pub fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Whether a path of a rule stands for `path`, which may itself end with `*`.
fn covers_url(rule: &str, path: &str) -> bool {
    if rule == ALL || rule == path {
        return true;
    }
    rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// What `wanted` allows and `held` does not.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::broken_down);
    parts.filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// Rules that differ in their verbs alone put together.
pub fn compacted(rules: &[Rule]) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = rule.urls.is_empty();
        let same = all.iter_mut().find(|known| {
            simple
                && known.urls.is_empty()
                && known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
        });
        match same {
            Some(known) => {
                for verb in &rule.verbs {
                    if !has(&known.verbs, verb) {
                        known.verbs.push(verb.clone());
                    }
                }
            }
            None => all.push(rule.clone()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(value: &Value) -> Rule {
        serde_json::from_value(value.clone()).expect("a rule")
    }

    fn ask(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let of = |groups: &[&str], resources: &[&str], names: &[&str]| {
            rule(&json!({"verbs": ["get", "list"], "apiGroups": groups, "resources": resources,
                         "resourceNames": names}))
        };
        let cases = [
            (of(&[""], &["pods"], &[]), ask("get", "", "pods", "a"), true),
            (of(&[""], &["pods"], &[]), ask("delete", "", "pods", "a"), false),
            (of(&[""], &["pods"], &[]), ask("get", "apps", "pods", "a"), false),
            (of(&[""], &["pods"], &[]), ask("get", "", "pods/log", "a"), false),
            (of(&[""], &["pods/log"], &[]), ask("get", "", "pods/log", "a"), true),
            (of(&[""], &["pods/log"], &[]), ask("get", "", "pods", "a"), false),
            (of(&["apps"], &["*/scale"], &[]), ask("get", "apps", "deployments/scale", "a"), true),
            (of(&["apps"], &["*/scale"], &[]), ask("get", "apps", "deployments", "a"), false),
            (of(&["*"], &["*"], &[]), ask("get", "x.y", "things/status", "a"), true),
            (of(&[""], &["secrets"], &["a"]), ask("get", "", "secrets", "a"), true),
            (of(&[""], &["secrets"], &["a"]), ask("get", "", "secrets", "b"), false),
            (of(&[""], &["secrets"], &["a"]), ask("list", "", "secrets", ""), false),
            // As in Kubernetes, a star stands for a resource, never for its subresources.
            (of(&[""], &["pods/*"], &[]), ask("get", "", "pods/log", "a"), false),
        ];
        for (rule, asked, expected) in cases {
            assert_eq!(rule.allows(&asked), expected, "{} {asked:?}", rule.compact());
        }
    }

    #[test]
    fn a_path_is_named_whole_or_by_its_beginning() {
        let at = |path: &str| Attributes {
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        let rule = rule(&json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/apis/*"]}));
        for (path, expected) in [
            ("/api", true),
            ("/api/v1", false),
            ("/apis/apps", true),
            ("/apis", false),
            ("/metrics", false),
        ] {
            assert_eq!(rule.allows(&at(path)), expected, "{path}");
        }
        assert!(Rule::everything()[1].allows(&at("/metrics")));
        assert!(!Rule::everything()[0].allows(&at("/metrics")));
    }

    #[test]
    fn what_is_missing_is_told_in_the_words_of_kubernetes() {
        let held = [rule(&json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted = [
            rule(&json!({"verbs": ["get", "list", "watch"], "apiGroups": [""],
                         "resources": ["pods", "secrets"]})),
            rule(&json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
        ];
        let told: Vec<String> =
            compacted(&missing(&held, &wanted)).iter().map(Rule::compact).collect();
        assert_eq!(
            told,
            [
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
            ]
        );
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one_and_not_the_reverse() {
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let cases = [
            (json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}), pods.clone(), true),
            (
                pods.clone(),
                json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}),
                false,
            ),
            (
                pods.clone(),
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
                       "resourceNames": ["a"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
                       "resourceNames": ["a"]}),
                pods.clone(),
                false,
            ),
            (
                json!({"verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/scale"]}),
                json!({"verbs": ["update"], "apiGroups": ["apps"],
                       "resources": ["deployments/scale"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/apis/*"]}),
                json!({"verbs": ["get"], "nonResourceURLs": ["/apis/apps/*"]}),
                true,
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/apis/apps"]}),
                json!({"verbs": ["get"], "nonResourceURLs": ["/apis/*"]}),
                false,
            ),
        ];
        for (held, wanted, expected) in cases {
            let lacking = missing(&[rule(&held)], &[rule(&wanted)]);
            assert_eq!(lacking.is_empty(), expected, "{held} {wanted}");
        }
    }
}
