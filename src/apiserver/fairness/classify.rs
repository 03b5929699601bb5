//! Which flow a request belongs to.

use serde_json::Value;

use crate::api::Object;
use crate::api::meta::{self, list};
use crate::apiserver::auth::{Attributes, UserInfo};

/// A schema, read once.
struct Schema {
    name: String,
    uid: String,
    precedence: i64,
    level: String,
    by_user: bool,
    by_namespace: bool,
    rules: Vec<Rule>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

/// The schemas, in the order in which they are tried.
pub(super) struct Schemas(Vec<Schema>);

/// Where a request belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flow<'a> {
    pub schema: &'a str,
    pub schema_uid: &'a str,
    pub level: &'a str,
    /// What tells flows of one schema apart.
    pub distinguisher: &'a str,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

fn among(all: &[String], word: &str) -> bool {
    all.iter().any(|one| one == "*" || one == word)
}

impl Schemas {
    pub(super) fn of(objects: &[Object]) -> Self {
        let mut all: Vec<Schema> = objects.iter().map(schema).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self(all)
    }

    /// The first schema that fits; `None`: none does.
    pub(super) fn classify<'a>(
        &'a self,
        user: &'a UserInfo,
        attributes: &'a Attributes,
    ) -> Option<Flow<'a>> {
        let schema = self.0.iter().find(|schema| {
            schema.rules.iter().any(|rule| rule.is_about(user) && rule.fits(attributes))
        })?;
        let distinguisher = match (schema.by_user, schema.by_namespace) {
            (true, _) => user.name.as_str(),
            (_, true) => attributes.namespace.as_str(),
            _ => "",
        };
        Some(Flow {
            schema: &schema.name,
            schema_uid: &schema.uid,
            level: &schema.level,
            distinguisher,
        })
    }
}

fn schema(object: &Object) -> Schema {
    let spec = &object["spec"];
    let by = &spec["distinguisherMethod"]["type"];
    Schema {
        name: meta::name(object).to_owned(),
        uid: meta::uid(object).to_owned(),
        precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
        level: text(&spec["priorityLevelConfiguration"]["name"]),
        by_user: by == "ByUser",
        by_namespace: by == "ByNamespace",
        rules: list(&spec["rules"]).iter().map(rule).collect(),
    }
}

fn rule(source: &Value) -> Rule {
    let subject = |s: &Value| match s["kind"].as_str().unwrap_or_default() {
        "User" => Some(Subject::User(text(&s["user"]["name"]))),
        "Group" => Some(Subject::Group(text(&s["group"]["name"]))),
        "ServiceAccount" => {
            let account = &s["serviceAccount"];
            Some(Subject::Account(text(&account["namespace"]), text(&account["name"])))
        }
        _ => None,
    };
    Rule {
        subjects: list(&source["subjects"]).iter().filter_map(subject).collect(),
        resources: list(&source["resourceRules"])
            .iter()
            .map(|rule| ResourceRule {
                verbs: texts(&rule["verbs"]),
                groups: texts(&rule["apiGroups"]),
                resources: texts(&rule["resources"]),
                cluster: rule["clusterScope"] == true,
                namespaces: texts(&rule["namespaces"]),
            })
            .collect(),
        paths: list(&source["nonResourceRules"])
            .iter()
            .map(|rule| PathRule {
                verbs: texts(&rule["verbs"]),
                paths: texts(&rule["nonResourceURLs"]),
            })
            .collect(),
    }
}

impl Rule {
    fn is_about(&self, user: &UserInfo) -> bool {
        self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.groups.contains(name),
            Subject::Account(namespace, name) => {
                let rest = user.name.strip_prefix("system:serviceaccount:");
                rest.and_then(|rest| rest.split_once(':')).is_some_and(|(in_namespace, account)| {
                    namespace == in_namespace && (name == "*" || name == account)
                })
            }
        })
    }

    fn fits(&self, at: &Attributes) -> bool {
        if at.resource.is_empty() {
            return self.paths.iter().any(|rule| {
                among(&rule.verbs, &at.verb)
                    && rule.paths.iter().any(|path| match path.strip_suffix('*') {
                        Some(prefix) => at.path.starts_with(prefix),
                        None => *path == at.path,
                    })
            });
        }
        let resource = match at.subresource.as_str() {
            "" => at.resource.clone(),
            subresource => format!("{}/{subresource}", at.resource),
        };
        self.resources.iter().any(|rule| {
            let place = match at.namespace.as_str() {
                "" => rule.cluster,
                namespace => among(&rule.namespaces, namespace),
            };
            place
                && among(&rule.verbs, &at.verb)
                && among(&rule.groups, &at.group)
                && among(&rule.resources, &resource)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flow(name: &str, precedence: i64, subject: Value) -> Value {
        json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {
            "matchingPrecedence": precedence, "distinguisherMethod": {"type": "ByUser"},
            "priorityLevelConfiguration": {"name": "level"},
            "rules": [{"subjects": [subject],
                "resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"],
                    "clusterScope": true, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/livez*"]}]}]}})
    }

    #[test]
    fn the_schema_of_the_lowest_precedence_that_fits_is_taken() {
        let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
        let account = json!({"kind": "ServiceAccount",
            "serviceAccount": {"namespace": "a", "name": "*"}});
        let schemas = Schemas::of(&[
            flow("rest", 10_000, group("*")),
            flow("nodes", 500, group("system:nodes")),
            flow("accounts", 400, account),
        ]);
        let ask = |name: &str, groups: &[&str], resource: &str, path: &str, namespace: &str| {
            let user = UserInfo {
                name: name.into(),
                groups: groups.iter().map(|&g| g.to_owned()).collect(),
                ..UserInfo::default()
            };
            let at = Attributes {
                verb: "get".into(),
                resource: resource.into(),
                path: path.into(),
                namespace: namespace.into(),
                ..Attributes::default()
            };
            schemas.classify(&user, &at).map(|f| format!("{} {}", f.schema, f.distinguisher))
        };
        assert_eq!(ask("u", &["system:nodes"], "pods", "", "a").as_deref(), Some("nodes u"));
        assert_eq!(ask("u", &["x"], "pods", "", "").as_deref(), Some("rest u"));
        let account = "system:serviceaccount:a:b";
        assert_eq!(ask(account, &[], "pods", "", "z"), Some(format!("accounts {account}")));
        assert_eq!(ask("u", &[], "services", "", "a"), None);
        assert_eq!(ask("u", &["g"], "", "/livez/ping", "").as_deref(), Some("rest u"));
    }
}
