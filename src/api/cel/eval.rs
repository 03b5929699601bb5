//! From an expression to its value.
//!
//! **Invariant:** every part that is evaluated costs at least one step of the [`Budget`]; when
//! none is left the evaluation ends, whatever `||` or `&&` stand around it.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, KeyRef};

use super::ast::{Binary, Expr, Node, Walk};
use super::library::{self, held, optional};
use super::value::{map, unescaped};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload: {0}")]
    NoSuchOverload(String),
    #[error("undeclared reference to '{0}' (in container '')")]
    Undeclared(String),
    #[error("{0}")]
    Failed(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    BudgetExceeded,
}

/// How many steps may still be taken.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
}

impl Budget {
    /// So many steps.
    pub fn of(steps: u64) -> Self {
        Self { left: Cell::new(steps) }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }

    /// So many steps were taken elsewhere.
    pub fn take(&self, steps: u64) {
        self.left.set(self.left.get().saturating_sub(steps));
    }

    fn charge(&self, steps: u64) -> Result<(), EvalError> {
        match self.left.get().checked_sub(steps) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(EvalError::BudgetExceeded)
            }
        }
    }
}

/// Where names get their values.
pub trait Scope {
    /// The value of a variable; `None` where there is none of that name.
    fn variable(&self, name: &str) -> Option<Result<Value, EvalError>>;

    /// A field of what the scope itself has handed out; `None` where it has none.
    fn field(&self, of: &Value, name: &str) -> Option<Result<Value, EvalError>> {
        let _ = (of, name);
        None
    }

    /// Calls a method of what the scope itself has handed out; `None` where it has none.
    fn call(&self, name: &str, target: &Value, args: &[Value]) -> Option<Result<Value, EvalError>> {
        let _ = (name, target, args);
        None
    }
}

/// Variables with values.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<String, Value>);

impl Variables {
    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}

impl Scope for Variables {
    fn variable(&self, name: &str) -> Option<Result<Value, EvalError>> {
        self.0.get(name).cloned().map(Ok)
    }
}

/// A scope in which a macro has bound names.
struct Inner<'a> {
    outer: &'a dyn Scope,
    bound: Vec<(&'a str, Value)>,
}

impl Scope for Inner<'_> {
    fn variable(&self, name: &str) -> Option<Result<Value, EvalError>> {
        match self.bound.iter().find(|(bound, _)| *bound == name) {
            Some((_, value)) => Some(Ok(value.clone())),
            None => self.outer.variable(name),
        }
    }

    fn field(&self, of: &Value, name: &str) -> Option<Result<Value, EvalError>> {
        self.outer.field(of, name)
    }

    fn call(&self, name: &str, target: &Value, args: &[Value]) -> Option<Result<Value, EvalError>> {
        self.outer.call(name, target, args)
    }
}

type Evaluated = Result<Value, EvalError>;

fn overload(name: &str) -> EvalError {
    EvalError::NoSuchOverload(name.to_owned())
}

/// The value of a part.
pub(super) fn eval(node: &Node, scope: &dyn Scope, budget: &Budget) -> Evaluated {
    Evaluation { scope, budget }.eval(node)
}

struct Evaluation<'a> {
    scope: &'a dyn Scope,
    budget: &'a Budget,
}

impl Evaluation<'_> {
    fn eval(&self, node: &Node) -> Evaluated {
        self.budget.charge(1)?;
        match &node.expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Ident(name) => self.name(name),
            Expr::Select { of, field, optional } => self.select(of, field, *optional),
            Expr::Has { of, field } => self.has(of, field),
            Expr::Index { of, key, optional } => self.index(of, key, *optional),
            Expr::Call { name, target, args } => self.call(name, target.as_deref(), args),
            Expr::Not(of) => match self.eval(of)? {
                Value::Bool(flag) => Ok(Value::Bool(!flag)),
                _ => Err(overload("!_")),
            },
            Expr::Negate(of) => match self.eval(of)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or_else(too_large),
                Value::Float(number) => Ok(Value::Float(-number)),
                _ => Err(overload("-_")),
            },
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                let looked_at = match operator {
                    Binary::Add => weight(&left) + weight(&right),
                    Binary::In => weight(&right),
                    _ => weight(&left).min(weight(&right)),
                };
                self.budget.charge(looked_at / 10)?;
                binary(*operator, left, right)
            }
            Expr::And(all) => self.logic(all, false),
            Expr::Or(all) => self.logic(all, true),
            Expr::Either { test, then, other } => match self.eval(test)? {
                Value::Bool(true) => self.eval(then),
                Value::Bool(false) => self.eval(other),
                _ => Err(overload("_?_:_")),
            },
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Struct { fields } => self.structure(fields),
            Expr::Walk { walk, over, names, args } => self.walk(*walk, over, names, args),
            Expr::Bind { name, value, body } => {
                let bound = vec![(name.as_str(), self.eval(value)?)];
                self.within(bound, body)
            }
            Expr::OptMap { of, name, body, flat } => {
                let of = self.eval(of)?;
                let Some(held) = held(&of) else { return Err(overload("optMap")) };
                let Some(value) = held else { return Ok(optional(None)) };
                let answer = self.within(vec![(name.as_str(), value.clone())], body)?;
                Ok(if *flat { answer } else { optional(Some(answer)) })
            }
        }
    }

    fn within(&self, bound: Vec<(&str, Value)>, body: &Node) -> Evaluated {
        let inner = Inner { outer: self.scope, bound };
        Evaluation { scope: &inner, budget: self.budget }.eval(body)
    }

    fn name(&self, name: &str) -> Evaluated {
        match self.scope.variable(name) {
            Some(value) => value,
            None => library::type_named(name).ok_or_else(|| EvalError::Undeclared(name.to_owned())),
        }
    }

    fn select(&self, of: &Node, field: &str, optional_field: bool) -> Evaluated {
        let of = self.eval(of)?;
        if let Some(held) = held(&of) {
            return Ok(optional(held.and_then(|value| member(value, field).ok().flatten())));
        }
        if let Some(found) = self.scope.field(&of, field) {
            return found;
        }
        let found = member(&of, field)?;
        if optional_field {
            return Ok(optional(found));
        }
        found.ok_or_else(|| EvalError::NoSuchKey(field.to_owned()))
    }

    fn has(&self, of: &Node, field: &str) -> Evaluated {
        let of = self.eval(of)?;
        if let Some(held) = held(&of) {
            let found = held.and_then(|value| member(value, field).ok().flatten());
            return Ok(Value::Bool(found.is_some()));
        }
        Ok(Value::Bool(member(&of, field)?.is_some()))
    }

    fn index(&self, of: &Node, key: &Node, optional_key: bool) -> Evaluated {
        let (of, key) = (self.eval(of)?, self.eval(key)?);
        if let Some(held) = held(&of) {
            return Ok(optional(held.and_then(|value| element(value, &key).ok())));
        }
        match element(&of, &key) {
            Ok(found) if optional_key => Ok(optional(Some(found))),
            Err(EvalError::NoSuchKey(_) | EvalError::Failed(_)) if optional_key => {
                Ok(optional(None))
            }
            found => found,
        }
    }

    fn call(&self, name: &str, target: Option<&Node>, args: &[Node]) -> Evaluated {
        let qualified = target.and_then(|target| match &target.expr {
            Expr::Ident(space) if NAMESPACES.contains(&space.as_str()) => {
                Some(format!("{space}.{name}"))
            }
            _ => None,
        });
        let values = args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
        let cost: u64 = values.iter().map(weight).sum();
        match qualified {
            Some(qualified) => {
                let made = match (qualified.as_str(), values.first()) {
                    ("lists.range", Some(Value::Int(count))) => count.unsigned_abs(),
                    _ => 0,
                };
                self.budget.charge((1 + cost / 10).saturating_add(made))?;
                library::call(&qualified, None, &values)
            }
            None => {
                let target = target.map(|target| self.eval(target)).transpose()?;
                self.budget.charge(1 + (cost + target.as_ref().map_or(0, weight)) / 10)?;
                if let Some(target @ Value::Opaque(_)) = &target
                    && let Some(answer) = self.scope.call(name, target, &values)
                {
                    return answer;
                }
                library::call(name, target, &values)
            }
        }
    }

    /// `&&` and `||`: one part that decides is enough, even where another has no value.
    fn logic(&self, all: &[Node], decides: bool) -> Evaluated {
        let mut failed = None;
        for part in all {
            match self.eval(part) {
                Ok(Value::Bool(flag)) if flag == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(overload(if decides { "_||_" } else { "_&&_" }))),
                Err(EvalError::BudgetExceeded) => return Err(EvalError::BudgetExceeded),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn list(&self, items: &[(Node, bool)]) -> Evaluated {
        let mut all = Vec::with_capacity(items.len());
        for (item, is_optional) in items {
            let value = self.eval(item)?;
            match held(&value) {
                Some(held) if *is_optional => all.extend(held.cloned()),
                _ => all.push(value),
            }
        }
        Ok(Value::List(Arc::new(all)))
    }

    fn map(&self, entries: &[(Node, Node, bool)]) -> Evaluated {
        let mut all = HashMap::with_capacity(entries.len());
        for (key, value, is_optional) in entries {
            let key = key_of(self.eval(key)?)?;
            let value = self.eval(value)?;
            match held(&value) {
                Some(held) if *is_optional => {
                    held.map(|held| all.insert(key, held.clone()));
                }
                _ => {
                    all.insert(key, value);
                }
            }
        }
        Ok(map(all))
    }

    fn structure(&self, fields: &[(String, Node, bool)]) -> Evaluated {
        let mut all = HashMap::with_capacity(fields.len());
        for (name, value, is_optional) in fields {
            let key = Key::String(Arc::new(unescaped(name).unwrap_or_else(|| name.clone())));
            let value = self.eval(value)?;
            match held(&value) {
                Some(held) if *is_optional => {
                    held.map(|held| all.insert(key, held.clone()));
                }
                _ => {
                    all.insert(key, value);
                }
            }
        }
        Ok(map(all))
    }

    fn walk(&self, walk: Walk, over: &Node, names: &[String], args: &[Node]) -> Evaluated {
        let over = self.eval(over)?;
        let two = names.len() == 2;
        let items: Vec<(Value, Value)> = match &over {
            Value::List(items) if two => {
                let numbered = items.iter().enumerate();
                numbered.map(|(at, item)| (index_value(at), item.clone())).collect()
            }
            Value::List(items) => items.iter().map(|item| (item.clone(), Value::Null)).collect(),
            Value::Map(map) => {
                let mut entries: Vec<(&Key, &Value)> = map.map.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                entries.into_iter().map(|(key, item)| (Value::from(key), item.clone())).collect()
            }
            _ => return Err(overload("comprehension range")),
        };
        let step = |(first, second): &(Value, Value), body: &Node| {
            let mut bound = vec![(names[0].as_str(), first.clone())];
            if two {
                bound.push((names[1].as_str(), second.clone()));
            }
            self.within(bound, body)
        };
        match walk {
            Walk::All | Walk::Exists => {
                let decides = walk == Walk::Exists;
                decide(items.iter().map(|item| step(item, &args[0])), decides)
            }
            Walk::ExistsOne => {
                let mut count = 0;
                for item in &items {
                    count += usize::from(truth(step(item, &args[0])?)?);
                }
                Ok(Value::Bool(count == 1))
            }
            Walk::Filter => {
                let mut kept = Vec::new();
                for item in &items {
                    if truth(step(item, &args[0])?)? {
                        kept.push(item.0.clone());
                    }
                }
                Ok(Value::List(Arc::new(kept)))
            }
            Walk::Map | Walk::TransformList => {
                let mut all = Vec::new();
                for item in &items {
                    if args.len() == 1 || truth(step(item, &args[0])?)? {
                        all.push(step(item, &args[args.len() - 1])?);
                    }
                }
                Ok(Value::List(Arc::new(all)))
            }
            Walk::TransformMap => {
                let mut all = HashMap::new();
                for item in &items {
                    if args.len() == 1 || truth(step(item, &args[0])?)? {
                        let key = key_of(item.0.clone())?;
                        all.insert(key, step(item, &args[args.len() - 1])?);
                    }
                }
                Ok(map(all))
            }
            Walk::SortBy => {
                let mut keyed = Vec::with_capacity(items.len());
                for item in &items {
                    keyed.push((step(item, &args[0])?, item.0.clone()));
                }
                let mut failed = None;
                keyed.sort_by(|(a, _), (b, _)| {
                    compare(a, b).unwrap_or_else(|error| {
                        failed = Some(error);
                        Ordering::Equal
                    })
                });
                match failed {
                    Some(error) => Err(error),
                    None => {
                        Ok(Value::List(Arc::new(keyed.into_iter().map(|(_, item)| item).collect())))
                    }
                }
            }
        }
    }
}

/// What stands before the dot of a function that is no method.
pub(super) const NAMESPACES: [&str; 10] =
    ["optional", "sets", "math", "lists", "strings", "base64", "format", "jsonpatch", "ip", "cel"];

fn index_value(at: usize) -> Value {
    Value::Int(i64::try_from(at).unwrap_or(i64::MAX))
}

fn too_large() -> EvalError {
    EvalError::Failed("integer overflow".into())
}

fn truth(value: Value) -> Result<bool, EvalError> {
    match value {
        Value::Bool(flag) => Ok(flag),
        _ => Err(overload("comprehension predicate")),
    }
}

fn decide(all: impl Iterator<Item = Evaluated>, decides: bool) -> Evaluated {
    let mut failed = None;
    for one in all {
        match one.and_then(truth) {
            Ok(flag) if flag == decides => return Ok(Value::Bool(decides)),
            Ok(_) => {}
            Err(EvalError::BudgetExceeded) => return Err(EvalError::BudgetExceeded),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(Value::Bool(!decides)), Err)
}

/// How large a value is, for what it costs to look at it.
fn weight(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(items) => items.len() as u64,
        Value::Map(map) => map.map.len() as u64,
        _ => 0,
    }
}

fn key_of(value: Value) -> Result<Key, EvalError> {
    match value {
        Value::Int(number) => Ok(Key::Int(number)),
        Value::UInt(number) => Ok(Key::Uint(number)),
        Value::String(text) => Ok(Key::String(text)),
        Value::Bool(flag) => Ok(Key::Bool(flag)),
        _ => Err(EvalError::Failed("unsupported key type".into())),
    }
}

/// A field of a map; `None` where it has none.
fn member(of: &Value, field: &str) -> Result<Option<Value>, EvalError> {
    let Value::Map(map) = of else { return Err(EvalError::NoSuchKey(field.to_owned())) };
    if let Some(found) = map.get(&KeyRef::String(field)) {
        return Ok(Some(found.clone()));
    }
    let plain = unescaped(field);
    Ok(plain.and_then(|plain| map.get(&KeyRef::String(&plain)).cloned()))
}

fn element(of: &Value, key: &Value) -> Evaluated {
    match of {
        Value::List(items) => {
            let at = match key {
                Value::Int(number) => usize::try_from(*number).ok(),
                Value::UInt(number) => usize::try_from(*number).ok(),
                Value::Float(number) if number.fract() == 0.0 && *number >= 0.0 => {
                    Some(*number as usize)
                }
                _ => return Err(overload("_[_]")),
            };
            let found = at.and_then(|at| items.get(at)).cloned();
            found.ok_or_else(|| EvalError::Failed("index out of bounds".to_string()))
        }
        Value::Map(map) => {
            let key = key_of(key.clone())?;
            map.get(&key).cloned().ok_or_else(|| EvalError::NoSuchKey(key.to_string()))
        }
        _ => Err(overload("_[_]")),
    }
}

fn binary(operator: Binary, left: Value, right: Value) -> Evaluated {
    let is = |wanted: &[Ordering]| Ok(Value::Bool(wanted.contains(&compare(&left, &right)?)));
    match operator {
        Binary::Equal => Ok(Value::Bool(left == right)),
        Binary::NotEqual => Ok(Value::Bool(left != right)),
        Binary::Less => is(&[Ordering::Less]),
        Binary::LessEqual => is(&[Ordering::Less, Ordering::Equal]),
        Binary::Greater => is(&[Ordering::Greater]),
        Binary::GreaterEqual => is(&[Ordering::Greater, Ordering::Equal]),
        Binary::In => match &right {
            Value::List(items) => Ok(Value::Bool(items.contains(&left))),
            Value::Map(map) => Ok(Value::Bool(map.get(&key_of(left)?).is_some())),
            _ => Err(overload("@in")),
        },
        _ => arithmetic(operator, left, right),
    }
}

fn compare(left: &Value, right: &Value) -> Result<Ordering, EvalError> {
    match (left, right) {
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Null, _) | (_, Value::Null) => Err(overload("_<_")),
        _ => left.partial_cmp(right).ok_or_else(|| overload("_<_")),
    }
}

fn arithmetic(operator: Binary, left: Value, right: Value) -> Evaluated {
    let name = operator.name();
    let by_zero = || {
        let what = if operator == Binary::Modulo { "modulus by zero" } else { "division by zero" };
        EvalError::Failed(what.into())
    };
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => match operator {
            Binary::Divide | Binary::Modulo if b == 0 => Err(by_zero()),
            Binary::Add => a.checked_add(b).map(Value::Int).ok_or_else(too_large),
            Binary::Subtract => a.checked_sub(b).map(Value::Int).ok_or_else(too_large),
            Binary::Multiply => a.checked_mul(b).map(Value::Int).ok_or_else(too_large),
            Binary::Divide => a.checked_div(b).map(Value::Int).ok_or_else(too_large),
            _ => a.checked_rem(b).map(Value::Int).ok_or_else(too_large),
        },
        (Value::UInt(a), Value::UInt(b)) => match operator {
            Binary::Divide | Binary::Modulo if b == 0 => Err(by_zero()),
            Binary::Add => a.checked_add(b).map(Value::UInt).ok_or_else(too_large),
            Binary::Subtract => a.checked_sub(b).map(Value::UInt).ok_or_else(too_large),
            Binary::Multiply => a.checked_mul(b).map(Value::UInt).ok_or_else(too_large),
            Binary::Divide => Ok(Value::UInt(a / b)),
            _ => Ok(Value::UInt(a % b)),
        },
        (Value::Float(a), Value::Float(b)) => match operator {
            Binary::Add => Ok(Value::Float(a + b)),
            Binary::Subtract => Ok(Value::Float(a - b)),
            Binary::Multiply => Ok(Value::Float(a * b)),
            Binary::Divide => Ok(Value::Float(a / b)),
            _ => Err(overload(name)),
        },
        (left, right) => joined(operator, left, right),
    }
}

/// `+` and `-` of what is no number.
fn joined(operator: Binary, left: Value, right: Value) -> Evaluated {
    let range = || EvalError::Failed("timestamp out of range".into());
    match (operator, left, right) {
        (Binary::Add, Value::String(a), Value::String(b)) => {
            Ok(Value::String(Arc::new(format!("{a}{b}"))))
        }
        (Binary::Add, Value::Bytes(a), Value::Bytes(b)) => {
            Ok(Value::Bytes(Arc::new([a.as_slice(), b.as_slice()].concat())))
        }
        (Binary::Add, Value::List(mut a), Value::List(b)) => {
            Arc::make_mut(&mut a).extend(b.iter().cloned());
            Ok(Value::List(a))
        }
        (Binary::Add, Value::Timestamp(a), Value::Duration(b))
        | (Binary::Add, Value::Duration(b), Value::Timestamp(a)) => {
            a.checked_add_signed(b).map(Value::Timestamp).ok_or_else(range)
        }
        (Binary::Subtract, Value::Timestamp(a), Value::Duration(b)) => {
            a.checked_sub_signed(b).map(Value::Timestamp).ok_or_else(range)
        }
        (Binary::Subtract, Value::Timestamp(a), Value::Timestamp(b)) => {
            Ok(Value::Duration(a.signed_duration_since(b)))
        }
        (Binary::Add, Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(&b).map(Value::Duration).ok_or_else(range)
        }
        (Binary::Subtract, Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(&b).map(Value::Duration).ok_or_else(range)
        }
        (_, _, _) => Err(overload(operator.name())),
    }
}
