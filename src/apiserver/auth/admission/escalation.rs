//! Nobody gives out more than they hold: writing a Role needs every rule of it (or `escalate`),
//! binding one needs the role's rules (or `bind`)
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).
//! In Kubernetes this stands in the storage of these kinds; here it is the last plugin.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::Object;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::admission::{Operation, Plugin, Request};
use crate::apiserver::auth::authz::{
    Chain, RoleRef, Rule, aggregate, compacted, is_master, missing, quoted,
};
use crate::apiserver::auth::{Attributes, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The plugin.
pub struct Escalation {
    pub(super) authorizer: Arc<Chain>,
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || at.group != GROUP || is_master(request.user) {
            return Ok(());
        }
        let same = |fields: &[&str]| {
            request.old.is_some_and(|old| fields.iter().all(|field| old[*field] == object[*field]))
        };
        match at.resource.as_str() {
            "roles" | "clusterroles" if !same(&["rules", "aggregationRule"]) => {
                self.role(request, object).await
            }
            "rolebindings" | "clusterrolebindings" if !same(&["subjects", "roleRef"]) => {
                self.binding(request, object).await
            }
            _ => Ok(()),
        }
    }
}

/// The user, without more rights than it has.
struct Holder<'a> {
    authorizer: &'a Chain,
    user: &'a UserInfo,
    namespace: &'a str,
}

impl Holder<'_> {
    async fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let asked = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.authorizer.decide(self.user, &asked).await.allowed
    }

    /// # Errors
    /// What is lacking, in the words of Kubernetes.
    fn holds(&self, rules: &[Rule]) -> Result<(), String> {
        let held = self.authorizer.rbac.held(self.user, self.namespace);
        let lacking = missing(&held.rules, rules);
        if lacking.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = compacted(&lacking).iter().map(Rule::compact).collect();
        let lines: Vec<String> = lines.into_iter().collect();
        let mut told = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            quoted(&self.user.groups),
            lines.join("\n")
        );
        if !held.errors.is_empty() {
            told.push_str(&format!("; resolution errors: [{}]", aggregate(&held.errors)));
        }
        Err(told)
    }
}

impl Escalation {
    fn holder<'a>(&'a self, request: &'a Request<'_>) -> Holder<'a> {
        let namespace = request.attributes.namespace.as_str();
        Holder { authorizer: &self.authorizer, user: request.user, namespace }
    }

    async fn role(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let (at, holder) = (request.attributes, self.holder(request));
        if holder.may("escalate", &at.resource, &at.name).await {
            return Ok(());
        }
        self.authorizer.settle().await;
        let refuse = |why: &str| {
            ApiError::forbidden(GROUP, &at.resource, crate::api::meta::name(object), why)
        };
        let rules: Vec<Rule> = match &object["rules"] {
            Value::Null => Vec::new(),
            rules => serde_json::from_value(rules.clone()).map_err(ApiError::internal)?,
        };
        holder.holds(&rules).map_err(|why| refuse(&why))?;
        // What it will gather is not known: whoever writes it must hold everything.
        let gathers = object["aggregationRule"]["clusterRoleSelectors"].as_array();
        if gathers.is_some_and(|selectors| !selectors.is_empty()) {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            holder.holds(&Rule::everything()).map_err(|_| refuse(why))?;
        }
        Ok(())
    }

    async fn binding(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let (at, holder) = (request.attributes, self.holder(request));
        let role: RoleRef = serde_json::from_value(object["roleRef"].clone())
            .map_err(|error| ApiError::bad_request(format!("roleRef: {error}")))?;
        if holder.may("bind", role.kind.plural(), &role.name).await {
            return Ok(());
        }
        self.authorizer.settle().await;
        let rules = self.authorizer.rbac.rules(&role, &at.namespace);
        let rules = rules.map_err(|why| ApiError::new(Reason::NotFound, why))?;
        holder.holds(&rules).map_err(|why| {
            ApiError::forbidden(GROUP, &at.resource, crate::api::meta::name(object), &why)
        })
    }
}
