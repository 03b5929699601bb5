//! Manifests: the objects that people write in YAML or JSON files, folders or on the input.
//!
//! A file holds documents separated by `---`; a document is an object or a `List` of them. Every
//! error names `file:line`, what was wrong there, and what to do.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::failure::Failure;
use crate::api::schema::yaml_to_json;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most files of a folder.
const FILES_MAX: usize = 10_000;

/// An object and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub object: Value,
    /// As `web.yaml:12`.
    pub place: String,
}

impl Manifest {
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// `metadata.name`; empty where there is none.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str().filter(|n| !n.is_empty())
    }
}

/// Reads what `-f` names: files, folders (with `recursive`, and what is below them), `-` for the
/// input.
///
/// # Errors
/// The first file or document that cannot be read.
pub fn read(names: &[String], recursive: bool) -> Result<Vec<Manifest>, Failure> {
    let mut found = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = Vec::new();
            std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
            if text.len() as u64 > FILE_BYTES_MAX {
                return Err(too_large("the input"));
            }
            parse("STDIN", &text, &mut found)?;
            continue;
        }
        if name.starts_with("http://") || name.starts_with("https://") {
            return Err(Failure::other(format!(
                "{name}: addresses are not fetched: download it and read it from a file, or pipe \
                 it in (`curl {name} | coracle apply -f -`)"
            )));
        }
        let mut files = Vec::new();
        list(Path::new(name), recursive, true, &mut files)?;
        for file in files {
            let text = read_file(&file)?;
            parse(&file.display().to_string(), &text, &mut found)?;
        }
    }
    if found.is_empty() {
        return Err(Failure::other(format!(
            "no objects found in {}: write a manifest with apiVersion, kind and metadata.name",
            names.join(", ")
        )));
    }
    Ok(found)
}

fn too_large(name: &str) -> Failure {
    Failure::other(format!("{name} is larger than {} MiB: split it", FILE_BYTES_MAX / 1024 / 1024))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::other(match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("the path \"{}\" does not exist", path.display())
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("the path \"{}\" may not be read: look at its permissions", path.display())
        }
        _ => format!("the path \"{}\" cannot be read: {error}", path.display()),
    })
}

fn list(path: &Path, below: bool, top: bool, into: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let about = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !about.is_dir() {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if top || matches!(extension, "yaml" | "yml" | "json") {
            if into.len() >= FILES_MAX {
                return Err(Failure::other(format!("more than {FILES_MAX} files: apply fewer")));
            }
            into.push(path.to_owned());
        }
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        // A link to a folder is not followed: it may lead back here.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let leads_to_dir = !is_dir && entry.path().is_dir();
        if (is_dir && below) || !(is_dir || leads_to_dir) {
            list(&entry.path(), below, false, into)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large(&path.display().to_string()));
    }
    Ok(text)
}

/// Reads the documents of one file.
///
/// # Errors
/// The first document that is no object of Kubernetes.
pub fn parse(file: &str, text: &[u8], into: &mut Vec<Manifest>) -> Result<(), Failure> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let line = text[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Failure::other(format!("{file}:{line}: this is not UTF-8 text: is it a manifest?"))
    })?;
    for document in documents(text.trim_start_matches('\u{feff}')) {
        let value = yaml_to_json(document.text.as_bytes())
            .map_err(|why| Failure::other(malformed(file, &document, &why)))?;
        if value.is_null() {
            continue;
        }
        let place = format!("{file}:{}", document.first_content_line());
        add(value, place, into)?;
    }
    Ok(())
}

fn malformed(file: &str, document: &Document<'_>, why: &str) -> String {
    let (line, column, why) = place_of(why);
    let line = document.line + line.saturating_sub(1);
    let column = column.map(|column| format!(":{column}")).unwrap_or_default();
    let shown = document.text.lines().nth(line - document.line).unwrap_or_default();
    let hint = if shown.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces, not with tabs"
    } else {
        "look at the indentation, the colons and the quotes of this line and the one before"
    };
    format!("{file}:{line}{column}: malformed YAML: {why}: {hint}")
}

/// The line, the column and the rest of a message such as `yaml: line 3: x` or `yaml: error: line
/// 2 column 4: x`.
fn place_of(why: &str) -> (usize, Option<usize>, String) {
    let why = why.strip_prefix("yaml: ").unwrap_or(why);
    let after = |word: &str| {
        let at = why.find(word)? + word.len();
        let digits: String = why[at..].chars().take_while(char::is_ascii_digit).collect();
        let end = at + digits.len();
        digits.parse::<usize>().ok().map(|number| (number, end))
    };
    let line = after("line ");
    let column = after("column ");
    let end = [line, column].into_iter().flatten().map(|(_, end)| end).max().unwrap_or(0);
    let said = match line {
        Some(_) => why[end..].trim_start_matches([':', ' ', ',', '\n']).to_owned(),
        None => why.to_owned(),
    };
    let said = if said.is_empty() { why.to_owned() } else { said };
    (line.map_or(1, |(line, _)| line), column.map(|(column, _)| column), said)
}

struct Document<'a> {
    /// The line of the file that it starts in, counted from 1.
    line: usize,
    text: &'a str,
}

impl Document<'_> {
    fn first_content_line(&self) -> usize {
        let blank = |line: &&str| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#')
        };
        self.line + self.text.lines().take_while(blank).count()
    }
}

/// The documents of a file, at the lines that start with `---`.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut line) = (0, 1);
    let mut start_line = 1;
    let mut at = 0;
    for piece in text.split_inclusive('\n') {
        let bare = piece.trim_end_matches(['\n', '\r']);
        let separates = bare == "---" || bare.starts_with("--- ") || bare.starts_with("---\t");
        if separates {
            found.push(Document { line: start_line, text: &text[start..at] });
            // What stands behind the dashes belongs to the new document.
            let rest = bare[3..].trim_start();
            let inline = !rest.is_empty() && !rest.starts_with('#');
            start = if inline { at + 3 } else { at + piece.len() };
            start_line = if inline { line } else { line + 1 };
        }
        at += piece.len();
        line += 1;
    }
    found.push(Document { line: start_line, text: &text[start..] });
    found
}

fn add(value: Value, place: String, into: &mut Vec<Manifest>) -> Result<(), Failure> {
    let Some(object) = value.as_object() else {
        return Err(Failure::other(format!(
            "{place}: this is no object of Kubernetes but {}: a manifest starts with apiVersion \
             and kind",
            match &value {
                Value::Array(_) => "a list",
                _ => "a single value",
            }
        )));
    };
    let filled =
        |field: &str| object.get(field).and_then(Value::as_str).is_some_and(|t| !t.is_empty());
    for (field, example) in [("kind", "kind: Deployment"), ("apiVersion", "apiVersion: apps/v1")] {
        if !filled(field) {
            return Err(Failure::other(format!(
                "{place}: Object '{field}' is missing: write it at the top, as `{example}`"
            )));
        }
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    if kind.ends_with("List") && value["items"].is_array() {
        let Value::Object(mut list) = value else { return Ok(()) };
        let Some(Value::Array(items)) = list.remove("items") else { return Ok(()) };
        for (at, item) in items.into_iter().enumerate() {
            add(item, format!("{place} items[{at}]"), into)?;
        }
        return Ok(());
    }
    let metadata = &value["metadata"];
    if metadata["name"].as_str().unwrap_or_default().is_empty()
        && metadata["generateName"].as_str().unwrap_or_default().is_empty()
    {
        return Err(Failure::other(format!(
            "{place}: the {kind} has no name: write it as `metadata: {{name: my-{}}}`",
            kind.to_lowercase()
        )));
    }
    into.push(Manifest { object: value, place });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<(String, String)>, String> {
        let mut found = Vec::new();
        parse("a.yaml", text.as_bytes(), &mut found).map_err(|failure| failure.to_string())?;
        Ok(found.into_iter().map(|m| (m.name().to_owned(), m.place)).collect())
    }

    fn pod(name: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn documents_are_found_with_their_lines() {
        let text = format!("# first\n{}---\n\n{}--- # end\n---\n", pod("a"), pod("b"));
        let found = read_text(&text).expect("two pods");
        assert_eq!(found, [("a".into(), "a.yaml:2".into()), ("b".into(), "a.yaml:7".into())]);
    }

    #[test]
    fn json_and_lists_are_read() {
        let one = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#;
        assert_eq!(read_text(one).expect("a pod"), [("a".into(), "a.yaml:1".into())]);
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{one},{one}]}}"#);
        let found = read_text(&list).expect("two pods");
        assert_eq!(found[1], ("a".into(), "a.yaml:1 items[1]".into()));
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let table = [
            ("apiVersion: v1\nmetadata: {name: a}\n", "a.yaml:1: Object 'kind' is missing"),
            ("kind: Pod\nmetadata: {name: a}\n", "a.yaml:1: Object 'apiVersion' is missing"),
            ("apiVersion: v1\nkind: Pod\n", "a.yaml:1: the Pod has no name"),
            ("- a\n- b\n", "a.yaml:1: this is no object of Kubernetes but a list"),
            ("hello\n", "a.yaml:1: this is no object of Kubernetes but a single value"),
        ];
        for (text, told) in table {
            let error = read_text(text).expect_err(text);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn malformed_yaml_is_told_with_its_line_in_the_file() {
        let tabs = format!("{}---\nkind: Pod\nspec:\n\tcontainers: []\n", pod("a"));
        let error = read_text(&tabs).expect_err("a tab");
        assert!(error.starts_with("error: a.yaml:7"), "{error}");
        assert!(error.contains("malformed YAML") && error.contains("not with tabs"), "{error}");
        let open = "apiVersion: v1\nkind: Pod\nmetadata: {name: a\n";
        let error = read_text(open).expect_err("an open brace");
        assert!(error.starts_with("error: a.yaml:") && error.contains("malformed"), "{error}");
        let mut found = Vec::new();
        let error = parse("b", b"a: \xff\n", &mut found).expect_err("no UTF-8").to_string();
        assert!(error.starts_with("error: b:1: this is not UTF-8"), "{error}");
    }

    #[test]
    fn folders_are_read_in_order_and_below_only_when_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            std::fs::write(path, text).expect("it is written");
        };
        write("b.yml", &pod("b"));
        write("a.yaml", &pod("a"));
        write("notes.txt", "not a manifest");
        write("below/c.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"}}"#);
        let name = folder.path().display().to_string();
        let names = |recursive| -> Vec<String> {
            let found = read(std::slice::from_ref(&name), recursive).expect("manifests");
            found.iter().map(|m| m.name().to_owned()).collect()
        };
        assert_eq!(names(false), ["a", "b"]);
        assert_eq!(names(true), ["a", "b", "c"]);
        let told = read(&["/no/such".into()], false).expect_err("it is not there").to_string();
        assert_eq!(told, "error: the path \"/no/such\" does not exist");
    }
}
