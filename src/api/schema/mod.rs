//! The types of the Kubernetes API: every field with its type, what apply and strategic merge need
//! to know of it, and the decoder that they drive.
//!
//! The table is `types.txt`, written by `scripts/schema-table.py`. It is read once, at first use
//! (about a millisecond).
//!
//! **Invariant:** the table agrees with k8s-openapi's own schemas, type by type and field by
//! field (`table_agrees_with_k8s_openapi`).

mod decode;
#[cfg(test)]
mod decode_tests;
mod scalar;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub use decode::{
    Expected, FieldValidation, Format, decode, normalize, yaml_to_json, yaml_with_duplicates,
};

type Str = Cow<'static, str>;

/// What a value looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON; apply takes it as a whole.
    Any,
    /// Any JSON; apply takes its objects by their keys.
    Deduced,
    /// Any JSON object (`RawExtension`, `FieldsV1`).
    Object,
    List(Box<Shape>),
    /// From strings.
    Map(Box<Shape>),
    /// A struct, by its place in the schema.
    Type(TypeId),
}

/// The place of a type in its [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

/// How server-side apply treats a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    /// Elements are known by [`Field::map_keys`].
    Map,
}

/// How strategic merge patch treats a field (`x-kubernetes-patch-strategy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged, by [`Field::merge_key`] where they hold structs.
    pub merge: bool,
    /// The value is replaced whole.
    pub replace: bool,
    /// `$retainKeys` is honoured.
    pub retain_keys: bool,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: Str,
    /// Always written by Kubernetes, also when empty.
    pub required: bool,
    pub shape: Shape,
    /// `None`: not said, which is atomic.
    pub list_type: Option<ListType>,
    pub map_keys: Box<[Str]>,
    pub strategy: PatchStrategy,
    pub merge_key: Option<Str>,
    /// Whether apply takes the map as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    /// What it is where it is left out, as far as that is said in a schema (custom resources).
    pub default: Option<Value>,
}

/// A struct.
#[derive(Debug, Clone)]
pub struct Type {
    /// As `io.k8s.api.apps.v1.Deployment`.
    pub name: Str,
    /// Whether apply takes it as a whole.
    pub atomic: bool,
    /// By name.
    pub fields: Box<[Field]>,
    /// What other fields look like, where the type allows any.
    pub rest: Option<Shape>,
}

impl Type {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some(&self.fields[at])
    }

    /// The last element of the name: `Deployment`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// A set of types that refer to each other.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<Str, TypeId>,
}

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("types.txt")));

impl Schema {
    /// The types of the built-in kinds.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// The type of that name.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).map(|id| self.type_of(*id))
    }

    /// The type that a [`Shape::Type`] of this schema names.
    pub fn type_of(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// The types, in the order of their names.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// A type of another schema, with all that it refers to, is added. Answers the shape that
    /// refers to it; any object where the other schema has no such type.
    pub fn import(&mut self, from: &Self, name: &str) -> Shape {
        let Some(of) = from.get(name) else { return Shape::Deduced };
        if let Some(id) = self.by_name.get(name) {
            return Shape::Type(*id);
        }
        // Its place is taken first, so that a type may refer to itself.
        let id = self.push(Type { fields: Box::default(), ..of.clone() });
        let mut fields = of.fields.clone();
        for field in &mut fields {
            field.shape = self.imported(from, &field.shape);
        }
        self.types[id.0 as usize].fields = fields;
        Shape::Type(id)
    }

    fn imported(&mut self, from: &Self, shape: &Shape) -> Shape {
        match shape {
            Shape::List(inner) => Shape::List(Box::new(self.imported(from, inner))),
            Shape::Map(inner) => Shape::Map(Box::new(self.imported(from, inner))),
            Shape::Type(id) => self.import(from, &from.type_of(*id).name),
            plain => plain.clone(),
        }
    }

    /// A type is added; types that refer to it do so by what this answers.
    pub fn push(&mut self, of: Type) -> TypeId {
        let id =
            TypeId(u32::try_from(self.types.len()).expect("fewer types than memory has bytes"));
        self.by_name.insert(of.name.clone(), id);
        self.types.push(of);
        id
    }

    fn parse(text: &'static str) -> Self {
        let heads = || text.lines().filter_map(|line| line.strip_prefix('@'));
        let names: Vec<(Str, bool)> = heads()
            .map(|head| {
                let (name, atomic) = head.split_once(' ').unwrap_or((head, ""));
                (Cow::Owned(long_name(name)), atomic == "atomic")
            })
            .collect();
        let by_name: HashMap<Str, TypeId> =
            names.iter().enumerate().map(|(at, (n, _))| (n.clone(), TypeId(at as u32))).collect();
        let mut fields: Vec<Vec<Field>> = Vec::with_capacity(names.len());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with('@') {
                fields.push(Vec::new());
            } else if let Some(last) = fields.last_mut() {
                last.push(parse_field(line, &by_name));
            }
        }
        let types = names
            .into_iter()
            .zip(fields)
            .map(|((name, atomic), fields)| Type {
                name,
                atomic,
                fields: fields.into(),
                rest: None,
            })
            .collect();
        Self { types, by_name }
    }
}

fn long_name(name: &str) -> String {
    match (name.strip_prefix('~'), name.strip_prefix('^')) {
        (Some(rest), _) => format!("io.k8s.api.{rest}"),
        (_, Some(rest)) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{rest}"),
        _ => name.to_owned(),
    }
}

fn parse_field(line: &'static str, types: &HashMap<Str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let required = name.ends_with('!');
    let shape = parse_shape(words.next().unwrap_or_default(), types);
    let mut field = Field {
        name: Cow::Borrowed(name.trim_end_matches('!')),
        required,
        shape,
        list_type: None,
        map_keys: Box::default(),
        strategy: PatchStrategy::default(),
        merge_key: None,
        atomic_map: false,
        default: None,
    };
    for (fact, value) in words.filter_map(|word| word.split_once('=')) {
        match fact {
            "list" => {
                let (kind, keys) = value.split_once(':').unwrap_or((value, ""));
                field.list_type = Some(match kind {
                    "map" => ListType::Map,
                    "set" => ListType::Set,
                    _ => ListType::Atomic,
                });
                field.map_keys =
                    keys.split(',').filter(|k| !k.is_empty()).map(Cow::Borrowed).collect();
            }
            "merge" => field.merge_key = Some(Cow::Borrowed(value)),
            "strategy" => {
                let says = |word| value.split(',').any(|w| w == word);
                field.strategy = PatchStrategy {
                    merge: says("merge"),
                    replace: says("replace"),
                    retain_keys: says("retainKeys"),
                };
            }
            "map" => field.atomic_map = value == "atomic",
            _ => {}
        }
    }
    field
}

fn parse_shape(text: &str, types: &HashMap<Str, TypeId>) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        return Shape::List(Box::new(parse_shape(inner, types)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(parse_shape(inner, types)));
    }
    match text {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        "any" => Shape::Any,
        "object" => Shape::Object,
        name => Shape::Type(
            *types.get(long_name(name).as_str()).expect("the script writes every type it names"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KindTable;

    #[test]
    fn every_kind_has_its_type() {
        for kind in KindTable::builtin().rows() {
            assert!(Schema::builtin().get(&kind.schema).is_some(), "{}", kind.schema);
        }
    }

    #[test]
    fn facts_of_merging_are_read() {
        let schema = Schema::builtin();
        let ports = schema.get("io.k8s.api.core.v1.ServiceSpec").and_then(|t| t.field("ports"));
        let ports = ports.expect("a service has ports");
        assert_eq!(ports.merge_key.as_deref(), Some("port"));
        assert_eq!(&*ports.map_keys, ["port", "protocol"]);
        assert!(ports.strategy.merge && !ports.strategy.retain_keys);
        let volumes = schema.get("io.k8s.api.core.v1.PodSpec").and_then(|t| t.field("volumes"));
        assert!(volumes.expect("a pod has volumes").strategy.retain_keys);
    }

    #[test]
    fn fields_are_in_order_so_that_they_can_be_searched() {
        for t in Schema::builtin().types() {
            assert!(t.fields.windows(2).all(|w| w[0].name < w[1].name), "{}", t.name);
        }
    }
}
