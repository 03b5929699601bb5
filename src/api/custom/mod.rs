//! Custom resources: what a CustomResourceDefinition says of a kind, made ready for use
//! (apiextensions.k8s.io/v1, KEP-1111 structural schemas).
//!
//! ```text
//! CRD version ─ Structural ─┬─ prune, default, validate   (objects as they come in)
//!                           ├─ Schema                     (field sets and apply)
//!                           └─ published                  (OpenAPI)
//! ```
//!
//! **Invariant:** a definition that [`definition::validate`] let through makes a [`Custom`] for
//! each of its versions.

pub mod definition;
mod jsonpath;
mod published;
mod ratchet;
mod rules;
mod structural;
#[cfg(test)]
mod tests;
mod types;
mod validate;

use std::sync::Arc;

use serde_json::{Map, Value};

pub use jsonpath::JsonPath;
pub use structural::Structural;

use super::Object;
use super::fields::Node;
use super::kinds::{Access, Kind, Scope, Subresource};
use super::schema::Schema;
use super::status::FieldError;

/// A column that a definition adds to the table of its kind.
#[derive(Debug, Clone)]
pub struct PrinterColumn {
    pub name: String,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub path: JsonPath,
}

/// Where the scale subresource finds its numbers, as dotted paths.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub selector: String,
}

/// One served version of a custom kind.
pub struct Custom {
    /// The name of the definition: `crontabs.stable.example.com`.
    pub definition: String,
    pub schema: Structural,
    pub columns: Vec<PrinterColumn>,
    pub scale: Option<ScalePaths>,
    pub has_status: bool,
    /// The definition is being deleted: nothing new is taken.
    pub terminating: bool,
    /// As the definition says it.
    pub source: Value,
    /// `spec.conversion.webhook`, where versions are converted by one; else null.
    pub webhook: Value,
    /// For the `Warning` header of every request, where the version is deprecated.
    pub deprecation: Option<String>,
    /// Whether any field has a default.
    pub has_defaults: bool,
    has_rules: bool,
    has_embedded: bool,
    types: Schema,
    root: String,
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Custom({} {} {})", self.definition, self.root, self.source)
    }
}

impl Custom {
    /// What its schema says of its objects.
    pub fn node(&self) -> Node<'_> {
        Node::of_type(&self.types, &self.root)
    }

    /// Drop what the schema does not know. Answers the paths of what was dropped.
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        let mut dropped = Vec::new();
        self.schema.prune(object, true, &mut String::new(), &mut dropped);
        dropped
    }

    /// Go to the metadata of every object that is embedded in `object`, each with its path.
    ///
    /// # Errors
    /// The first that `visit` answers.
    pub fn embedded_metadata(
        &self,
        object: &mut Object,
        visit: &mut dyn FnMut(&str, &mut Object) -> Result<(), String>,
    ) -> Result<(), String> {
        if !self.has_embedded {
            return Ok(());
        }
        self.schema.embedded_metadata(object, &mut String::new(), visit)
    }

    /// Set what is left out and has a default.
    pub fn default(&self, object: &mut Object) {
        self.schema.fill(object);
    }

    /// The rules of the schema. `old`: the object before, for a change; what was broken before and
    /// has not changed is let be (KEP-4008).
    pub fn validate(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = self.schema.validate_object(object);
        if errors.is_empty() && self.has_rules {
            errors = self.schema.keep_rules(object, old);
        }
        if let Some(old) = old {
            errors.retain(|error| !ratchet::is_unchanged(&error.path, object, old));
        }
        if let Some(scale) = &self.scale {
            let replicas = at(object, &scale.spec_replicas).as_i64().unwrap_or(0);
            if replicas < 0 {
                let path = super::field::Path::new(&scale.spec_replicas);
                errors.push(path.invalid(replicas, "should be a non-negative integer"));
            }
        }
        errors
    }

    /// The schema as OpenAPI documents tell it.
    pub fn published(&self, metadata: Value) -> Value {
        published::of(&self.source, metadata)
    }
}

/// The value at a dotted path.
pub fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|part| !part.is_empty()).fold(object, |at, part| &at[part])
}

/// Put a value at a dotted path.
pub fn put_at(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[part];
    }
    *at = value;
}

/// The rows of a definition: its served versions, the one that objects are stored in first.
pub fn rows(definition: &Object) -> Vec<Kind> {
    let spec = &definition["spec"];
    let mut versions: Vec<&Value> = super::meta::list(&spec["versions"])
        .iter()
        .filter(|version| version["served"] == true)
        .collect();
    versions.sort_by_key(|version| version["storage"] != true);
    versions.into_iter().map(|version| row(definition, version)).collect()
}

fn row(definition: &Object, version: &Value) -> Kind {
    let spec = &definition["spec"];
    // The names that were accepted, where a status says so.
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted["plural"].is_string() { accepted } else { &spec["names"] };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<std::borrow::Cow<'static, str>> {
        super::meta::list(value).iter().map(|v| text(v).into()).collect()
    };
    let (group, name, kind) = (text(&spec["group"]), text(&version["name"]), text(&names["kind"]));
    let plural = text(&names["plural"]);
    let mut subresources = Vec::new();
    if version["subresources"]["status"].is_object() {
        subresources.push(Subresource::Status);
    }
    if version["subresources"]["scale"].is_object() {
        subresources.push(Subresource::Scale);
    }
    let selectable: Vec<std::borrow::Cow<'static, str>> =
        super::meta::list(&version["selectableFields"])
            .iter()
            .filter_map(|field| field["jsonPath"].as_str())
            .map(|path| path.trim_start_matches('.').to_owned().into())
            .collect();
    let mut reversed: Vec<&str> = group.split('.').rev().collect();
    reversed.extend([name.as_str(), kind.as_str()]);
    let custom = custom(definition, version, &reversed.join("."));
    Kind {
        schema: reversed.join(".").into(),
        storage: format!("{group}/{plural}").into(),
        group: group.into(),
        version: name.into(),
        singular: text(&names["singular"]).into(),
        short_names: texts(&names["shortNames"]).into(),
        categories: texts(&names["categories"]).into(),
        scope: match spec["scope"].as_str() {
            Some("Namespaced") => Scope::Namespaced,
            _ => Scope::Cluster,
        },
        access: Access::Stored,
        subresources: subresources.into(),
        selectable: selectable.into(),
        custom: Some(Arc::new(custom)),
        list: text(&names["listKind"]).into(),
        kind: kind.into(),
        plural: plural.into(),
    }
}

fn custom(definition: &Object, version: &Value, root: &str) -> Custom {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let source = version["schema"]["openAPIV3Schema"].clone();
    let schema = Structural::parse(&source);
    let types = types::of(&schema, root);
    let (has_rules, schema_has_defaults) = (schema.has_rules(), schema.has_defaults());
    let has_embedded = schema.has_embedded();
    let columns = super::meta::list(&version["additionalPrinterColumns"])
        .iter()
        .filter_map(|column| {
            Some(PrinterColumn {
                name: text(&column["name"]),
                kind: text(&column["type"]),
                format: text(&column["format"]),
                description: text(&column["description"]),
                priority: column["priority"].as_i64().unwrap_or(0),
                path: JsonPath::parse(column["jsonPath"].as_str()?).ok()?,
            })
        })
        .collect();
    let scale = &version["subresources"]["scale"];
    let path = |field: &str| text(&scale[field]).trim_start_matches('.').to_owned();
    let api_version = format!("{}/{}", text(&definition["spec"]["group"]), text(&version["name"]));
    let kind = text(&definition["spec"]["names"]["kind"]);
    Custom {
        definition: text(&definition["metadata"]["name"]),
        schema,
        columns,
        scale: scale.is_object().then(|| ScalePaths {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: path("labelSelectorPath"),
        }),
        has_status: version["subresources"]["status"].is_object(),
        terminating: super::meta::is_deleting(definition),
        webhook: match definition["spec"]["conversion"]["strategy"] == "Webhook" {
            true => definition["spec"]["conversion"]["webhook"].clone(),
            false => Value::Null,
        },
        deprecation: (version["deprecated"] == true).then(
            || match &version["deprecationWarning"] {
                Value::String(said) => said.clone(),
                _ => format!("{api_version} {kind} is deprecated"),
            },
        ),
        has_defaults: schema_has_defaults,
        has_rules,
        has_embedded,
        types,
        root: root.to_owned(),
        source,
    }
}
