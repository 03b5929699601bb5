//! A structural schema as types, which field sets and apply understand.

use serde_json::Value;

use super::Structural;
use crate::api::schema::{Field, ListType, PatchStrategy, Schema, Shape, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a kind; the root has the name `root`.
pub(super) fn of(schema: &Structural, root: &str) -> Schema {
    let mut types = Schema::default();
    let metadata = types.import(Schema::builtin(), META);
    let mut maker = Maker { types, metadata, count: 0 };
    maker.object(schema, root.to_owned(), true);
    maker.types
}

struct Maker {
    types: Schema,
    metadata: Shape,
    count: usize,
}

impl Maker {
    fn shape(&mut self, schema: &Structural) -> Shape {
        if schema.int_or_string {
            return Shape::Any;
        }
        match schema.kind.as_str() {
            "object" if schema.properties.is_empty() && !schema.embedded => {
                match (&schema.additional, schema.preserve) {
                    (Some(inner), _) => Shape::Map(Box::new(self.shape(inner))),
                    (None, true) => Shape::Deduced,
                    (None, false) => self.anonymous(schema),
                }
            }
            "object" => self.anonymous(schema),
            "array" => {
                let items = schema.items.as_deref();
                let inner = items.map_or(Shape::Deduced, |items| self.shape(items));
                Shape::List(Box::new(inner))
            }
            "" if schema.preserve => Shape::Deduced,
            _ => Shape::Any,
        }
    }

    fn anonymous(&mut self, schema: &Structural) -> Shape {
        self.count += 1;
        let name = format!("#{}", self.count);
        self.object(schema, name, schema.embedded)
    }

    fn object(&mut self, schema: &Structural, name: String, resource: bool) -> Shape {
        let mut fields: Vec<Field> = schema
            .properties
            .iter()
            .filter(|(name, _)| !(resource && is_type_or_metadata(name)))
            .map(|(name, inner)| {
                let shape = self.shape(inner);
                field(name, shape, Some(inner))
            })
            .collect();
        if resource {
            fields.push(field("apiVersion", Shape::String, None));
            fields.push(field("kind", Shape::String, None));
            fields.push(field("metadata", self.metadata.clone(), None));
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let rest = match (&schema.additional, schema.preserve) {
            (Some(inner), _) => Some(self.shape(inner)),
            (None, true) => Some(Shape::Deduced),
            (None, false) => None,
        };
        let of = Type { name: name.into(), atomic: schema.atomic_map, fields: fields.into(), rest };
        Shape::Type(self.types.push(of))
    }
}

fn is_type_or_metadata(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn field(name: &str, shape: Shape, schema: Option<&Structural>) -> Field {
    let default: Option<Value> = schema.and_then(|s| s.default.clone());
    Field {
        name: name.to_owned().into(),
        required: false,
        shape,
        list_type: schema.and_then(|s| match s.list_type {
            Some(ListType::Map) if s.map_keys.is_empty() => None,
            found => found,
        }),
        map_keys: schema
            .map(|s| s.map_keys.iter().map(|k| k.clone().into()).collect())
            .unwrap_or_default(),
        strategy: PatchStrategy::default(),
        merge_key: None,
        atomic_map: schema.is_some_and(|s| s.atomic_map),
        default,
    }
}
