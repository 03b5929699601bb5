//! Tables as kubectl prints them: the server's `Table` in columns that are as wide as their widest
//! cell and three spaces.

use serde_json::Value;

/// The least width of a column with its spaces.
const WIDTH_MIN: usize = 6;
const SPACES: usize = 3;

/// What is shown of the rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Columns of lower priority too.
    pub wide: bool,
    /// A first column with the namespace.
    pub namespace: bool,
    /// A last column with the labels.
    pub labels: bool,
    pub no_headers: bool,
}

/// Which columns there are, and how wide they have been so far; lives as long as a watch.
#[derive(Debug, Default)]
pub struct Layout {
    /// Cells shown, by their place in the row.
    shown: Vec<usize>,
    names: Vec<String>,
    widths: Vec<usize>,
    headers_printed: bool,
}

impl Layout {
    /// The lines of a `Table`, headers first where they were not printed yet. `kind` goes before
    /// the names, as `deployment.apps`.
    pub fn lines(&mut self, table: &Value, style: Style, kind: Option<&str>) -> Vec<String> {
        let definitions = table["columnDefinitions"].as_array();
        if let Some(definitions) = definitions.filter(|d| !d.is_empty() && self.names.is_empty()) {
            self.take_columns(definitions, style);
        }
        let rows = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !rows.is_empty() && !self.headers_printed && !style.no_headers {
            self.headers_printed = true;
            lines.push(self.names.clone());
        }
        lines.extend(rows.iter().map(|row| self.cells(row, style, kind)));
        align(&lines, &mut self.widths)
    }

    fn take_columns(&mut self, definitions: &[Value], style: Style) {
        if style.namespace {
            self.names.push("NAMESPACE".into());
        }
        for (at, column) in definitions.iter().enumerate() {
            if style.wide || column["priority"].as_i64().unwrap_or(0) == 0 {
                self.shown.push(at);
                self.names.push(column["name"].as_str().unwrap_or_default().to_uppercase());
            }
        }
        if style.labels {
            self.names.push("LABELS".into());
        }
    }

    fn cells(&self, row: &Value, style: Style, kind: Option<&str>) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::with_capacity(self.names.len());
        if style.namespace {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (place, at) in self.shown.iter().enumerate() {
            let cell = cell_text(&row["cells"][at]);
            match kind {
                Some(kind) if place == 0 => cells.push(format!("{kind}/{cell}")),
                _ => cells.push(cell),
            }
        }
        if style.labels {
            cells.push(labels(&metadata["labels"]));
        }
        cells
    }
}

/// `a=1,b=2`, or `<none>`.
pub fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

fn cell_text(cell: &Value) -> String {
    let text = match cell {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.split_once(['\n', '\r', '\u{c}']) {
        Some((first, _)) => format!("{first}..."),
        None => text,
    }
}

/// Lines of cells in columns; `widths` only grow. The last cell of a line gets no spaces.
pub fn align(lines: &[Vec<String>], widths: &mut Vec<usize>) -> Vec<String> {
    for line in lines {
        for (at, cell) in line.iter().enumerate().take(line.len().saturating_sub(1)) {
            let width = (cell.chars().count() + SPACES).max(WIDTH_MIN);
            if widths.len() <= at {
                widths.push(width);
            } else {
                widths[at] = widths[at].max(width);
            }
        }
    }
    let print = |line: &Vec<String>| {
        let mut text = String::new();
        for (at, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < line.len() {
                let width = widths.get(at).copied().unwrap_or(0);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text
    };
    lines.iter().map(print).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Value {
        let column = |name: &str, priority: i64| json!({"name": name, "priority": priority});
        json!({
            "kind": "Table",
            "columnDefinitions": [column("Name", 0), column("Up", 0), column("Node", 1)],
            "rows": [
                {"cells": ["a", "1/1", "n1"],
                 "object": {"metadata": {"namespace": "x", "labels": {"k": "v", "app": "a"}}}},
                {"cells": ["a-long-one", 3, null], "object": {"metadata": {"namespace": "y"}}},
            ],
        })
    }

    fn printed(style: Style, kind: Option<&str>) -> Vec<String> {
        Layout::default().lines(&table(), style, kind)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_three_spaces() {
        let lines = printed(Style::default(), None);
        assert_eq!(lines, ["NAME         UP", "a            1/1", "a-long-one   3"]);
    }

    #[test]
    fn the_style_adds_columns() {
        let wide = Style { wide: true, no_headers: true, ..Style::default() };
        assert_eq!(printed(wide, None), ["a            1/1   n1", "a-long-one   3     "]);
        let all = Style { namespace: true, labels: true, ..Style::default() };
        assert_eq!(
            printed(all, Some("pod")),
            [
                "NAMESPACE   NAME             UP    LABELS",
                "x           pod/a            1/1   app=a,k=v",
                "y           pod/a-long-one   3     <none>",
            ]
        );
    }

    #[test]
    fn a_watch_prints_headers_once_and_keeps_its_widths() {
        let mut layout = Layout::default();
        assert_eq!(layout.lines(&table(), Style::default(), None).len(), 3);
        let event = json!({"columnDefinitions": null, "rows": [{"cells": ["b", "0/1", "n"]}]});
        assert_eq!(layout.lines(&event, Style::default(), None), ["b            0/1"]);
    }

    #[test]
    fn a_cell_of_many_lines_is_cut() {
        assert_eq!(cell_text(&json!("a\nb")), "a...");
        assert_eq!(cell_text(&json!(null)), "");
        assert_eq!(cell_text(&json!(true)), "true");
    }
}
