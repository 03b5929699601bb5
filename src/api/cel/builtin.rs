//! The types of the built-in kinds, for expressions.

use std::sync::Arc;

use super::{Fields, Type};
use crate::api::schema::{self, Schema, Shape};

/// A struct of the schema.
struct Struct {
    schema: &'static Schema,
    of: &'static schema::Type,
}

impl Fields for Struct {
    fn name(&self) -> String {
        self.of.short_name().to_owned()
    }

    fn field(&self, name: &str) -> Option<Type> {
        match (self.of.field(name), &self.of.rest) {
            (Some(field), _) => Some(shape_type(self.schema, &field.shape)),
            (None, Some(rest)) => Some(shape_type(self.schema, rest)),
            (None, None) => None,
        }
    }
}

fn shape_type(schema: &'static Schema, shape: &'static Shape) -> Type {
    match shape {
        Shape::String | Shape::Quantity => Type::String,
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Double => Type::Double,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::IntOrString | Shape::Any | Shape::Deduced | Shape::Object => Type::Dyn,
        Shape::List(inner) => Type::list(shape_type(schema, inner)),
        Shape::Map(inner) => Type::map(shape_type(schema, inner)),
        Shape::Type(id) => Type::Object(Arc::new(Struct { schema, of: schema.type_of(*id) })),
    }
}

/// The type of the objects of a built-in kind, by the name of its schema.
pub fn builtin_type(name: &str) -> Option<Type> {
    let schema = Schema::builtin();
    Some(Type::Object(Arc::new(Struct { schema, of: schema.get(name)? })))
}
