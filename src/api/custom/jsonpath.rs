//! The JSONPath of printer columns: `.spec.replicas`, `.items[0].name`, `.labels['a.b']`,
//! `.conditions[?(@.type=="Ready")].status`, `[*]`.
//!
//! **Invariant:** a path that parses has at most [`STEPS_MAX`] steps, and finding walks along the
//! object once a step.

use serde_json::Value;

const STEPS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Index(i64),
    All,
    /// Elements whose field at the path equals (or, `false`, differs from) a value; without a
    /// value, those that have it.
    Where(Vec<String>, Option<(bool, Value)>),
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Parse a path; it begins with a dot.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        let mut rest = trimmed;
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return Err(format!("{text:?} is too long"));
            }
            rest = if let Some(inner) = rest.strip_prefix('[') {
                let end = closing(inner).ok_or_else(|| "unterminated array".to_owned())?;
                steps.push(bracket(&inner[..end])?);
                &inner[end + 1..]
            } else if let Some(inner) = rest.strip_prefix('.') {
                let (name, after) = word(inner);
                match name.as_str() {
                    "" if after.starts_with('[') => {}
                    "" if after.is_empty() && steps.is_empty() => {}
                    "" => return Err(format!("{text:?} has an empty step")),
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Name(name)),
                }
                after
            } else {
                return Err(format!("unrecognized character in {text:?}"));
            };
        }
        Ok(Self(steps))
    }

    /// What the path finds.
    pub fn find<'v>(&self, object: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.of(value)).collect();
        }
        found
    }
}

/// A name up to the next dot or bracket; `\.` is a dot of the name.
fn word(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                escaped = false;
                name.push(c);
            }
            '\\' => escaped = true,
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket ends that began before `text`.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_of(filter);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Name(name));
    }
    text.parse().map(Step::Index).map_err(|_| format!("invalid array index {text:?}"))
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\.", "."))
}

fn filter_of(text: &str) -> Result<Step, String> {
    let (left, test) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, Some((true, literal(right.trim())?))),
        (None, Some((left, right))) => (left, Some((false, literal(right.trim())?))),
        (None, None) => (text, None),
    };
    let path = left.trim().strip_prefix("@.").ok_or_else(|| format!("unknown filter {text:?}"))?;
    let mut names = Vec::new();
    let mut rest = path;
    loop {
        let (name, after) = word(rest);
        names.push(name);
        match after.strip_prefix('.') {
            Some(more) if !more.is_empty() => rest = more,
            _ => break,
        }
    }
    Ok(Step::Where(names, test))
}

fn literal(text: &str) -> Result<Value, String> {
    match quoted(text) {
        Some(text) => Ok(Value::String(text)),
        None => serde_json::from_str(text).map_err(|_| format!("unknown value {text:?}")),
    }
}

impl Step {
    fn of<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Name(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Index(at), Value::Array(list)) => {
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *at < 0 { length + at } else { *at };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Where(path, test), Value::Array(list)) => list
                .iter()
                .filter(|item| {
                    let found = path.iter().fold(*item, |at, name| &at[name.as_str()]);
                    match test {
                        Some((equal, wanted)) => (found == wanted) == *equal,
                        None => !found.is_null(),
                    }
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}
