//! `ResourceQuota`: nothing is created that goes beyond a quota of its namespace, and what is
//! created is charged at once.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::quota::{self, Usage};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::registry::Registry;
use crate::apiserver::strategy::Part;

const QUOTAS: (&str, &str) = ("", "resourcequotas");
/// How often a quota is charged anew when others charge it at the same time.
const TRIES: usize = 16;

/// The plugin. It must come last: what others refuse must not be charged.
pub struct ResourceQuota {
    registry: Arc<Registry>,
}

impl ResourceQuota {
    /// Reads and charges the quotas in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Charges one quota. A conflict means that another request charged it first.
    async fn charge(&self, quota: &Object, more: &Usage, dry_run: bool) -> Result<(), ApiError> {
        let used =
            quota::charge(quota, more).map_err(|why| ApiError::new(Reason::Forbidden, why))?;
        if dry_run {
            return Ok(());
        }
        let mut charged = quota.clone();
        for (name, amount) in used {
            charged["status"]["used"][name] = json!(amount.to_string());
        }
        self.registry.update(QUOTAS, Part::Status, charged).await.map(|_| ())
    }
}

/// What the write adds to what is used.
fn added(request: &Request<'_>, object: &Object) -> Usage {
    let at = request.attributes;
    let mut more = quota::usage(&at.group, &at.resource, object);
    if let Some(old) = request.old.filter(|_| request.operation == Operation::Update) {
        for (name, amount) in quota::usage(&at.group, &at.resource, old) {
            let now = more.get(&name).copied().unwrap_or(crate::api::quantity::Quantity::ZERO);
            more.insert(name, now.minus(amount));
        }
        more.retain(|_, amount| amount.sign() > 0);
    }
    more
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let at = request.attributes;
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || at.namespace.is_empty() || !at.subresource.is_empty() {
            return Ok(());
        }
        let more = added(request, object);
        if more.is_empty() {
            return Ok(());
        }
        let refuse = |why: &str| Err(ApiError::forbidden(&at.group, &at.resource, &at.name, why));
        let mut charged = Vec::new();
        for _ in 0..TRIES {
            let (quotas, _) = self.registry.list(QUOTAS, Some(&at.namespace)).await?;
            let about =
                quotas.into_iter().filter(|quota| quota::in_scope(quota, &at.resource, object));
            let mut due = Vec::new();
            for quota in about {
                let name = crate::api::meta::name(&quota);
                if charged.iter().any(|done| done == name) {
                    continue;
                }
                if request.is_core("Pod") && request.operation == Operation::Create {
                    let unsaid = quota::unsaid(&quota["spec"]["hard"], object);
                    if !unsaid.is_empty() {
                        let unsaid = unsaid.join("; ");
                        return refuse(&format!("failed quota: {name}: must specify {unsaid}"));
                    }
                }
                let more = quota::limited(&quota["spec"]["hard"], &more);
                if more.is_empty() {
                    continue;
                }
                if quota["status"]["hard"].is_null() {
                    let names: Vec<&str> = more.keys().map(String::as_str).collect();
                    let names = names.join(",");
                    return refuse(&format!(
                        "status unknown for quota: {name}, resources: {names}"
                    ));
                }
                // All are looked at before any is charged.
                if let Err(why) = quota::charge(&quota, &more) {
                    return refuse(&why);
                }
                due.push((quota, more));
            }
            let mut again = false;
            for (quota, more) in &due {
                match self.charge(quota, more, request.dry_run).await {
                    Err(error) if error.reason == Reason::Conflict => again = true,
                    Err(error) if error.reason == Reason::NotFound => {}
                    answer => {
                        answer?;
                        charged.push(crate::api::meta::name(quota).to_owned());
                    }
                }
            }
            if !again {
                return Ok(());
            }
        }
        Err(ApiError::conflict(&at.group, &at.resource, &at.name, "its quota changes all the time"))
    }
}
