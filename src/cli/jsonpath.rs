//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}{.x}{"\n"}{end}`,
//! `{.spec.containers[?(@.name=="a")].image}`, `{..image}`, `{['a','b']}`, `{.list[1:3]}`.
//!
//! Kubernetes documentation: "JSONPath Support". A field that is missing prints nothing.

use serde_json::Value;

/// Deepest nesting of expressions, and of the objects that `..` goes down.
const DEPTH_MAX: usize = 64;
/// The most values that one expression may select.
const FOUND_MAX: usize = 1_000_000;

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Root,
    Field(String),
    /// `.*` and `[*]`.
    All,
    /// `..`
    Below,
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: i64,
        single: bool,
    },
    Fields(Vec<String>),
    Indexes(Vec<i64>),
    Filter(Vec<Step>, Option<(Compare, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Value(Value),
    Path(Vec<Step>),
}

impl Template {
    /// Reads a template; text without braces around it is one expression.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            bare if !bare.contains('{') && !bare.is_empty() => {
                let dot = if bare.starts_with(['.', '[', '$', '@']) { "" } else { "." };
                format!("{{{dot}{bare}}}")
            }
            _ => text.to_owned(),
        };
        let chars: Vec<char> = text.chars().collect();
        let mut reader = Reader { chars: &chars, at: 0 };
        let parts = reader.parts(0)?;
        match reader.peek() {
            None => Ok(Self { parts }),
            Some(_) => Err(reader.wrong("an {end} without a {range}")),
        }
    }

    /// What the template says of `value`.
    pub fn print(&self, value: &Value) -> String {
        let mut text = String::new();
        print_parts(&self.parts, value, value, &mut text);
        text
    }

    /// Everything that its expressions select.
    pub fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = Vec::new();
        for part in &self.parts {
            if let Part::Path(steps) = part {
                found.extend(walk(steps, value, value));
            }
        }
        found
    }
}

fn print_parts(parts: &[Part], root: &Value, here: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Path(steps) => {
                let found = walk(steps, root, here);
                let shown: Vec<String> = found.into_iter().map(shown).collect();
                text.push_str(&shown.join(" "));
            }
            Part::Range(steps, inner) => {
                for value in walk(steps, root, here) {
                    print_parts(inner, root, value, text);
                }
            }
        }
    }
}

/// Text as it is, anything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn walk<'v>(steps: &[Step], root: &'v Value, here: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![here];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            take(step, root, value, &mut next);
            if next.len() > FOUND_MAX {
                next.truncate(FOUND_MAX);
                break;
            }
        }
        found = next;
    }
    found
}

fn take<'v>(step: &Step, root: &'v Value, value: &'v Value, into: &mut Vec<&'v Value>) {
    match step {
        Step::Root => into.push(root),
        Step::Field(name) => into.extend(value.get(name)),
        Step::Fields(names) => into.extend(names.iter().filter_map(|name| value.get(name))),
        Step::All => match value {
            Value::Array(list) => into.extend(list),
            Value::Object(map) => into.extend(map.values()),
            _ => {}
        },
        Step::Below => below(value, 0, into),
        Step::Indexes(all) => {
            let Value::Array(list) = value else { return };
            into.extend(all.iter().filter_map(|at| list.get(place(*at, list.len())?)));
        }
        Step::Slice { from, to, by, single } => {
            let Value::Array(list) = value else { return };
            if *single {
                into.extend(from.and_then(|at| list.get(place(at, list.len())?)));
                return;
            }
            let length = list.len() as i64;
            let edge = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length) as usize;
            let (from, to) = (edge(from.unwrap_or(0)), edge(to.unwrap_or(length)));
            let part = list.get(from..to).unwrap_or_default();
            into.extend(part.iter().step_by((*by).max(1) as usize));
        }
        Step::Filter(left, compared) => {
            let elements: Vec<&Value> = match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            };
            into.extend(elements.into_iter().filter(|e| holds(left, compared.as_ref(), root, e)));
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    usize::try_from(if at < 0 { at + length as i64 } else { at }).ok()
}

fn below<'v>(value: &'v Value, depth: usize, into: &mut Vec<&'v Value>) {
    if depth > DEPTH_MAX || into.len() > FOUND_MAX {
        return;
    }
    into.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|v| below(v, depth + 1, into)),
        Value::Object(map) => map.values().for_each(|v| below(v, depth + 1, into)),
        _ => {}
    }
}

fn holds(
    left: &[Step],
    compared: Option<&(Compare, Operand)>,
    root: &Value,
    element: &Value,
) -> bool {
    let found = walk(left, root, element);
    let Some((compare, right)) = compared else { return !found.is_empty() };
    let Some(left) = found.first() else { return false };
    let right = match right {
        Operand::Value(value) => value,
        Operand::Path(steps) => match walk(steps, root, element).first() {
            Some(value) => *value,
            None => return false,
        },
    };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => match (left.as_str(), right.as_str()) {
            (Some(left), Some(right)) => Some(left.cmp(right)),
            _ => None,
        },
    };
    match compare {
        Compare::Equal => order.map_or(*left == right, |o| o.is_eq()),
        Compare::NotEqual => order.map_or(*left != right, |o| o.is_ne()),
        Compare::Less => order.is_some_and(|o| o.is_lt()),
        Compare::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Compare::Greater => order.is_some_and(|o| o.is_gt()),
        Compare::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}

struct Reader<'a> {
    chars: &'a [char],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let fits = text.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c));
        if fits {
            self.at += text.chars().count();
        }
        fits
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn wrong(&self, why: &str) -> String {
        format!("error parsing jsonpath at column {}: {why}", self.at + 1)
    }

    fn parts(&mut self, depth: usize) -> Result<Vec<Part>, String> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("ranges are nested too deep"));
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        loop {
            let before = self.at;
            match self.next() {
                None => break,
                Some('{') => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    self.skip_space();
                    if self.take("end") {
                        self.at = before;
                        return Ok(parts);
                    }
                    if self.take("range") {
                        let steps = self.steps("}", depth)?;
                        self.close()?;
                        let inner = self.parts(depth + 1)?;
                        self.end()?;
                        parts.push(Part::Range(steps, inner));
                    } else if matches!(self.peek(), Some('"' | '\'')) {
                        parts.push(Part::Text(self.quoted()?));
                        self.close()?;
                    } else {
                        parts.push(Part::Path(self.steps("}", depth)?));
                        self.close()?;
                    }
                }
                Some(c) => text.push(c),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(parts)
    }

    fn close(&mut self) -> Result<(), String> {
        self.skip_space();
        if self.take("}") { Ok(()) } else { Err(self.wrong("unclosed action, expected '}'")) }
    }

    fn end(&mut self) -> Result<(), String> {
        if self.take("{") {
            self.skip_space();
            if self.take("end") {
                return self.close();
            }
        }
        Err(self.wrong("a {range} without its {end}"))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.wrong("unterminated quoted string")),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c) => text.push(c),
                    None => return Err(self.wrong("unterminated quoted string")),
                },
                c if c == quote => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    /// The steps of an expression, up to one of the characters in `stop`, a space or a sign that
    /// compares.
    fn steps(&mut self, stop: &str, depth: usize) -> Result<Vec<Step>, String> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("expressions are nested too deep"));
        }
        self.skip_space();
        let mut steps = Vec::new();
        loop {
            match self.peek() {
                Some('$') => {
                    self.at += 1;
                    steps.push(Step::Root);
                }
                Some('@') => self.at += 1,
                Some('.') => {
                    self.at += 1;
                    if self.take(".") {
                        steps.push(Step::Below);
                    }
                    self.field(stop, &mut steps)?;
                }
                Some('[') => {
                    self.at += 1;
                    steps.push(self.brackets(depth)?);
                }
                Some(c) if !stop.contains(c) && !c.is_whitespace() && !"=!<>".contains(c) => {
                    return Err(self.wrong(&format!(
                        "unexpected {c:?}: a field starts with a dot, as {{.metadata.name}}"
                    )));
                }
                _ => return Ok(steps),
            }
        }
    }

    fn field(&mut self, stop: &str, steps: &mut Vec<Step>) -> Result<(), String> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.at += 1;
                name.extend(self.next());
            } else if stop.contains(c) || ".[ \t\n=!<>,)]}".contains(c) {
                break;
            } else {
                name.push(c);
                self.at += 1;
            }
        }
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Field(name)),
        }
        Ok(())
    }

    fn brackets(&mut self, depth: usize) -> Result<Step, String> {
        self.skip_space();
        if self.take("?(") {
            let step = self.filter(depth)?;
            return if self.take("]") { Ok(step) } else { Err(self.wrong("expected ']'")) };
        }
        if self.take("*") {
            return if self.take("]") { Ok(Step::All) } else { Err(self.wrong("expected ']'")) };
        }
        if matches!(self.peek(), Some('"' | '\'')) {
            let mut names = vec![self.quoted()?];
            loop {
                self.skip_space();
                if self.take("]") {
                    return Ok(Step::Fields(names));
                }
                if !self.take(",") {
                    return Err(self.wrong("expected ',' or ']'"));
                }
                self.skip_space();
                names.push(self.quoted()?);
            }
        }
        let mut inside = String::new();
        loop {
            match self.next() {
                Some(']') => break,
                Some(c) if c.is_ascii_digit() || "-:, ".contains(c) => inside.push(c),
                _ => return Err(self.wrong("unterminated array: expected an index and ']'")),
            }
        }
        let number = |text: &str| -> Result<i64, String> {
            text.trim().parse().map_err(|_| self.wrong(&format!("{text:?} is no index")))
        };
        let maybe = |text: &str| match text.trim() {
            "" => Ok(None),
            text => number(text).map(Some),
        };
        if inside.contains(',') {
            return inside.split(',').map(number).collect::<Result<_, _>>().map(Step::Indexes);
        }
        let parts: Vec<&str> = inside.split(':').collect();
        match parts.as_slice() {
            [one] => Ok(Step::Slice { from: Some(number(one)?), to: None, by: 1, single: true }),
            [from, to] => {
                Ok(Step::Slice { from: maybe(from)?, to: maybe(to)?, by: 1, single: false })
            }
            [from, to, by] => match maybe(by)?.unwrap_or(1) {
                by @ 1.. => {
                    Ok(Step::Slice { from: maybe(from)?, to: maybe(to)?, by, single: false })
                }
                _ => Err(self.wrong("the step must be positive")),
            },
            _ => Err(self.wrong("a slice is written [from:to:step]")),
        }
    }

    fn filter(&mut self, depth: usize) -> Result<Step, String> {
        let left = self.steps(")", depth + 1)?;
        self.skip_space();
        if self.take(")") {
            return Ok(Step::Filter(left, None));
        }
        let signs = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
            ("=", Compare::Equal),
        ];
        let compare = signs.iter().find(|(sign, _)| self.take(sign)).map(|(_, compare)| *compare);
        let compare = compare.ok_or_else(|| self.wrong("expected ==, !=, <, <=, > or >="))?;
        self.skip_space();
        let right = match self.peek() {
            Some('"' | '\'') => Operand::Value(Value::String(self.quoted()?)),
            Some('@' | '$' | '.') => Operand::Path(self.steps(")", depth + 1)?),
            _ => {
                let mut word = String::new();
                while let Some(c) = self.peek().filter(|c| *c != ')') {
                    word.push(c);
                    self.at += 1;
                }
                let value = serde_json::from_str(word.trim())
                    .map_err(|_| self.wrong(&format!("{word:?} is no value: quote text")))?;
                Operand::Value(value)
            }
        };
        self.skip_space();
        if !self.take(")") {
            return Err(self.wrong("unterminated filter: expected ')'"));
        }
        Ok(Step::Filter(left, Some((compare, right))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pods() -> Value {
        json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"app.io/x": "1"}}, "n": 1, "up": true},
            {"metadata": {"name": "b"}, "n": 2, "list": [1, 2, 3, 4]},
        ]})
    }

    #[test]
    fn templates_print_as_kubectls() {
        let table = [
            ("{.items[*].metadata.name}", "a b"),
            (".items[0].metadata.name", "a"),
            ("items[0].n", "1"),
            ("{.kind}: {.items[-1].metadata.name}", "List: b"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.n}{\"\\n\"}{end}", "a\t1\nb\t2\n"),
            ("{.items[?(@.n==2)].metadata.name}", "b"),
            ("{.items[?(@.metadata.name==\"a\")].n}", "1"),
            ("{.items[?(@.n>=1)].n}", "1 2"),
            ("{.items[?(@.up)].n}", "1"),
            ("{.items[?(@.up==true)].n}", "1"),
            ("{..name}", "a b"),
            ("{.items[1].list[1:3]}", "2 3"),
            ("{.items[1].list[0,3]}", "1 4"),
            ("{.items[1].list[::2]}", "1 3"),
            ("{.items[1].list}", "[1,2,3,4]"),
            ("{.items[0].metadata.labels.app\\.io/x}", "1"),
            ("{.items[0].metadata.labels['app.io/x']}", "1"),
            ("{$.kind}", "List"),
            ("{range .items[*]}{$.kind}{end}", "ListList"),
            ("{.nothing.here}", ""),
            ("{.items[0]['n','up']}", "1 true"),
        ];
        for (template, printed) in table {
            let template_read = Template::parse(template).expect(template);
            assert_eq!(template_read.print(&pods()), printed, "{template}");
        }
    }

    #[test]
    fn wrong_templates_are_told_with_the_place() {
        let table = [
            ("{.a", "unclosed action"),
            ("{.a[}", "unterminated array"),
            ("{range .a}", "without its {end}"),
            ("{end}", "without a {range}"),
            ("{.a[?(@.b~1)]}", "jsonpath"),
            ("{\"x}", "unterminated quoted"),
            ("{a}", "starts with a dot"),
            ("{.a[?(@.b==c)]}", "quote text"),
        ];
        for (template, told) in table {
            let why = Template::parse(template).expect_err(template);
            assert!(why.contains(told), "{template}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[{}.\\[\\]*?@()='\"a-c0-9:,$ -]{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.print(&pods());
            }
        }
    }
}
