//! The types of an expression, and what cannot be right in it whatever the values.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube_cel::cel::Value;

use super::ast::{Binary, Expr, Node, Walk};
use super::eval::NAMESPACES;
use super::signatures::{Found, find};
use super::value::unescaped;
use super::{CompileError, Type};

/// The variables that an expression may name.
#[derive(Debug, Clone, Default)]
pub struct Declarations(BTreeMap<String, Type>);

impl Declarations {
    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: &str, of: Type) -> Self {
        self.0.insert(name.to_owned(), of);
        self
    }
}

/// The type of an expression.
///
/// # Errors
/// What cannot be right.
pub(super) fn check(
    source: &str,
    node: &Node,
    declared: &Declarations,
) -> Result<Type, Vec<CompileError>> {
    let mut checker = Checker { source, scope: declared.0.clone(), errors: Vec::new() };
    let found = checker.of(node);
    if checker.errors.is_empty() { Ok(found) } else { Err(checker.errors) }
}

struct Checker<'a> {
    source: &'a str,
    scope: BTreeMap<String, Type>,
    errors: Vec<CompileError>,
}

fn shown(types: &[Type]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Checker<'_> {
    fn wrong(&mut self, node: &Node, what: String) -> Type {
        self.errors.push(CompileError::new(self.source, node.at, what));
        Type::Dyn
    }

    fn no_overload(&mut self, node: &Node, name: &str, target: Option<&Type>, of: &[Type]) -> Type {
        let args = shown(of);
        let applied = target.map_or_else(|| format!("({args})"), |t| format!("{t}.({args})"));
        self.wrong(node, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    fn within<T>(&mut self, bound: &[(&str, Type)], run: impl FnOnce(&mut Self) -> T) -> T {
        let before: Vec<(String, Option<Type>)> = bound
            .iter()
            .map(|(name, of)| {
                ((*name).to_owned(), self.scope.insert((*name).to_owned(), of.clone()))
            })
            .collect();
        let answer = run(self);
        for (name, before) in before.into_iter().rev() {
            match before {
                Some(of) => self.scope.insert(name, of),
                None => self.scope.remove(&name),
            };
        }
        answer
    }

    fn of(&mut self, node: &Node) -> Type {
        match &node.expr {
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => match self.scope.get(name) {
                Some(of) => of.clone(),
                None if super::library::type_named(name).is_some() => Type::Type,
                None => {
                    let what = format!("undeclared reference to '{name}' (in container '')");
                    self.wrong(node, what)
                }
            },
            Expr::Select { of, field, optional } => {
                let of = self.of(of);
                self.select(node, of, field, *optional)
            }
            Expr::Has { of, field } => {
                let inner = self.of(of);
                self.select(node, inner, field, true);
                Type::Bool
            }
            Expr::Index { of, key, optional } => {
                let (of, key) = (self.of(of), self.of(key));
                self.index(node, of, key, *optional)
            }
            Expr::Call { name, target, args } => self.call(node, name, target.as_deref(), args),
            Expr::Not(of) => match self.of(of) {
                Type::Bool | Type::Dyn => Type::Bool,
                other => self.no_overload(node, "!_", None, &[other]),
            },
            Expr::Negate(of) => match self.of(of) {
                found @ (Type::Int | Type::Double | Type::Dyn) => found,
                other => self.no_overload(node, "-_", None, &[other]),
            },
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.of(left), self.of(right));
                self.binary(node, *operator, left, right)
            }
            Expr::And(all) => self.logic(node, "_&&_", all),
            Expr::Or(all) => self.logic(node, "_||_", all),
            Expr::Either { test, then, other } => {
                let tested = self.of(test);
                let (then, other) = (self.of(then), self.of(other));
                if !tested.fits(&Type::Bool) {
                    return self.no_overload(node, "_?_:_", None, &[tested, then, other]);
                }
                then.join(other)
            }
            Expr::List(items) => {
                let types: Vec<Type> = items.iter().map(|(item, _)| self.of(item)).collect();
                Type::list(types.into_iter().reduce(Type::join).unwrap_or(Type::Dyn))
            }
            Expr::Map(entries) => {
                let types = entries.iter().map(|(k, v, _)| (self.of(k), self.of(v)));
                let joined = types.reduce(|(a, b), (c, d)| (a.join(c), b.join(d)));
                let (key, value) = joined.unwrap_or((Type::Dyn, Type::Dyn));
                Type::Map(Arc::new(key), Arc::new(value))
            }
            Expr::Struct { fields } => {
                for (_, value, _) in fields {
                    self.of(value);
                }
                Type::Dyn
            }
            Expr::Walk { walk, over, names, args } => self.walk(node, *walk, over, names, args),
            Expr::Bind { name, value, body } => {
                let value = self.of(value);
                self.within(&[(name, value)], |inner| inner.of(body))
            }
            Expr::OptMap { of, name, body, flat } => {
                let held = match self.of(of) {
                    Type::Optional(held) => (*held).clone(),
                    Type::Dyn => Type::Dyn,
                    other => return self.no_overload(node, "optMap", Some(&other), &[]),
                };
                let answer = self.within(&[(name, held)], |inner| inner.of(body));
                if *flat { answer } else { Type::Optional(Arc::new(answer)) }
            }
        }
    }

    fn select(&mut self, node: &Node, of: Type, field: &str, optional: bool) -> Type {
        let (of, chained) = match of {
            Type::Optional(held) => ((*held).clone(), true),
            other => (other, false),
        };
        let found = match &of {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Object(fields) => {
                let plain = unescaped(field);
                let known = fields.field(field).or_else(|| fields.field(plain.as_deref()?));
                match known {
                    Some(found) => found,
                    None => return self.wrong(node, format!("undefined field '{field}'")),
                }
            }
            // A variable of its own, whose name has a dot in it.
            Type::Opaque("Authorizer") if field == "requestResource" => {
                Type::Opaque("ResourceCheck")
            }
            other => {
                let what = format!("type '{other}' does not support field selection");
                return self.wrong(node, what);
            }
        };
        if (optional || chained) && !of.is_dyn() { Type::Optional(Arc::new(found)) } else { found }
    }

    fn index(&mut self, node: &Node, of: Type, key: Type, optional: bool) -> Type {
        let (of, chained) = match of {
            Type::Optional(held) => ((*held).clone(), true),
            other => (other, false),
        };
        let found = match &of {
            Type::Dyn => return Type::Dyn,
            Type::List(item) if matches!(key, Type::Int | Type::Uint | Type::Dyn) => {
                (**item).clone()
            }
            Type::Map(wanted, value) if key.fits(wanted) => (**value).clone(),
            Type::Object(_) if key.fits(&Type::String) => Type::Dyn,
            _ => return self.no_overload(node, "_[_]", None, &[of, key]),
        };
        if optional || chained { Type::Optional(Arc::new(found)) } else { found }
    }

    fn call(&mut self, node: &Node, name: &str, target: Option<&Node>, args: &[Node]) -> Type {
        let space = target.and_then(|target| match &target.expr {
            Expr::Ident(space)
                if NAMESPACES.contains(&space.as_str()) && !self.scope.contains_key(space) =>
            {
                Some(space)
            }
            _ => None,
        });
        let target = match space {
            Some(_) => None,
            None => target.map(|target| self.of(target)),
        };
        let args: Vec<Type> = args.iter().map(|arg| self.of(arg)).collect();
        let full = space.map_or_else(|| name.to_owned(), |space| format!("{space}.{name}"));
        match find(&full, target.as_ref(), &args) {
            Found::Answer(answer) => answer,
            Found::NoOverload => self.no_overload(node, &full, target.as_ref(), &args),
            Found::NoFunction => {
                self.wrong(node, format!("undeclared reference to '{full}' (in container '')"))
            }
        }
    }

    fn logic(&mut self, node: &Node, name: &str, all: &[Node]) -> Type {
        let types: Vec<Type> = all.iter().map(|part| self.of(part)).collect();
        if types.iter().all(|found| found.fits(&Type::Bool)) {
            return Type::Bool;
        }
        self.no_overload(node, name, None, &types)
    }

    fn binary(&mut self, node: &Node, operator: Binary, left: Type, right: Type) -> Type {
        let ordered = |of: &Type| {
            use Type::{Bool, Bytes, Double, Duration, Dyn, Int, String, Timestamp, Uint};
            matches!(of, Bool | Int | Uint | Double | String | Bytes | Timestamp | Duration | Dyn)
        };
        let found = match operator {
            Binary::Equal | Binary::NotEqual => left.comparable(&right).then_some(Type::Bool),
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                let both = ordered(&left) && ordered(&right);
                let null = matches!(left, Type::Null) || matches!(right, Type::Null);
                (both && !null && left.comparable(&right)).then_some(Type::Bool)
            }
            Binary::In => match &right {
                Type::Dyn => Some(Type::Bool),
                Type::List(item) => left.comparable(item).then_some(Type::Bool),
                Type::Map(key, _) => left.comparable(key).then_some(Type::Bool),
                Type::Object(_) => left.fits(&Type::String).then_some(Type::Bool),
                _ => None,
            },
            _ => arithmetic(operator, &left, &right),
        };
        match found {
            Some(found) => found,
            None => self.no_overload(node, operator.name(), None, &[left, right]),
        }
    }

    fn walk(
        &mut self,
        node: &Node,
        walk: Walk,
        over: &Node,
        names: &[String],
        args: &[Node],
    ) -> Type {
        let over = self.of(over);
        let two = names.len() == 2;
        let (first, second) = match &over {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Object(_) => (Type::String, Type::Dyn),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                return self.wrong(node, what);
            }
        };
        let mut bound = vec![(names[0].as_str(), first.clone())];
        if two {
            bound.push((names[1].as_str(), second));
        }
        let types: Vec<Type> =
            self.within(&bound, |inner| args.iter().map(|arg| inner.of(arg)).collect());
        let last = types.last().cloned().unwrap_or(Type::Dyn);
        let judges = matches!(walk, Walk::All | Walk::Exists | Walk::ExistsOne | Walk::Filter);
        if (judges || types.len() == 2) && !types[0].fits(&Type::Bool) {
            return self.no_overload(&args[0], "_&&_", None, &types[..1]);
        }
        match walk {
            Walk::All | Walk::Exists | Walk::ExistsOne => Type::Bool,
            Walk::Filter | Walk::SortBy => Type::list(first),
            Walk::Map | Walk::TransformList => Type::list(last),
            Walk::TransformMap => Type::Map(Arc::new(first), Arc::new(last)),
        }
    }
}

fn arithmetic(operator: Binary, left: &Type, right: &Type) -> Option<Type> {
    use Type::{Bytes, Double, Duration, Dyn, Int, List, String, Timestamp, Uint};
    match (operator, left, right) {
        (_, Dyn, other) | (_, other, Dyn) => {
            let known = matches!(
                other,
                Dyn | Int | Uint | Double | String | Bytes | List(_) | Timestamp | Duration
            );
            known.then_some(Dyn)
        }
        (_, Int, Int) => Some(Int),
        (_, Uint, Uint) => Some(Uint),
        (Binary::Modulo, Double, Double) => None,
        (_, Double, Double) => Some(Double),
        (Binary::Add, String, String) => Some(String),
        (Binary::Add, Bytes, Bytes) => Some(Bytes),
        (Binary::Add, List(a), List(b)) => Some(Type::list((**a).clone().join((**b).clone()))),
        (Binary::Add, Timestamp, Duration)
        | (Binary::Add, Duration, Timestamp)
        | (Binary::Subtract, Timestamp, Duration) => Some(Timestamp),
        (Binary::Subtract, Timestamp, Timestamp)
        | (Binary::Add | Binary::Subtract, Duration, Duration) => Some(Duration),
        _ => None,
    }
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Int(_) => Type::Int,
        Value::UInt(_) => Type::Uint,
        Value::Float(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Bool(_) => Type::Bool,
        Value::Null => Type::Null,
        _ => Type::Dyn,
    }
}
