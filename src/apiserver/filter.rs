//! Label and field selectors of a request, applied to keys and attribute blocks: nothing is
//! decoded to find out whether an object matches.
//!
//! Grammar as Kubernetes' `labels.Parse` and `fields.ParseSelector`.

use super::attrs::Attrs;
use super::catalog::Resource;
use crate::api::status::ApiError;

/// What an object must be to be told.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelRule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Above(String, i64),
    Below(String, i64),
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

/// A requirement of a field selector: path, whether it must be equal, value.
pub type FieldRequirement = (String, bool, String);

impl Filter {
    /// From the query parameters `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for a selector that does not parse or names a field that cannot be selected by.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = parse_labels(labels).map_err(ApiError::bad_request)?;
        let mut rules = Vec::new();
        for (path, equal, value) in parse_fields(fields).map_err(ApiError::bad_request)? {
            let place = match path.as_str() {
                "metadata.name" => Place::Name,
                "metadata.namespace" if resource.namespaced() => Place::Namespace,
                other => match resource.field_index(other) {
                    Some(index) => Place::Column(index),
                    None => {
                        return Err(ApiError::bad_request(format!(
                            "field label not supported: {other}"
                        )));
                    }
                },
            };
            rules.push(FieldRule { place, equal, value });
        }
        Ok(Self { labels, fields: rules })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The value that the field at `index` of the column must have, where one is asked for.
    pub fn wanted_field(&self, index: usize) -> Option<&str> {
        self.fields
            .iter()
            .find(|rule| rule.equal && rule.place == Place::Column(index))
            .map(|rule| rule.value.as_str())
    }

    /// The name that the object must have, where one is asked for.
    pub fn wanted_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|rule| rule.equal && rule.place == Place::Name)
            .map(|rule| rule.value.as_str())
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
        fields && self.labels.iter().all(|rule| rule.matches(attrs))
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

impl LabelRule {
    fn matches(&self, attrs: Attrs<'_>) -> bool {
        let number = |key: &str| attrs.label(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => {
                attrs.label(key).is_some_and(|v| values.iter().any(|w| w == v))
            }
            Self::NotIn(key, values) => {
                attrs.label(key).is_none_or(|v| values.iter().all(|w| w != v))
            }
            Self::Exists(key) => attrs.label(key).is_some(),
            Self::Missing(key) => attrs.label(key).is_none(),
            Self::Above(key, bound) => number(key).is_some_and(|n| n > *bound),
            Self::Below(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

/// Parse a field selector into its requirements.
///
/// # Errors
/// What cannot be understood, in Kubernetes' words.
pub fn parse_fields(selector: &str) -> Result<Vec<FieldRequirement>, String> {
    let mut found = Vec::new();
    for part in split_unescaped(selector, ',') {
        if part.is_empty() {
            continue;
        }
        let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
            (path, false, value)
        } else if let Some((path, value)) = part.split_once("==") {
            (path, true, value)
        } else if let Some((path, value)) = part.split_once('=') {
            (path, true, value)
        } else {
            return Err(format!("invalid selector: '{selector}'; can't understand '{part}'"));
        };
        found.push((path.trim().to_owned(), equal, unescape(value)?));
    }
    Ok(found)
}

fn split_unescaped(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == separator && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        parts.last_mut().expect("there is always a last part").push(c);
    }
    parts
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let what = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid escape sequence \\{what} in field selector"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped {c} in {value:?}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn parse_labels(selector: &str) -> Result<Vec<LabelRule>, String> {
    let fail = |why: &str| format!("unable to parse requirement: {why}");
    let mut rules = Vec::new();
    let mut rest = selector.trim();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('!') {
            let (key, after) = take_word(after.trim_start());
            check_key(key).map_err(|e| fail(&e))?;
            rules.push(LabelRule::Missing(key.to_owned()));
            rest = after;
        } else {
            let (key, after) = take_word(rest);
            check_key(key).map_err(|e| fail(&e))?;
            let (rule, after) = parse_operator(key, after.trim_start()).map_err(|e| fail(&e))?;
            rules.push(rule);
            rest = after;
        }
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) if after.trim().is_empty() => {
                return Err(fail("found '', expected: identifier after ','"));
            }
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return Err(fail(&format!("found '{rest}', expected: ',' or 'end of string'"))),
        }
    }
    Ok(rules)
}

fn take_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || ",=!<>()".contains(c));
    text.split_at(end.unwrap_or(text.len()))
}

fn parse_operator<'a>(key: &str, text: &'a str) -> Result<(LabelRule, &'a str), String> {
    let one = |after: &'a str| {
        let (value, after) = take_word(after.trim_start());
        check_value(value).map(|()| (value.to_owned(), after))
    };
    let key = key.to_owned();
    for (sign, equal) in [("==", true), ("!=", false), ("=", true)] {
        if let Some(after) = text.strip_prefix(sign) {
            let (value, after) = one(after)?;
            let rule = if equal {
                LabelRule::In(key, vec![value])
            } else {
                LabelRule::NotIn(key, vec![value])
            };
            return Ok((rule, after));
        }
    }
    for (sign, above) in [('>', true), ('<', false)] {
        if let Some(after) = text.strip_prefix(sign) {
            let (value, after) = one(after)?;
            let bound = value.parse().map_err(|_| {
                format!(
                    "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, \
                         the value must be an integer"
                )
            })?;
            let rule =
                if above { LabelRule::Above(key, bound) } else { LabelRule::Below(key, bound) };
            return Ok((rule, after));
        }
    }
    let (word, after) = take_word(text);
    match word {
        "in" | "notin" => {
            let inner = after.trim_start().strip_prefix('(');
            let (inner, after) = inner
                .and_then(|inner| inner.split_once(')'))
                .ok_or_else(|| format!("found '{after}', expected: '('"))?;
            let values: Vec<String> = inner.split(',').map(|v| v.trim().to_owned()).collect();
            for value in &values {
                check_value(value)?;
            }
            let rule = if word == "in" {
                LabelRule::In(key, values)
            } else {
                LabelRule::NotIn(key, values)
            };
            Ok((rule, after))
        }
        "" => Ok((LabelRule::Exists(key), text)),
        other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
    }
}

fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_holds = prefix.is_none_or(|p| {
        !p.is_empty()
            && p.len() <= 253
            && p.split('.').all(|l| is_name(l) && l.chars().all(|c| !c.is_ascii_uppercase()))
    });
    if is_name(name) && prefix_holds {
        return Ok(());
    }
    Err(format!(
        "<nil>: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', \
         '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
         'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "<nil>: Invalid value: {value:?}: a valid label must be an empty string or consist of \
         alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    ))
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
            ("n>4,n<6", true),
            ("n>5", false),
            ("app=", false),
        ] {
            assert_eq!(matches(selector, ""), Ok(expected), "{selector}");
        }
        for broken in ["app=web,", "=x", "app in web", "app web", "a b=c", "n>x", "app=-x"] {
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
        let refused = matches("", "foo");
        assert_eq!(refused, Err("invalid selector: 'foo'; can't understand 'foo'".to_owned()));
    }
}
