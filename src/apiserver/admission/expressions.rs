//! What expressions of policies and match conditions see.
//!
//! `object`, `oldObject`, `request`, `namespaceObject`, `params`, `authorizer`, and `variables`,
//! each of which is worked out when it is first named.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use kube_cel::cel::objects::Opaque;
use serde_json::{Value as Json, json};

use super::{Operation, Request};
use crate::api::Object;
use crate::api::cel::{Budget, EvalError, Program, Scope, Value, from_json};
use crate::api::meta::list;
use crate::apiserver::auth::{Attributes, Authorizer, Decision, UserInfo};
use crate::apiserver::catalog::Resource;

/// What one expression may cost, in steps.
pub(super) const EXPRESSION_STEPS: u64 = 1_000_000;

/// An expression, or why it is none.
pub(super) type Compiled = Result<Program, String>;

/// Reads an expression.
pub(super) fn compile(source: &Json) -> Compiled {
    Program::parse(source.as_str().unwrap_or_default()).map_err(|error| error.to_string())
}

/// The request as expressions and reviews see it.
pub(super) fn request_of(request: &Request<'_>, shown: &Resource, object: &Object) -> Json {
    let at = request.attributes;
    let kind_of = |of: &Resource| json!({"group": of.kind.group, "version": of.kind.version, "kind": of.kind.kind});
    let resource_of = |of: &Resource| json!({"group": of.kind.group, "version": of.kind.version, "resource": of.kind.plural});
    let own = request.resource;
    let mut all = json!({
        "kind": kind_of(shown),
        "resource": resource_of(shown),
        "requestKind": kind_of(own),
        "requestResource": resource_of(own),
        "name": request.name(object),
        "operation": request.operation.word(),
        "userInfo": user_of(request.user),
        "dryRun": request.dry_run,
        "options": options(request),
    });
    if own.namespaced() || own.kind.kind == "Namespace" {
        all["namespace"] = at.namespace.clone().into();
    }
    if !at.subresource.is_empty() {
        all["subResource"] = at.subresource.clone().into();
        all["requestSubResource"] = at.subresource.clone().into();
    }
    all
}

fn user_of(user: &UserInfo) -> Json {
    let mut shown = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        shown["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

fn options(request: &Request<'_>) -> Json {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Update if request.attributes.verb == "patch" => "PatchOptions",
        _ => "UpdateOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// Expressions that stand beside the main ones, by name.
pub(super) type Variables = Vec<(String, Compiled)>;

/// Reads `variables`.
pub(super) fn variables(source: &Json) -> Variables {
    let name = |v: &Json| v["name"].as_str().unwrap_or_default().to_owned();
    list(source).iter().map(|v| (name(v), compile(&v["expression"]))).collect()
}

/// What the expressions of one request see.
pub(super) struct Seen<'a> {
    pub object: &'a Json,
    pub old: Option<&'a Json>,
    pub request: Json,
    pub namespace: Option<&'a Json>,
    pub params: Option<&'a Json>,
    pub variables: &'a Variables,
    pub authorizer: Option<&'a Arc<dyn Authorizer>>,
    pub user: &'a UserInfo,
    pub budget: &'a Budget,
    values: HashMap<&'static str, OnceCell<Value>>,
    known: RefCell<HashMap<String, Value>>,
    /// How many of the variables may be named: those before the one that is being worked out.
    visible: Cell<usize>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(
        object: &'a Json,
        request: &'a Request<'_>,
        told: Json,
        variables: &'a Variables,
        budget: &'a Budget,
    ) -> Self {
        let names = ["object", "oldObject", "request", "namespaceObject", "params"];
        Self {
            object,
            old: request.old,
            request: told,
            namespace: None,
            params: None,
            variables,
            authorizer: None,
            user: request.user,
            budget,
            values: names.into_iter().map(|name| (name, OnceCell::new())).collect(),
            known: RefCell::default(),
            visible: Cell::new(variables.len()),
        }
    }

    /// The value of an expression.
    pub(super) fn eval(&self, program: &Compiled) -> Result<Value, EvalError> {
        let program = program
            .as_ref()
            .map_err(|why| EvalError::Failed(format!("compilation error: {why}")))?;
        let own = Budget::of(EXPRESSION_STEPS.min(self.budget.left()));
        let before = own.left();
        let found = program.eval(self, &own);
        self.budget.take(before - own.left());
        found
    }

    fn json(&self, name: &str) -> Option<&Json> {
        match name {
            "object" => Some(self.object),
            "oldObject" => Some(self.old.unwrap_or(&Json::Null)),
            "request" => Some(&self.request),
            "namespaceObject" => Some(self.namespace.unwrap_or(&Json::Null)),
            "params" => Some(self.params.unwrap_or(&Json::Null)),
            _ => None,
        }
    }
}

impl Scope for Seen<'_> {
    fn variable(&self, name: &str) -> Option<Result<Value, EvalError>> {
        if let Some(json) = self.json(name) {
            return Some(Ok(self.values[name].get_or_init(|| from_json(json)).clone()));
        }
        match name {
            "variables" => Some(Ok(Value::Opaque(Arc::new(Handle::Variables)))),
            "authorizer" => {
                self.authorizer?;
                let ask = Ask { user: user_key(self.user), ..Ask::default() };
                Some(Ok(Value::Opaque(Arc::new(Handle::Authorizer(ask)))))
            }
            _ => None,
        }
    }

    fn field(&self, of: &Value, name: &str) -> Option<Result<Value, EvalError>> {
        let Value::Opaque(opaque) = of else { return None };
        match opaque.downcast_ref::<Handle>()? {
            Handle::Variables => {}
            Handle::Authorizer(_) if name == "requestResource" => {
                return Some(Ok(Value::Opaque(Arc::new(Handle::Authorizer(self.own_resource())))));
            }
            _ => return None,
        }
        if let Some(known) = self.known.borrow().get(name) {
            return Some(Ok(known.clone()));
        }
        let visible = self.visible.get();
        let index = self.variables[..visible].iter().position(|(variable, _)| variable == name)?;
        self.visible.set(index);
        let found = self.eval(&self.variables[index].1);
        self.visible.set(visible);
        if let Ok(value) = &found {
            self.known.borrow_mut().insert(name.to_owned(), value.clone());
        }
        Some(found)
    }

    fn call(&self, name: &str, target: &Value, args: &[Value]) -> Option<Result<Value, EvalError>> {
        let Value::Opaque(opaque) = target else { return None };
        match opaque.downcast_ref::<Handle>()? {
            Handle::Variables => None,
            Handle::Authorizer(ask) => self.ask(ask, name, args),
            Handle::Decision(allowed, reason) => Some(Ok(match name {
                "allowed" => Value::Bool(*allowed),
                "reason" => Value::String(Arc::new(reason.clone())),
                "errored" => Value::Bool(false),
                "error" => Value::String(Arc::new(String::new())),
                _ => return None,
            })),
        }
    }
}

/// What the scope hands out.
#[derive(Debug, PartialEq, Eq)]
enum Handle {
    Variables,
    Authorizer(Ask),
    Decision(bool, String),
}

impl Opaque for Handle {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization"
    }
}

type UserKey = (String, Vec<String>);

fn user_key(user: &UserInfo) -> UserKey {
    (user.name.clone(), user.groups.clone())
}

/// A question to the authorizer, as it is put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ask {
    user: UserKey,
    path: Option<String>,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Seen<'_> {
    fn own_resource(&self) -> Ask {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        Ask {
            user: user_key(self.user),
            path: None,
            group: text(&self.request["resource"]["group"]),
            resource: text(&self.request["resource"]["resource"]),
            subresource: text(&self.request["subResource"]),
            namespace: text(&self.request["namespace"]),
            name: text(&self.request["name"]),
        }
    }

    fn ask(&self, ask: &Ask, name: &str, args: &[Value]) -> Option<Result<Value, EvalError>> {
        let texts: Vec<String> = args
            .iter()
            .filter_map(|arg| match arg {
                Value::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect();
        let mut ask = ask.clone();
        match (name, texts.as_slice()) {
            ("group", [group]) => ask.group.clone_from(group),
            ("resource", [resource]) => ask.resource.clone_from(resource),
            ("subresource", [subresource]) => ask.subresource.clone_from(subresource),
            ("namespace", [namespace]) => ask.namespace.clone_from(namespace),
            ("name", [name]) => ask.name.clone_from(name),
            ("path", [path]) => ask.path = Some(path.clone()),
            ("fieldSelector" | "labelSelector", [_]) => {}
            ("serviceAccount", [namespace, name]) => {
                let groups = vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ];
                ask.user = (format!("system:serviceaccount:{namespace}:{name}"), groups);
            }
            ("check", [verb]) => return Some(self.decide(&ask, verb)),
            _ => return None,
        }
        Some(Ok(Value::Opaque(Arc::new(Handle::Authorizer(ask)))))
    }

    fn decide(&self, ask: &Ask, verb: &str) -> Result<Value, EvalError> {
        let no_answer = || EvalError::Failed("the authorizer has no answer".into());
        let authorizer = self.authorizer.ok_or_else(no_answer)?;
        let user = UserInfo {
            name: ask.user.0.clone(),
            groups: ask.user.1.clone(),
            ..UserInfo::default()
        };
        let attributes = match &ask.path {
            Some(path) => {
                Attributes { verb: verb.to_owned(), path: path.clone(), ..Attributes::default() }
            }
            None => Attributes {
                verb: verb.to_owned(),
                group: ask.group.clone(),
                version: "*".to_owned(),
                resource: ask.resource.clone(),
                subresource: ask.subresource.clone(),
                namespace: ask.namespace.clone(),
                name: ask.name.clone(),
                ..Attributes::default()
            },
        };
        // Authorizers answer from memory; one that would have to wait has no answer here.
        let decision = authorizer.authorize(&user, &attributes).now_or_never();
        Ok(match decision.ok_or_else(no_answer)? {
            Decision::Allow => Value::Opaque(Arc::new(Handle::Decision(true, String::new()))),
            Decision::Deny(reason) => {
                Value::Opaque(Arc::new(Handle::Decision(false, reason.unwrap_or_default())))
            }
        })
    }
}

/// Whether every match condition holds.
///
/// # Errors
/// The first one that has no value, where none of them is false.
pub(super) fn conditions_hold(
    conditions: &[(String, Compiled)],
    seen: &Seen<'_>,
) -> Result<bool, String> {
    let mut failed = None;
    for (name, program) in conditions {
        match seen.eval(program) {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => return Ok(false),
            Ok(_) => failed = failed.or(Some(format!("expression '{name}' is no bool"))),
            Err(error) => {
                let source = program.as_ref().map_or("", Program::source);
                let why = format!("expression '{source}' resulted in error: {error}");
                failed = failed.or(Some(why));
            }
        }
    }
    failed.map_or(Ok(true), Err)
}

/// Reads `matchConditions`.
pub(super) fn conditions(source: &Json) -> Vec<(String, Compiled)> {
    variables(source)
}
