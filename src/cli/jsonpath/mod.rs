//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}{.x}{"\n"}{end}`,
//! `{.spec.containers[?(@.name=="a")].image}`, `{..image}`, `{['a','b']}`, `{.list[1:3]}`.
//!
//! Kubernetes documentation: "JSONPath Support". A field that is missing prints nothing.

mod read;
mod walk;

use serde_json::Value;

use read::Reader;
pub use walk::shown;
use walk::{print_parts, walk};

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
            ("{.a[?(@.b 1)]}", "expected =="),
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
