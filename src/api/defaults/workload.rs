//! Defaults of the kinds that make pods, and of what scales them.

use serde_json::{Value, json};

use super::{JsonMap, each, pod, set};
use crate::api::Object;
use crate::api::meta::entry;

fn with_template(object: &mut Object) -> &mut JsonMap {
    entry(object, "spec");
    pod::template(&mut object["spec"]);
    entry(object, "spec")
}

/// The object of `field`, made where it is missing.
fn made<'a>(map: &'a mut JsonMap, field: &str) -> &'a mut JsonMap {
    let at = map.entry(field).or_insert_with(|| json!({}));
    if !at.is_object() {
        *at = json!({});
    }
    at.as_object_mut().expect("just made one")
}

fn is_rolling(strategy: &JsonMap) -> bool {
    strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
}

pub(super) fn deployment(object: &mut Object) {
    let spec = with_template(object);
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let strategy = made(spec, "strategy");
    set(strategy, "type", "RollingUpdate");
    if is_rolling(strategy) {
        let rolling = made(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
}

pub(super) fn replica_set(object: &mut Object) {
    set(with_template(object), "replicas", 1);
}

pub(super) fn replication_controller(object: &mut Object) {
    let spec = with_template(object);
    set(spec, "replicas", 1);
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        set(spec, "selector", labels.clone());
        set(entry(object, "metadata"), "labels", labels);
    }
}

pub(super) fn stateful_set(object: &mut Object) {
    let spec = with_template(object);
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "podManagementPolicy", "OrderedReady");
    let strategy = made(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if is_rolling(strategy) {
        set(made(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = made(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", "Retain");
    set(retention, "whenScaled", "Retain");
    for claim in each(spec, "volumeClaimTemplates") {
        set(made(claim, "spec"), "volumeMode", "Filesystem");
        set(made(claim, "status"), "phase", "Pending");
    }
}

pub(super) fn daemon_set(object: &mut Object) {
    let spec = with_template(object);
    set(spec, "revisionHistoryLimit", 10);
    let strategy = made(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if is_rolling(strategy) {
        let rolling = made(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
}

pub(super) fn job(object: &mut Object) {
    job_spec(with_template(object));
}

fn job_spec(spec: &mut JsonMap) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(spec, "backoffLimit", limit);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let with_policy = spec.contains_key("podFailurePolicy");
    set(spec, "podReplacementPolicy", if with_policy { "Failed" } else { "TerminatingOrFailed" });
    spec.entry("manualSelector").or_insert(Value::Bool(false));
}

pub(super) fn cron_job(object: &mut Object) {
    let spec = entry(object, "spec");
    set(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    let template = made(spec, "jobTemplate");
    made(template, "spec");
    pod::template(&mut template["spec"]);
}

pub(super) fn autoscaler_v1(object: &mut Object) {
    set(entry(object, "spec"), "minReplicas", 1);
}

pub(super) fn autoscaler_v2(object: &mut Object) {
    let spec = entry(object, "spec");
    set(spec, "minReplicas", 1);
    let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
    set(spec, "metrics", json!([{"type": "Resource", "resource": cpu}]));
}
