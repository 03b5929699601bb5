//! Informers against an API that a test writes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::client::testing::{self, Asked};

fn config_map(name: &str, rv: u64, color: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"color": color},
        "metadata": {"namespace": "default", "name": name, "resourceVersion": rv.to_string()}})
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

/// A watch that says `lines`, then stays open (or ends).
fn watch_answer(lines: Vec<String>, open: bool) -> Response<Body> {
    let said = futures::stream::iter(
        lines.into_iter().map(|line| Ok::<_, std::io::Error>(Bytes::from(line))),
    );
    let rest = futures::stream::pending();
    let body = if open {
        Body::from_stream(futures::StreamExt::chain(said, rest))
    } else {
        Body::from_stream(said)
    };
    Response::new(body)
}

fn list_answer(items: &[Value], rv: u64, token: &str) -> Response<Body> {
    testing::json(
        200,
        &json!({"kind": "ConfigMapList", "apiVersion": "v1",
            "metadata": {"resourceVersion": rv.to_string(), "continue": token}, "items": items}),
    )
}

/// Answers one after the other; keeps what was asked.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Response<Body>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn new(answers: Vec<Response<Body>>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() }
    }

    fn informer(&self) -> Informer<String> {
        let script = self.clone();
        let client = testing::client(move |asked: Asked| {
            let script = script.clone();
            async move {
                script.asked.lock().push(asked.query);
                let answer = script.answers.lock().pop_front();
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        Builder::new(Source::all::<ConfigMap>(), |map: ConfigMap| {
            map.data.and_then(|data| data.get("color").cloned())
        })
        .index("color", |color: &String| vec![color.clone()])
        .start(client, Shutdown::new())
    }
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// Lets the informer's task do all it can without time passing far.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn pages_are_put_together_and_then_watched_from_their_version() {
    let script = Script::new(vec![
        list_answer(&[config_map("a", 3, "red")], 7, "more"),
        list_answer(&[config_map("b", 5, "blue")], 7, ""),
        watch_answer(vec![event("ADDED", &config_map("c", 8, "red"))], true),
    ]);
    let informer = script.informer();
    assert!(!informer.is_synced());
    informer.synced().await;
    settle().await;
    assert_eq!(informer.len(), 3);
    assert_eq!(informer.count("color", "red"), 2);
    let asked = script.asked.lock();
    assert!(asked[1].contains("continue=more"), "{asked:?}");
    assert!(asked[2].contains("resourceVersion=7"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gone_watch_is_listed_anew_and_what_vanished_is_told() {
    let script = Script::new(vec![
        list_answer(&[config_map("a", 1, "red"), config_map("b", 2, "red")], 2, ""),
        watch_answer(
            vec![event("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired"}))],
            true,
        ),
        list_answer(&[config_map("b", 9, "blue")], 9, ""),
    ]);
    let informer = script.informer();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = told.clone();
    informer.on_change(move |change| {
        log.lock().push(format!("{} {:?} {:?}", change.key.name, change.old, change.new));
    });
    settle().await;
    assert!(informer.get(&key("a")).is_none());
    assert_eq!(informer.indexed("color", "blue").len(), 1);
    assert_eq!(informer.count("color", "red"), 0);
    let told = told.lock();
    assert!(told.contains(&"a Some(\"red\") None".to_owned()), "{told:?}");
    assert!(told.contains(&"b Some(\"red\") Some(\"blue\")".to_owned()), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_goes_on_from_the_newest_bookmark() {
    let script = Script::new(vec![
        list_answer(&[], 2, ""),
        watch_answer(
            vec![
                event("ADDED", &config_map("a", 4, "red")),
                event(
                    "BOOKMARK",
                    &json!({"apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {"resourceVersion": "31"}}),
                ),
            ],
            false,
        ),
        testing::failure(500, "InternalError"),
        watch_answer(vec![event("DELETED", &config_map("a", 40, "red"))], true),
    ]);
    let informer = script.informer();
    settle().await;
    assert!(informer.is_empty());
    let asked = script.asked.lock();
    assert!(asked[2].contains("resourceVersion=31"), "{asked:?}");
    assert!(asked[3].contains("resourceVersion=31"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_no_longer_projected_is_told_as_removed() {
    let mut colorless = config_map("a", 5, "red");
    colorless["data"] = Value::Null;
    let script = Script::new(vec![
        list_answer(&[config_map("a", 1, "red")], 2, ""),
        watch_answer(vec![event("MODIFIED", &colorless)], true),
    ]);
    let informer = script.informer();
    settle().await;
    assert!(informer.get(&key("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changed_many_times_is_taken_once() {
    let script = Script::new(vec![
        list_answer(&[config_map("a", 1, "red"), config_map("b", 1, "red")], 2, ""),
        watch_answer(
            (5..9).map(|rv| event("MODIFIED", &config_map("a", rv, "green"))).collect(),
            true,
        ),
    ]);
    let informer = script.informer();
    let mut changes = informer.changes();
    settle().await;
    assert_eq!(changes.next().await, [key("a"), key("b")]);
    let more = tokio::time::timeout(Duration::from_secs(60), changes.next()).await;
    assert!(more.is_err());
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail_are_tried_again_with_growing_pauses() {
    let mut answers: Vec<_> = (0..4).map(|_| testing::failure(503, "ServiceUnavailable")).collect();
    answers.push(list_answer(&[config_map("a", 1, "red")], 2, ""));
    let script = Script::new(answers);
    let start = tokio::time::Instant::now();
    let informer = script.informer();
    informer.synced().await;
    assert!(start.elapsed() >= Duration::from_millis(200 + 400 + 800 + 1600));
    assert_eq!(informer.len(), 1);
}
