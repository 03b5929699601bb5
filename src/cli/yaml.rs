//! Objects as YAML, written as kubectl writes them: keys in order, lists at the indentation of
//! their key, long text folded at 80 columns, quotes only where a reader would mistake the text.
//!
//! The rules are those of YAML 1.1 emitters in libyaml's line, so that what is written here can be
//! compared with and pasted between tools. General serializers quote and indent otherwise.

use serde_json::Value;

const WIDTH: usize = 80;

/// `value` as a YAML document, with a newline at its end.
pub fn to_string(value: &Value) -> String {
    let mut out = Emitter::default();
    out.value(value, 0, Place::Root);
    out.text
}

/// Where a value stands, which says how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    AfterKey,
    AfterDash,
}

#[derive(Default)]
struct Emitter {
    text: String,
}

impl Emitter {
    fn column(&self) -> usize {
        let start = self.text.rfind('\n').map_or(0, |at| at + 1);
        self.text[start..].chars().count()
    }

    fn indent(&mut self, by: usize) {
        self.text.extend(std::iter::repeat_n(' ', by));
    }

    fn value(&mut self, value: &Value, indent: usize, place: Place) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                if place == Place::AfterKey {
                    self.text.push('\n');
                }
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                for (at, key) in keys.into_iter().enumerate() {
                    if at > 0 || place != Place::AfterDash {
                        self.indent(indent);
                    }
                    self.scalar(key, indent, true);
                    self.text.push(':');
                    self.value(&map[key], indent + 2, Place::AfterKey);
                }
            }
            Value::Array(list) if !list.is_empty() => {
                // A list stands at the indentation of its key.
                let indent = if place == Place::AfterKey { indent - 2 } else { indent };
                if place == Place::AfterKey {
                    self.text.push('\n');
                }
                for (at, element) in list.iter().enumerate() {
                    if at > 0 || place != Place::AfterDash {
                        self.indent(indent);
                    }
                    self.text.push_str("- ");
                    self.value(element, indent + 2, Place::AfterDash);
                }
            }
            leaf => {
                if place == Place::AfterKey {
                    self.text.push(' ');
                }
                match leaf {
                    Value::String(text) => self.scalar(text, indent, false),
                    Value::Object(_) => self.text.push_str("{}"),
                    Value::Array(_) => self.text.push_str("[]"),
                    other => self.text.push_str(&other.to_string()),
                }
                self.text.push('\n');
            }
        }
    }

    fn scalar(&mut self, text: &str, indent: usize, is_key: bool) {
        let about = About::of(text);
        if text.contains('\n') && !is_key && about.block {
            self.literal(text, indent);
        } else if !text.contains('\n') && !reads_as_other(text) && about.plain {
            self.folded(text, indent, is_key);
        } else if !text.contains('\n') && !reads_as_other(text) && about.single {
            self.text.push('\'');
            self.folded(&text.replace('\'', "''"), indent, is_key);
            self.text.push('\'');
        } else {
            self.double(text, indent, is_key);
        }
    }

    /// Breaks lines at single spaces beyond the width.
    fn folded(&mut self, text: &str, indent: usize, is_key: bool) {
        let chars: Vec<char> = text.chars().collect();
        let mut column = self.column();
        for (at, c) in chars.iter().enumerate() {
            let inside = at > 0 && at + 1 < chars.len();
            let alone = inside && chars[at - 1] != ' ' && chars[at + 1] != ' ';
            if *c == ' ' && !is_key && alone && column > WIDTH {
                self.text.push('\n');
                self.indent(indent);
                column = indent;
            } else {
                self.text.push(*c);
                column += 1;
            }
        }
    }

    fn double(&mut self, text: &str, indent: usize, is_key: bool) {
        self.text.push('"');
        let mut column = self.column();
        let chars: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (at, c) in chars.iter().enumerate() {
            let inside = at > 0 && at + 1 < chars.len();
            if *c == ' ' && !is_key && !after_space && inside && column > WIDTH {
                self.text.push('\n');
                self.indent(indent);
                column = indent;
                if chars[at + 1] == ' ' {
                    self.text.push('\\');
                    column += 1;
                }
                after_space = true;
                continue;
            }
            let escaped = escape(*c);
            column += escaped.chars().count();
            self.text.push_str(&escaped);
            after_space = *c == ' ';
        }
        self.text.push('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.text.push('|');
        if text.starts_with([' ', '\n']) {
            self.text.push('2');
        }
        let bare = text.trim_end_matches('\n');
        match text.len() - bare.len() {
            0 => self.text.push('-'),
            1 if !bare.is_empty() => {}
            _ => self.text.push('+'),
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.text.push('\n');
            if !line.is_empty() {
                self.indent(indent.max(2));
                self.text.push_str(line);
            }
        }
    }
}

fn escape(c: char) -> String {
    match c {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\t' => "\\t".into(),
        '\r' => "\\r".into(),
        '\0' => "\\0".into(),
        '\u{7}' => "\\a".into(),
        '\u{8}' => "\\b".into(),
        '\u{b}' => "\\v".into(),
        '\u{c}' => "\\f".into(),
        '\u{1b}' => "\\e".into(),
        '\u{85}' => "\\N".into(),
        '\u{a0}' => "\\_".into(),
        '\u{2028}' => "\\L".into(),
        '\u{2029}' => "\\P".into(),
        c if printable(c) => c.into(),
        c if (c as u32) <= 0xff => format!("\\x{:02X}", c as u32),
        c if (c as u32) <= 0xffff => format!("\\u{:04X}", c as u32),
        c => format!("\\U{:08X}", c as u32),
    }
}

fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && c != '\u{feff}'
}

/// Which styles can hold a text.
struct About {
    plain: bool,
    single: bool,
    block: bool,
}

impl About {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let blank_at = |at: usize| {
            chars.get(at).is_none_or(|c| matches!(c, ' ' | '\t' | '\0') || is_break(*c))
        };
        let mut indicator = text.starts_with("---") || text.starts_with("...");
        for (at, c) in chars.iter().enumerate() {
            indicator |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"'
                | '%' | '@' | '`'
                    if at == 0 =>
                {
                    true
                }
                '-' | '?' if at == 0 => blank_at(1),
                ':' => blank_at(at + 1),
                '#' => blank_at(at - 1),
                _ => false,
            };
        }
        let special = chars.iter().any(|c| !printable(*c) && !is_break(*c));
        let breaks = chars.iter().any(|c| is_break(*c));
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let trailing_space = chars.last() == Some(&' ');
        let pair = |first: fn(char) -> bool, second: fn(char) -> bool| {
            chars.windows(2).any(|w| first(w[0]) && second(w[1]))
        };
        let newline: fn(char) -> bool =
            |c| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let space: fn(char) -> bool = |c| c == ' ';
        let space_break = pair(space, newline);
        let break_space = pair(newline, space);
        Self {
            plain: !(indicator
                || special
                || breaks
                || edge(chars.first())
                || edge(chars.last())
                || text.is_empty()),
            single: !(special || space_break || break_space),
            block: !(special || space_break || trailing_space || text.is_empty()),
        }
    }
}

/// Whether a YAML 1.1 reader would take the text for something else than a string.
fn reads_as_other(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "yes",
        "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", "y", "Y", "n", "N",
        "<<", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF",
    ];
    WORDS.contains(&text) || is_number(text) || is_time(text)
}

fn is_number(text: &str) -> bool {
    let plain = text.replace('_', "");
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            return i128::from_str_radix(digits, radix).is_ok();
        }
    }
    let digit = |c: char| c.is_ascii_digit();
    let float = unsigned.chars().all(|c| digit(c) || ".eE+-".contains(c))
        && unsigned.chars().any(digit)
        && unsigned.parse::<f64>().is_ok();
    // Base 60, as 1:30.
    let parts: Vec<&str> = unsigned.split(':').collect();
    let sixty = parts.len() > 1
        && parts.iter().enumerate().all(|(at, part)| {
            let whole = if at + 1 == parts.len() { part.split('.').next() } else { Some(*part) };
            whole.is_some_and(|p| {
                !p.is_empty()
                    && p.chars().all(digit)
                    && (at == 0 || (p.len() <= 2 && p.parse::<u8>().is_ok_and(|n| n < 60)))
            })
        });
    float || sixty
}

/// `2001-02-03`, or with a time behind it.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| {
        bytes.get(from..to).is_some_and(|b| b.iter().all(u8::is_ascii_digit))
    };
    if !(digits(0, 4) && bytes.get(4) == Some(&b'-')) {
        return false;
    }
    let date = text.split(['T', 't', ' ']).next().unwrap_or_default();
    let parts: Vec<&str> = date.split('-').collect();
    let short = |p: &str| matches!(p.len(), 1 | 2) && p.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != 3 || !short(parts[1]) || !short(parts[2]) {
        return false;
    }
    let rest = &text[date.len()..];
    rest.is_empty() || (rest.len() > 1 && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::schema::yaml_to_json;

    #[test]
    fn objects_are_written_as_kubectl_writes_them() {
        let object = json!({
            "b": {"x": [], "v": {}, "z": null},
            "a": [{"name": "c", "ports": [{"p": 80}]}, "s", [1, [2]]],
            "text": "one\ntwo\n",
        });
        let expected = "a:\n- name: c\n  ports:\n  - p: 80\n- s\n- - 1\n  - - 2\nb:\n  v: {}\n  \
                        x: []\n  z: null\ntext: |\n  one\n  two\n";
        assert_eq!(to_string(&object), expected);
    }

    #[test]
    fn text_is_quoted_only_where_it_must_be() {
        let table = [
            ("plain text", "plain text"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("y", "\"y\""),
            ("123", "\"123\""),
            ("1e3", "\"1e3\""),
            ("0x1F", "\"0x1F\""),
            ("12:30", "\"12:30\""),
            ("1.2.3", "1.2.3"),
            ("10.0.0.1", "10.0.0.1"),
            ("100m", "100m"),
            ("2024-01-02T03:04:05Z", "\"2024-01-02T03:04:05Z\""),
            ("a: b", "'a: b'"),
            ("it's: x", "'it''s: x'"),
            ("it's", "it's"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("{a}", "'{a}'"),
            ("a #b", "'a #b'"),
            (" a", "' a'"),
            ("a\tb", "\"a\\tb\""),
            ("*", "'*'"),
            ("25%", "25%"),
            ("a\nb", "|-\n  a\n  b"),
            ("a\n\n", "|+\n  a\n"),
            (" a\nb", "|2-\n   a\n  b"),
        ];
        for (text, written) in table {
            assert_eq!(to_string(&json!({"k": text})), format!("k: {written}\n"), "{text:?}");
        }
    }

    #[test]
    fn long_text_is_folded() {
        let text = "word ".repeat(40).trim_end().to_owned();
        let written = to_string(&json!({"k": text}));
        assert!(written.lines().count() > 1 && written.lines().all(|l| l.len() <= WIDTH + 6));
        assert_eq!(yaml_to_json(written.as_bytes()), Ok(json!({"k": text})));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            text in "[a-z0-9:#'\"\\-. \n{}\\[\\]&*!|>%@,?~]{0,24}|[ -~]{0,120}",
            key in "[a-z0-9./:' -]{1,12}",
        ) {
            let value = json!({"list": [{key.clone(): text}, text], "map": {key: [text]}});
            let written = to_string(&value);
            prop_assert_eq!(yaml_to_json(written.as_bytes()), Ok(value), "{}", written);
        }
    }
}
