//! The rules of a schema, in the words of Kubernetes (go-openapi's, as its apiserver passes them
//! on).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::Structural;
use crate::api::field::Path;
use crate::api::schema::ListType;
use crate::api::status::FieldError;

/// At most so many broken rules are told.
const ERRORS_MAX: usize = 100;

impl Structural {
    /// The rules, for a whole object. Its type and metadata are the server's own matter.
    pub(super) fn validate_object(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.members(object, &Path::new(""), true, &mut errors);
        self.values(object, &Path::new(""), &mut errors);
        errors.truncate(ERRORS_MAX);
        errors
    }

    fn validate(&self, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
        if errors.len() >= ERRORS_MAX {
            return;
        }
        if value.is_null() && self.nullable {
            return;
        }
        if !self.has_type(value) {
            let found = type_of(value);
            let wanted = if self.int_or_string { "integer,string" } else { self.kind.as_str() };
            let why = format!("{path} in body must be of type {wanted}: {found:?}");
            errors.push(path.invalid(found, why));
            return;
        }
        self.members(value, path, false, errors);
        self.values(value, path, errors);
    }

    fn has_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || value.is_i64() || value.is_u64();
        }
        match self.kind.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
            }
            _ => true,
        }
    }

    /// What stands below: properties and elements.
    fn members(&self, value: &Value, path: &Path, root: bool, errors: &mut Vec<FieldError>) {
        match value {
            Value::Object(map) => {
                for name in self.checks.required.iter().filter(|name| !map.contains_key(*name)) {
                    errors.push(path.child(name).required(""));
                }
                if self.embedded && !root {
                    for name in ["apiVersion", "kind"] {
                        if map.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
                            errors.push(path.child(name).required("must not be empty"));
                        }
                    }
                }
                for (name, inner) in map {
                    let own = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                    if own && (root || self.embedded) {
                        // What a schema says of a name there is a rule like any other.
                        if let (true, Some(schema)) = (root, self.properties.get(name)) {
                            schema.members(inner, &path.child(name), true, errors);
                        }
                        continue;
                    }
                    if let Some(schema) = self.member(name) {
                        schema.validate(inner, &path.child(name), errors);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter().enumerate() {
                        schema.validate(item, &path.index(index), errors);
                    }
                }
                self.unique(items, path, errors);
            }
            _ => {}
        }
        // Inside a union stand the same rules for the same value.
        self.unions(value, path, root, errors);
    }

    /// Elements of sets and maps come once.
    fn unique(&self, items: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
        let mut seen = HashSet::new();
        match self.list_type {
            Some(ListType::Set) => {
                for (index, item) in items.iter().enumerate() {
                    if !seen.insert(item.to_string()) {
                        errors.push(path.index(index).duplicate(item.clone()));
                    }
                }
            }
            Some(ListType::Map) => {
                for (index, item) in items.iter().enumerate() {
                    let keys: Map<String, Value> = self
                        .map_keys
                        .iter()
                        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                        .collect();
                    let keys = Value::Object(keys);
                    if !seen.insert(keys.to_string()) {
                        errors.push(path.index(index).duplicate(keys));
                    }
                }
            }
            _ => {}
        }
        if self.checks.unique {
            let all: HashSet<String> = items.iter().map(ToString::to_string).collect();
            if all.len() < items.len() {
                let why = format!("{path} in body shouldn't contain duplicates");
                errors.push(path.invalid(Value::from(items.to_vec()), why));
            }
        }
    }

    fn unions(&self, value: &Value, path: &Path, root: bool, errors: &mut Vec<FieldError>) {
        let broken = |schema: &Self| {
            let mut found = Vec::new();
            if root {
                schema.members(value, path, true, &mut found);
                schema.values(value, path, &mut found);
            } else {
                schema.validate(value, path, &mut found);
            }
            found
        };
        let checks = &self.checks;
        let told = |why: String| path.invalid("", format!("{:?} {why}", path.to_string()));
        if !checks.any_of.is_empty() {
            let mut all: Vec<Vec<FieldError>> = checks.any_of.iter().map(&broken).collect();
            if !all.iter().any(Vec::is_empty) {
                errors.push(told("must validate at least one schema (anyOf)".into()));
                all.sort_by_key(Vec::len);
                errors.extend(all.into_iter().next().into_iter().flatten());
            }
        }
        if !checks.one_of.is_empty() {
            let all: Vec<Vec<FieldError>> = checks.one_of.iter().map(&broken).collect();
            let valid = all.iter().filter(|found| found.is_empty()).count();
            let one = "must validate one and only one schema (oneOf)";
            match valid {
                1 => {}
                0 => {
                    errors.push(told(format!("{one}. Found none valid")));
                    errors.extend(all.into_iter().min_by_key(Vec::len).into_iter().flatten());
                }
                n => errors.push(told(format!("{one}. Found {n} valid alternatives"))),
            }
        }
        let all: Vec<FieldError> = checks.all_of.iter().flat_map(&broken).collect();
        if !all.is_empty() {
            errors.push(told("must validate all the schemas (allOf)".into()));
            errors.extend(all);
        }
        if checks.not.as_deref().is_some_and(|not| broken(not).is_empty()) {
            errors.push(told("must not validate the schema (not)".into()));
        }
    }

    /// The rules about the value itself.
    fn values(&self, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
        let checks = &self.checks;
        let mut wrong = |why: String| {
            errors.push(path.invalid(value.clone(), format!("{path} in body {why}")));
        };
        match value {
            Value::String(text) => {
                let length = text.chars().count() as u64;
                if let Some(min) = checks.length.0.filter(|min| length < *min) {
                    wrong(format!("should be at least {min} chars long"));
                }
                if let Some((source, _)) =
                    checks.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text))
                {
                    wrong(format!("should match '{source}'"));
                }
                if !fits_format(&checks.format, text) {
                    wrong(format!("must be of type {}: {text:?}", checks.format));
                }
                if let Some(max) = checks.length.1.filter(|max| length > *max) {
                    errors.push(path.too_long(usize::try_from(max).unwrap_or(usize::MAX)));
                }
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(0.0);
                self.numbers(number, &mut wrong);
            }
            Value::Array(items) => {
                let count = items.len() as u64;
                if let Some(min) = checks.items.0.filter(|min| count < *min) {
                    wrong(format!("should have at least {min} items"));
                }
                if let Some(max) = checks.items.1.filter(|max| count > *max) {
                    let max = usize::try_from(max).unwrap_or(usize::MAX);
                    errors.push(path.too_many(items.len(), max));
                }
            }
            Value::Object(map) => {
                let count = map.len() as u64;
                if let Some(min) = checks.properties.0.filter(|min| count < *min) {
                    wrong(format!("should have at least {min} properties"));
                }
                if let Some(max) = checks.properties.1.filter(|max| count > *max) {
                    let max = usize::try_from(max).unwrap_or(usize::MAX);
                    errors.push(path.too_many(map.len(), max));
                }
            }
            _ => {}
        }
        if !checks.choices.is_empty() && !checks.choices.contains(value) {
            let choices: Vec<String> = checks
                .choices
                .iter()
                .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
                .collect();
            let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            errors.push(path.not_supported(&shown, &choices));
        }
    }

    fn numbers(&self, number: f64, wrong: &mut impl FnMut(String)) {
        let checks = &self.checks;
        if let Some(min) = checks.minimum {
            match checks.above_minimum {
                true if number <= min => wrong(format!("should be greater than {min}")),
                false if number < min => {
                    wrong(format!("should be greater than or equal to {min}"));
                }
                _ => {}
            }
        }
        if let Some(max) = checks.maximum {
            match checks.below_maximum {
                true if number >= max => wrong(format!("should be less than {max}")),
                false if number > max => wrong(format!("should be less than or equal to {max}")),
                _ => {}
            }
        }
        if let Some(of) = checks.multiple_of.filter(|of| *of != 0.0) {
            let times = number / of;
            if (times - times.round()).abs() > 1e-9 {
                wrong(format!("should be a multiple of {of}"));
            }
        }
        let range = match checks.format.as_str() {
            "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if range.is_some_and(|(low, high)| number < low || number > high) {
            wrong(format!("must be of type {}: {number}", checks.format));
        }
    }
}

/// The type of a value, as messages name it.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a text has the form that `format` names; formats that nobody checks let all through.
fn fits_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            text.len() == 36
                && text.char_indices().all(|(at, c)| match at {
                    8 | 13 | 18 | 23 => c == '-',
                    _ => c.is_ascii_hexdigit(),
                })
        }
        _ => true,
    }
}
