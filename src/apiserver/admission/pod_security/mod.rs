//! `PodSecurity`: what the labels of a namespace let its pods do (Pod Security Standards).
//!
//! | label | a pod that violates the level |
//! |---|---|
//! | `pod-security.kubernetes.io/enforce` | is refused |
//! | `pod-security.kubernetes.io/warn` | is told of in a warning, and so is a workload of such pods |
//! | `pod-security.kubernetes.io/audit` | is told of in the audit log, and so is a workload |

mod checks;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::api::Object;
use crate::api::field::Path;
use crate::api::meta;
use crate::api::status::ApiError;
use crate::apiserver::registry::Registry;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Pods of a namespace that are looked at when its level rises.
const PODS_MAX: usize = 3000;

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// What a namespace says for one mode: a level, and a version, which is shown.
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    fn of(namespace: &Object, mode: &str) -> Self {
        let label = |name: &str| meta::label(namespace, &format!("{PREFIX}{name}"));
        Self {
            // As in Kubernetes, what cannot be read is the strictest.
            level: label(mode)
                .map_or(Level::Privileged, |word| Level::parse(word).unwrap_or(Level::Restricted)),
            version: label(&format!("{mode}-version")).unwrap_or("latest").to_owned(),
        }
    }

    fn told(&self) -> String {
        format!("{}:{}", self.level.word(), self.version)
    }

    /// What a pod does that the level does not allow, in words.
    fn violation(&self, pod: &Value) -> Option<String> {
        let found = match self.level {
            Level::Privileged => return None,
            Level::Baseline => checks::violations(pod, false),
            Level::Restricted => checks::violations(pod, true),
        };
        let told = found.iter().map(|(what, detail)| match detail.as_str() {
            "" => (*what).to_owned(),
            detail => format!("{what} ({detail})"),
        });
        (!found.is_empty()).then(|| told.collect::<Vec<_>>().join(", "))
    }
}

/// The plugin.
pub struct PodSecurity {
    registry: Arc<Registry>,
}

impl PodSecurity {
    /// Reads namespaces from `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// What is told of a pod, or of a workload's pods.
    async fn judge(
        &self,
        request: &Request<'_>,
        object: &Object,
        pod: &Value,
        enforced: bool,
    ) -> Result<(), ApiError> {
        let namespace = &request.attributes.namespace;
        let found = self.registry.get(("", "namespaces"), "", namespace).await?;
        let Some(namespace) = found else { return Ok(()) };
        let enforce = Policy::of(&namespace, "enforce");
        if enforced {
            request.told.annotate(format!("{PREFIX}enforce-policy"), enforce.told());
            if let Some(what) = enforce.violation(pod) {
                let why = format!("violates PodSecurity {:?}: {what}", enforce.told());
                let at = request.attributes;
                let name = request.name(object);
                return Err(ApiError::forbidden(&at.group, &at.resource, name, &why));
            }
        }
        let audit = Policy::of(&namespace, "audit");
        if let Some(what) = audit.violation(pod) {
            let told = format!("would violate PodSecurity {:?}: {what}", audit.told());
            request.told.annotate(format!("{PREFIX}audit-violations"), told);
        }
        let warn = Policy::of(&namespace, "warn");
        if let Some(what) = warn.violation(pod) {
            let told = format!("would violate PodSecurity {:?}: {what}", warn.told());
            request.told.warn(told);
        }
        Ok(())
    }

    /// A namespace's own labels: they must say something, and a new level may find old pods.
    async fn namespace(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        for mode in ["enforce", "audit", "warn"] {
            let path = Path::new("metadata.labels");
            let key = format!("{PREFIX}{mode}");
            if let Some(word) = meta::label(object, &key).filter(|w| Level::parse(w).is_none()) {
                let why = "must be one of privileged, baseline, restricted";
                errors.push(path.key(&key).invalid(word, why));
            }
            let key = format!("{PREFIX}{mode}-version");
            if let Some(word) = meta::label(object, &key).filter(|w| !is_version(w)) {
                let why = "must be \"latest\" or \"v1.x\"";
                errors.push(path.key(&key).invalid(word, why));
            }
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Namespace", request.name(object), &errors));
        }
        let Some(old) = request.old else { return Ok(()) };
        let (before, now) = (Policy::of(old, "enforce"), Policy::of(object, "enforce"));
        if before.told() == now.told() || now.level == Level::Privileged {
            return Ok(());
        }
        self.warn_of_pods(request, meta::name(object), &now).await
    }

    async fn warn_of_pods(
        &self,
        request: &Request<'_>,
        namespace: &str,
        policy: &Policy,
    ) -> Result<(), ApiError> {
        let (pods, _) = self.registry.list(("", "pods"), Some(namespace)).await?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods.iter().take(PODS_MAX) {
            if let Some(what) = policy.violation(pod) {
                found.entry(what).or_default().push(meta::name(pod).to_owned());
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        request.told.warn(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {:?}",
            policy.told()
        ));
        for (what, pods) in found {
            let others = match pods.len() {
                1 => String::new(),
                2 => " (and 1 other pod)".to_owned(),
                n => format!(" (and {} other pods)", n - 1),
            };
            request.told.warn(format!("{}{others}: {what}", pods[0]));
        }
        Ok(())
    }
}

fn is_version(word: &str) -> bool {
    word == "latest" || word.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u32>().is_ok())
}

/// The pod that a workload makes.
fn template<'a>(request: &Request<'_>, object: &'a Object) -> Option<&'a Value> {
    let at = request.attributes;
    let found = match (at.group.as_str(), request.kind) {
        ("", "PodTemplate") => &object["template"],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => &object["spec"]["template"],
        ("batch", "CronJob") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    (found.is_object() && at.subresource.is_empty()).then_some(found)
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if request.is_core("Namespace") {
            return self.namespace(request, object).await;
        }
        if let Some(template) = template(request, object) {
            return self.judge(request, object, template, false).await;
        }
        let at = request.attributes;
        let pod = at.group.is_empty()
            && request.kind == "Pod"
            && matches!(at.subresource.as_str(), "" | "ephemeralcontainers");
        if !pod || request.old.is_some_and(|old| old["spec"] == object["spec"]) {
            return Ok(());
        }
        self.judge(request, object, object, true).await
    }
}
