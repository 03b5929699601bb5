//! The loop against an API that a test writes: what it asks for, and in which words.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::base::clock::SystemClock;
use crate::client::testing::{self, Asked};

fn list(items: &Value) -> Response<Body> {
    testing::json(200, &json!({"metadata": {"resourceVersion": "9"}, "items": items}))
}

fn pod(name: &str, cpu: &str) -> Value {
    let requests = json!({"requests": {"cpu": cpu}});
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "3"},
        "spec": {"containers": [{"name": "c", "resources": requests}]},
    })
}

async fn answer(asked: Asked, log: Arc<Mutex<Vec<Asked>>>, binding: u16) -> Response<Body> {
    let node = json!({
        "metadata": {"name": "n", "resourceVersion": "2"},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
    });
    if asked.query.contains("watch=") {
        return std::future::pending().await;
    }
    let answer = match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/api/v1/pods") => list(&json!([pod("fits", "1"), pod("large", "9")])),
        ("GET", "/api/v1/nodes") => list(&json!([node])),
        (
            "GET",
            "/api/v1/services"
            | "/api/v1/namespaces"
            | "/api/v1/persistentvolumeclaims"
            | "/api/v1/persistentvolumes"
            | "/apis/policy/v1/poddisruptionbudgets"
            | "/apis/storage.k8s.io/v1/storageclasses"
            | "/apis/storage.k8s.io/v1/csinodes",
        ) => list(&json!([])),
        ("GET", "/api/v1/namespaces/default/pods/fits") => testing::json(200, &pod("fits", "1")),
        ("GET", _) => testing::failure(404, "NotFound"),
        (_, path) if path.ends_with("/binding") && binding >= 400 => {
            testing::failure(binding, "InternalError")
        }
        _ => testing::json(201, &asked.body),
    };
    log.lock().push(asked);
    answer
}

/// Runs the scheduler until `enough` holds of what it asked for.
async fn asked_until(binding: u16, enough: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
    let log: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let told = log.clone();
    let client = testing::client(move |asked| answer(asked, told.clone(), binding));
    let shutdown = Shutdown::new();
    let config = SchedulerConfig::new("here");
    let running = tokio::spawn(run(client, config, SystemClock::shared(), shutdown.clone()));
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !enough(&log.lock()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("only this was asked: {:#?}", log.lock()));
    shutdown.cancel();
    running.await.expect("it ends when it is told to");
    log.lock().clone()
}

fn find<'a>(asked: &'a [Asked], method: &str, path: &str) -> Option<&'a Asked> {
    asked.iter().find(|a| a.method == method && a.path == path)
}

const BINDING: &str = "/api/v1/namespaces/default/pods/fits/binding";
const STATUS: &str = "/api/v1/namespaces/default/pods/large/status";

fn event<'a>(asked: &'a [Asked], reason: &str) -> Option<&'a Value> {
    asked.iter().map(|a| &a.body).find(|body| body["reason"] == reason && body["kind"] == "Event")
}

#[tokio::test]
async fn a_pod_that_fits_is_bound_and_another_is_told_why_not() {
    let asked = asked_until(201, |asked| {
        find(asked, "POST", BINDING).is_some()
            && find(asked, "PATCH", STATUS).is_some()
            && event(asked, "Scheduled").is_some()
            && event(asked, "FailedScheduling").is_some()
    })
    .await;
    let binding = &find(&asked, "POST", BINDING).expect("the binding").body;
    assert_eq!(binding["target"]["name"], "n");
    assert_eq!(binding["metadata"]["uid"], "fits");
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are \
                   available: 1 Preemption is not helpful for scheduling.";
    let condition =
        &find(&asked, "PATCH", STATUS).expect("the patch").body["status"]["conditions"][0];
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!((&condition["status"], &condition["message"]), (&json!("False"), &json!(message)));
    let scheduled = event(&asked, "Scheduled").expect("an event");
    assert_eq!(scheduled["message"], "Successfully assigned default/fits to n");
    let failed = event(&asked, "FailedScheduling").expect("an event");
    assert_eq!((&failed["message"], &failed["type"]), (&json!(message), &json!("Warning")));
    assert!(
        find(&asked, "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases")
            .is_some()
    );
}

#[tokio::test]
async fn a_binding_that_fails_is_sent_again() {
    let sent = |asked: &[Asked]| asked.iter().filter(|a| a.path == BINDING).count();
    let asked = asked_until(500, |asked| sent(asked) >= 2).await;
    assert!(sent(&asked) >= 2);
}

#[tokio::test]
async fn a_pod_makes_room_and_tells_where() {
    const VICTIM: &str = "/api/v1/namespaces/default/pods/fits";
    let log: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let told = log.clone();
    let client = testing::client(move |asked| {
        let told = told.clone();
        async move {
            if asked.path == "/api/v1/pods" && !asked.query.contains("watch=") {
                let (mut there, mut high) = (pod("fits", "2"), pod("high", "2"));
                there["spec"]["nodeName"] = json!("n");
                high["spec"]["priority"] = json!(7);
                return list(&json!([there, high]));
            }
            answer(asked, told, 201).await
        }
    });
    let shutdown = Shutdown::new();
    let running = tokio::spawn(run(
        client,
        SchedulerConfig::new("here"),
        SystemClock::shared(),
        shutdown.clone(),
    ));
    let done = |asked: &[Asked]| {
        find(asked, "DELETE", VICTIM).is_some() && event(asked, "Preempted").is_some()
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !done(&log.lock()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("only this was asked: {:#?}", log.lock()));
    shutdown.cancel();
    running.await.expect("it ends when it is told to");
    let asked = log.lock();
    let status = |name: &str| {
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        find(&asked, "PATCH", &path).expect("a patch").body["status"].clone()
    };
    assert_eq!(status("high")["nominatedNodeName"], "n");
    let target = &status("fits")["conditions"][0];
    assert_eq!(
        (&target["type"], &target["reason"]),
        (&json!("DisruptionTarget"), &json!("PreemptionByScheduler"))
    );
    let deletion = &find(&asked, "DELETE", VICTIM).expect("a deletion").body;
    assert_eq!(deletion["preconditions"]["uid"], "fits");
    let preempted = event(&asked, "Preempted").expect("an event");
    assert_eq!(preempted["message"], "Preempted by pod high on node n");
}
