//! Pods: their quality of service, how their deletion waits, and the row that `kubectl get pods`
//! shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{self, or, since, text, wide};
use super::rules::{Generation, Rules, Status, WITH_STATUS};
use super::{AGE, Column, Grace, NAME, Part, age};
use crate::api::Object;
use crate::api::meta::{self, entry, list};
use crate::api::quantity::Quantity;
use crate::api::validation;

pub(super) const POD: Rules = Rules {
    status: Status::Own,
    generation: Generation::Spec,
    create,
    update,
    validate: validation::pod,
    validate_update: |part, new, old| match part {
        Part::Main => validation::pod_update(new, old),
        Part::Status => Vec::new(),
    },
    grace,
    returns_deleted: true,
    columns: &COLUMNS,
    cells: row,
    ..WITH_STATUS
};

pub(super) const TEMPLATE: Rules = Rules {
    columns: &[NAME, text("Containers"), text("Images"), text("Pod Labels")],
    cells: |object, _| {
        let template = &object["template"];
        vec![
            cells::name(object),
            cells::container_names(&template["spec"]),
            cells::container_images(&template["spec"]),
            cells::labels(&template["metadata"]["labels"]),
        ]
    },
    ..super::rules::PLAIN
};

fn create(pod: &mut Object) {
    let class = qos_class(pod);
    let gated = !list(&pod["spec"]["schedulingGates"]).is_empty();
    let status = entry(pod, "status");
    status.insert("phase".into(), json!("Pending"));
    status.insert("qosClass".into(), json!(class));
    if gated {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        });
        status.insert("conditions".into(), json!([condition]));
    }
}

fn update(part: Part, pod: &mut Object, old: &Object) {
    if part == Part::Status {
        let owners = old["metadata"]["ownerReferences"].clone();
        let metadata = meta::metadata(pod);
        match owners {
            Value::Null => metadata.remove("ownerReferences"),
            owners => metadata.insert("ownerReferences".into(), owners),
        };
        let class = match old["status"]["qosClass"].as_str() {
            Some(class) => class,
            None => qos_class(old),
        };
        entry(pod, "status").insert("qosClass".into(), json!(class));
    }
}

/// `Guaranteed`: every container limits cpu and memory and asks for just that; `BestEffort`:
/// none asks for anything; else `Burstable`.
pub(super) fn qos_class(pod: &Object) -> &'static str {
    let spec = &pod["spec"];
    let containers = || list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
    let amount = |c: &Value, which: &str, name: &str| {
        let said = c["resources"][which][name].as_str();
        said.and_then(|text| text.parse::<Quantity>().ok()).filter(|q| q.sign() > 0)
    };
    let asks = |c: &Value| {
        ["requests", "limits"]
            .iter()
            .any(|which| ["cpu", "memory"].iter().any(|name| amount(c, which, name).is_some()))
    };
    let guaranteed = |c: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(c, "limits", name);
            limit.is_some() && amount(c, "requests", name).is_none_or(|r| Some(r) == limit)
        })
    };
    match () {
        () if !containers().any(asks) => "BestEffort",
        () if containers().all(guaranteed) => "Guaranteed",
        () => "Burstable",
    }
}

/// A pod that no node runs goes at once; the others stay for their grace period.
fn grace(pod: &Object, seconds: Option<i64>) -> Grace {
    let spec = &pod["spec"];
    let unbound = spec["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if unbound || ended {
        return Grace::Immediate;
    }
    let said = seconds.or_else(|| spec["terminationGracePeriodSeconds"].as_i64());
    match said.unwrap_or(30) {
        0 => Grace::Immediate,
        // Kubernetes takes a negative period for the shortest.
        seconds => Grace::Seconds(seconds.max(1)),
    }
}

const COLUMNS: [Column; 9] = [
    NAME,
    text("Ready"),
    text("Status"),
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

fn row(pod: &Object, now: Timestamp) -> Vec<Value> {
    let shown = Shown::of(pod);
    let restarts = match &shown.last_restart {
        Some(at) if shown.restarts != 0 => {
            format!("{} ({} ago)", shown.restarts, since(&json!(at), now))
        }
        _ => shown.restarts.to_string(),
    };
    vec![
        cells::name(pod),
        json!(format!("{}/{}", shown.ready, shown.total)),
        json!(shown.reason),
        json!(restarts),
        age(pod, now),
        or(&pod["status"]["podIP"], "<none>"),
        or(&pod["spec"]["nodeName"], "<none>"),
        or(&pod["status"]["nominatedNodeName"], "<none>"),
        readiness_gates(pod),
    ]
}

fn readiness_gates(pod: &Object) -> Value {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return json!("<none>");
    }
    let met = gates.iter().filter(|gate| {
        let kind = gate["conditionType"].as_str().unwrap_or_default();
        meta::condition(pod, kind).is_some_and(|c| c["status"] == "True")
    });
    json!(format!("{}/{}", met.count(), gates.len()))
}

/// What the row says of a pod.
struct Shown {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl Shown {
    fn of(pod: &Object) -> Self {
        let status = &pod["status"];
        let phase = status["phase"].as_str().unwrap_or_default();
        let mut shown = Self {
            reason: status["reason"].as_str().unwrap_or(phase).to_owned(),
            ready: 0,
            total: list(&pod["spec"]["containers"]).len(),
            restarts: 0,
            last_restart: None,
        };
        let gated = |c: &Value| c["reason"] == "SchedulingGated";
        if meta::condition(pod, "PodScheduled").is_some_and(gated) {
            shown.reason = "SchedulingGated".into();
        }
        let initializing = shown.init_containers(pod);
        let initialized =
            meta::condition(pod, "Initialized").is_some_and(|c| c["status"] == "True");
        if !initializing || initialized {
            shown.containers(pod);
        }
        if meta::is_deleting(pod) {
            if status["reason"] == "NodeLost" {
                shown.reason = "Unknown".into();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                shown.reason = "Terminating".into();
            }
        }
        shown
    }

    fn count_restarts(&mut self, status: &Value) {
        self.restarts += cells::count(&status["restartCount"]);
        let ended = status["lastState"]["terminated"]["finishedAt"].as_str();
        if let Some(ended) = ended
            && self.last_restart.as_deref().is_none_or(|last| last < ended)
        {
            self.last_restart = Some(ended.to_owned());
        }
    }

    /// Answers whether an init container still has to end.
    fn init_containers(&mut self, pod: &Object) -> bool {
        let specs = list(&pod["spec"]["initContainers"]);
        let sidecar = |name: &Value| {
            specs.iter().any(|s| s["name"] == *name && s["restartPolicy"] == "Always")
        };
        self.total += specs.iter().filter(|s| s["restartPolicy"] == "Always").count();
        let mut sidecars =
            Self { reason: String::new(), ready: 0, total: 0, restarts: 0, last_restart: None };
        let mut initializing = false;
        for (at, status) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
            self.count_restarts(status);
            let is_sidecar = sidecar(&status["name"]);
            if is_sidecar {
                sidecars.count_restarts(status);
            }
            let state = &status["state"];
            let ended = &state["terminated"];
            if ended.is_object() && cells::count(&ended["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
            self.reason = if ended.is_object() {
                format!("Init:{}", ended_reason(ended))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{at}/{}", specs.len())
            };
            initializing = true;
            break;
        }
        if !initializing
            || meta::condition(pod, "Initialized").is_some_and(|c| c["status"] == "True")
        {
            self.restarts = sidecars.restarts;
            self.last_restart = sidecars.last_restart;
        }
        initializing
    }

    fn containers(&mut self, pod: &Object) {
        let mut running = false;
        for status in list(&pod["status"]["containerStatuses"]).iter().rev() {
            self.count_restarts(status);
            let state = &status["state"];
            let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.reason = ended_reason(&state["terminated"]);
            } else if status["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = meta::condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
}

fn ended_reason(ended: &Value) -> String {
    match (ended["reason"].as_str().unwrap_or_default(), cells::count(&ended["signal"])) {
        ("", 0) => format!("ExitCode:{}", cells::count(&ended["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pod: Value) -> (String, String, String) {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let row = row(&pod, now);
        let text = |at: usize| row[at].as_str().unwrap_or_default().to_owned();
        (text(1), text(2), text(3))
    }

    fn tuple(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
        (ready.into(), status.into(), restarts.into())
    }

    #[test]
    fn rows_of_pods_say_what_kubectl_says() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
        let pod = |status: Value| json!({"spec": spec, "status": status});
        let table = [
            (json!({"phase": "Pending"}), tuple("0/1", "Pending", "0")),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                tuple("0/1", "Init:0/1", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:50Z"}}}]}),
                tuple("0/1", "Init:CrashLoopBackOff", "2 (10s ago)"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]}),
                tuple("0/1", "Init:ExitCode:3", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
                tuple("1/1", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 1,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}}}]}),
                tuple("0/1", "CrashLoopBackOff", "1 (5s ago)"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"reason": "Completed"}}}]}),
                tuple("0/1", "Completed", "0"),
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), tuple("0/1", "Evicted", "0")),
        ];
        for (status, want) in table {
            assert_eq!(shown(pod(status.clone())), want, "{status}");
        }
        let mut dying = pod(json!({"phase": "Running"}));
        dying["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(shown(dying).1, "Terminating");
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"limits": full, "requests": full}))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(qos_class(&pod(json!({"limits": {"cpu": "1"}}))), "Burstable");
    }

    #[test]
    fn pods_that_no_node_runs_go_at_once() {
        let bound = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        assert_eq!(grace(&bound, None), Grace::Seconds(5));
        assert_eq!(grace(&bound, Some(0)), Grace::Immediate);
        assert_eq!(grace(&bound, Some(2)), Grace::Seconds(2));
        assert_eq!(grace(&json!({"spec": {}}), None), Grace::Immediate);
        let mut ended = bound;
        ended["status"]["phase"] = json!("Succeeded");
        assert_eq!(grace(&ended, None), Grace::Immediate);
    }
}
