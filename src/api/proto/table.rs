//! The messages: every field of a type with its number and its form on the wire.
//!
//! `messages.txt` has what only Go's types know (numbers, pointers, what is inlined), the schema
//! has the types of the fields. The two are put together once, at first use.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::api::schema::{Schema, Shape, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
/// The types that a JSON schema is one of several things in refer to this one.
const JSON_SCHEMA: &str = "JSONSchemaProps";

type Str = Cow<'static, str>;

/// The place of a message in the [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId(usize);

/// How a value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    /// A message of seconds and nanoseconds.
    Time,
    MicroTime,
    /// A message of a string.
    Quantity,
    /// A message of a type, a number and a string.
    IntOrString,
    /// A message of bytes that are JSON.
    Json,
    /// A message of strings: a list that is the value of a map.
    Strings,
    Message(MessageId),
    /// A message whose fields are, in JSON, those of the message around it.
    Inline(Box<Message>),
    List(Box<Form>),
    Map(Box<Form>),
    /// A JSON schema, or a list of them.
    SchemaOrArray(MessageId),
    /// A JSON schema, or whether any value is allowed.
    SchemaOrBool(MessageId),
    /// A JSON schema, or names of properties.
    SchemaOrStringArray(MessageId),
}

/// When Go writes a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// A pointer: where it is set, and then also when it is zero.
    Pointer,
    /// A value that JSON has too when it is zero.
    Always,
    /// A value that JSON leaves out when it is zero.
    Value,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub number: u32,
    /// As in JSON; empty for what is inlined.
    pub name: Str,
    pub presence: Presence,
    pub form: Form,
}

/// A message; its fields are in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    /// As `DeploymentSpec`, for errors.
    pub name: Str,
    pub fields: Box<[Field]>,
}

impl Message {
    /// The field of that number.
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[at])
    }

    /// Whether a field of that name in JSON is written.
    #[cfg(test)]
    pub(super) fn writes(&self, name: &str) -> bool {
        self.fields.iter().any(|field| match &field.form {
            Form::Inline(inner) => inner.writes(name),
            _ => field.name == name,
        })
    }
}

/// The messages of the types of the schema.
pub(super) struct Table {
    messages: Vec<Message>,
    by_name: HashMap<Str, MessageId>,
}

static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::new(include_str!("messages.txt"), Schema::builtin()));

impl Table {
    pub(super) fn builtin() -> &'static Self {
        &TABLE
    }

    /// The message of a type, `io.k8s.api.apps.v1.Deployment`.
    pub(super) fn get(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|id| self.message(*id))
    }

    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    fn new(text: &'static str, schema: &Schema) -> Self {
        let lines = parse(text);
        // A place for every type that is written, so that messages can refer to each other.
        let written: Vec<&Type> =
            schema.types().iter().filter(|of| lines.contains_key(&*of.name)).collect();
        let by_name: HashMap<Str, MessageId> =
            written.iter().enumerate().map(|(at, of)| (of.name.clone(), MessageId(at))).collect();
        let build = Build { lines, schema, by_name: &by_name };
        let messages = written.iter().map(|of| build.message(&of.name, of)).collect();
        Self { messages, by_name }
    }
}

fn long_name(name: &str) -> String {
    match name.split_at_checked(1) {
        Some(("~", rest)) => format!("io.k8s.api.{rest}"),
        Some(("^", rest)) => format!("{META}{rest}"),
        Some(("%", rest)) => format!("{EXTENSIONS}{rest}"),
        _ => name.to_owned(),
    }
}

/// The lines of `messages.txt` by type.
fn parse(text: &'static str) -> HashMap<String, Vec<&'static str>> {
    let mut types = HashMap::new();
    let mut lines: Option<&mut Vec<&'static str>> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('@') {
            Some(name) => lines = Some(types.entry(long_name(name)).or_default()),
            None => lines.as_deref_mut().expect("a field follows its type").push(line),
        }
    }
    types
}

struct Build<'a> {
    lines: HashMap<String, Vec<&'static str>>,
    schema: &'a Schema,
    by_name: &'a HashMap<Str, MessageId>,
}

impl Build<'_> {
    /// The message of that name, whose fields are among those of `of` in JSON.
    fn message(&self, name: &str, of: &Type) -> Message {
        let lines = self.lines.get(name).map(Vec::as_slice).unwrap_or_default();
        let fields = lines.iter().filter_map(|line| self.field(line, of)).collect();
        let name = name.rsplit('.').next().unwrap_or(name).to_owned();
        Message { name: name.into(), fields }
    }

    /// `None`: the schema does not have the field any more.
    fn field(&self, line: &'static str, of: &Type) -> Option<Field> {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse().ok());
        let number = number.expect("the script writes numbers");
        let told = words.next().unwrap_or_default();
        if name == "=" {
            let form = Form::Inline(Box::new(self.message(&long_name(told), of)));
            return Some(Field { number, name: "".into(), presence: Presence::Always, form });
        }
        let presence = match name.as_bytes().last() {
            Some(b'?') => Presence::Pointer,
            Some(b'!') => Presence::Always,
            _ => Presence::Value,
        };
        let name = name.trim_end_matches(['?', '!']);
        let shape = &of.field(name)?.shape;
        let form = self.form(shape, told)?;
        Some(Field { number, name: Cow::Borrowed(name), presence, form })
    }

    /// `None`: a type that has no message.
    fn form(&self, shape: &Shape, told: &str) -> Option<Form> {
        let json_schema = || self.by_name.get(&*format!("{EXTENSIONS}{JSON_SCHEMA}")).copied();
        Some(match shape {
            Shape::List(inner) => Form::List(Box::new(self.form(inner, told)?)),
            Shape::Map(inner) => Form::Map(Box::new(match &**inner {
                Shape::List(_) => Form::Strings,
                inner => self.form(inner, told)?,
            })),
            Shape::String => Form::String,
            Shape::Bool => Form::Bool,
            Shape::Int32 => Form::Int32,
            Shape::Int64 => Form::Int64,
            Shape::Double => Form::Double,
            Shape::Bytes => Form::Bytes,
            Shape::Time => Form::Time,
            Shape::MicroTime => Form::MicroTime,
            Shape::Quantity => Form::Quantity,
            Shape::IntOrString => Form::IntOrString,
            Shape::Type(id) => Form::Message(*self.by_name.get(&self.schema.type_of(*id).name)?),
            _ => match told {
                "orArray" => Form::SchemaOrArray(json_schema()?),
                "orBool" => Form::SchemaOrBool(json_schema()?),
                "orStringArray" => Form::SchemaOrStringArray(json_schema()?),
                _ => Form::Json,
            },
        })
    }
}
