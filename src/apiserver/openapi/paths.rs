//! The paths of a document: an operation a verb of every kind and subresource.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::api::kinds::{Access, Kind, Scope, Subresource};
use crate::api::proto;

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// One operation, before it is written in a dialect.
struct Operation<'a> {
    kind: &'a Kind,
    /// `(group, version, kind)` of what it takes and answers.
    about: (&'a str, &'a str, &'a str),
    method: &'static str,
    /// As Kubernetes names it: `list`, `create`, `replace`, ….
    action: &'static str,
    /// What comes after the kind in the operation's name: `Status`.
    suffix: String,
    schema: String,
    named: bool,
}

/// The paths of `kinds`.
pub(super) fn of(kinds: &[&Arc<Kind>], dialect: Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let root = match &*kind.group {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        let below = match kind.scope {
            Scope::Namespaced => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            Scope::Cluster => format!("{root}/{}", kind.plural),
        };
        collection(&mut paths, kind, &below, dialect);
        if kind.access == Access::Asked {
            continue;
        }
        if kind.scope == Scope::Namespaced {
            let list = operation(kind, "get", "list", format!("{}List", kind.schema), false);
            let everywhere = format!("{root}/{}", kind.plural);
            add(&mut paths, &everywhere, &list, dialect, "ForAllNamespaces", false);
        }
        let item = format!("{below}/{{name}}");
        for (method, action) in
            [("get", "read"), ("put", "replace"), ("patch", "patch"), ("delete", "delete")]
        {
            let one = operation(kind, method, action, kind.schema.to_string(), true);
            add(&mut paths, &item, &one, dialect, "", true);
        }
        for subresource in kind.subresources.iter() {
            subresources(&mut paths, kind, *subresource, &item, dialect);
        }
    }
    paths
}

fn collection(paths: &mut Map<String, Value>, kind: &Kind, path: &str, dialect: Dialect) {
    let namespaced = kind.scope == Scope::Namespaced;
    let create = operation(kind, "post", "create", kind.schema.to_string(), false);
    add(paths, path, &create, dialect, "", namespaced);
    if kind.access == Access::Asked {
        return;
    }
    let list = operation(kind, "get", "list", format!("{}List", kind.schema), false);
    add(paths, path, &list, dialect, "", namespaced);
    if kind.verbs().contains(&"deletecollection") {
        let status = format!("{META}Status");
        let all = operation(kind, "delete", "deletecollection", status, false);
        add(paths, path, &all, dialect, "", namespaced);
    }
}

fn subresources(
    paths: &mut Map<String, Value>,
    kind: &Kind,
    subresource: Subresource,
    item: &str,
    dialect: Dialect,
) {
    let told = subresource.kind(kind);
    // Streams carry no objects.
    if told.schema.is_empty() && !told.kind.is_empty() {
        return;
    }
    let schema = if told.schema.is_empty() { kind.schema.to_string() } else { told.schema.into() };
    let path = format!("{item}/{}", subresource.name());
    for verb in subresource.verbs() {
        let (method, action) = match *verb {
            "create" => ("post", "create"),
            "update" => ("put", "replace"),
            "patch" => ("patch", "patch"),
            _ => ("get", "read"),
        };
        let mut one = operation(kind, method, action, schema.clone(), true);
        if !told.kind.is_empty() {
            let version = if told.version.is_empty() { &*kind.version } else { told.version };
            one.about = (told.group, version, told.kind);
        }
        one.suffix = upper_first(subresource.name());
        add(paths, &path, &one, dialect, "", true);
    }
}

fn operation<'a>(
    kind: &'a Kind,
    method: &'static str,
    action: &'static str,
    schema: String,
    named: bool,
) -> Operation<'a> {
    let about = (&*kind.group, &*kind.version, &*kind.kind);
    Operation { kind, about, method, action, suffix: String::new(), schema, named }
}

fn add(
    paths: &mut Map<String, Value>,
    path: &str,
    operation: &Operation<'_>,
    dialect: Dialect,
    tail: &str,
    in_namespace: bool,
) {
    let item = paths.entry(path).or_insert_with(|| json!({}));
    item[operation.method] = operation.write(dialect, tail, in_namespace);
    if item["parameters"].is_null() {
        let mut parameters = Vec::new();
        for name in ["name", "namespace"] {
            if path.contains(&format!("{{{name}}}")) {
                parameters.push(parameter(dialect, "path", name, "string"));
            }
        }
        item["parameters"] = Value::Array(parameters);
    }
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn parameter(dialect: Dialect, place: &str, name: &str, kind: &str) -> Value {
    let mut told = json!({"name": name, "in": place, "description": describe(name)});
    if place == "path" {
        told["required"] = json!(true);
    }
    match dialect {
        Dialect::V2 => {
            told["type"] = json!(kind);
            told["uniqueItems"] = json!(true);
        }
        Dialect::V3 => told["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    told
}

fn describe(name: &str) -> &'static str {
    match name {
        "name" => "name of the object",
        "namespace" => "object name and auth scope, such as for teams and projects",
        "pretty" => "If 'true', then the output is pretty printed.",
        "dryRun" => {
            "When present, indicates that modifications should not be persisted. Valid values are: \
             All"
        }
        "fieldManager" => "The name of the actor or entity that is making these changes.",
        "fieldValidation" => {
            "What the server does with unknown and duplicate fields: Ignore, Warn or Strict."
        }
        "force" => "Whether an apply takes fields from other managers.",
        "labelSelector" => "Restricts the list of returned objects by their labels.",
        "fieldSelector" => "Restricts the list of returned objects by their fields.",
        "limit" => "The maximum number of objects in one answer.",
        "continue" => "Where the next part of a list starts, as the part before told.",
        "resourceVersion" => "At which version of the data to answer.",
        "resourceVersionMatch" => "How resourceVersion is applied to a list.",
        "timeoutSeconds" => "How long the call may last.",
        "watch" => "Watch for changes instead of listing once.",
        "allowWatchBookmarks" => "Whether a watch may be sent bookmarks.",
        "sendInitialEvents" => "Whether a watch begins with what there is.",
        "gracePeriodSeconds" => "How long the object may take to end.",
        "propagationPolicy" => "What becomes of dependents: Orphan, Background or Foreground.",
        _ => "",
    }
}

impl Operation<'_> {
    fn id(&self, tail: &str, in_namespace: bool) -> String {
        let group = match self.kind.group.split('.').next().unwrap_or_default() {
            "" => "Core".to_owned(),
            group => upper_first(group),
        };
        let namespaced =
            if in_namespace && self.kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        let action = match self.action {
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let (version, kind) = (upper_first(&self.kind.version), &self.kind.kind);
        format!("{action}{group}{version}{namespaced}{kind}{}{tail}", self.suffix)
    }

    fn parameters(&self, dialect: Dialect) -> Vec<Value> {
        let mut names = vec![("pretty", "string")];
        match self.action {
            "create" | "replace" | "patch" => names.extend([
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
            ]),
            "delete" | "deletecollection" => names.extend([
                ("dryRun", "string"),
                ("gracePeriodSeconds", "integer"),
                ("propagationPolicy", "string"),
            ]),
            _ => {}
        }
        if self.action == "patch" {
            names.push(("force", "boolean"));
        }
        if matches!(self.action, "list" | "deletecollection") {
            names.extend([
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ]);
        }
        names.into_iter().map(|(name, kind)| parameter(dialect, "query", name, kind)).collect()
    }

    /// What it answers in.
    fn media_types(&self) -> Vec<&'static str> {
        let mut types = vec!["application/json", "application/yaml"];
        let protobuf = proto::serves(&self.kind.schema);
        types.extend(protobuf.then_some(proto::MEDIA_TYPE));
        if matches!(self.action, "list" | "watch") {
            types.push("application/json;stream=watch");
            types.extend(protobuf.then_some(proto::STREAM_MEDIA_TYPE));
        }
        types
    }

    fn responses(&self, dialect: Dialect, answer: &Value) -> Value {
        let mut responses = Map::new();
        let mut codes = vec![("200", "OK"), ("401", "Unauthorized")];
        if matches!(self.action, "create" | "replace" | "patch") {
            codes.push(("201", "Created"));
        }
        for (code, words) in codes {
            let mut response = json!({"description": words});
            if code != "401" {
                match dialect {
                    Dialect::V2 => response["schema"] = answer.clone(),
                    Dialect::V3 => {
                        let content: Map<String, Value> = self
                            .media_types()
                            .into_iter()
                            .map(|t| (t.to_owned(), json!({"schema": answer})))
                            .collect();
                        response["content"] = Value::Object(content);
                    }
                }
            }
            responses.insert(code.into(), response);
        }
        Value::Object(responses)
    }

    fn write(&self, dialect: Dialect, tail: &str, in_namespace: bool) -> Value {
        let root = match dialect {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        let to = |schema: &str| json!({"$ref": format!("{root}{schema}")});
        let (group, version, kind) = self.about;
        let tag = match self.kind.group.split('.').next().unwrap_or_default() {
            "" => format!("core_{}", self.kind.version),
            group => format!("{group}_{}", self.kind.version),
        };
        let what = if self.named { "the specified" } else { "objects of kind" };
        let mut told = json!({
            "description": format!("{} {what} {}", self.action, self.kind.kind),
            "operationId": self.id(tail, in_namespace),
            "tags": [tag],
            "x-kubernetes-action": match self.action { "replace" => "put", "read" => "get", "create" => "post", other => other },
            "x-kubernetes-group-version-kind":
                {"group": group, "version": version, "kind": kind},
        });
        let mut parameters = self.parameters(dialect);
        let body = match self.action {
            "create" | "replace" => Some(to(&self.schema)),
            "patch" => Some(json!({"type": "object"})),
            "delete" | "deletecollection" => Some(to(&format!("{META}DeleteOptions"))),
            _ => None,
        };
        let types: Vec<&str> = match self.action {
            "patch" => PATCHES.to_vec(),
            _ => vec!["*/*"],
        };
        told["responses"] = self.responses(dialect, &to(&self.schema));
        if let Some(schema) = body {
            match dialect {
                Dialect::V2 => {
                    told["consumes"] = json!(types);
                    let required = !self.action.starts_with("delete");
                    parameters.push(json!({
                        "name": "body", "in": "body", "schema": schema, "required": required,
                    }));
                }
                Dialect::V3 => {
                    let content: Map<String, Value> = types
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                        .collect();
                    told["requestBody"] = json!({"content": content});
                }
            }
        }
        if dialect == Dialect::V2 {
            told["produces"] = json!(self.media_types());
        }
        told["parameters"] = Value::Array(parameters);
        told
    }
}
