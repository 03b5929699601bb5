//! What the schema says of one value, as far as field sets and apply go.

use serde_json::{Map, Value};

use crate::api::schema::{Field, ListType, Schema, Shape, Type};

/// How a value is owned: as a whole or by its parts.
#[derive(Debug, Clone, Copy)]
pub enum Node<'s> {
    /// As a whole: scalars, atomic lists and maps.
    Leaf,
    /// By its fields.
    Struct(&'s Schema, &'s Type),
    /// By its keys.
    Map(&'s Schema, &'s Shape),
    /// By its values.
    Set,
    /// By its elements, which are known by keys.
    List(&'s Schema, &'s Shape, &'s Field),
    /// As the value itself looks: maps by their keys, all else as a whole.
    Deduced,
}

impl<'s> Node<'s> {
    /// Of an object whose type has this name; deduced where there is none.
    pub fn of_type(schema: &'s Schema, name: &str) -> Self {
        match schema.get(name) {
            Some(of) => Self::Struct(schema, of),
            None => Self::Deduced,
        }
    }

    fn of_shape(schema: &'s Schema, shape: &'s Shape) -> Self {
        match shape {
            Shape::Type(id) => {
                let of = schema.type_of(*id);
                if of.atomic { Self::Leaf } else { Self::Struct(schema, of) }
            }
            Shape::Map(inner) => Self::Map(schema, inner),
            Shape::Object => Self::Map(schema, &Shape::Any),
            Shape::Deduced => Self::Deduced,
            _ => Self::Leaf,
        }
    }

    /// Of a field.
    pub fn of_field(schema: &'s Schema, field: &'s Field) -> Self {
        match (&field.shape, field.list_type) {
            (Shape::List(_), Some(ListType::Set)) => Self::Set,
            (Shape::List(inner), Some(ListType::Map)) => Self::List(schema, inner, field),
            _ if field.atomic_map => Self::Leaf,
            (shape, _) => Self::of_shape(schema, shape),
        }
    }

    /// Of a member of a map or a field of a struct. `None`: the struct has no such field.
    pub fn member(self, name: &str) -> Option<Self> {
        match self {
            Self::Struct(schema, of) => match (of.field(name), &of.rest) {
                (Some(field), _) => Some(Self::of_field(schema, field)),
                (None, Some(rest)) => Some(Self::of_shape(schema, rest)),
                (None, None) => None,
            },
            Self::Map(schema, shape) => Some(Self::of_shape(schema, shape)),
            Self::Deduced => Some(Self::Deduced),
            Self::Leaf | Self::Set | Self::List(..) => None,
        }
    }

    /// Whether `name` is a field that the type names, not a key of a map.
    pub fn is_named(self, name: &str) -> bool {
        matches!(self, Self::Struct(_, of) if of.field(name).is_some())
    }

    /// Of the elements of a list.
    pub fn element(self) -> Self {
        match self {
            Self::List(schema, shape, _) => Self::of_shape(schema, shape),
            _ => Self::Leaf,
        }
    }
}

/// The element of a path that stands for `item` of a list.
pub(crate) fn element(list: Node<'_>, item: &Value) -> String {
    let Node::List(schema, shape, field) = list else { return format!("v:{item}") };
    let mut keys = Map::new();
    for key in &field.map_keys {
        let there = item.get(&**key).filter(|value| !value.is_null()).cloned();
        if let Some(value) = there.or_else(|| default_of(schema, shape, key)) {
            keys.insert(key.to_string(), value);
        }
    }
    format!("k:{}", Value::Object(keys))
}

/// What a key is where the element does not say it.
fn default_of(schema: &Schema, shape: &Shape, key: &str) -> Option<Value> {
    let Shape::Type(id) = shape else { return None };
    let of = schema.type_of(*id);
    let field = of.field(key)?;
    if let Some(default) = &field.default {
        return Some(default.clone());
    }
    match (of.short_name(), key) {
        ("ContainerPort" | "ServicePort", "protocol") => Some(Value::from("TCP")),
        ("LocalObjectReference", "name") => Some(Value::from("")),
        _ => None,
    }
}
