//! `core/v1` Events: what a component tells people about an object.
//!
//! [`Recorder::event`] never waits and never fails: it hands the event to a task, or drops it when
//! too many wait. The task does what Kubernetes' event correlator does (`client-go`
//! `tools/record/events_cache.go`):
//! - the same event again raises `count` and `lastTimestamp` of the one that is there;
//! - more than ten events within ten minutes that differ only in their message become one, told as
//!   `(combined from similar events): …`;
//! - an object may tell 25 events at once and one more every five minutes.
//!
//! Many events are written at once, so that the store takes them in groups; of one event only one
//! state at a time, and of those that wait behind it the newest.
//!
//! **Invariant:** every table here is bounded; what falls out only costs a second Event object.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::meta::{Key, time};
use super::rest;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;

/// How many events may wait to be written.
const QUEUE: usize = 8192;
/// How many are written at once.
const WRITING: usize = 64;
/// How many different events are remembered.
const REMEMBERED: usize = 4096;
/// How many similar events stand alone.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// How long what waits may still be written after the end was asked for.
const DRAIN: Duration = Duration::from_secs(1);

/// `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

struct Told {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
    monotonic: Duration,
}

/// Tells events in the name of one component; clones share its queue.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Told>,
    clock: SharedClock,
}

impl Recorder {
    /// Starts the task that writes the events of `component` (as `deployment-controller`) on
    /// `host` (the node's name for an agent, else empty).
    pub fn start(
        client: kube::Client,
        component: &str,
        host: &str,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            target: Arc::new(Target {
                client,
                component: component.to_owned(),
                host: host.to_owned(),
            }),
            correlator: Correlator::default(),
            writing: JoinSet::new(),
            busy: HashMap::new(),
        };
        tokio::spawn(writer.run(receiver, shutdown));
        Self { sender, clock }
    }

    /// Tells an event about the object that `about` refers to (see [`super::meta::reference`]).
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let told = Told {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: self.clock.now(),
            monotonic: self.clock.monotonic(),
        };
        if self.sender.try_send(told).is_err() {
            tracing::debug!(reason, "an event was dropped, since too many wait");
        }
    }
}

/// What came of writing an event.
type Written = (Plan, Result<(), kube::Error>);

struct Writer {
    target: Arc<Target>,
    correlator: Correlator,
    writing: JoinSet<Written>,
    /// By the names of events being written: what is to be written next.
    busy: HashMap<String, Option<(Told, Plan)>>,
}

/// Where events are written, and in whose name.
struct Target {
    client: kube::Client,
    component: String,
    host: String,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>, shutdown: Shutdown) {
        loop {
            let room = self.writing.len() < WRITING;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(written) = self.writing.join_next() => self.written(written),
                told = receiver.recv(), if room => match told {
                    Some(told) => self.tell(told),
                    None => break,
                },
            }
        }
        receiver.close();
        let drain = async {
            loop {
                while self.writing.len() < WRITING
                    && let Ok(told) = receiver.try_recv()
                {
                    self.tell(told);
                }
                let Some(written) = self.writing.join_next().await else { break };
                self.written(written);
            }
        };
        let _ = tokio::time::timeout(DRAIN, drain).await;
    }

    fn tell(&mut self, told: Told) {
        let Some(plan) = self.correlator.admit(&told) else { return };
        match self.busy.get_mut(&plan.name) {
            Some(next) => *next = Some((told, plan)),
            None => self.start(told, plan),
        }
    }

    fn start(&mut self, told: Told, plan: Plan) {
        self.busy.insert(plan.name.clone(), None);
        let target = self.target.clone();
        self.writing.spawn(async move {
            let written = target.write(&told, &plan).await;
            (plan, written)
        });
    }

    fn written(&mut self, written: Result<Written, tokio::task::JoinError>) {
        let Ok((plan, written)) = written else { return };
        if let Err(error) = written {
            self.correlator.forget(&plan.identity);
            // An event in a namespace that is going away is nobody's loss.
            if !rest::is_namespace_terminating(&error) {
                tracing::info!(%error, "an event could not be written");
            }
        }
        if let Some(Some((told, next))) = self.busy.remove(&plan.name) {
            self.start(told, next);
        }
    }
}

impl Target {
    async fn write(&self, told: &Told, plan: &Plan) -> Result<(), kube::Error> {
        let namespace = match told.about.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => "default",
        };
        if plan.count > 1 {
            let path = rest::object::<Event>(namespace, &plan.name);
            let body = json!({
                "count": plan.count,
                "lastTimestamp": time(told.at),
                "message": plan.message,
            });
            let answer =
                rest::patch::<rest::Ignored>(&self.client, &path, rest::Patch::Merge, &body).await;
            match answer {
                Err(error) if rest::is_not_found(&error) => {}
                answer => return answer.map(drop),
            }
        }
        let event = self.event(namespace, told, plan);
        let path = rest::collection::<Event>(namespace);
        rest::create::<rest::Ignored>(&self.client, &path, &event).await.map(drop)
    }

    fn event(&self, namespace: &str, told: &Told, plan: &Plan) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(plan.name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: told.about.clone(),
            reason: Some(told.reason.clone()),
            message: Some(plan.message.clone()),
            type_: Some(told.kind.as_str().to_owned()),
            count: Some(plan.count),
            first_timestamp: Some(time(plan.first)),
            last_timestamp: Some(time(told.at)),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

/// What makes two events the same, or (without a message) similar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    object: String,
    kind: EventType,
    reason: String,
    message: Option<String>,
}

impl Identity {
    fn of(told: &Told) -> Self {
        let about = &told.about;
        Self {
            object: format!(
                "{}/{}/{}/{}",
                about.kind.as_deref().unwrap_or_default(),
                Key::new(
                    about.namespace.clone().unwrap_or_default(),
                    about.name.clone().unwrap_or_default()
                ),
                about.uid.as_deref().unwrap_or_default(),
                about.field_path.as_deref().unwrap_or_default(),
            ),
            kind: told.kind,
            reason: told.reason.clone(),
            message: None,
        }
    }
}

/// What to write: create when `count` is 1, else raise the count of `name`.
struct Plan {
    identity: Identity,
    name: String,
    message: String,
    count: i32,
    first: Timestamp,
}

struct Seen {
    name: String,
    count: i32,
    first: Timestamp,
    used: Duration,
}

struct Similar {
    messages: HashSet<String>,
    last: Duration,
}

struct Bucket {
    tokens: f64,
    filled: Duration,
}

#[derive(Default)]
struct Correlator {
    seen: HashMap<Identity, Seen>,
    similar: HashMap<Identity, Similar>,
    buckets: HashMap<String, Bucket>,
}

impl Correlator {
    /// What to write of `told`; nothing when its object tells too much.
    fn admit(&mut self, told: &Told) -> Option<Plan> {
        let now = told.monotonic;
        let mut identity = Identity::of(told);
        let combined = self.combine(&identity, &told.message, now);
        let message = if combined {
            format!("(combined from similar events): {}", told.message)
        } else {
            identity.message = Some(told.message.clone());
            told.message.clone()
        };
        if !self.spend(&identity.object, now) {
            return None;
        }
        self.sweep(now);
        let seen = self.seen.entry(identity.clone()).or_insert_with(|| Seen {
            name: event_name(told),
            count: 0,
            first: told.at,
            used: now,
        });
        seen.count += 1;
        seen.used = now;
        Some(Plan {
            name: seen.name.clone(),
            count: seen.count,
            first: seen.first,
            identity,
            message,
        })
    }

    fn forget(&mut self, identity: &Identity) {
        self.seen.remove(identity);
    }

    /// Whether this is one too many of events that differ only in their message.
    fn combine(&mut self, identity: &Identity, message: &str, now: Duration) -> bool {
        let fresh = || Similar { messages: HashSet::new(), last: now };
        let similar = self.similar.entry(identity.clone()).or_insert_with(fresh);
        if now.saturating_sub(similar.last) > SIMILAR_WINDOW {
            *similar = fresh();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.insert(message.to_owned());
            return false;
        }
        !similar.messages.contains(message)
    }

    fn spend(&mut self, object: &str, now: Duration) -> bool {
        let bucket =
            self.buckets.entry(object.to_owned()).or_insert(Bucket { tokens: BURST, filled: now });
        let passed = now.saturating_sub(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Keeps the tables bounded: the older half goes.
    fn sweep(&mut self, now: Duration) {
        if self.seen.len() >= REMEMBERED {
            let mut used: Vec<Duration> = self.seen.values().map(|seen| seen.used).collect();
            used.sort_unstable();
            let middle = used[used.len() / 2];
            self.seen.retain(|_, seen| seen.used > middle);
        }
        if self.similar.len() >= REMEMBERED {
            self.similar.retain(|_, similar| now.saturating_sub(similar.last) < SIMILAR_WINDOW / 2);
            if self.similar.len() >= REMEMBERED {
                self.similar.clear();
            }
        }
        if self.buckets.len() >= REMEMBERED {
            self.buckets.retain(|_, bucket| bucket.tokens < BURST - 1.5);
            if self.buckets.len() >= REMEMBERED {
                self.buckets.clear();
            }
        }
    }
}

/// As Kubernetes names them: the object's name and the time in hexadecimal nanoseconds. A counter
/// keeps two events of one instant apart.
fn event_name(told: &Told) -> String {
    use std::sync::atomic::{AtomicI64, Ordering};
    static APART: AtomicI64 = AtomicI64::new(0);
    let nanos = i64::try_from(told.at.as_nanosecond()).unwrap_or(i64::MAX);
    let stamp = nanos.wrapping_add(APART.fetch_add(1, Ordering::Relaxed) % 1000);
    let name = told.about.name.as_deref().unwrap_or("unknown");
    // 253 characters are the most that a name may have.
    let kept: String = name.chars().take(230).collect();
    format!("{kept}.{stamp:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock, FakeClock};
    use crate::client::testing::{self, Asked};
    use parking_lot::Mutex;

    fn told(clock: &FakeClock, name: &str, message: &str) -> Told {
        Told {
            about: ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some("default".to_owned()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            },
            kind: EventType::Warning,
            reason: "BackOff".to_owned(),
            message: message.to_owned(),
            at: clock.now(),
            monotonic: clock.monotonic(),
        }
    }

    fn clock() -> Arc<FakeClock> {
        FakeClock::at("2026-03-04T05:06:07Z".parse().expect("a timestamp"))
    }

    #[test]
    fn the_same_event_is_counted_and_another_stands_alone() {
        let clock = clock();
        let mut correlator = Correlator::default();
        let first = correlator.admit(&told(&clock, "web", "no")).expect("admitted");
        clock.advance(Duration::from_secs(3));
        let again = correlator.admit(&told(&clock, "web", "no")).expect("admitted");
        let other = correlator.admit(&told(&clock, "db", "no")).expect("admitted");
        assert_eq!((first.count, again.count, other.count), (1, 2, 1));
        assert_eq!(first.name, again.name);
        assert_eq!(first.first, again.first);
    }

    #[test]
    fn the_eleventh_similar_event_is_combined() {
        let clock = clock();
        let mut correlator = Correlator::default();
        for n in 0..10 {
            let plan = correlator.admit(&told(&clock, "web", &format!("try {n}")));
            assert_eq!(plan.expect("admitted").message, format!("try {n}"));
        }
        let plan = correlator.admit(&told(&clock, "web", "try 10")).expect("admitted");
        assert_eq!(plan.message, "(combined from similar events): try 10");
        let plan = correlator.admit(&told(&clock, "web", "try 11")).expect("admitted");
        assert_eq!(plan.count, 2);
    }

    #[test]
    fn an_object_that_tells_too_much_is_not_heard() {
        let clock = clock();
        let mut correlator = Correlator::default();
        let heard = (0..100).filter(|_| correlator.admit(&told(&clock, "web", "no")).is_some());
        assert_eq!(heard.count(), 25);
        assert!(correlator.admit(&told(&clock, "db", "no")).is_some());
        clock.advance(Duration::from_secs(301));
        assert!(correlator.admit(&told(&clock, "web", "no")).is_some());
        assert!(correlator.admit(&told(&clock, "web", "no")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_created_once_and_patched_from_then_on() {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        let client = testing::client(move |request| {
            let log = log.clone();
            async move {
                log.lock().push(request);
                testing::json(200, &json!({}))
            }
        });
        let clock = clock();
        let shutdown = Shutdown::new();
        let recorder = Recorder::start(client, "tester", "", clock.clone(), shutdown.clone());
        let about = told(&clock, "web", "").about;
        for _ in 0..2 {
            recorder.event(&about, EventType::Normal, "Started", "it runs");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = asked.lock();
        assert_eq!(asked[0].method, "POST");
        assert_eq!(asked[0].path, "/api/v1/namespaces/default/events");
        assert_eq!(asked[0].body["source"]["component"], "tester");
        assert_eq!(asked[0].body["firstTimestamp"], "2026-03-04T05:06:07Z");
        assert_eq!(asked[1].method, "PATCH");
        assert_eq!(asked[1].body["count"], 2);
        assert_eq!(asked.len(), 2);
    }
}
