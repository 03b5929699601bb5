//! Label and field selectors, as text (query parameters) and as `metav1.LabelSelector` objects.

use serde_json::Value;

use super::kinds::Kind;
use super::meta;
use super::names;
use super::status::ApiError;

/// At most so many requirements in one selector.
const REQUIREMENTS_MAX: usize = 1000;

/// What a requirement asks of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label with that value (or its absence) fits.
    pub fn fits(&self, value: Option<&str>) -> bool {
        let among = || value.is_some_and(|v| self.values.iter().any(|w| w == v));
        let number = |text: &str| text.parse::<i64>().ok();
        match self.operator {
            Operator::In => among(),
            Operator::NotIn => !among(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| number(v));
                match (value.and_then(number), bound) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => {
                        value > bound
                    }
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

/// A conjunction of requirements; none: everything fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// The selector that nothing fits (a null selector object).
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// The selector of these requirements.
    pub fn of(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }

    /// Parse `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// 400.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut tokens = Tokens { rest: text };
        let mut requirements = Vec::new();
        tokens.skip_space();
        while !tokens.rest.is_empty() {
            let one = tokens.requirement().map_err(|why| {
                ApiError::bad_request(format!("unable to parse requirement: {why}"))
            })?;
            requirements.push(one);
            tokens.skip_space();
            if tokens.rest.is_empty() {
                break;
            }
            if !tokens.take(',') || requirements.len() >= REQUIREMENTS_MAX {
                let found = tokens.word();
                return Err(ApiError::bad_request(format!(
                    "found '{found}', expected: ',' or 'end of string'"
                )));
            }
            tokens.skip_space();
            if tokens.rest.is_empty() {
                return Err(ApiError::bad_request("found '', expected: identifier after ','"));
            }
        }
        Ok(Self { requirements, nothing: false })
    }

    /// From a `metav1.LabelSelector`, or from a plain map of labels (`spec.selector` of a
    /// Service). Null fits nothing, `{}` fits everything.
    ///
    /// # Errors
    /// An operator that is none.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let Some(map) = selector.as_object() else { return Ok(Self::nothing()) };
        let plain = !map.is_empty() && map.values().all(Value::is_string);
        let labels = if plain { Some(map) } else { selector["matchLabels"].as_object() };
        let mut requirements: Vec<Requirement> = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        for expression in meta::list(&selector["matchExpressions"]) {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = meta::list(&expression["values"]).iter();
            requirements.push(Requirement {
                key: expression["key"].as_str().unwrap_or_default().to_owned(),
                operator,
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Whether labels fit; `get` answers the value of a label.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.fits(get(&r.key)))
    }

    /// Whether a map of labels (as in `metadata.labels`) fits.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches(|key| labels[key].as_str())
    }

    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Up to the next symbol or space.
    fn word(&mut self) -> &'a str {
        self.skip_space();
        let stop = |c: char| c.is_whitespace() || "=!(),<>".contains(c);
        let end = self.rest.find(stop).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn key(&mut self) -> Result<String, String> {
        let key = self.word();
        match names::qualified_name(key).first() {
            None => Ok(key.to_owned()),
            Some(why) => Err(format!("<nil>: Invalid value: {key:?}: {why}")),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.take('!') {
            let key = self.key()?;
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let key = self.key()?;
        self.skip_space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        let (operator, values) = if self.take('=') {
            self.take('=');
            (Operator::In, vec![self.word().to_owned()])
        } else if self.take('!') {
            if !self.take('=') {
                return Err("found '!', expected: '!='".into());
            }
            (Operator::NotIn, vec![self.word().to_owned()])
        } else if self.take('>') {
            (Operator::GreaterThan, vec![self.word().to_owned()])
        } else if self.take('<') {
            (Operator::LessThan, vec![self.word().to_owned()])
        } else {
            let operator = match self.word() {
                "in" => Operator::In,
                "notin" => Operator::NotIn,
                found => {
                    return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
                }
            };
            (operator, self.values()?)
        };
        for (at, value) in values.iter().enumerate() {
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
                value.parse::<i64>().map_err(|_| {
                    format!("values[{at}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
            } else if let Some(why) = names::label_value(value).first() {
                return Err(format!("values[{at}][{key}]: Invalid value: {value:?}: {why}"));
            }
        }
        Ok(Requirement { key, operator, values })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.take('(') {
            return Err(format!("found '{}' expected: '('", self.word()));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if self.take(')') {
                return Ok(values);
            }
            if !self.take(',') || values.len() > REQUIREMENTS_MAX {
                return Err(format!("found '{}', expected: ',', or ')'", self.word()));
            }
        }
    }
}

/// One requirement on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// As `spec.nodeName`.
    pub field: String,
    /// Whether the value must be equal (else it must differ).
    pub equal: bool,
    pub value: String,
}

/// A conjunction of requirements on fields; none: everything fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parse `status.phase=Running,spec.nodeName!=a`. `\\`, `\,` and `\=` stand for themselves.
    ///
    /// # Errors
    /// 400 for what is no selector, and for a field that `kind` does not select by:
    /// `field label not supported: X`.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, ApiError> {
        let selector = Self::parse_any(text)?;
        for FieldRequirement { field, .. } in &selector.requirements {
            if kind.selectable_value(&Value::Null, field).is_none() {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(selector)
    }

    /// Parse a selector where the kind is not known (yet).
    ///
    /// # Errors
    /// 400 for what is no selector.
    pub fn parse_any(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for term in split_terms(text).into_iter().filter(|term| !term.is_empty()) {
            let bad = || {
                ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                ))
            };
            let (field, equal, value) = split_term(term).ok_or_else(bad)?;
            let value = unescape(value).ok_or_else(bad)?;
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value });
        }
        if requirements.len() > REQUIREMENTS_MAX {
            return Err(ApiError::bad_request("too many requirements in the field selector"));
        }
        Ok(Self { requirements })
    }

    /// Whether fields fit; `get` answers the value of a field.
    pub fn matches<S: AsRef<str>>(&self, get: impl Fn(&str) -> S) -> bool {
        self.requirements.iter().all(|r| (get(&r.field).as_ref() == r.value) == r.equal)
    }

    /// Whether an object of `kind` fits.
    pub fn matches_object(&self, kind: &Kind, object: &Value) -> bool {
        self.matches(|field| kind.selectable_value(object, field).unwrap_or_default())
    }

    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value that a field must have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        for (symbol, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(symbol) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::kinds::KindTable;

    #[test]
    fn label_selectors_select() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=b", true),
            ("app = db", false),
            ("tier in (a, b)", true),
            ("tier notin (a,b)", false),
            ("missing notin (a)", true),
            ("missing!=a", true),
            ("app", true),
            ("!app", false),
            ("! missing", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app in (web),!x , tier", true),
            ("empty=", false),
        ];
        for (text, fits) in table {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches_labels(&labels), fits, "{text}");
        }
        for text in
            ["a in", "a in b", "a in (b", "=b", "a=b c", "a,,b", "a!b", "a=b,", "a>x", "a b/c"]
        {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn selector_objects_select() {
        let labels = json!({"app": "web"});
        let fits = |s: Value| LabelSelector::from_object(&s).map(|s| s.matches_labels(&labels));
        assert_eq!(fits(json!({"matchLabels": {"app": "web"}})), Ok(true));
        let not_in = json!({"key": "app", "operator": "NotIn", "values": ["web"]});
        assert_eq!(fits(json!({"matchExpressions": [not_in]})), Ok(false));
        assert_eq!(fits(json!({"app": "web"})), Ok(true));
        assert_eq!(fits(json!({})), Ok(true));
        assert_eq!(fits(Value::Null), Ok(false));
        assert!(fits(json!({"matchExpressions": [{"key": "a", "operator": "is"}]})).is_err());
    }

    #[test]
    fn field_selectors_select_by_the_fields_of_the_kind() {
        let table = KindTable::builtin();
        let pods = table.of("v1", "Pod").expect("pods");
        let pod = json!({"metadata": {"name": "a,b", "namespace": "x"}, "spec": {"nodeName": "n"}});
        let fits = |text: &str| {
            FieldSelector::parse(pods, text)
                .map(|s| s.matches_object(pods, &pod))
                .map_err(|e| e.message)
        };
        assert_eq!(fits("spec.nodeName=n,metadata.namespace==x"), Ok(true));
        assert_eq!(fits("spec.nodeName!=n"), Ok(false));
        assert_eq!(fits("status.phase="), Ok(true));
        assert_eq!(fits("spec.hostNetwork=false"), Ok(true));
        assert_eq!(fits(r"metadata.name=a\,b"), Ok(true));
        assert_eq!(fits("spec.foo=a"), Err("field label not supported: spec.foo".into()));
        assert!(fits("a").is_err() && fits(r"metadata.name=\x").is_err());
        let nodes = table.of("v1", "Node").expect("nodes");
        assert!(FieldSelector::parse(nodes, "metadata.namespace=a").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "[a-z=!(),<> \\\\./]{0,30}|.{0,30}") {
            let _ = LabelSelector::parse(&text);
            let pod = KindTable::builtin().of("v1", "Pod").cloned().expect("pods");
            let _ = FieldSelector::parse(&pod, &text);
        }
    }
}
