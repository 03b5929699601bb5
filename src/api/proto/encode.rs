//! From an object to the bytes that Kubernetes' generated code writes for it.
//!
//! Fields come in the order of their numbers and maps in the order of their keys. Values are
//! always written, zero or not; pointers where they are set; lists and maps where they are not
//! empty.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{Field, Form, Message, Presence, Table};
use super::write::{Backwards, Wire};

/// A message.
pub(super) fn message(out: &mut Backwards, table: &Table, of: &Message, object: &Value) {
    let none = Map::new();
    fields(out, table, of, object.as_object().unwrap_or(&none));
}

fn fields(out: &mut Backwards, table: &Table, of: &Message, object: &Map<String, Value>) {
    for field in of.fields.iter().rev() {
        let number = field.number;
        let value = object.get(&*field.name).filter(|value| !value.is_null());
        match (&field.form, value) {
            (Form::Inline(inner), _) => {
                out.message(number, |out| fields(out, table, inner, object));
            }
            (Form::List(form), Some(Value::Array(list))) => {
                list.iter().rev().for_each(|value| element(out, table, number, form, value));
            }
            (Form::Map(form), Some(Value::Object(map))) => {
                for (key, value) in map.iter().rev() {
                    out.message(number, |out| {
                        element(out, table, 2, form, value);
                        out.text(1, key.as_bytes());
                    });
                }
            }
            (Form::List(_) | Form::Map(_), _) => {}
            (form, Some(value)) => element(out, table, number, form, value),
            (form, None) => zero(out, table, field, form),
        }
    }
}

/// What is written of a field that is not set.
fn zero(out: &mut Backwards, table: &Table, field: &Field, form: &Form) {
    // Bytes that are not there are nil in Go.
    if field.presence != Presence::Pointer && *form != Form::Bytes {
        element(out, table, field.number, form, &Value::Null);
    }
}

/// One value; null is the zero of its form.
fn element(out: &mut Backwards, table: &Table, number: u32, form: &Form, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    match form {
        Form::String => out.text(number, text.as_bytes()),
        Form::Bool => out.number(number, i64::from(value.as_bool().unwrap_or(false))),
        Form::Int32 | Form::Int64 => out.number(number, value.as_i64().unwrap_or(0)),
        Form::Double => {
            out.bytes(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            out.key(number, Wire::Fixed64);
        }
        Form::Bytes => out.text(number, &STANDARD.decode(text).unwrap_or_default()),
        Form::Time | Form::MicroTime => time(out, number, text, *form == Form::MicroTime),
        Form::Quantity => out.message(number, |out| {
            let amount = match value {
                Value::Number(number) => number.to_string(),
                _ if text.is_empty() => "0".to_owned(),
                _ => text.to_owned(),
            };
            out.text(1, amount.as_bytes());
        }),
        Form::IntOrString => out.message(number, |out| {
            out.text(3, text.as_bytes());
            out.number(2, value.as_i64().unwrap_or(0));
            out.number(1, i64::from(value.is_string()));
        }),
        Form::Json => out.message(number, |out| {
            if !value.is_null() {
                out.text(1, value.to_string().as_bytes());
            }
        }),
        Form::Strings => out.message(number, |out| strings(out, 1, value)),
        Form::Message(id) => out.message(number, |out| {
            message(out, table, table.message(*id), value);
        }),
        Form::SchemaOrArray(id) => out.message(number, |out| {
            let of = table.message(*id);
            for one in value.as_array().into_iter().flatten().rev() {
                out.message(2, |out| message(out, table, of, one));
            }
            if value.is_object() {
                out.message(1, |out| message(out, table, of, value));
            }
        }),
        Form::SchemaOrBool(id) => out.message(number, |out| {
            if value.is_object() {
                out.message(2, |out| message(out, table, table.message(*id), value));
            }
            out.number(1, i64::from(value.is_object() || *value == Value::Bool(true)));
        }),
        Form::SchemaOrStringArray(id) => out.message(number, |out| {
            strings(out, 2, value);
            if value.is_object() {
                out.message(1, |out| message(out, table, table.message(*id), value));
            }
        }),
        // Lists and maps of lists and maps are not in the API, and what is inlined is no value.
        Form::List(_) | Form::Map(_) | Form::Inline(_) => {}
    }
}

fn strings(out: &mut Backwards, number: u32, list: &Value) {
    for one in list.as_array().into_iter().flatten().rev() {
        out.text(number, one.as_str().unwrap_or_default().as_bytes());
    }
}

/// Seconds and nanoseconds since 1970; a time that is not set is an empty message.
fn time(out: &mut Backwards, number: u32, text: &str, micro: bool) {
    let at = text.parse::<Timestamp>().ok();
    out.message(number, |out| {
        let Some(at) = at else { return };
        let nanoseconds = at.as_nanosecond();
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        let rest = if micro { nanoseconds.rem_euclid(1_000_000_000) / 1000 * 1000 } else { 0 };
        out.number(2, i64::try_from(rest).expect("less than a second"));
        out.number(1, i64::try_from(seconds).expect("a timestamp ends with the year 9999"));
    });
}
