//! The policy: the first rule that fits a request says how much of it is written.

use serde_json::Value;

use crate::api::meta::list;
use crate::apiserver::auth::{Attributes, UserInfo};

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "None" => Some(Self::None),
            "Metadata" => Some(Self::Metadata),
            "Request" => Some(Self::Request),
            "RequestResponse" => Some(Self::RequestResponse),
            _ => None,
        }
    }

    /// As events say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    RequestReceived,
    /// The answer has begun; of watches, and of streams.
    ResponseStarted,
    ResponseComplete,
}

impl Stage {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "RequestReceived" => Some(Self::RequestReceived),
            "ResponseStarted" => Some(Self::ResponseStarted),
            "ResponseComplete" => Some(Self::ResponseComplete),
            _ => None,
        }
    }

    /// As events say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
        }
    }
}

/// What is wrong in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct PolicyError {
    place: String,
    why: String,
}

/// A policy.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    omitted: Vec<Stage>,
}

#[derive(Debug)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    /// Group, resources, names.
    resources: Vec<(String, Vec<String>, Vec<String>)>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omitted: Vec<Stage>,
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn stages(value: &Value, place: &str) -> Result<Vec<Stage>, PolicyError> {
    texts(value)
        .iter()
        .filter(|word| *word != "Panic")
        .map(|word| {
            Stage::parse(word).ok_or_else(|| PolicyError {
                place: format!("{place}omitStages"),
                why: format!("{word:?} is no stage"),
            })
        })
        .collect()
}

impl Policy {
    /// From the file's content.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(source: &Value) -> Result<Self, PolicyError> {
        if source["kind"] != "Policy" {
            let why = format!("must be Policy, not {}", source["kind"]);
            return Err(PolicyError { place: "kind".into(), why });
        }
        let rules = list(&source["rules"]).iter().enumerate();
        Ok(Self {
            rules: rules.map(|(index, one)| rule(index, one)).collect::<Result<_, _>>()?,
            omitted: stages(&source["omitStages"], "")?,
        })
    }

    /// How much of a request is written, and which stages are not.
    pub(super) fn judge(&self, user: &UserInfo, at: &Attributes) -> (Level, Vec<Stage>) {
        match self.rules.iter().find(|rule| rule.fits(user, at)) {
            None => (Level::None, Vec::new()),
            Some(rule) => {
                let omitted = self.omitted.iter().chain(&rule.omitted).copied().collect();
                (rule.level, omitted)
            }
        }
    }
}

fn rule(index: usize, source: &Value) -> Result<Rule, PolicyError> {
    let word = source["level"].as_str().unwrap_or_default();
    let level = Level::parse(word).ok_or_else(|| PolicyError {
        place: format!("rules[{index}].level"),
        why: format!("{word:?} is none of None, Metadata, Request, RequestResponse"),
    })?;
    let resources = list(&source["resources"]).iter().map(|one| {
        let group = one["group"].as_str().unwrap_or_default().to_owned();
        (group, texts(&one["resources"]), texts(&one["resourceNames"]))
    });
    Ok(Rule {
        level,
        users: texts(&source["users"]),
        groups: texts(&source["userGroups"]),
        verbs: texts(&source["verbs"]),
        resources: resources.collect(),
        namespaces: texts(&source["namespaces"]),
        paths: texts(&source["nonResourceURLs"]),
        omitted: stages(&source["omitStages"], &format!("rules[{index}]."))?,
    })
}

impl Rule {
    fn fits(&self, user: &UserInfo, at: &Attributes) -> bool {
        let any = |all: &[String], word: &str| all.is_empty() || all.iter().any(|one| one == word);
        if !any(&self.users, &user.name) || !any(&self.verbs, &at.verb) {
            return false;
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|g| user.groups.contains(g)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return !at.resource.is_empty()
                && any(&self.namespaces, &at.namespace)
                && (self.resources.is_empty() || self.fits_resource(at));
        }
        if !self.paths.is_empty() {
            return at.resource.is_empty()
                && self.paths.iter().any(|path| match path.strip_suffix('*') {
                    Some(prefix) => at.path.starts_with(prefix),
                    None => *path == at.path,
                });
        }
        true
    }

    fn fits_resource(&self, at: &Attributes) -> bool {
        let full = match at.subresource.as_str() {
            "" => at.resource.clone(),
            subresource => format!("{}/{subresource}", at.resource),
        };
        let named = |wanted: &str| {
            wanted == "*"
                || wanted == full
                || wanted
                    .strip_suffix("/*")
                    .is_some_and(|of| of == at.resource && !at.subresource.is_empty())
                || wanted.strip_prefix("*/").is_some_and(|sub| sub == at.subresource)
        };
        self.resources.iter().any(|(group, resources, names)| {
            *group == at.group
                && (resources.is_empty() || resources.iter().any(|one| named(one)))
                && (names.is_empty() || names.contains(&at.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_rule_that_fits_says_how_much() {
        let policy = Policy::parse(&json!({"kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "users": ["system:kube-proxy"], "verbs": ["watch"]},
                {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
                {"level": "None", "nonResourceURLs": ["/healthz*"]},
                {"level": "RequestResponse", "resources": [{"group": "apps"}]},
                {"level": "Request", "resources": [{"group": "", "resources": ["pods/*"]}]},
                {"level": "Metadata", "omitStages": ["ResponseStarted"]}]}))
        .expect("a sound policy");
        let ask = |user: &str, verb: &str, group: &str, resource: &str, sub: &str, path: &str| {
            let user = UserInfo { name: user.into(), ..UserInfo::default() };
            let at = Attributes {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: sub.into(),
                path: path.into(),
                ..Attributes::default()
            };
            policy.judge(&user, &at)
        };
        assert_eq!(ask("system:kube-proxy", "watch", "", "services", "", "").0, Level::None);
        assert_eq!(ask("u", "get", "", "secrets", "", "").0, Level::Metadata);
        assert_eq!(ask("u", "get", "", "", "", "/healthz/ping").0, Level::None);
        assert_eq!(ask("u", "create", "apps", "deployments", "", "").0, Level::RequestResponse);
        assert_eq!(ask("u", "create", "", "pods", "exec", "").0, Level::Request);
        let (level, omitted) = ask("u", "get", "", "pods", "", "");
        assert_eq!(level, Level::Metadata);
        assert_eq!(omitted, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let wrong = Policy::parse(&json!({"kind": "Policy", "rules": [{"level": "All"}]}));
        let told = wrong.expect_err("no such level").to_string();
        assert!(told.starts_with("rules[0].level: \"All\""), "{told}");
        assert!(Policy::parse(&json!({})).is_err());
    }
}
