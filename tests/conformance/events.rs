//! sig-instrumentation: events, in both of their forms.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, STRATEGIC, unique};

#[tokio::test]
async fn an_event_lives() {
    let api = Api::connect().await;
    let namespace = api.namespace("events").await;
    let events = format!("/api/v1/namespaces/{namespace}/events");
    let label = unique("event-test");
    let event = json!({"metadata": {"name": "event-test", "labels": {"testevent-constant": label}},
        "message": "This is a test event", "reason": "Test", "type": "Normal", "count": 1,
        "involvedObject": {"namespace": namespace}});
    api.post(&events, &event).await.is(201);
    let everywhere = format!("/api/v1/events?labelSelector=testevent-constant%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    let one = format!("{events}/event-test");
    let patch = json!({"message": "This is a test event - patched"});
    api.patch(&one, STRATEGIC, &patch).await.is(200);
    let read = api.get(&one).await.is(200);
    assert_eq!(read["message"], "This is a test event - patched");
    let mut updated = read;
    updated["series"] = json!({"count": 100, "lastObservedTime": "2026-01-01T00:00:00.000000Z"});
    let updated = api.put(&one, &updated).await.is(200);
    assert_eq!(updated["series"]["count"], 100);
    assert_eq!(updated["series"]["lastObservedTime"], "2026-01-01T00:00:00.000000Z");
    api.delete(&one).await.is(200);
    assert_eq!(api.items(&everywhere).await.len(), 0);
    for n in 1..=3 {
        let mut event = event.clone();
        event["metadata"]["name"] = format!("test-event-{n}").into();
        api.post(&events, &event).await.is(201);
    }
    let selected = format!("{events}?labelSelector=testevent-constant%3D{label}");
    assert_eq!(api.items(&selected).await.len(), 3);
    api.delete(&selected).await.is(200);
    assert_eq!(api.items(&selected).await.len(), 0);
}

fn newer(namespace: &str, name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"testevent-set": label}},
        "eventTime": "2017-09-19T13:49:16.000000Z", "reason": "Test", "type": "Normal",
        "note": "This is event-test", "action": "Do",
        "reportingController": "test-controller", "reportingInstance": "test-node",
        "regarding": {"kind": "Pod", "namespace": namespace}})
}

#[tokio::test]
async fn an_event_of_the_newer_form_is_fetched_patched_deleted_and_listed() {
    let api = Api::connect().await;
    let namespace = api.namespace("events").await;
    let events = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let label = unique("event-test");
    let made = api.post(&events, &newer(&namespace, "event-test", &label)).await.is(201);
    assert_eq!(made["eventTime"], "2017-09-19T13:49:16.000000Z");
    let everywhere = format!("/apis/events.k8s.io/v1/events?labelSelector=testevent-set%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    let one = format!("{events}/event-test");
    let read = api.get(&one).await.is(200);
    assert_eq!(read["note"], "This is event-test");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2017-09-19T13:49:16.000000Z"}});
    let patched = api.patch(&one, MERGE, &series).await.is(200);
    assert_eq!(patched["series"]["count"], 2);
    let mut update = patched;
    update["series"]["count"] = 100.into();
    assert_eq!(api.put(&one, &update).await.is(200)["series"]["count"], 100);
    // The older form tells of the same event.
    let older = api.get(&format!("/api/v1/namespaces/{namespace}/events/event-test")).await.is(200);
    assert_eq!(older["message"], "This is event-test");
    api.delete(&one).await.is(200);
    assert_eq!(api.items(&everywhere).await.len(), 0);
    for n in 1..=3 {
        api.post(&events, &newer(&namespace, &format!("test-event-{n}"), &label)).await.is(201);
    }
    let selected = format!("{events}?labelSelector=testevent-set%3D{label}");
    assert_eq!(api.items(&selected).await.len(), 3);
    api.delete(&selected).await.is(200);
    assert_eq!(api.items(&selected).await.len(), 0);
}
