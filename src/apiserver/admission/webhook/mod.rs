//! Mutating and validating admission webhooks.
//!
//! ```text
//! meant? ─▶ matchConditions ─▶ side effects? ─▶ AdmissionReview ─▶ allowed, patch | denied
//!                                                  └─ no answer: failurePolicy
//! ```
//!
//! Mutating ones are asked one after the other, in the order of their configurations' names;
//! validating ones all at once.

mod call;
mod config;
mod conversion;
mod review;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

pub use call::Caller;
use config::{Hook, Hooks};
pub use config::{Place, Target};
pub use conversion::ConversionWebhooks;
use review::Answer;

use super::expressions::{Seen, conditions_hold, request_of};
use super::matching::convert;
use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::cel::Budget;
use crate::api::patch::{self, PatchType};
use crate::api::schema::FieldValidation;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::Authorizer;
use crate::apiserver::catalog::Resource;
use crate::apiserver::registry::{Derived, Registry};

const GROUP: &str = "admissionregistration.k8s.io";
/// What all match conditions of one webhook may cost together, in steps.
const CONDITION_STEPS: u64 = 2_500_000;

/// What both plugins are made of.
#[derive(Clone)]
pub struct WebhookConfig {
    pub registry: Arc<Registry>,
    pub authorizer: Arc<dyn Authorizer>,
    pub caller: Arc<Caller>,
}

/// The webhooks of one kind of configuration.
struct Asked {
    config: WebhookConfig,
    hooks: Derived<Hooks>,
}

/// What became of one webhook.
enum Outcome {
    /// The request is not its business, or it gave no answer and need not.
    Passed,
    Answered(Answer),
}

impl Asked {
    fn new(config: WebhookConfig, plural: &'static str) -> Self {
        let hooks = Derived::new(&config.registry, &[(GROUP, plural)], Hooks::of);
        Self { config, hooks }
    }

    /// Asks one webhook, where the request is its business.
    async fn ask(
        &self,
        request: &Request<'_>,
        object: &Object,
        hook: &Hook,
    ) -> Result<(Outcome, Arc<Resource>), ApiError> {
        let own = || {
            let (catalog, kind) = (self.config.registry.catalog(), &request.resource.kind);
            catalog.resource(&kind.group, &kind.version, &kind.plural).cloned()
        };
        let shown = hook.matcher.matches(&self.config.registry, request, object).await?;
        let Some(shown) = shown else {
            let own = own().ok_or_else(|| ApiError::internal("the resource is gone"))?;
            return Ok((Outcome::Passed, own));
        };
        let deleted = request.operation == Operation::Delete;
        let new = match deleted {
            true => serde_json::Value::Null,
            false => convert(request.resource, &shown, object),
        };
        let old = request.old.map(|old| convert(request.resource, &shown, old));
        match self.is_wanted(request, &shown, (&new, old.as_ref()), hook) {
            Ok(true) => {}
            Ok(false) => return Ok((Outcome::Passed, shown)),
            Err(_) if !hook.fails => return Ok((Outcome::Passed, shown)),
            Err(why) => {
                let at = request.attributes;
                let name = request.name(object);
                return Err(ApiError::forbidden(&at.group, &at.resource, name, &why));
            }
        }
        if request.dry_run && !hook.may_run_dry {
            return Err(ApiError::bad_request(format!(
                "admission webhook {:?} does not support dry run",
                hook.name
            )));
        }
        let uid = self.config.registry.new_uid();
        let asked = request_of(request, &shown, &new);
        let review = review::write(&uid, asked, (&new, old.as_ref()), hook);
        let answered = self.config.caller.call(&hook.target, &review, hook.timeout).await;
        match answered.and_then(|body| review::read(&body, &uid, hook)) {
            Ok(answer) => Ok((Outcome::Answered(answer), shown)),
            Err(why) if !hook.fails => {
                tracing::warn!(webhook = %hook.name, why, "a webhook gave no answer; let through");
                Ok((Outcome::Passed, shown))
            }
            Err(why) => Err(ApiError::internal(format!(
                "failed calling webhook {:?}: failed to call webhook: {why}",
                hook.name
            ))),
        }
    }

    fn is_wanted(
        &self,
        request: &Request<'_>,
        shown: &Resource,
        (new, old): (&Object, Option<&Object>),
        hook: &Hook,
    ) -> Result<bool, String> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let (budget, none) = (Budget::of(CONDITION_STEPS), Vec::new());
        let asked = request_of(request, shown, new);
        let mut seen = Seen::new(new, request, asked, &none, &budget);
        seen.old = old;
        seen.authorizer = Some(&self.config.authorizer);
        conditions_hold(&hook.conditions, &seen)
    }
}

/// What an answer says besides its verdict.
fn hear(request: &Request<'_>, hook: &Hook, answer: &Answer) {
    for warning in &answer.warnings {
        request.told.warn(warning.clone());
    }
    for (key, value) in &answer.annotations {
        request.told.annotate(format!("{}/{key}", hook.name), value.clone());
    }
}

/// `MutatingAdmissionWebhook`.
pub struct MutatingWebhooks(Asked);

impl MutatingWebhooks {
    /// Follows the configurations in the registry.
    pub fn new(config: WebhookConfig) -> Self {
        Self(Asked::new(config, "mutatingwebhookconfigurations"))
    }

    /// Lets one webhook change the object; whether it did.
    async fn change(
        &self,
        request: &Request<'_>,
        object: &mut Object,
        hook: &Hook,
    ) -> Result<bool, ApiError> {
        let (outcome, shown) = self.0.ask(request, object, hook).await?;
        let Outcome::Answered(answer) = outcome else { return Ok(false) };
        hear(request, hook, &answer);
        if let Some(denied) = answer.denied {
            return Err(denied);
        }
        let Some(patch) = answer.patch.filter(|_| request.operation != Operation::Delete) else {
            return Ok(false);
        };
        let new = patched(request.resource, &shown, object, &patch).map_err(|error| {
            let why = format!("admission webhook {:?}: {}", hook.name, error.message);
            ApiError::new(Reason::InternalError, format!("Internal error occurred: {why}"))
        })?;
        let changed = new != *object;
        *object = new;
        Ok(changed)
    }
}

/// The object with a patch that was made for another version of it.
fn patched(
    own: &Resource,
    shown: &Resource,
    object: &Object,
    patch: &[u8],
) -> Result<Object, ApiError> {
    let told = convert(own, shown, object);
    let patched = patch::apply(&shown.kind, &told, patch, PatchType::Json)?;
    let (new, _) = patch::decoded(&shown.kind, patched, FieldValidation::Ignore)?;
    Ok(convert(shown, own, &new))
}

#[async_trait]
impl Plugin for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Object) -> Result<(), ApiError> {
        let hooks = self.0.hooks.get().await?;
        let mut changed = false;
        for hook in hooks.all.iter().filter(|hook| !request.again || hook.reinvoked) {
            changed |= self.change(request, object, hook).await?;
        }
        if changed {
            request.told.set_changed();
        }
        Ok(())
    }

    /// What is deleted is not changed, but a webhook may refuse that it is.
    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        if request.operation != Operation::Delete {
            return Ok(());
        }
        let hooks = self.0.hooks.get().await?;
        let mut object = object.clone();
        for hook in &hooks.all {
            self.change(request, &mut object, hook).await?;
        }
        Ok(())
    }
}

/// `ValidatingAdmissionWebhook`.
pub struct ValidatingWebhooks(Asked);

impl ValidatingWebhooks {
    /// Follows the configurations in the registry.
    pub fn new(config: WebhookConfig) -> Self {
        Self(Asked::new(config, "validatingwebhookconfigurations"))
    }
}

#[async_trait]
impl Plugin for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let hooks = self.0.hooks.get().await?;
        let refused: Mutex<Vec<(usize, ApiError)>> = Mutex::default();
        let asked = hooks.all.iter().enumerate().map(|(index, hook)| {
            let refused = &refused;
            async move {
                let error = match self.0.ask(request, object, hook).await {
                    Ok((Outcome::Answered(answer), _)) => {
                        hear(request, hook, &answer);
                        answer.denied
                    }
                    Ok((Outcome::Passed, _)) => None,
                    Err(error) => Some(error),
                };
                refused.lock().extend(error.map(|error| (index, error)));
            }
        });
        futures::future::join_all(asked).await;
        let first = refused.into_inner().into_iter().min_by_key(|(index, _)| *index);
        first.map_or(Ok(()), |(_, error)| Err(error))
    }
}
