//! Functions: the few of the language itself, and those of Kubernetes' libraries, which the
//! `kube-cel` crate has.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr as CelExpr};
use kube_cel::cel::objects::{Opaque, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, IdedExpr, Value};
use regex::Regex;

use super::eval::EvalError;

/// A type as a value: what `type(x)` answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TypeName(pub &'static str);

impl Opaque for TypeName {
    fn runtime_type_name(&self) -> &str {
        "type"
    }
}

/// The names that stand for types.
pub(super) fn type_named(name: &str) -> Option<Value> {
    let known =
        ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
    let found = known.into_iter().find(|known| *known == name)?;
    Some(Value::Opaque(Arc::new(TypeName(found))))
}

fn type_of(value: &Value) -> Value {
    let name = match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Null => "null_type",
        Value::Opaque(opaque) if opaque.downcast_ref::<TypeName>().is_some() => "type",
        Value::Opaque(_) | Value::Function(..) => "opaque",
    };
    Value::Opaque(Arc::new(TypeName(name)))
}

/// An optional value.
pub fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// What an optional holds; `None` where the value is no optional.
pub(super) fn held(value: &Value) -> Option<Option<&Value>> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>().map(OptionalValue::value),
        _ => None,
    }
}

/// Calls a function or a method.
///
/// # Errors
/// [`EvalError`] where there is none for such values.
pub(super) fn call(name: &str, target: Option<Value>, args: &[Value]) -> Result<Value, EvalError> {
    if let Some(answer) = own(name, target.as_ref(), args) {
        return answer;
    }
    foreign(name, target, args)
}

fn text(value: &Value) -> Option<&Arc<String>> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The functions that are ours; `None`: not one of them.
fn own(name: &str, target: Option<&Value>, args: &[Value]) -> Option<Result<Value, EvalError>> {
    let first = target.or(args.first());
    let second = if target.is_some() { args.first() } else { args.get(1) };
    let texts = || Some((text(first?)?.clone(), text(second?)?.clone()));
    let optional_held = first.and_then(held);
    Some(Ok(match (name, target.is_some(), args.len()) {
        ("size", true, 0) | ("size", false, 1) => Value::Int(size(first?)?),
        ("startsWith", true, 1) => texts().map(|(a, b)| Value::Bool(a.starts_with(b.as_str())))?,
        ("endsWith", true, 1) => texts().map(|(a, b)| Value::Bool(a.ends_with(b.as_str())))?,
        ("contains", true, 1) => texts().map(|(a, b)| Value::Bool(a.contains(b.as_str())))?,
        ("matches", _, _) => {
            let (text, pattern) = texts()?;
            return Some(matches(&text, &pattern));
        }
        ("type", false, 1) => type_of(first?),
        ("dyn", false, 1) => first?.clone(),
        ("bool", false, 1) => match first? {
            Value::Bool(flag) => Value::Bool(*flag),
            Value::String(said) => match said.as_str() {
                "true" | "True" | "TRUE" | "t" | "1" => Value::Bool(true),
                "false" | "False" | "FALSE" | "f" | "0" => Value::Bool(false),
                _ => return Some(Err(EvalError::NoSuchOverload("bool".into()))),
            },
            _ => return None,
        },
        ("string", false, 1) => match first? {
            Value::Bool(flag) => Value::String(Arc::new(flag.to_string())),
            Value::Timestamp(time) => {
                Value::String(Arc::new(time.to_rfc3339().replace("+00:00", "Z")))
            }
            _ => return None,
        },
        ("timestamp", false, 1) if matches!(first?, Value::Timestamp(_)) => first?.clone(),
        ("duration", false, 1) if matches!(first?, Value::Duration(_)) => first?.clone(),
        ("bytes", false, 1) if matches!(first?, Value::Bytes(_)) => first?.clone(),
        ("hasValue", true, 0) => Value::Bool(optional_held?.is_some()),
        ("value", true, 0) => match optional_held? {
            Some(value) => value.clone(),
            None => return Some(Err(EvalError::Failed("optional.none() dereference".into()))),
        },
        ("orValue", true, 1) => optional_held?.or(second).cloned()?,
        ("or", true, 1) => match optional_held? {
            Some(_) => first?.clone(),
            None => second?.clone(),
        },
        _ => return None,
    }))
}

fn size(value: &Value) -> Option<i64> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.map.len(),
        _ => return None,
    };
    i64::try_from(size).ok()
}

/// Patterns of rules come again and again.
const PATTERNS_MAX: usize = 128;

fn matches(text: &str, pattern: &str) -> Result<Value, EvalError> {
    thread_local! {
        static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    PATTERNS.with_borrow_mut(|known| {
        if let Some(regex) = known.get(pattern) {
            return Ok(Value::Bool(regex.is_match(text)));
        }
        let regex = Regex::new(pattern)
            .map_err(|error| EvalError::Failed(format!("invalid matches argument: {error}")))?;
        let found = regex.is_match(text);
        if known.len() >= PATTERNS_MAX {
            known.clear();
        }
        known.insert(pattern.to_owned(), regex);
        Ok(Value::Bool(found))
    })
}

static LIBRARIES: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

fn ident(name: String) -> IdedExpr {
    IdedExpr { id: 0, expr: CelExpr::Ident(name) }
}

/// Lets the crate call it: its functions take their arguments as parts of an expression.
fn foreign(name: &str, target: Option<Value>, args: &[Value]) -> Result<Value, EvalError> {
    let sendable = |value: &Value| !matches!(value, Value::Function(..));
    if !target.iter().chain(args).all(sendable) {
        return Err(EvalError::NoSuchOverload(name.into()));
    }
    let mut scope = LIBRARIES.new_inner_scope();
    let has_target = target.is_some();
    if let Some(target) = target {
        scope.add_variable_from_value("@target", target);
    }
    for (index, arg) in args.iter().enumerate() {
        scope.add_variable_from_value(format!("@{index}"), arg.clone());
    }
    let call = CallExpr {
        func_name: name.to_owned(),
        target: has_target.then(|| Box::new(ident("@target".into()))),
        args: (0..args.len()).map(|index| ident(format!("@{index}"))).collect(),
    };
    let expr = IdedExpr { id: 0, expr: CelExpr::Call(call) };
    Value::resolve(&expr, &scope).map_err(|error| told(name, error))
}

fn told(name: &str, error: ExecutionError) -> EvalError {
    match error {
        ExecutionError::UndeclaredReference(_) => EvalError::Undeclared(name.to_owned()),
        ExecutionError::FunctionError { function, message } => {
            EvalError::Failed(format!("{function}: {message}"))
        }
        ExecutionError::NoSuchKey(key) => EvalError::NoSuchKey(key.to_string()),
        _ => EvalError::NoSuchOverload(name.to_owned()),
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
