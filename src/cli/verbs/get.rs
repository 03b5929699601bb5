//! `get`: shows objects as the server's table, or as YAML, JSON, names or a JSONPath of them.

use clap::Args;
use serde_json::{Value, json};

use super::apply::escape_as_go;
use super::follow;
use super::target::{self, Narrow, PAGE, Target, elements, name_of};
use crate::cli::call::{Connection, JSON, TABLE, with_query};
use crate::cli::failure::Failure;
use crate::cli::jsonpath::Template;
use crate::cli::out::Out;
use crate::cli::resources::{Discovery, Resource};
use crate::cli::table::{Layout, Style};
use crate::cli::yaml;

/// What `get` is asked.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// KIND[,KIND] [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// How to print: yaml, json, wide, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    pub output: Option<Format>,
    /// Go on printing what changes
    #[arg(short, long)]
    pub watch: bool,
    /// As --watch, without what is there now
    #[arg(long)]
    pub watch_only: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those with these labels, as app=web,tier in (a,b),!old
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only those with these fields, as status.phase=Running
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true)]
    pub field_selector: String,
    /// No line with the names of the columns
    #[arg(long)]
    pub no_headers: bool,
    /// A last column with the labels
    #[arg(long)]
    pub show_labels: bool,
    /// Names that are not there are no failure
    #[arg(long)]
    pub ignore_not_found: bool,
    /// With -o yaml or json: who owns which field too
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// How objects are printed.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    Wide,
    Yaml,
    Json,
    Name,
    JsonPath(Template),
}

impl Format {
    /// From what stands behind `-o`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(template) = text.strip_prefix("jsonpath=") {
            return Template::parse(template).map(Self::JsonPath);
        }
        match text {
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            "jsonpath" => Err("template format specified but no template given: write \
                               jsonpath='{.metadata.name}'"
                .to_owned()),
            other => Err(format!(
                "unable to match a printer suitable for the output format \"{other}\", allowed \
                 formats are: json, jsonpath, name, wide, yaml"
            )),
        }
    }
}

/// Shows objects.
///
/// # Errors
/// Bad usage, no server, an unknown kind.
pub async fn run(args: &GetArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let discovery = Discovery::of(connection).await?;
    let targets = target::targets(&discovery, &args.objects)?;
    let names = targets.iter().any(|target| !target.names.is_empty());
    if names && args.all_namespaces {
        return Err(Failure::usage(
            "a resource cannot be retrieved by name across all namespaces: leave out -A or the \
             name",
        ));
    }
    if names && !(args.selector.is_empty() && args.field_selector.is_empty()) {
        return Err(Failure::usage("name cannot be provided when a selector is specified"));
    }
    let watching = args.watch || args.watch_only;
    match targets.as_slice() {
        [target] if watching && target.names.len() <= 1 => {
            watch(args, connection, target, out).await
        }
        _ if watching => Err(Failure::usage(
            "watch is only supported on individual resources and resource collections: ask for \
             one kind, and for one name at most",
        )),
        _ => match &args.output {
            None | Some(Format::Wide) => tables(args, connection, &targets, out).await,
            Some(format) => objects(args, format, connection, &targets, out).await,
        },
    }
}

fn narrow(args: &GetArgs) -> Narrow<'_> {
    Narrow {
        selector: &args.selector,
        fields: &args.field_selector,
        all_namespaces: args.all_namespaces,
    }
}

fn style(args: &GetArgs, resource: &Resource) -> Style {
    Style {
        wide: args.output == Some(Format::Wide),
        namespace: args.all_namespaces && resource.namespaced,
        labels: args.show_labels,
        no_headers: args.no_headers,
    }
}

fn nothing_found(args: &GetArgs, connection: &Connection, targets: &[Target]) -> String {
    let namespaced = targets.iter().any(|target| target.resource.namespaced);
    match () {
        () if !namespaced || args.all_namespaces => "No resources found".to_owned(),
        () => format!("No resources found in {} namespace.", connection.namespace),
    }
}

async fn tables(
    args: &GetArgs,
    connection: &Connection,
    targets: &[Target],
    out: &mut Out,
) -> Result<(), Failure> {
    let several = targets.len() > 1;
    let (mut printed, mut failed) = (0, false);
    for Target { resource, names } in targets {
        let typed = several.then(|| resource.typed());
        let mut layout = Layout::default();
        let mut lines = Vec::new();
        let table = pages(args, connection, resource, names, &mut failed, out).await?;
        if let Some(table) = table {
            lines.extend(layout.lines(&table, style(args, resource), typed.as_deref()));
        }
        if !lines.is_empty() && printed > 0 {
            out.line("")?;
        }
        printed += lines.len();
        for line in lines {
            out.line(line)?;
        }
    }
    if printed == 0 && !failed && !args.ignore_not_found {
        out.note(nothing_found(args, connection, targets))?;
    }
    Ok(())
}

/// The table of one kind: one, with the rows of all pages and names, so that its columns are of one
/// width.
async fn pages(
    args: &GetArgs,
    connection: &Connection,
    resource: &Resource,
    names: &[String],
    failed: &mut bool,
    out: &mut Out,
) -> Result<Option<Value>, Failure> {
    let mut whole: Option<Value> = None;
    let mut add = |table: Value| {
        let mut table = as_table(table);
        match &mut whole {
            None => whole = Some(table),
            Some(whole) => {
                if let (Value::Array(all), Value::Array(more)) =
                    (&mut whole["rows"], table["rows"].take())
                {
                    all.extend(more);
                }
            }
        }
    };
    for name in names {
        let path = resource.object_path(&connection.namespace, name);
        match connection.get(&path, TABLE).await {
            Ok(table) => add(table),
            Err(failure) if failure.is_not_found() && args.ignore_not_found => {}
            Err(failure) => {
                *failed = true;
                out.fail(failure)?;
            }
        }
    }
    if !names.is_empty() {
        return Ok(whole);
    }
    let namespace = (!args.all_namespaces).then_some(connection.namespace.as_str());
    let path = resource.path(namespace);
    let mut token = String::new();
    loop {
        let query = [
            ("labelSelector", args.selector.as_str()),
            ("fieldSelector", args.field_selector.as_str()),
            ("limit", PAGE),
            ("continue", token.as_str()),
        ];
        match connection.get(&with_query(&path, &query), TABLE).await {
            Ok(table) => {
                token = table["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                add(table);
            }
            Err(failure) => {
                *failed = true;
                out.fail(failure)?;
                return Ok(whole);
            }
        }
        if token.is_empty() {
            return Ok(whole);
        }
    }
}

/// A table, also where the server makes none.
fn as_table(answer: Value) -> Value {
    if answer["kind"] == "Table" {
        return answer;
    }
    let objects = match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer],
    };
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let created = object["metadata"]["creationTimestamp"].clone();
            json!({"cells": [name_of(&object), created], "object": object})
        })
        .collect();
    let column = |name: &str| json!({"name": name, "type": "string", "priority": 0});
    json!({"kind": "Table", "rows": rows,
        "columnDefinitions": [column("Name"), column("Created At")]})
}

async fn objects(
    args: &GetArgs,
    format: &Format,
    connection: &Connection,
    targets: &[Target],
    out: &mut Out,
) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut typed = Vec::new();
    for Target { resource, names } in targets {
        let before = found.len();
        if names.is_empty() {
            match target::list(connection, resource, narrow(args)).await {
                Ok(objects) => found.extend(objects),
                Err(failure) => out.fail(failure)?,
            }
        }
        for name in names {
            let path = resource.object_path(&connection.namespace, name);
            match connection.get(&path, JSON).await {
                Ok(object) => found.push(object),
                Err(failure) if failure.is_not_found() && args.ignore_not_found => {}
                Err(failure) => out.fail(failure)?,
            }
        }
        typed.extend((before..found.len()).map(|_| resource.typed()));
    }
    if !args.show_managed_fields {
        found.iter_mut().for_each(without_managed_fields);
    }
    if *format == Format::Name {
        for (object, typed) in found.iter().zip(&typed) {
            out.line(format!("{typed}/{}", name_of(object)))?;
        }
        return Ok(());
    }
    let one = matches!(targets, [Target { names, .. }] if names.len() == 1);
    let whole = match (one, found.pop()) {
        (true, None) => return Ok(()),
        (true, Some(object)) => object,
        (false, last) => {
            found.extend(last);
            json!({"apiVersion": "v1", "kind": "List", "items": found,
                "metadata": {"resourceVersion": ""}})
        }
    };
    out.raw(print(&whole, format).as_bytes())
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// An object in a format that is no table.
pub fn print(object: &Value, format: &Format) -> String {
    match format {
        Format::Json => pretty_json(object),
        Format::JsonPath(template) => template.print(object),
        Format::Yaml | Format::Wide | Format::Name => yaml::to_string(object),
    }
}

/// JSON with four spaces, as kubectl prints it.
fn pretty_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("memory takes all JSON");
    escape_as_go(&String::from_utf8(bytes).expect("JSON is UTF-8")) + "\n"
}

async fn watch(
    args: &GetArgs,
    connection: &Connection,
    Target { resource, names }: &Target,
    out: &mut Out,
) -> Result<(), Failure> {
    let namespace = (!args.all_namespaces).then_some(connection.namespace.as_str());
    let fields = match names.first() {
        Some(name) => format!("metadata.name={name}"),
        None => args.field_selector.clone(),
    };
    let query = [("labelSelector", args.selector.as_str()), ("fieldSelector", fields.as_str())];
    let path = with_query(&resource.path(namespace), &query);
    let as_objects = !matches!(args.output, None | Some(Format::Wide));
    let accept = if as_objects { JSON } else { TABLE };
    let list = connection.get(&path, accept).await?;
    let empty = elements(&list[if as_objects { "items" } else { "rows" }]).is_empty();
    if let Some(name) = names.first().filter(|_| empty) {
        // The words for what is not there are the server's.
        connection.get(&resource.object_path(&connection.namespace, name), JSON).await?;
    }
    let mut shown = Shown { args, resource, layout: Layout::default() };
    let mut version = version_of(&list["metadata"]);
    if !args.watch_only {
        shown.list(list, out)?;
    }
    loop {
        let mut watch = follow::watch(connection, &path, &version, accept).await?;
        while let Some(event) = watch.next().await? {
            let seen = match elements(&event.object["rows"]).first() {
                Some(row) => version_of(&row["object"]["metadata"]),
                None => version_of(&event.object["metadata"]),
            };
            if !seen.is_empty() {
                version = seen;
            }
            if event.kind != "BOOKMARK" {
                shown.event(event.object, out)?;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

fn version_of(metadata: &Value) -> String {
    metadata["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

/// What a watch prints, with the widths of its columns so far.
struct Shown<'a> {
    args: &'a GetArgs,
    resource: &'a Resource,
    layout: Layout,
}

impl Shown<'_> {
    fn list(&mut self, mut list: Value, out: &mut Out) -> Result<(), Failure> {
        match list["items"].take() {
            Value::Array(items) if list["kind"] != "Table" => {
                for mut item in items {
                    item["apiVersion"] = self.resource.api_version().into();
                    item["kind"] = self.resource.kind.clone().into();
                    self.event(item, out)?;
                }
                Ok(())
            }
            _ => self.event(list, out),
        }
    }

    fn event(&mut self, mut object: Value, out: &mut Out) -> Result<(), Failure> {
        match &self.args.output {
            None | Some(Format::Wide) => {
                let style = style(self.args, self.resource);
                for line in self.layout.lines(&as_table(object), style, None) {
                    out.line(line)?;
                }
            }
            Some(Format::Name) => {
                out.line(format!("{}/{}", self.resource.typed(), name_of(&object)))?;
            }
            Some(format) => {
                if !self.args.show_managed_fields {
                    without_managed_fields(&mut object);
                }
                if *format == Format::Yaml {
                    out.line("---")?;
                }
                out.raw(print(&object, format).as_bytes())?;
            }
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_name() {
        assert_eq!(Format::parse("wide"), Ok(Format::Wide));
        assert!(matches!(Format::parse("jsonpath={.a}"), Ok(Format::JsonPath(_))));
        assert!(Format::parse("jsonpath").expect_err("no template").contains("no template"));
        let told = Format::parse("xml").expect_err("none");
        assert!(told.contains("\"xml\", allowed formats are: json"), "{told}");
    }

    #[test]
    fn json_is_printed_as_go_prints_it() {
        let object = json!({"b": [1, {"c": "<&>"}], "a": {}});
        let expected = "{\n    \"a\": {},\n    \"b\": [\n        1,\n        {\n            \
                        \"c\": \"\\u003c\\u0026\\u003e\"\n        }\n    ]\n}\n";
        assert_eq!(print(&object, &Format::Json), expected);
    }

    #[test]
    fn a_server_without_tables_gets_one() {
        let list = json!({"items": [{"metadata": {"name": "a", "creationTimestamp": "t"}}]});
        let lines = Layout::default().lines(&as_table(list), Style::default(), None);
        assert_eq!(lines, ["NAME   CREATED AT", "a      t"]);
    }
}
