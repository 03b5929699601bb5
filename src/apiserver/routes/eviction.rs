//! `pods/NAME/eviction`: a deletion that disruption budgets may refuse.

use axum::body::Body;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answered, Context, not_allowed, subresource, success, write};
use crate::api::Object;
use crate::api::kinds::Subresource;
use crate::api::selector::LabelSelector;
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding;
use crate::apiserver::negotiate::Offer;
use crate::apiserver::registry::update::Target;
use crate::apiserver::registry::{DeleteOptions, meta};
use crate::apiserver::respond;
use crate::apiserver::strategy::Part;
use crate::base::clock::rfc3339_seconds;

/// How many evictions may wait to show, for one budget.
const DISRUPTED_MAX: usize = 2000;
const BUDGETS: (&str, &str) = ("policy", "poddisruptionbudgets");

/// Evicts a pod.
pub(super) async fn evict(
    context: &Context,
    resource: &Resource,
    name: &str,
    body: Body,
) -> Answered {
    if context.attributes.verb != "create" {
        return Err(not_allowed());
    }
    let (_, style) = context.accepted(Offer::Plain)?;
    let expected = subresource::expected(resource, Subresource::Eviction);
    let (eviction, _) = write::decode(context, expected, body).await?;
    let mut options = DeleteOptions::parse(&eviction["deleteOptions"])?;
    options.dry_run |= context.dry_run()?;
    let target = Target { resource, namespace: context.namespace(resource), name };
    let entry = context.registry().entry(target).await?;
    let pod = encoding::decode(resource, &entry)?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let harmless = matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_deleting(&pod);
    if !harmless {
        take_disruption(context, target, &pod, options.dry_run).await?;
        if !options.dry_run {
            mark(context, target).await?;
        }
    }
    let call = context.call(options.dry_run);
    context.registry().delete_as(&call, target, &options).await?;
    Ok(respond::value(StatusCode::CREATED, &success(StatusCode::CREATED), style).await)
}

/// Says in the pod's conditions why it ends, which Jobs' failure policies look at.
async fn mark(context: &Context, target: Target<'_>) -> Result<(), ApiError> {
    let now = rfc3339_seconds(context.registry().clock().now());
    let change = |pod: &Object| {
        let mut pod = pod.clone();
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": now,
        }));
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    };
    let call = context.call(false);
    context.registry().update_as(&call, target, Some(Part::Status), false, &change).await?;
    Ok(())
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whether a pod that is not ready may go without being counted (`unhealthyPodEvictionPolicy`).
fn goes_uncounted(budget: &Object, pod: &Object) -> bool {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    !is_ready(pod)
        && (budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
            || (count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy")))
}

/// Counts the eviction against the pod's disruption budget.
async fn take_disruption(
    context: &Context,
    target: Target<'_>,
    pod: &Object,
    dry_run: bool,
) -> Result<(), ApiError> {
    let registry = context.registry();
    let (all, _) = registry.list(BUDGETS, Some(target.namespace)).await?;
    let Some(budget) = covering(all, pod)? else { return Ok(()) };
    if goes_uncounted(&budget, pod) {
        return Ok(());
    }
    let Some(taken) = taken(&budget, target.name, &rfc3339_seconds(registry.clock().now()))? else {
        return Err(over_budget(&budget));
    };
    if dry_run {
        return Ok(());
    }
    match registry.update(BUDGETS, Part::Status, taken).await {
        // Two at once: the other one may have taken the last that was allowed.
        Err(error) if error.reason == Reason::Conflict => Err(over_budget(&budget)),
        answer => answer.map(|_| ()),
    }
}

/// The budget with one disruption less; `None` when it allows none.
fn taken(budget: &Object, pod: &str, now: &str) -> Result<Option<Object>, ApiError> {
    let name = meta::text(budget, "name");
    let status = &budget["status"];
    let observed = status["observedGeneration"].as_i64().unwrap_or(0);
    if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(refused(
            &format!("The disruption budget {name} is still being processed by the server."),
            Value::Null,
        ));
    }
    let waiting = status["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if waiting > DISRUPTED_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden("policy", "poddisruptionbudgets", name, why));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        return Ok(None);
    }
    let mut taken = budget.clone();
    taken["status"]["disruptionsAllowed"] = (allowed - 1).into();
    taken["status"]["disruptedPods"][pod] = now.into();
    Ok(Some(taken))
}

/// The one budget that covers a pod.
fn covering(budgets: Vec<Object>, pod: &Object) -> Result<Option<Object>, ApiError> {
    let covers = |budget: &Object| {
        LabelSelector::from_object(&budget["spec"]["selector"])
            .is_ok_and(|selector| selector.matches_labels(&pod["metadata"]["labels"]))
    };
    let mut covering = budgets.into_iter().filter(covers);
    let first = covering.next();
    if covering.next().is_some() {
        return Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does \
             not support.",
        ));
    }
    Ok(first)
}

/// 429 in Kubernetes' words.
fn over_budget(budget: &Object) -> ApiError {
    let name = meta::text(budget, "name");
    let wanted = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
    let healthy = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
    let message = format!(
        "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
    );
    refused(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        json!([{"reason": "DisruptionBudget", "message": message}]),
    )
}

fn refused(why: &str, causes: Value) -> ApiError {
    let error = ApiError::new(Reason::TooManyRequests, why);
    if causes.is_null() { error } else { error.with_details(json!({"causes": causes})) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(policy: &str, healthy: i64, desired: i64, allowed: i64) -> Object {
        json!({"metadata": {"name": "b", "generation": 2},
            "spec": {"unhealthyPodEvictionPolicy": policy},
            "status": {"observedGeneration": 2, "currentHealthy": healthy,
                "desiredHealthy": desired, "disruptionsAllowed": allowed}})
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_as_the_policy_says() {
        let unready = json!({"status": {}});
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(goes_uncounted(&budget("AlwaysAllow", 0, 2, 0), &unready));
        assert!(!goes_uncounted(&budget("AlwaysAllow", 0, 2, 0), &ready));
        assert!(!goes_uncounted(&budget("IfHealthyBudget", 1, 2, 0), &unready));
        assert!(goes_uncounted(&budget("IfHealthyBudget", 2, 2, 0), &unready));
        assert!(!goes_uncounted(&budget("IfHealthyBudget", 0, 0, 0), &unready));
    }

    #[test]
    fn an_eviction_takes_one_of_what_is_allowed() {
        let one = taken(&budget("", 3, 2, 1), "p", "now").expect("it is observed").expect("one");
        assert_eq!(one["status"]["disruptionsAllowed"], 0);
        assert_eq!(one["status"]["disruptedPods"]["p"], "now");
        assert!(taken(&budget("", 2, 2, 0), "p", "now").expect("it is observed").is_none());
        let mut stale = budget("", 3, 2, 1);
        stale["metadata"]["generation"] = json!(3);
        let refused = taken(&stale, "p", "now").expect_err("its status is old");
        assert_eq!(refused.reason, Reason::TooManyRequests);
    }
}
