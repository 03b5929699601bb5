//! Reads a template, character by character.

use serde_json::Value;

use super::{Compare, DEPTH_MAX, Operand, Part, Step};

pub(super) struct Reader<'a> {
    pub(super) chars: &'a [char],
    pub(super) at: usize,
}

impl Reader<'_> {
    pub(super) fn peek(&self) -> Option<char> {
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

    pub(super) fn wrong(&self, why: &str) -> String {
        format!("error parsing jsonpath at column {}: {why}", self.at + 1)
    }

    pub(super) fn parts(&mut self, depth: usize) -> Result<Vec<Part>, String> {
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
