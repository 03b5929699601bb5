//! The kinds that make pods, what scales them, and what protects them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{self, count, number, or, selector, since, text, wide};
use super::rules::{Generation, PLAIN, Rules, Status, WITH_STATUS};
use super::{AGE, Column, Conversion, NAME, Part, age, human_duration};
use crate::api::Object;
use crate::api::meta::{self, entry, list};
use crate::api::names;
use crate::api::validation;

pub(super) const DEPLOYMENT: Rules = Rules {
    generation: Generation::SpecAndAnnotations,
    update: |part, object, old| {
        if part == Part::Status {
            let labels = old["metadata"]["labels"].clone();
            match labels {
                Value::Null => meta::metadata(object).remove("labels"),
                labels => meta::metadata(object).insert("labels".into(), labels),
            };
        }
    },
    validate: validation::deployment,
    validate_update: |part, new, old| validation::selector_update(part == Part::Main, new, old),
    columns: &[
        NAME,
        text("Ready"),
        text("Up-to-date"),
        text("Available"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let ready = format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"]));
        vec![
            cells::name(o),
            json!(ready),
            json!(count(&status["updatedReplicas"])),
            json!(count(&status["availableReplicas"])),
            age(o, now),
            cells::container_names(&spec["template"]["spec"]),
            cells::container_images(&spec["template"]["spec"]),
            selector(&spec["selector"]),
        ]
    },
    ..WITH_STATUS
};

const REPLICAS: [Column; 8] = [
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn replicas(o: &Object, now: Timestamp, selector: Value) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    vec![
        cells::name(o),
        json!(count(&spec["replicas"])),
        json!(count(&status["replicas"])),
        json!(count(&status["readyReplicas"])),
        age(o, now),
        cells::container_names(&spec["template"]["spec"]),
        cells::container_images(&spec["template"]["spec"]),
        selector,
    ]
}

/// Counters that Kubernetes always writes.
fn no_replicas(object: &mut Object) {
    entry(object, "status").insert("replicas".into(), json!(0));
}

pub(super) const REPLICA_SET: Rules = Rules {
    create: no_replicas,
    validate: validation::replica_set,
    validate_update: |part, new, old| validation::selector_update(part == Part::Main, new, old),
    columns: &REPLICAS,
    cells: |o, now| replicas(o, now, selector(&o["spec"]["selector"])),
    ..WITH_STATUS
};

pub(super) const REPLICATION_CONTROLLER: Rules = Rules {
    create: no_replicas,
    validate: validation::replication_controller,
    columns: &REPLICAS,
    cells: |o, now| replicas(o, now, cells::labels(&o["spec"]["selector"])),
    ..WITH_STATUS
};

pub(super) const STATEFUL_SET: Rules = Rules {
    create: no_replicas,
    validate: validation::stateful_set,
    validate_update: |part, new, old| match part {
        Part::Main => validation::stateful_set_update(new, old),
        Part::Status => Vec::new(),
    },
    columns: &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")],
    cells: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let ready = format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"]));
        vec![
            cells::name(o),
            json!(ready),
            age(o, now),
            cells::container_names(&spec["template"]["spec"]),
            cells::container_images(&spec["template"]["spec"]),
        ]
    },
    ..WITH_STATUS
};

pub(super) const DAEMON_SET: Rules = Rules {
    create: |o| {
        let status = entry(o, "status");
        for field in [
            "currentNumberScheduled",
            "desiredNumberScheduled",
            "numberMisscheduled",
            "numberReady",
        ] {
            status.insert(field.into(), json!(0));
        }
    },
    validate: validation::daemon_set,
    validate_update: |part, new, old| validation::selector_update(part == Part::Main, new, old),
    columns: &[
        NAME,
        number("Desired"),
        number("Current"),
        number("Ready"),
        number("Up-to-date"),
        number("Available"),
        text("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let pods = &spec["template"]["spec"];
        vec![
            cells::name(o),
            json!(count(&status["desiredNumberScheduled"])),
            json!(count(&status["currentNumberScheduled"])),
            json!(count(&status["numberReady"])),
            json!(count(&status["updatedNumberScheduled"])),
            json!(count(&status["numberAvailable"])),
            cells::labels(&pods["nodeSelector"]),
            age(o, now),
            cells::container_names(pods),
            cells::container_images(pods),
            selector(&spec["selector"]),
        ]
    },
    ..WITH_STATUS
};

pub(super) const CONTROLLER_REVISION: Rules = Rules {
    validate_update: |_, new, old| validation::immutable(new, old, "data"),
    columns: &[NAME, text("Controller"), number("Revision"), AGE],
    cells: |o, now| {
        let owner = meta::controller(o).map(|owner| {
            let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
            let version = owner["apiVersion"].as_str().unwrap_or_default();
            let group = version.split_once('/').map(|(g, _)| format!(".{g}")).unwrap_or_default();
            format!("{kind}{group}/{}", owner["name"].as_str().unwrap_or_default())
        });
        let owner = owner.unwrap_or_else(|| "<none>".into());
        vec![cells::name(o), json!(owner), json!(count(&o["revision"])), age(o, now)]
    },
    ..PLAIN
};

/// The labels by which a Job knows its pods, where nobody chose others.
fn job_selector(job: &mut Object) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    entry(job, "spec");
    let spec = &mut job["spec"];
    let template = entry(spec, "template");
    template.entry("metadata").or_insert_with(|| json!({}));
    let labels = entry(&mut template["metadata"], "labels");
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.entry(format!("{prefix}job-name")).or_insert_with(|| json!(name));
        labels.entry(format!("{prefix}controller-uid")).or_insert_with(|| json!(uid));
    }
    if spec["selector"].is_null() {
        spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    }
}

pub(super) const JOB: Rules = Rules {
    create: job_selector,
    validate: validation::job,
    validate_update: |part, new, old| match part {
        Part::Main => validation::job_update(new, old),
        Part::Status => Vec::new(),
    },
    columns: &[
        NAME,
        text("Status"),
        text("Completions"),
        text("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: job_row,
    ..WITH_STATUS
};

fn job_row(o: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let met = |kind: &str| meta::condition(o, kind).is_some_and(|c| c["status"] == "True");
    let state = match () {
        () if met("Complete") => "Complete",
        () if met("Failed") => "Failed",
        () if meta::is_deleting(o) => "Terminating",
        () if met("Suspended") => "Suspended",
        () if met("FailureTarget") => "FailureTarget",
        () if met("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let done = count(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), count(&spec["parallelism"])) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    };
    let at = |value: &Value| value.as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let duration = match (at(&status["startTime"]), at(&status["completionTime"])) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now).duration_since(start).as_secs()),
    };
    vec![
        cells::name(o),
        json!(state),
        json!(completions),
        json!(duration),
        age(o, now),
        cells::container_names(&spec["template"]["spec"]),
        cells::container_images(&spec["template"]["spec"]),
        selector(&spec["selector"]),
    ]
}

pub(super) const CRON_JOB: Rules = Rules {
    validate: validation::cron_job,
    columns: &[
        NAME,
        text("Schedule"),
        text("Timezone"),
        Column { kind: "boolean", ..text("Suspend") },
        number("Active"),
        text("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        let spec = &o["spec"];
        let job = &spec["jobTemplate"]["spec"];
        let last = match &o["status"]["lastScheduleTime"] {
            Value::Null => "<none>".into(),
            at => since(at, now),
        };
        let suspended = if spec["suspend"] == true { "True" } else { "False" };
        vec![
            cells::name(o),
            or(&spec["schedule"], ""),
            or(&spec["timeZone"], "<none>"),
            json!(suspended),
            json!(list(&o["status"]["active"]).len()),
            json!(last),
            age(o, now),
            cells::container_names(&job["template"]["spec"]),
            cells::container_images(&job["template"]["spec"]),
            selector(&job["selector"]),
        ]
    },
    ..WITH_STATUS
};

pub(super) const DISRUPTION_BUDGET: Rules = Rules {
    create: |o| {
        let status = entry(o, "status");
        for field in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
            status.insert(field.into(), json!(0));
        }
    },
    validate: validation::disruption_budget,
    columns: &[
        NAME,
        text("Min Available"),
        text("Max Unavailable"),
        number("Allowed Disruptions"),
        AGE,
    ],
    cells: |o, now| {
        vec![
            cells::name(o),
            or(&o["spec"]["minAvailable"], "N/A"),
            or(&o["spec"]["maxUnavailable"], "N/A"),
            json!(count(&o["status"]["disruptionsAllowed"])),
            age(o, now),
        ]
    },
    ..WITH_STATUS
};

const SCALER: Rules = Rules {
    name: names::dns_subdomain,
    status: Status::Own,
    generation: Generation::None,
    create: |o| {
        let status = entry(o, "status");
        status.insert("currentReplicas".into(), json!(0));
        status.insert("desiredReplicas".into(), json!(0));
    },
    validate: validation::autoscaler,
    columns: &[
        NAME,
        text("Reference"),
        text("Targets"),
        text("MinPods"),
        text("MaxPods"),
        number("Replicas"),
        AGE,
    ],
    ..PLAIN
};

fn scaler_row(o: &Object, now: Timestamp, targets: String) -> Vec<Value> {
    let spec = &o["spec"];
    let target = &spec["scaleTargetRef"];
    let part = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
    vec![
        cells::name(o),
        json!(format!("{}/{}", part("kind"), part("name"))),
        json!(targets),
        or(&spec["minReplicas"], "<unset>"),
        json!(count(&spec["maxReplicas"]).to_string()),
        json!(count(&o["status"]["currentReplicas"])),
        age(o, now),
    ]
}

pub(super) const AUTOSCALER_V2: Rules = Rules {
    cells: |o, now| {
        let metrics: Vec<String> =
            list(&o["spec"]["metrics"]).iter().map(|m| metric(o, m)).collect();
        let told = if metrics.is_empty() { "<none>".into() } else { metrics.join(", ") };
        scaler_row(o, now, told)
    },
    ..SCALER
};

/// `cpu: 12%/80%` of a resource metric; other sources by their type.
fn metric(o: &Object, metric: &Value) -> String {
    let resource = &metric["resource"];
    let Some(name) = resource["name"].as_str() else {
        return format!("<unknown>/{}", metric["type"].as_str().unwrap_or_default());
    };
    let now = list(&o["status"]["currentMetrics"]);
    let now = now.iter().find(|m| m["resource"]["name"] == name).map(|m| &m["resource"]["current"]);
    let show = |value: Option<&Value>| {
        let value = value.unwrap_or(&Value::Null);
        match (value["averageUtilization"].as_i64(), value["averageValue"].as_str()) {
            (Some(share), _) => format!("{share}%"),
            (None, Some(amount)) => amount.to_owned(),
            (None, None) => "<unknown>".into(),
        }
    };
    format!("{name}: {}/{}", show(now), show(Some(&resource["target"])))
}

pub(super) const AUTOSCALER_V1: Rules = Rules {
    conversion: Some(&ScalerForms),
    cells: |o, now| {
        let share = |value: &Value| match value.as_i64() {
            Some(share) => format!("{share}%"),
            None => "<unknown>".into(),
        };
        let targets = format!(
            "cpu: {}/{}",
            share(&o["status"]["currentCPUUtilizationPercentage"]),
            share(&o["spec"]["targetCPUUtilizationPercentage"])
        );
        scaler_row(o, now, targets)
    },
    ..SCALER
};

/// autoscaling/v1 knows one metric; the others travel in an annotation, as in Kubernetes.
struct ScalerForms;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

impl Conversion for ScalerForms {
    fn to_served(&self, object: &mut Object) {
        let spec = entry(object, "spec");
        let metrics = spec.remove("metrics").unwrap_or_default();
        let behavior = spec.remove("behavior");
        let is_cpu = |m: &Value| {
            m["resource"]["name"] == "cpu" && m["resource"]["target"]["type"] == "Utilization"
        };
        let (cpu, others): (Vec<Value>, Vec<Value>) =
            list(&metrics).iter().cloned().partition(is_cpu);
        if let Some(cpu) = cpu.first() {
            let share = cpu["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".into(), share);
        }
        let status = entry(object, "status");
        let current = status.remove("currentMetrics").unwrap_or_default();
        status.remove("conditions");
        if let Some(cpu) = list(&current).iter().find(|m| m["resource"]["name"] == "cpu") {
            let share = cpu["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".into(), share);
        }
        if !others.is_empty() || behavior.is_some() {
            meta::metadata(object);
            let annotations = entry(&mut object["metadata"], "annotations");
            if !others.is_empty() {
                annotations.insert(METRICS.into(), json!(Value::Array(others).to_string()));
            }
            if let Some(behavior) = behavior {
                annotations.insert(BEHAVIOR.into(), json!(behavior.to_string()));
            }
        }
    }

    fn to_stored(&self, object: &mut Object) {
        meta::metadata(object);
        let mut kept = |key: &str| {
            let annotations = object["metadata"]["annotations"].as_object_mut()?;
            serde_json::from_str::<Value>(annotations.remove(key)?.as_str()?).ok()
        };
        let (metrics, behavior) = (kept(METRICS), kept(BEHAVIOR));
        let spec = entry(object, "spec");
        let mut all = match metrics {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        if let Some(share) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": share});
            let cpu = json!({"name": "cpu", "target": target});
            all.insert(0, json!({"type": "Resource", "resource": cpu}));
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), Value::Array(all));
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), behavior);
        }
        let status = entry(object, "status");
        if let Some(share) = status.remove("currentCPUUtilizationPercentage") {
            let cpu = json!({"name": "cpu", "current": {"averageUtilization": share}});
            status.insert("currentMetrics".into(), json!([{"type": "Resource", "resource": cpu}]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_survives_the_way_through_both_versions() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "Utilization", "averageUtilization": 50}}});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 70}}});
        let stored = json!({
            "metadata": {"name": "a", "annotations": {"x": "y"}}, "status": {},
            "spec": {"maxReplicas": 3, "metrics": [cpu, memory], "behavior": {"scaleUp": {}}},
        });
        let mut object = stored.clone();
        ScalerForms.to_served(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 70);
        assert!(object["spec"]["metrics"].is_null());
        ScalerForms.to_stored(&mut object);
        assert_eq!(object, stored);
    }

    #[test]
    fn a_job_knows_its_pods_by_its_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}});
        job_selector(&mut job);
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["job-name"], "j");
        assert_eq!(
            job["spec"]["selector"]["matchLabels"],
            json!({"batch.kubernetes.io/controller-uid": "u"})
        );
    }
}
