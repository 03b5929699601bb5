//! From the bytes of a request to an object of a known type, in one pass.
//!
//! The decoder follows the schema as Go's decoder follows structs: a field that is null is absent,
//! unknown fields are left out and told, fields of the wrong type are refused in Go's words, and
//! quantities, times and base64 come out as Kubernetes would write them. Empty lists and maps of
//! optional fields are left out, as `omitempty` does.
//!
//! **Invariant:** depth is bounded by the parsers (128 for JSON), and what comes out holds no null.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Schema, Shape, Type, scalar};
use crate::api::Object;
use crate::api::custom::Custom;
use crate::api::kinds::Kind;
use crate::api::quantity::Quantity;
use crate::api::status::ApiError;

/// At most so many unknown and duplicate fields are told, as in Kubernetes.
const STRICT_ERRORS_MAX: usize = 100;

/// What happens to unknown and duplicate fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// The query parameter; empty is [`Self::Warn`].
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// What a body should hold.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// The type in the schema.
    pub schema: &'a str,
    /// What its definition says of it, for a custom kind.
    pub custom: Option<&'a Custom>,
}

impl<'a> From<&'a Kind> for Expected<'a> {
    fn from(kind: &'a Kind) -> Self {
        Self {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            schema: &kind.schema,
            custom: kind.custom.as_deref(),
        }
    }
}

impl Expected<'_> {
    fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    fn refuse(&self, object: &Value, why: &str) -> ApiError {
        let kind = object["kind"].as_str().unwrap_or(self.kind);
        let version = match object["apiVersion"].as_str() {
            Some(text) => text.rsplit('/').next().unwrap_or(text),
            None => self.version,
        };
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        ))
    }
}

/// Decode the body of a request. Answers the object, with `kind` and `apiVersion` set, and the
/// warnings.
///
/// # Errors
/// 400 in Kubernetes' words.
pub fn decode<'a>(
    expected: impl Into<Expected<'a>>,
    bytes: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), ApiError> {
    let expected = expected.into();
    let mut state = State::default();
    let shape = root_shape(expected);
    let seed = |state| Seed { state, shape: &shape, schema: Schema::builtin() };
    let decoded = match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_slice(bytes);
            seed(&mut state)
                .deserialize(&mut json)
                .and_then(|value| json.end().map(|()| value))
                .map_err(|error| go_syntax_error(&error, bytes))
        }
        Format::Yaml => yaml(bytes, |yaml| seed(&mut state).deserialize(yaml)),
    };
    let value = decoded.map_err(|why| {
        let head = if format == Format::Json { "json parse error: " } else { "" };
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; \
             {head}{why} ({})",
            expected.kind,
            summary(bytes)
        ))
    })?;
    if format == Format::Yaml && state.doubled {
        // YAML's own parser tells of the first one, before anything else is looked at.
        state.strict.retain(|told| !told.starts_with("duplicate"));
        state.strict.splice(0..0, yaml_duplicate(bytes));
    }
    finish(expected, value, state, validation)
}

/// The same for an object that is already parsed: the result of a patch.
///
/// # Errors
/// 400 in Kubernetes' words.
pub fn normalize<'a>(
    expected: impl Into<Expected<'a>>,
    object: Value,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), ApiError> {
    let expected = expected.into();
    let mut state = State::default();
    let shape = root_shape(expected);
    let seed = Seed { state: &mut state, shape: &shape, schema: Schema::builtin() };
    let value = seed.deserialize(object).map_err(|e| ApiError::bad_request(e.to_string()))?;
    finish(expected, value, state, validation)
}

/// YAML as JSON, without a schema.
///
/// # Errors
/// What is wrong, with its line.
pub fn yaml_to_json(bytes: &[u8]) -> Result<Value, String> {
    let mut state = State::default();
    yaml(bytes, |yaml| {
        Seed { state: &mut state, shape: &Shape::Any, schema: Schema::builtin() }.deserialize(yaml)
    })
}

/// YAML (or JSON) as JSON, without a schema, and the first key that is set twice in Kubernetes'
/// words.
///
/// # Errors
/// What is wrong, with its line.
pub fn yaml_with_duplicates(bytes: &[u8]) -> Result<(Value, Option<String>), String> {
    let schema = Schema::builtin();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut as_json = State::default();
    let read = Seed { state: &mut as_json, shape: &Shape::Any, schema }.deserialize(&mut json);
    let (value, again) = match read.and_then(|value| json.end().map(|()| value)) {
        Ok(value) => (value, as_json.doubled),
        Err(_) => {
            let mut state = State::default();
            let value = yaml(bytes, |yaml| {
                Seed { state: &mut state, shape: &Shape::Any, schema }.deserialize(yaml)
            })?;
            (value, state.doubled)
        }
    };
    Ok((value, again.then(|| yaml_duplicate(bytes)).flatten()))
}

fn root_shape(expected: Expected<'_>) -> Shape {
    if expected.custom.is_some() {
        return Shape::Any;
    }
    match Schema::builtin().by_name.get(expected.schema) {
        Some(id) => Shape::Type(*id),
        None => Shape::Object,
    }
}

fn finish(
    expected: Expected<'_>,
    mut value: Value,
    state: State<'_>,
    validation: FieldValidation,
) -> Result<(Object, Vec<String>), ApiError> {
    let Some(object) = value.as_object_mut() else {
        let why = state.failure.unwrap_or_else(|| "json: cannot unmarshal null".into());
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; \
             json parse error: {why}",
            expected.kind
        )));
    };
    let wanted = expected.api_version();
    let told = |object: &Map<String, Value>, field: &str| match object.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let version = told(object, "apiVersion").unwrap_or_else(|| wanted.clone());
    let kind = told(object, "kind").unwrap_or_else(|| expected.kind.to_owned());
    object.insert("apiVersion".into(), Value::String(version.clone()));
    object.insert("kind".into(), Value::String(kind.clone()));
    // Options come in any group's version.
    if expected.kind != "DeleteOptions" && version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             ({wanted})"
        )));
    }
    if kind != expected.kind {
        let why = format!(
            "converting ({}.{kind}) to ({}.{}): unknown conversion",
            expected.version, expected.version, expected.kind
        );
        return Err(expected.refuse(&value, &why));
    }
    if let Some(why) = state.failure {
        return Err(expected.refuse(&value, &why));
    }
    let mut strict = state.strict;
    if let Some(custom) = expected.custom {
        strict.extend(custom.prune(&mut value).iter().map(|at| format!("unknown field {at:?}")));
        let told = metadata(custom, &mut value).map_err(|why| expected.refuse(&value, &why))?;
        strict.extend(told);
        strict.truncate(STRICT_ERRORS_MAX);
    }
    match validation {
        FieldValidation::Strict if !strict.is_empty() => {
            let why = format!("strict decoding error: {}", strict.join(", "));
            Err(expected.refuse(&value, &why))
        }
        FieldValidation::Warn => Ok((value, strict)),
        _ => Ok((value, Vec::new())),
    }
}

/// The metadata of a custom object and of what is embedded in it, as its own type reads it.
/// Answers what is unknown in it.
fn metadata(custom: &Custom, object: &mut Value) -> Result<Vec<String>, String> {
    let mut told = Vec::new();
    if let Some(sent) = object.get_mut("metadata") {
        told = one_metadata(sent)?;
    }
    custom.embedded_metadata(object, &mut |path, sent| {
        let inner = one_metadata(sent)?;
        told.extend(inner.iter().map(|one| one.replacen("\"", &format!("\"{path}."), 1)));
        Ok(())
    })?;
    Ok(told)
}

fn one_metadata(sent: &mut Value) -> Result<Vec<String>, String> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let schema = Schema::builtin();
    let Some(id) = schema.by_name.get(META) else { return Ok(Vec::new()) };
    let shape = Shape::Type(*id);
    let mut state = State::default();
    state.at.push(Step::Field("ObjectMeta", "metadata"));
    let read = Seed { state: &mut state, shape: &shape, schema }.deserialize(sent.take());
    *sent = read.map_err(|error| error.to_string())?;
    match state.failure {
        Some(why) => Err(why),
        None => Ok(state.strict),
    }
}

/// The head of a body, as Kubernetes quotes it.
fn summary(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(30)];
    let more = if bytes.len() > 30 { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", hex::encode(head)),
    }
}

/// A syntax error in the words of Go's `encoding/json`.
fn go_syntax_error(error: &serde_json::Error, bytes: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let said = error.to_string();
    let place = [
        ("expected value", "looking for beginning of value"),
        ("expected ident", "in literal"),
        ("key must be a string", "looking for beginning of object key string"),
        ("trailing comma", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
    ]
    .into_iter()
    .find(|(head, _)| said.starts_with(head));
    let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    match (place, at) {
        (Some((_, place)), Some(byte)) => {
            format!("invalid character '{}' {place}", char::from(*byte).escape_default())
        }
        _ => said,
    }
}

fn yaml_options(duplicates: serde_saphyr::DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! { duplicate_keys: duplicates, with_snippet: false }
}

fn yaml<'de, R>(
    bytes: &'de [u8],
    read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'de, 'e>) -> Result<R, serde_saphyr::Error>,
) -> Result<R, String> {
    let options = yaml_options(serde_saphyr::DuplicateKeyPolicy::PassThrough);
    serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, read)
        .map_err(|error| yaml_error(&error))
}

fn yaml_error(error: &serde_saphyr::Error) -> String {
    let said = error.to_string();
    let said = said.lines().next().unwrap_or_default().to_owned();
    match error.location() {
        Some(at) if !said.contains("line ") => format!("yaml: line {}: {said}", at.line()),
        _ => format!("yaml: {said}"),
    }
}

/// The first duplicate key of a document, in Kubernetes' words.
fn yaml_duplicate(bytes: &[u8]) -> Option<String> {
    let options = yaml_options(serde_saphyr::DuplicateKeyPolicy::Error);
    let read = serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, |yaml| {
        serde::Deserialize::deserialize(yaml).map(|_: IgnoredAny| ())
    });
    match read {
        Err(serde_saphyr::Error::DuplicateMappingKey { key, location }) => Some(format!(
            "yaml: unmarshal errors:\n  line {}: key {:?} already set in map",
            location.line(),
            key.unwrap_or_default()
        )),
        _ => None,
    }
}

/// Where the decoder is.
#[derive(Debug)]
enum Step<'s> {
    /// A field of the named struct.
    Field(&'s str, &'s str),
    Index(usize),
    Key(String),
}

#[derive(Debug, Default)]
struct State<'s> {
    at: Vec<Step<'s>>,
    /// Unknown and duplicate fields, in the order of the body.
    strict: Vec<String>,
    /// Whether there are duplicates among them.
    doubled: bool,
    /// The first value that does not fit its type.
    failure: Option<String>,
}

impl State<'_> {
    /// `spec.containers[0].NAME`.
    fn path(&self, last: &str) -> String {
        let mut path = String::new();
        for step in &self.at {
            match step {
                Step::Index(at) => path.push_str(&format!("[{at}]")),
                Step::Field(_, name) => push_name(&mut path, name),
                Step::Key(key) => push_name(&mut path, key),
            }
        }
        push_name(&mut path, last);
        path
    }

    fn unknown(&mut self, name: &str) {
        if self.strict.len() < STRICT_ERRORS_MAX {
            let told = format!("unknown field {:?}", self.path(name));
            self.strict.push(told);
        }
    }

    fn duplicate(&mut self, name: &str) {
        self.doubled = true;
        if self.strict.len() < STRICT_ERRORS_MAX {
            let told = format!("duplicate field {:?}", self.path(name));
            self.strict.push(told);
        }
    }

    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// `json: cannot unmarshal string into Go struct field PodSpec.spec.replicas of type int32`.
    fn mismatch(&mut self, found: &str, shape: &Shape, schema: &Schema) {
        if self.failure.is_some() {
            return;
        }
        let wanted = go_type(shape, schema);
        let names: Vec<&str> = self
            .at
            .iter()
            .filter_map(|s| if let Step::Field(_, name) = s { Some(*name) } else { None })
            .collect();
        let owner = self.at.iter().rev().find_map(|s| match s {
            Step::Field(owner, _) => Some(*owner),
            _ => None,
        });
        self.failure = Some(match owner {
            Some(owner) => format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {wanted}",
                names.join(".")
            ),
            None => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        });
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// The Go type that Kubernetes decodes into.
fn go_type(shape: &Shape, schema: &Schema) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bool => "bool".into(),
        Shape::Int32 | Shape::IntOrString => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Double => "float64".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Time | Shape::MicroTime => "string".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Any | Shape::Deduced => "interface {}".into(),
        Shape::Object => "map[string]interface {}".into(),
        Shape::List(inner) => format!("[]{}", go_type(inner, schema)),
        Shape::Map(inner) => format!("map[string]{}", go_type(inner, schema)),
        Shape::Type(id) => {
            let name = &schema.type_of(*id).name;
            let mut parts = name.rsplit('.');
            let (kind, package) = (parts.next().unwrap_or(name), parts.next().unwrap_or("v1"));
            format!("{package}.{kind}")
        }
    }
}

/// What Go leaves where a list element or a map value is null.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Type(_) | Shape::Map(_) | Shape::Object => Value::Object(Map::new()),
        Shape::Any | Shape::Deduced => Value::Null,
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => Value::from(""),
    }
}

struct Seed<'c, 's> {
    state: &'c mut State<'s>,
    shape: &'s Shape,
    schema: &'s Schema,
}

impl<'s> Seed<'_, 's> {
    fn inner<'d>(&'d mut self, shape: &'s Shape) -> Seed<'d, 's> {
        Seed { state: self.state, shape, schema: self.schema }
    }

    fn mismatch(self, found: &str) -> Value {
        self.state.mismatch(found, self.shape, self.schema);
        Value::Null
    }

    fn scalar(self, read: Result<String, String>) -> Value {
        match read {
            Ok(text) => Value::String(text),
            Err(why) => {
                self.state.fail(why);
                Value::Null
            }
        }
    }

    fn text(self, text: Cow<'_, str>) -> Value {
        match self.shape {
            Shape::String | Shape::Any | Shape::Deduced | Shape::IntOrString => {
                Value::String(text.into_owned())
            }
            Shape::Time => self.scalar(scalar::time(&text)),
            Shape::MicroTime => self.scalar(scalar::micro_time(&text)),
            Shape::Bytes => self.scalar(scalar::base64(&text)),
            Shape::Quantity => self.quantity(&text),
            _ => self.mismatch("string"),
        }
    }

    fn quantity(self, text: &str) -> Value {
        let read = text.trim().parse::<Quantity>();
        self.scalar(read.map(|q| q.to_string()).map_err(|e| e.to_string()))
    }

    fn number(self, number: Number) -> Value {
        match self.shape {
            Shape::Any | Shape::Deduced | Shape::Double => Value::Number(number),
            Shape::Int64 if number.is_i64() => Value::Number(number),
            Shape::Int32 | Shape::IntOrString
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Value::Number(number)
            }
            Shape::Quantity => self.quantity(&number.to_string()),
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => {
                self.mismatch(&format!("number {number}"))
            }
            _ => self.mismatch("number"),
        }
    }

    fn list<'de, A: SeqAccess<'de>>(
        mut self,
        element: &'s Shape,
        mut list: A,
    ) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            self.state.at.push(Step::Index(values.len()));
            let next = list.next_element_seed(self.inner(element))?;
            self.state.at.pop();
            match next {
                Some(Value::Null) => values.push(zero(element)),
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn map<'de, A: MapAccess<'de>>(
        mut self,
        value_shape: &'s Shape,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if values.contains_key(&*key) {
                self.state.duplicate(&key);
            }
            self.state.at.push(Step::Key(key.clone().into_owned()));
            let value = map.next_value_seed(self.inner(value_shape))?;
            self.state.at.pop();
            let value = if value.is_null() { zero(value_shape) } else { value };
            values.insert(key.into_owned(), value);
        }
        Ok(Value::Object(values))
    }

    fn object<'de, A: MapAccess<'de>>(
        mut self,
        of: &'s Type,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let Some(field) = of.field(&key) else {
                self.state.unknown(&key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if values.contains_key(&*field.name) {
                self.state.duplicate(&field.name);
            }
            self.state.at.push(Step::Field(of.short_name(), &field.name));
            let value = map.next_value_seed(self.inner(&field.shape))?;
            self.state.at.pop();
            let empty = match &value {
                Value::Null => true,
                // An empty list of managers is a wish of its own: to forget them all.
                Value::Array(list) => {
                    list.is_empty() && !field.required && field.name != "managedFields"
                }
                Value::Object(map) => {
                    map.is_empty() && !field.required && matches!(field.shape, Shape::Map(_))
                }
                _ => false,
            };
            if empty {
                values.remove(&*field.name);
            } else {
                values.insert(field.name.clone().into_owned(), value);
            }
        }
        Ok(Value::Object(values))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(match self.shape {
            Shape::Bool | Shape::Any | Shape::Deduced => Value::Bool(flag),
            _ => self.mismatch("bool"),
        })
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(self.number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(self.number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(match Number::from_f64(number) {
            Some(number) => self.number(number),
            None => self.mismatch("number"),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(self.text(Cow::Borrowed(text)))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(self.text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::List(element) => self.list(element, list),
            Shape::Any | Shape::Deduced => self.list(&Shape::Any, list),
            _ => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(self.mismatch("array"))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Map(inner) => self.map(inner, map),
            Shape::Any | Shape::Deduced | Shape::Object => self.map(&Shape::Any, map),
            Shape::Type(id) => {
                let of = self.schema.type_of(*id);
                self.object(of, map)
            }
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.mismatch("object"))
            }
        }
    }
}

/// A key of a map; YAML's scalars are taken as they are written.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}
