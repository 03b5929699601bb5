//! What a hollow node makes of a pod. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

/// A watch event, as far as a hollow node looks at it.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub object: Pod,
}

/// A pod, as far as a hollow node looks at it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
    /// The code of a `Status` that came instead.
    pub code: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub node_name: Option<String>,
    pub restart_policy: Option<String>,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: String,
    pub image: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub phase: Option<String>,
}

/// What to do about a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this status.
    Report(Value),
    /// Say that it is gone.
    Remove,
    Nothing,
}

/// What to do about a pod whose address is `ip`, at `now`.
pub fn plan(pod: &Pod, ip: &str, now: &str) -> Action {
    if pod.metadata.deletion_timestamp.is_some() {
        return Action::Remove;
    }
    match pod.status.phase.as_deref().unwrap_or("Pending") {
        "Pending" => Action::Report(running(pod, ip, now)),
        // A pod that runs to its end has nothing to do here, and is done at once.
        "Running" if matches!(pod.spec.restart_policy.as_deref(), Some("Never" | "OnFailure")) => {
            Action::Report(succeeded(pod, now))
        }
        _ => Action::Nothing,
    }
}

fn condition(kind: &str, status: &str, reason: Option<&str>, now: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": now})
}

fn container(container: &Container, state: &Value, ready: bool) -> Value {
    json!({
        "name": container.name, "image": container.image, "imageID": "", "restartCount": 0,
        "ready": ready, "started": ready, "containerID": format!("hollow://{}", container.name),
        "state": state,
    })
}

fn running(pod: &Pod, ip: &str, now: &str) -> Value {
    let state = json!({"running": {"startedAt": now}});
    let containers = pod.spec.containers.iter().map(|c| container(c, &state, true));
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let conditions = kinds.map(|kind| condition(kind, "True", None, now));
    json!({
        "phase": "Running", "startTime": now, "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}], "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

fn succeeded(pod: &Pod, now: &str) -> Value {
    let state = json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}});
    let containers = pod.spec.containers.iter().map(|c| container(c, &state, false));
    let done = Some("PodCompleted");
    let conditions = ["Ready", "ContainersReady"].map(|k| condition(k, "False", done, now));
    json!({
        "phase": "Succeeded",
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn decide(more: Value) -> Action {
        let mut pod = json!({"metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]}, "status": {}});
        for (part, value) in more.as_object().expect("an object") {
            for (key, value) in value.as_object().expect("an object") {
                pod[part][key] = value.clone();
            }
        }
        plan(&serde_json::from_value(pod).expect("a pod"), "10.0.0.1", NOW)
    }

    #[test]
    fn a_pod_is_started_once_and_removed_when_it_is_deleted() {
        let Action::Report(status) = decide(json!({})) else { panic!("it starts") };
        assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("10.0.0.1")));
        let running = json!({"status": {"phase": "Running"}});
        assert_eq!(decide(running), Action::Nothing);
        let deleted =
            json!({"metadata": {"deletionTimestamp": NOW}, "status": {"phase": "Running"}});
        assert_eq!(decide(deleted), Action::Remove);
    }

    #[test]
    fn a_pod_that_runs_to_its_end_succeeds() {
        let job = json!({"spec": {"restartPolicy": "Never"}, "status": {"phase": "Running"}});
        let Action::Report(status) = decide(job) else { panic!("it ends") };
        assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        let over = json!({"spec": {"restartPolicy": "Never"}, "status": {"phase": "Succeeded"}});
        assert_eq!(decide(over), Action::Nothing);
    }
}
