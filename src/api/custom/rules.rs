//! `x-kubernetes-validations`: rules in CEL that a schema carries (KEP-2876).
//!
//! A rule sees the value of its node as `self`; one that names `oldSelf` is kept only where the
//! value before is known (not in lists without keys).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Structural;
use super::validate::type_of;
use crate::api::cel::{
    Budget, Declarations, EvalError, Fields, Program, Type, Variables, from_json_typed,
};
use crate::api::field::Path;
use crate::api::schema::ListType;
use crate::api::status::{FieldError, FieldErrorKind};

/// What one rule may cost, and all rules of an object together, in steps.
const RULE_STEPS: u64 = 1_000_000;
const OBJECT_STEPS: u64 = 10_000_000;
/// A message is at most so long, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;

/// A rule, ready to be kept.
#[derive(Debug)]
pub(super) struct Rule {
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: FieldErrorKind,
    /// As `.spec.x`, below the node.
    field_path: String,
    uses_old: bool,
    optional_old: bool,
}

fn text<'a>(source: &'a Value, field: &str) -> &'a str {
    source[field].as_str().unwrap_or_default()
}

impl Rule {
    /// What cannot be read is no rule: definitions with such rules are refused.
    pub(super) fn parse(source: &Value) -> Option<Self> {
        let program = Program::parse(text(source, "rule")).ok()?;
        let uses_old = program.names("oldSelf");
        Some(Self {
            program,
            message: text(source, "message").trim().to_owned(),
            message_expression: source["messageExpression"]
                .as_str()
                .and_then(|expression| Program::parse(expression).ok()),
            reason: match text(source, "reason") {
                "FieldValueRequired" => FieldErrorKind::Required,
                "FieldValueForbidden" => FieldErrorKind::Forbidden,
                "FieldValueDuplicate" => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            field_path: text(source, "fieldPath").to_owned(),
            uses_old,
            optional_old: source["optionalOldSelf"] == true,
        })
    }

    fn told(&self) -> &str {
        if self.message.is_empty() { self.program.source().trim() } else { &self.message }
    }

    fn failed(&self, path: &Path, value: &Value, detail: String) -> FieldError {
        let at = match self.field_path.is_empty() {
            true => path.clone(),
            false => path.child(self.field_path.trim_start_matches('.')),
        };
        match self.reason {
            FieldErrorKind::Required => at.required(&detail),
            FieldErrorKind::Forbidden => at.forbidden(detail),
            FieldErrorKind::Duplicate => at.duplicate(value.clone()),
            _ => at.invalid(type_of(value), detail),
        }
    }
}

/// What walks along an object and keeps the rules on the way.
pub(super) struct Keeper {
    budget: Budget,
    pub errors: Vec<FieldError>,
    exhausted: bool,
}

impl Structural {
    /// Whether there is a rule anywhere below.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
            || self.properties.values().any(Self::has_rules)
            || self.additional.as_deref().is_some_and(Self::has_rules)
            || self.items.as_deref().is_some_and(Self::has_rules)
    }

    /// Keeps every rule about an object. `old`: the object before, for a change.
    pub(super) fn keep_rules(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut keeper =
            Keeper { budget: Budget::of(OBJECT_STEPS), errors: Vec::new(), exhausted: false };
        keeper.node(self, object, old, &Path::new(""), true);
        keeper.errors
    }

    /// What rules see of the values of this node. `root`: a whole object, whose metadata is known.
    pub(super) fn cel_type(&self, root: bool) -> Type {
        if self.int_or_string {
            return Type::Dyn;
        }
        match self.kind.as_str() {
            "string" => match self.checks.format.as_str() {
                "date-time" => Type::Timestamp,
                "duration" => Type::Duration,
                "byte" => Type::Bytes,
                _ => Type::String,
            },
            "integer" => Type::Int,
            "number" => Type::Double,
            "boolean" => Type::Bool,
            "array" => {
                Type::list(self.items.as_ref().map_or(Type::Dyn, |items| items.cel_type(false)))
            }
            "object" => self.object_type(root || self.embedded),
            _ => Type::Dyn,
        }
    }

    fn object_type(&self, resource: bool) -> Type {
        if let Some(inner) = &self.additional {
            let preserves = inner.kind.is_empty();
            return Type::map(if preserves { Type::Dyn } else { inner.cel_type(false) });
        }
        // A map without any schema has no fields that a rule could name.
        if self.preserve && self.properties.is_empty() && !resource {
            return Type::Dyn;
        }
        let mut fields: BTreeMap<String, Type> = self
            .properties
            .iter()
            .map(|(name, inner)| (name.clone(), inner.cel_type(false)))
            .collect();
        if resource {
            fields.insert("apiVersion".into(), Type::String);
            fields.insert("kind".into(), Type::String);
            let metadata = [("name", Type::String), ("generateName", Type::String)]
                .map(|(n, t)| (n.into(), t));
            fields.insert("metadata".into(), Type::Object(Arc::new(Object(metadata.into()))));
        }
        Type::Object(Arc::new(Object(fields)))
    }
}

/// The fields of an object of a schema.
struct Object(BTreeMap<String, Type>);

impl Fields for Object {
    fn name(&self) -> String {
        "object".into()
    }

    fn field(&self, name: &str) -> Option<Type> {
        self.0.get(name).cloned()
    }
}

impl Keeper {
    fn node(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        root: bool,
    ) {
        if value.is_null() || self.exhausted {
            return;
        }
        if !schema.rules.is_empty() {
            self.rules(schema, value, old, path, root);
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    if let Some(below) = schema.member(name).filter(|below| below.has_rules()) {
                        let path = match schema.additional.is_some() {
                            true => path.key(name),
                            false => path.child(name),
                        };
                        self.node(below, inner, old.and_then(|old| old.get(name)), &path, false);
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref().filter(|below| below.has_rules()) else {
                    return;
                };
                for (index, item) in items.iter().enumerate() {
                    let before = old.and_then(|old| counterpart(schema, item, old));
                    self.node(below, item, before, &path.index(index), false);
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        root: bool,
    ) {
        let of = schema.cel_type(root);
        let variables = Variables::default().with("self", from_json_typed(value, &of));
        let before = old.filter(|old| !old.is_null()).map(|old| from_json_typed(old, &of));
        let variables = match &before {
            Some(before) => variables.with("oldSelf", before.clone()),
            None => variables,
        };
        let optional = Variables::default()
            .with("self", from_json_typed(value, &of))
            .with("oldSelf", crate::api::cel::optional(before.clone()));
        for rule in &schema.rules {
            if rule.uses_old && !rule.optional_old && before.is_none() {
                continue;
            }
            let scope = if rule.optional_old { &optional } else { &variables };
            self.rule(rule, scope, value, path);
            if self.exhausted {
                return;
            }
        }
    }

    fn rule(&mut self, rule: &Rule, scope: &Variables, value: &Value, path: &Path) {
        let found = self.eval(&rule.program, scope);
        let told = rule.told();
        let error = match found {
            Ok(crate::api::cel::Value::Bool(true)) => return,
            Ok(_) => {
                let detail = self.message(rule, scope);
                self.errors.push(rule.failed(path, value, detail));
                return;
            }
            Err(error @ EvalError::BudgetExceeded) => {
                self.exhausted = true;
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds \
                     limit for rule: {told}"
                )
            }
            Err(error @ EvalError::NoSuchOverload(_)) => format!(
                "'{error}': call arguments did not match a supported operator, function or macro \
                 signature for rule: {told}"
            ),
            Err(error) => format!("{error} evaluating rule: {told}"),
        };
        self.errors.push(path.invalid(type_of(value), error));
    }

    /// One expression may cost so much, and all together no more than is left.
    fn eval(
        &self,
        program: &Program,
        scope: &Variables,
    ) -> Result<crate::api::cel::Value, EvalError> {
        let own = Budget::of(RULE_STEPS.min(self.budget.left()));
        let before = own.left();
        let found = program.eval(scope, &own);
        self.budget.take(before - own.left());
        found
    }

    fn message(&self, rule: &Rule, scope: &Variables) -> String {
        let expression = rule.message_expression.as_ref();
        match expression.map(|expression| self.eval(expression, scope)) {
            Some(Ok(crate::api::cel::Value::String(said)))
                if !said.trim().is_empty() && said.len() <= MESSAGE_MAX && !said.contains('\n') =>
            {
                said.to_string()
            }
            _ if rule.message.is_empty() => format!("failed rule: {}", rule.told()),
            _ => rule.message.clone(),
        }
    }
}

/// The element of an old list that the item was, where elements have keys.
fn counterpart<'a>(schema: &Structural, item: &Value, old: &'a Value) -> Option<&'a Value> {
    if schema.list_type != Some(ListType::Map) {
        return None;
    }
    let same = |other: &&Value| schema.map_keys.iter().all(|key| other.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}

/// What is wrong with the rules that a schema says, paths first.
pub(super) fn check(source: &Value, path: &str, root: bool, wrong: &mut Vec<(String, String)>) {
    let rules = crate::api::meta::list(&source["x-kubernetes-validations"]);
    if !rules.is_empty() {
        let of = Structural::parse(source).cel_type(root);
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            check_rule(rule, &of, &at, wrong);
        }
    }
    for (name, inner) in source["properties"].as_object().into_iter().flatten() {
        check(inner, &format!("{path}.properties[{name}]"), false, wrong);
    }
    for field in ["items", "additionalProperties"] {
        if source[field].is_object() {
            check(&source[field], &format!("{path}.{field}"), false, wrong);
        }
    }
}

fn check_rule(rule: &Value, of: &Type, path: &str, wrong: &mut Vec<(String, String)>) {
    let old = match rule["optionalOldSelf"] == true {
        true => Type::Optional(Arc::new(of.clone())),
        false => of.clone(),
    };
    let declared = Declarations::default().with("self", of.clone()).with("oldSelf", old);
    let mut expression = |field: &str, wanted: &Type| {
        let source = text(rule, field);
        let checked = Program::parse(source)
            .map_err(|error| vec![error])
            .and_then(|program| program.check(&declared));
        let at = format!("{path}.{field}");
        match checked {
            Ok(found) if found.is_dyn() || found.to_string() == wanted.to_string() => {}
            Ok(_) if field == "rule" => {
                wrong.push((at, "compilation failed: must evaluate to a bool".into()));
            }
            Ok(_) => wrong.push((at, "must evaluate to a string".into())),
            Err(errors) => {
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                wrong.push((at, format!("compilation failed: {}", all.join("\n"))));
            }
        }
    };
    if text(rule, "rule").trim().is_empty() {
        wrong.push((format!("{path}.rule"), String::new()));
        return;
    }
    expression("rule", &Type::Bool);
    if rule["messageExpression"].is_string() {
        expression("messageExpression", &Type::String);
    }
}
