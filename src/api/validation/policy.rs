//! The expressions of admission policies and of match conditions: that they can be read, and what
//! their types tell.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use crate::api::Object;
use crate::api::cel::{Declarations, Fields, Program, Type, builtin_type};
use crate::api::field::Path;
use crate::api::kinds::KindTable;
use crate::api::meta::list;
use crate::api::status::FieldError;

/// The types of at most so many resources are looked at.
const TYPES_MAX: usize = 10;

/// The variables of a policy that come before an expression.
#[derive(Clone, Default)]
struct Variables(BTreeMap<String, Type>);

impl Fields for Variables {
    fn name(&self) -> String {
        "kubernetes.variables".into()
    }

    fn field(&self, name: &str) -> Option<Type> {
        self.0.get(name).cloned()
    }
}

fn declared(object: &Type, variables: &Variables) -> Declarations {
    Declarations::default()
        .with("object", object.clone())
        .with("oldObject", object.clone())
        .with("request", Type::Dyn)
        .with("namespaceObject", Type::Dyn)
        .with("params", Type::Dyn)
        .with("authorizer", Type::Opaque("Authorizer"))
        .with("variables", Type::Object(Arc::new(variables.clone())))
}

/// An expression of a policy: where it stands, what it says, and what it must answer.
struct Expression {
    path: String,
    source: String,
    wanted: Option<Type>,
    /// The name of a variable that it makes.
    makes: Option<String>,
}

/// Every expression of a policy, in the order in which they may name each other.
fn all(object: &Object) -> Vec<Expression> {
    let spec = &object["spec"];
    let mut found = Vec::new();
    let mut add = |path: String, source: &Value, wanted: Option<Type>, makes: Option<&Value>| {
        if let Some(source) = source.as_str().filter(|source| !source.trim().is_empty()) {
            let makes = makes.and_then(|name| name.as_str().map(str::to_owned));
            found.push(Expression { path, source: source.to_owned(), wanted, makes });
        }
    };
    for (index, variable) in list(&spec["variables"]).iter().enumerate() {
        let path = format!("spec.variables[{index}].expression");
        add(path, &variable["expression"], None, Some(&variable["name"]));
    }
    for (index, condition) in list(&spec["matchConditions"]).iter().enumerate() {
        let path = format!("spec.matchConditions[{index}].expression");
        add(path, &condition["expression"], Some(Type::Bool), None);
    }
    for (index, validation) in list(&spec["validations"]).iter().enumerate() {
        let path = format!("spec.validations[{index}]");
        add(format!("{path}.expression"), &validation["expression"], Some(Type::Bool), None);
        let message = &validation["messageExpression"];
        add(format!("{path}.messageExpression"), message, Some(Type::String), None);
    }
    for (index, annotation) in list(&spec["auditAnnotations"]).iter().enumerate() {
        let path = format!("spec.auditAnnotations[{index}].valueExpression");
        add(path, &annotation["valueExpression"], None, None);
    }
    for (index, mutation) in list(&spec["mutations"]).iter().enumerate() {
        for kind in ["applyConfiguration", "jsonPatch"] {
            let path = format!("spec.mutations[{index}].{kind}.expression");
            add(path, &mutation[kind]["expression"], None, None);
        }
    }
    found
}

/// What is wrong with the expressions, where `object` is of a type; paths first.
fn check(object: &Object, of: &Type) -> Vec<(String, String, String)> {
    let mut variables = Variables::default();
    let mut wrong = Vec::new();
    for expression in all(object) {
        let checked = Program::parse(&expression.source)
            .map_err(|error| vec![error])
            .and_then(|program| program.check(&declared(of, &variables)));
        let mut made = Type::Dyn;
        match (checked, &expression.wanted) {
            (Err(errors), _) => {
                let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
                wrong.push((expression.path, expression.source, told.join("\n")));
            }
            (Ok(found), Some(wanted))
                if !found.is_dyn() && found.to_string() != wanted.to_string() =>
            {
                let told = format!("must evaluate to {wanted}");
                wrong.push((expression.path, expression.source, told));
            }
            (Ok(found), _) => made = found,
        }
        if let Some(name) = expression.makes {
            variables.0.insert(name, made);
        }
    }
    wrong
}

/// Expressions of a policy that cannot be used, whatever they are about.
pub fn expressions(object: &Object) -> Vec<FieldError> {
    let wrong = check(object, &Type::Dyn).into_iter();
    wrong
        .map(|(path, source, why)| {
            let why = match why.starts_with("must evaluate") {
                true => why,
                false => format!("compilation failed: {why}"),
            };
            Path::new(&path).invalid(source, why)
        })
        .collect()
}

/// A match condition of a webhook.
pub fn condition(condition: &Value, path: &Path) -> Vec<FieldError> {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if text("name").is_empty() {
        errors.push(path.child("name").required(""));
    }
    let source = text("expression");
    let at = path.child("expression");
    if source.trim().is_empty() {
        errors.push(at.required(""));
        return errors;
    }
    let declared = declared(&Type::Dyn, &Variables::default());
    let checked = Program::parse(source)
        .map_err(|error| vec![error])
        .and_then(|program| program.check(&declared));
    match checked {
        Ok(Type::Bool | Type::Dyn) => {}
        Ok(_) => errors.push(at.invalid(source, "must evaluate to bool")),
        Err(wrong) => {
            let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            errors.push(at.invalid(source, format!("compilation failed: {}", told.join("\n"))));
        }
    }
    errors
}

static BUILTIN: LazyLock<KindTable> = LazyLock::new(KindTable::builtin);

/// What the types of the built-in kinds that a policy is about tell of its expressions, as
/// `status.typeChecking.expressionWarnings`.
pub fn type_warnings(object: &Object) -> Vec<Value> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    for (shown, of) in types(object) {
        for (path, _, why) in check(object, &of) {
            if !told.contains_key(&path) {
                order.push(path.clone());
            }
            told.entry(path).or_default().push(format!("{shown}: {why}\n"));
        }
    }
    let entry = |path: String| {
        let warning = told.get(&path).map(|lines| lines.join("\n")).unwrap_or_default();
        json!({"fieldRef": path, "warning": warning})
    };
    order.into_iter().map(entry).collect()
}

/// The kinds that the rules of a policy name, with how they are shown.
fn types(object: &Object) -> Vec<(String, Type)> {
    let texts = |value: &Value| -> Vec<String> {
        list(value).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut found = Vec::new();
    for rule in list(&object["spec"]["matchConstraints"]["resourceRules"]) {
        for group in texts(&rule["apiGroups"]) {
            for version in texts(&rule["apiVersions"]) {
                for resource in texts(&rule["resources"]) {
                    let Some(row) = BUILTIN.resource(&group, &version, &resource) else {
                        continue;
                    };
                    let Some(of) = builtin_type(&row.schema) else { continue };
                    let shown = format!("{}, Kind={}", row.api_version(), row.kind);
                    if found.len() < TYPES_MAX && !found.iter().any(|(s, _)| *s == shown) {
                        found.push((shown, of));
                    }
                }
            }
        }
    }
    found
}
