//! `SubjectAccessReview` and its kin: may somebody do something?

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::strings;
use crate::api::Object;
use crate::api::field::Path;
use crate::api::selector::FieldSelector;
use crate::api::status::{ApiError, FieldError};
use crate::apiserver::answers::Answer;
use crate::apiserver::auth::authz::Chain;
use crate::apiserver::auth::{Attributes, UserInfo};

/// Who is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Whoever the question names.
    Of,
    /// Whoever the question names, in one namespace.
    Local,
    /// Who asks.
    Own,
}

impl Form {
    fn kind(self) -> &'static str {
        match self {
            Self::Of => "SubjectAccessReview",
            Self::Local => "LocalSubjectAccessReview",
            Self::Own => "SelfSubjectAccessReview",
        }
    }
}

/// Answers the three.
pub(super) struct AccessReview {
    pub form: Form,
    pub authorizer: Arc<Chain>,
}

#[async_trait]
impl Answer for AccessReview {
    async fn answer(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        let errors = validate(self.form, &object);
        if !errors.is_empty() {
            return Err(ApiError::invalid("authorization.k8s.io", self.form.kind(), "", &errors));
        }
        let spec = &object["spec"];
        if self.form == Form::Local {
            let (named, asked) = (&spec["resourceAttributes"]["namespace"], &attributes.namespace);
            if named.as_str().unwrap_or_default() != asked {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {asked}"
                )));
            }
        }
        let asked = asked(spec);
        let verdict = match self.form {
            Form::Own => self.authorizer.decide(user, &asked).await,
            Form::Of | Form::Local => self.authorizer.decide(&subject(spec), &asked).await,
        };
        let mut status = json!({"allowed": verdict.allowed});
        if !verdict.reason.is_empty() {
            status["reason"] = json!(verdict.reason);
        }
        object["status"] = status;
        Ok(object)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Who a question is about.
fn subject(spec: &Value) -> UserInfo {
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(&spec["user"]),
        uid: text(&spec["uid"]),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_lowercase(), strings(values))).collect(),
    }
}

/// What a question is about.
fn asked(spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    if !resource.is_object() {
        let path = &spec["nonResourceAttributes"];
        return Attributes {
            verb: text(&path["verb"]),
            path: text(&path["path"]),
            ..Attributes::default()
        };
    }
    Attributes {
        verb: text(&resource["verb"]),
        group: text(&resource["group"]),
        version: text(&resource["version"]),
        resource: text(&resource["resource"]),
        subresource: text(&resource["subresource"]),
        namespace: text(&resource["namespace"]),
        name: text(&resource["name"]),
        path: String::new(),
        field_selector: fields(&resource["fieldSelector"]),
    }
}

/// The requirements of a field selector that name one value.
fn fields(selector: &Value) -> Vec<(String, String)> {
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    if let (false, Ok(parsed)) = (raw.is_empty(), FieldSelector::parse_any(raw)) {
        let equal = parsed.requirements().iter().filter(|requirement| requirement.equal);
        return equal.map(|found| (found.field.clone(), found.value.clone())).collect();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equal = requirements.filter(|requirement| requirement["operator"] == "In");
    equal
        .filter_map(|requirement| match strings(&requirement["values"]).as_slice() {
            [value] => Some((text(&requirement["key"]), value.clone())),
            _ => None,
        })
        .collect()
}

fn validate(form: Form, object: &Object) -> Vec<FieldError> {
    let (mut errors, spec, path) = (Vec::new(), &object["spec"], Path::new("spec"));
    let resource = spec["resourceAttributes"].is_object();
    let other = spec["nonResourceAttributes"].is_object();
    match (resource, other) {
        (true, true) => {
            let why = "cannot be specified in combination with resourceAttributes";
            let value = spec["nonResourceAttributes"].clone();
            errors.push(path.child("nonResourceAttributes").invalid(value, why));
        }
        (false, false) => {
            let why =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(path.child("resourceAttributes").invalid(Value::Null, why));
        }
        _ => {}
    }
    if form != Form::Own {
        let nobody = text(&spec["user"]).is_empty() && strings(&spec["groups"]).is_empty();
        if nobody {
            let why = "at least one of user or group must be specified";
            errors.push(path.child("user").invalid("", why));
        }
    }
    if form == Form::Local && other {
        let why = "disallowed on this kind of request";
        let value = spec["nonResourceAttributes"].clone();
        errors.push(path.child("nonResourceAttributes").invalid(value, why));
    }
    let selector = &spec["resourceAttributes"]["fieldSelector"];
    let both = !text(&selector["rawSelector"]).is_empty()
        && selector["requirements"].as_array().is_some_and(|list| !list.is_empty());
    if both {
        let at = path.child("resourceAttributes").child("fieldSelector").child("rawSelector");
        let why = "may not specified at the same time as requirements";
        errors.push(at.invalid(text(&selector["rawSelector"]), why));
    }
    errors
}
