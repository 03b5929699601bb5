//! Rules for the kinds that make pods, scale them and protect them.

use serde_json::Value;

use super::pod::pod_spec;
use super::{Errors, IMMUTABLE, not_negative, one_of, required, text};
use crate::api::Object;
use crate::api::cron::Schedule;
use crate::api::field::Path;
use crate::api::meta::{self, list};
use crate::api::names;
use crate::api::selector::LabelSelector;

/// A pod template: its labels, and its pod spec, which restarts by one of `policies`.
fn template(errors: &mut Errors, path: &Path, template: &Value, policies: &[&str]) {
    let labels = path.child("metadata").child("labels");
    errors.extend(meta::validate_labels(&template["metadata"]["labels"], &labels));
    let path = path.child("spec");
    pod_spec(errors, &path, &template["spec"]);
    let policy = text(&template["spec"]["restartPolicy"]);
    let known = ["Always", "OnFailure", "Never"].contains(&policy);
    if known && !policies.contains(&policy) {
        errors.push(path.child("restartPolicy").not_supported(policy, policies));
    }
}

fn never_ends(errors: &mut Errors, template: &Value, kind: &str) {
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let path = Path::new("spec.template.spec.activeDeadlineSeconds");
        errors.push(path.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

fn label_selector(errors: &mut Errors, path: &Path, selector: &Value) {
    errors.extend(meta::validate_labels(&selector["matchLabels"], &path.child("matchLabels")));
    for (at, expression) in list(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = list(&expression["values"]).len();
        match text(&expression["operator"]) {
            "In" | "NotIn" if values == 0 => errors.push(
                path.child("values")
                    .required("must be specified when `operator` is 'In' or 'NotIn'"),
            ),
            "Exists" | "DoesNotExist" if values > 0 => {
                errors.push(path.child("values").forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(path.child("operator").invalid(other, "not a valid selector operator"));
            }
        }
        let key = text(&expression["key"]);
        super::judged(errors, &path.child("key"), key, names::qualified_name);
    }
}

/// The selector is there, is not empty, and fits the labels of the template.
fn selector_fits(errors: &mut Errors, spec: &Value, kind: &str) {
    let path = Path::new("spec.selector");
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(path.required(""));
        return;
    }
    label_selector(errors, &path, selector);
    let empty = selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && list(&selector["matchExpressions"]).is_empty();
    if empty {
        let why = format!("empty selector is invalid for {kind}");
        errors.push(path.invalid(selector.clone(), why));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if let Ok(parsed) = LabelSelector::from_object(selector)
        && !parsed.matches_labels(labels)
    {
        let told =
            if labels.is_null() { Value::Object(Default::default()) } else { labels.clone() };
        errors.push(
            Path::new("spec.template.metadata.labels")
                .invalid(told, "`selector` does not match template `labels`"),
        );
    }
}

/// `spec.selector` may not change.
pub fn selector_update(of_main: bool, new: &Object, old: &Object) -> Errors {
    let (now, was) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    match of_main && now != was {
        true => vec![Path::new("spec.selector").invalid(now.clone(), IMMUTABLE)],
        false => Vec::new(),
    }
}

fn counters(errors: &mut Errors, spec: &Value, fields: &[&str]) {
    for field in fields {
        not_negative(errors, &Path::new("spec").child(field), &spec[*field]);
    }
}

/// A whole number or a percentage. Answers whether it is nothing at all.
fn int_or_percent(errors: &mut Errors, path: &Path, value: &Value, at_most_all: bool) -> bool {
    match value {
        Value::String(said) => {
            let share = said.strip_suffix('%').filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            match share.and_then(|digits| digits.parse::<u32>().ok()) {
                None => {
                    errors.push(path.invalid(
                        said.as_str(),
                        "a valid percent string must be a numeric string followed by an ending \
                         '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    ));
                    false
                }
                Some(share) => {
                    if at_most_all && share > 100 {
                        errors.push(path.invalid(said.as_str(), "must not be greater than 100%"));
                    }
                    share == 0
                }
            }
        }
        number => {
            not_negative(errors, path, number);
            number.as_i64() == Some(0)
        }
    }
}

/// The rules of a Deployment.
pub fn deployment(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let fields = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    counters(&mut errors, spec, &fields);
    selector_fits(&mut errors, spec, "deployment");
    template(&mut errors, &Path::new("spec.template"), &spec["template"], &["Always"]);
    never_ends(&mut errors, &spec["template"], "ReplicaSet");
    let (path, strategy) = (Path::new("spec.strategy"), &spec["strategy"]);
    one_of(&mut errors, &path.child("type"), &strategy["type"], &["Recreate", "RollingUpdate"]);
    let rolling = path.child("rollingUpdate");
    match text(&strategy["type"]) {
        "Recreate" if !strategy["rollingUpdate"].is_null() => errors
            .push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'")),
        "RollingUpdate" => {
            let update = &strategy["rollingUpdate"];
            let at = rolling.child("maxUnavailable");
            let none_down = int_or_percent(&mut errors, &at, &update["maxUnavailable"], true);
            let surge = rolling.child("maxSurge");
            let none_more = int_or_percent(&mut errors, &surge, &update["maxSurge"], false);
            if none_down && none_more {
                let said = update["maxUnavailable"].clone();
                errors.push(at.invalid(said, "may not be 0 when `maxSurge` is 0"));
            }
        }
        _ => {}
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0)
    {
        let path = Path::new("spec.progressDeadlineSeconds");
        errors.push(path.invalid(deadline, "must be greater than minReadySeconds"));
    }
    errors
}

/// The rules of a ReplicaSet.
pub fn replica_set(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    counters(&mut errors, spec, &["replicas", "minReadySeconds"]);
    selector_fits(&mut errors, spec, "deployment");
    template(&mut errors, &Path::new("spec.template"), &spec["template"], &["Always"]);
    never_ends(&mut errors, &spec["template"], "ReplicaSet");
    errors
}

/// The rules of a ReplicationController.
pub fn replication_controller(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    counters(&mut errors, spec, &["replicas", "minReadySeconds"]);
    let path = Path::new("spec.selector");
    match spec["selector"].as_object().filter(|s| !s.is_empty()) {
        None => errors.push(path.required("")),
        Some(selector) => {
            errors.extend(meta::validate_labels(&spec["selector"], &path));
            let labels = &spec["template"]["metadata"]["labels"];
            if !selector.iter().all(|(key, value)| labels[key] == *value) {
                let path = Path::new("spec.template.metadata.labels");
                let why = "`selector` does not match template `labels`";
                errors.push(path.invalid(labels.clone(), why));
            }
        }
    }
    template(&mut errors, &Path::new("spec.template"), &spec["template"], &["Always"]);
    errors
}

/// The rules of a StatefulSet.
pub fn stateful_set(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    counters(&mut errors, spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    selector_fits(&mut errors, spec, "statefulset");
    template(&mut errors, &Path::new("spec.template"), &spec["template"], &["Always"]);
    never_ends(&mut errors, &spec["template"], "StatefulSet");
    let path = Path::new("spec.podManagementPolicy");
    one_of(&mut errors, &path, &spec["podManagementPolicy"], &["OrderedReady", "Parallel"]);
    let path = Path::new("spec.updateStrategy.type");
    one_of(&mut errors, &path, &spec["updateStrategy"]["type"], &["OnDelete", "RollingUpdate"]);
    errors
}

/// The rules for a change of a StatefulSet.
pub fn stateful_set_update(new: &Object, old: &Object) -> Errors {
    let mut allowed = new["spec"].clone();
    let was = &old["spec"];
    for field in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ] {
        if let Some(map) = allowed.as_object_mut() {
            match &was[field] {
                Value::Null => map.remove(field),
                before => map.insert(field.to_owned(), before.clone()),
            };
        }
    }
    if allowed == *was {
        return Vec::new();
    }
    vec![Path::new("spec").forbidden(
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
         'minReadySeconds' are forbidden",
    )]
}

/// The rules of a DaemonSet.
pub fn daemon_set(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    counters(&mut errors, spec, &["minReadySeconds", "revisionHistoryLimit"]);
    selector_fits(&mut errors, spec, "daemonset");
    template(&mut errors, &Path::new("spec.template"), &spec["template"], &["Always"]);
    never_ends(&mut errors, &spec["template"], "DaemonSet");
    let path = Path::new("spec.updateStrategy.type");
    one_of(&mut errors, &path, &spec["updateStrategy"]["type"], &["OnDelete", "RollingUpdate"]);
    errors
}

fn job_spec(errors: &mut Errors, path: &Path, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        not_negative(errors, &path.child(field), &spec[field]);
    }
    let modes = ["Indexed", "NonIndexed"];
    one_of(errors, &path.child("completionMode"), &spec["completionMode"], &modes);
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        let why = "when completion mode is Indexed";
        errors.push(path.child("completions").required(why));
    }
    template(errors, &path.child("template"), &spec["template"], &["OnFailure", "Never"]);
}

/// The rules of a Job.
pub fn job(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    job_spec(&mut errors, &Path::new("spec"), spec);
    if spec["manualSelector"] == true {
        selector_fits(&mut errors, spec, "job");
    }
    errors
}

/// The rules for a change of a Job.
pub fn job_update(new: &Object, old: &Object) -> Errors {
    let (spec, was) = (&new["spec"], &old["spec"]);
    let mut fields = vec!["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"];
    // A Job that never ran may get other resources and nodes.
    let never_ran = was["suspend"] == true && old["status"]["startTime"].is_null();
    if !never_ran {
        fields.push("template");
    }
    if was["completionMode"] != "Indexed" {
        fields.push("completions");
    }
    fields
        .into_iter()
        .filter(|field| spec[*field] != was[*field])
        .map(|field| Path::new("spec").child(field).invalid(spec[field].clone(), IMMUTABLE))
        .collect()
}

/// The rules of a CronJob.
pub fn cron_job(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    required(&mut errors, &path.child("schedule"), &spec["schedule"]);
    let said = text(&spec["schedule"]);
    if said.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(path.child("schedule").invalid(said, why));
    } else if !said.is_empty()
        && let Err(error) = Schedule::parse(said)
    {
        errors.push(path.child("schedule").invalid(said, error.to_string()));
    }
    let zone = text(&spec["timeZone"]);
    if !spec["timeZone"].is_null() && jiff::tz::TimeZone::get(zone).is_err() {
        let why = format!("unknown time zone {zone}");
        errors.push(path.child("timeZone").invalid(zone, why));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(&mut errors, &path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &policies);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        not_negative(&mut errors, &path.child(field), &spec[field]);
    }
    let path = path.child("jobTemplate").child("spec");
    job_spec(&mut errors, &path, &spec["jobTemplate"]["spec"]);
    // The name of a Job made from it gets eleven more characters.
    if meta::name(object).len() > 52 {
        let why = "must be no more than 52 characters";
        errors.push(Path::new("metadata.name").invalid(meta::name(object), why));
    }
    errors
}

/// The rules of a PodDisruptionBudget.
pub fn disruption_budget(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    let (most, least) = (&spec["maxUnavailable"], &spec["minAvailable"]);
    if !most.is_null() && !least.is_null() {
        errors
            .push(path.invalid(spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        if !value.is_null() {
            int_or_percent(&mut errors, &path.child(field), value, true);
        }
    }
    label_selector(&mut errors, &path.child("selector"), &spec["selector"]);
    errors
}

/// The rules of a HorizontalPodAutoscaler.
pub fn autoscaler(object: &Object) -> Errors {
    let (mut errors, spec) = (Vec::new(), &object["spec"]);
    let path = Path::new("spec");
    let target = path.child("scaleTargetRef");
    for field in ["kind", "name"] {
        required(&mut errors, &target.child(field), &spec["scaleTargetRef"][field]);
    }
    let (least, most) =
        (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if least < 1 {
        let why = "must be greater than or equal to 1";
        errors.push(path.child("minReplicas").invalid(least, why));
    }
    if most < 1 {
        errors.push(path.child("maxReplicas").invalid(most, "must be greater than 0"));
    } else if most < least {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(path.child("maxReplicas").invalid(most, why));
    }
    errors
}
