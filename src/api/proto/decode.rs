//! From the bytes of a message to the JSON that Go would write of it.
//!
//! What is zero and left out by `omitempty` is left out here; what is a pointer, or told always,
//! is there where the bytes have it. A field that comes again is replaced, a message is merged, a
//! list grows: the rules of protobuf. Fields that nobody knows are passed over.
//!
//! **Invariant:** depth is bounded; the work is linear in the bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::read::{Key, Malformed, Reader};
use super::table::{Field, Form, Message, Presence, Table};
use crate::base::clock::{rfc3339_micros, rfc3339_seconds};

/// Messages may lie in each other so deep.
const DEPTH_MAX: u32 = 100;

type Object = Map<String, Value>;

/// Reads messages of a table.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'t> {
    table: &'t Table,
    depth: u32,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table, depth: 0 }
    }

    /// The fields of a message are put into `object`.
    pub(super) fn message(
        self,
        of: &Message,
        bytes: &[u8],
        object: &mut Object,
    ) -> Result<(), Malformed> {
        if self.depth >= DEPTH_MAX {
            return Err(Malformed::Depth);
        }
        let inner = Self { depth: self.depth + 1, ..self };
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let key = reader.key(&of.name)?;
            match of.field(key.number) {
                Some(field) => inner.field(field, key, &mut reader, object)?,
                None => reader.skip(key.wire)?,
            }
        }
        Ok(())
    }

    fn field(
        self,
        field: &Field,
        key: Key,
        reader: &mut Reader<'_>,
        object: &mut Object,
    ) -> Result<(), Malformed> {
        let name = &*field.name;
        match &field.form {
            Form::Inline(inner) => {
                check(field, key, &field.form)?;
                self.message(inner, reader.bytes()?, object)
            }
            Form::List(form) => {
                let at = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let list = at.as_array_mut().expect("a field has one form");
                if key.wire == 2 && matches!(**form, Form::Bool | Form::Int32 | Form::Int64) {
                    let mut packed = Reader(reader.bytes()?);
                    while !packed.is_empty() {
                        list.push(self.value(field, form, &mut packed, Value::Null)?);
                    }
                    return Ok(());
                }
                check(field, key, form)?;
                list.push(self.value(field, form, reader, Value::Null)?);
                Ok(())
            }
            Form::Map(form) => {
                check(field, key, &field.form)?;
                let (key, value) = self.entry(field, form, reader.bytes()?)?;
                let at = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                at.as_object_mut().expect("a field has one form").insert(key, value);
                Ok(())
            }
            form => {
                check(field, key, form)?;
                let before = object.remove(name).unwrap_or_default();
                let value = self.value(field, form, reader, before)?;
                let left_out = field.presence == Presence::Value && is_zero(&value);
                if !(value.is_null() || left_out) {
                    object.insert(name.to_owned(), value);
                }
                Ok(())
            }
        }
    }

    fn entry(self, field: &Field, form: &Form, bytes: &[u8]) -> Result<(String, Value), Malformed> {
        let (mut name, mut value) = (String::new(), None);
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let key = reader.key(&field.name)?;
            match key.number {
                1 => {
                    check(field, key, &Form::String)?;
                    name = text(reader.bytes()?);
                }
                2 => {
                    check(field, key, form)?;
                    value = Some(self.value(field, form, &mut reader, Value::Null)?);
                }
                _ => reader.skip(key.wire)?,
            }
        }
        Ok((name, value.unwrap_or_else(|| zero(form))))
    }

    /// A value of that form; a message is merged into what was there `before`.
    fn value(
        self,
        field: &Field,
        form: &Form,
        reader: &mut Reader<'_>,
        before: Value,
    ) -> Result<Value, Malformed> {
        let wrong = |why: String| Malformed::Value { field: field.name.to_string(), why };
        Ok(match form {
            Form::Bool => Value::Bool(reader.varint()? != 0),
            Form::Int32 => Value::from(reader.varint()? as i32),
            Form::Int64 => Value::from(reader.varint()?.cast_signed()),
            Form::Double => double(f64::from_le_bytes(reader.fixed64()?)),
            Form::String => Value::String(text(reader.bytes()?)),
            Form::Bytes => Value::String(STANDARD.encode(reader.bytes()?)),
            Form::Time | Form::MicroTime => {
                let numbers = Parts::read(reader.bytes()?, "Timestamp")?;
                time(&numbers, *form == Form::MicroTime).map_err(wrong)?
            }
            Form::Quantity => {
                let parts = Parts::read(reader.bytes()?, "Quantity")?;
                let amount = text(parts.bytes(1));
                Value::String(if amount.is_empty() { "0".into() } else { amount })
            }
            Form::IntOrString => {
                let parts = Parts::read(reader.bytes()?, "IntOrString")?;
                match parts.number(1) {
                    0 => Value::from(parts.number(2) as i32),
                    _ => Value::String(text(parts.bytes(3))),
                }
            }
            Form::Json => {
                let parts = Parts::read(reader.bytes()?, "RawExtension")?;
                json(parts.bytes(1)).map_err(wrong)?
            }
            Form::Strings => self.strings(1, reader.bytes()?)?,
            Form::Message(id) => {
                let mut object = match before {
                    Value::Object(object) => object,
                    _ => Map::new(),
                };
                self.message(self.table.message(*id), reader.bytes()?, &mut object)?;
                Value::Object(object)
            }
            Form::SchemaOrArray(id) | Form::SchemaOrBool(id) | Form::SchemaOrStringArray(id) => {
                self.schema_or(form, self.table.message(*id), reader.bytes()?)?
            }
            Form::List(_) | Form::Map(_) | Form::Inline(_) => Value::Null,
        })
    }

    /// The strings of one field of a message.
    fn strings(self, number: u32, bytes: &[u8]) -> Result<Value, Malformed> {
        let mut list = Vec::new();
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let key = reader.key("StringList")?;
            if key.number == number && key.wire == 2 {
                list.push(Value::String(text(reader.bytes()?)));
            } else {
                reader.skip(key.wire)?;
            }
        }
        Ok(Value::Array(list))
    }

    /// A JSON schema, or what may stand in its place.
    fn schema_or(self, form: &Form, of: &Message, bytes: &[u8]) -> Result<Value, Malformed> {
        let schema_number = if matches!(form, Form::SchemaOrBool(_)) { 2 } else { 1 };
        let (mut schema, mut allows, mut list) = (None, false, Vec::new());
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let key = reader.key(&of.name)?;
            match (key.number, key.wire) {
                (number, 2) if number == schema_number => {
                    let mut object = Map::new();
                    self.message(of, reader.bytes()?, &mut object)?;
                    schema = Some(Value::Object(object));
                }
                (1, 0) => allows = reader.varint()? != 0,
                (2, 2) if matches!(form, Form::SchemaOrArray(_)) => {
                    let mut object = Map::new();
                    self.message(of, reader.bytes()?, &mut object)?;
                    list.push(Value::Object(object));
                }
                (2, 2) => list.push(Value::String(text(reader.bytes()?))),
                (_, wire) => reader.skip(wire)?,
            }
        }
        Ok(match (form, schema) {
            (_, Some(schema)) => schema,
            (Form::SchemaOrBool(_), None) => Value::Bool(allows),
            (_, None) if list.is_empty() => Value::Null,
            (_, None) => Value::Array(list),
        })
    }
}

/// Whether the wire fits the form.
fn check(field: &Field, key: Key, form: &Form) -> Result<(), Malformed> {
    let wanted = match form {
        Form::Bool | Form::Int32 | Form::Int64 => 0,
        Form::Double => 1,
        _ => 2,
    };
    if key.wire == wanted {
        return Ok(());
    }
    let mut name = field.name.to_string();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Err(Malformed::Field { field: name, wire: key.wire })
}

/// Go's JSON has the replacement character where bytes are no UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The value of a map entry that names none.
fn zero(form: &Form) -> Value {
    match form {
        Form::Bool => Value::Bool(false),
        Form::Int32 | Form::Int64 | Form::Double | Form::IntOrString => Value::from(0),
        Form::String | Form::Bytes => Value::String(String::new()),
        Form::Quantity => Value::from("0"),
        Form::Strings => Value::Array(Vec::new()),
        Form::Message(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// The few fields of a message that is one value in JSON.
#[derive(Default)]
struct Parts<'a> {
    numbers: [u64; 4],
    bytes: [&'a [u8]; 4],
    any: bool,
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8], message: &str) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let key = reader.key(message)?;
            parts.any = true;
            let at = usize::try_from(key.number).unwrap_or(usize::MAX);
            match key.wire {
                0 if at < parts.numbers.len() => parts.numbers[at] = reader.varint()?,
                2 if at < parts.bytes.len() => parts.bytes[at] = reader.bytes()?,
                wire => reader.skip(wire)?,
            }
        }
        Ok(parts)
    }

    fn number(&self, field: usize) -> i64 {
        self.numbers[field].cast_signed()
    }

    fn bytes(&self, field: usize) -> &'a [u8] {
        self.bytes[field]
    }
}

/// A time that is not set is null, as in Go's JSON.
fn time(parts: &Parts<'_>, micro: bool) -> Result<Value, String> {
    if !parts.any {
        return Ok(Value::Null);
    }
    let nanos = if micro { parts.number(2) as i32 / 1000 * 1000 } else { 0 };
    let at = Timestamp::new(parts.number(1), nanos).map_err(|error| error.to_string())?;
    Ok(Value::String(if micro { rfc3339_micros(at) } else { rfc3339_seconds(at) }))
}

/// Go's JSON has no fraction where there is none.
fn double(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

fn json(raw: &[u8]) -> Result<Value, String> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(raw).map_err(|error| format!("not JSON: {error}"))
}
