//! The audit log: what was asked, by whom, and what was answered, as far as a policy says
//! (`audit.k8s.io/v1`).
//!
//! ```text
//! request ─▶ rule of the policy ─▶ level, stages ─▶ event ─▶ queue ─▶ one thread writes lines
//! ```
//!
//! A request never waits for the log: where the queue is full the event is lost, and counted.

mod policy;
mod sink;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use policy::{Level, Policy, PolicyError, Stage};
pub use sink::Sink;

use super::auth::{Attributes, UserInfo};
use crate::base::clock::{SharedClock, rfc3339_micros};

/// Bodies above this are not written into the log.
pub const BODY_MAX: usize = 1024 * 1024;

/// What is written of requests, and where.
pub struct Audit {
    policy: Policy,
    sink: Sink,
    clock: SharedClock,
}

/// One request on its way through.
#[derive(Debug, Default)]
pub struct Record {
    who: OnceLock<Who>,
    request_object: Mutex<Option<Bytes>>,
}

/// What is known of a request once it is known who asks.
#[derive(Debug)]
struct Who {
    user: UserInfo,
    impersonated: Option<UserInfo>,
    level: Level,
    omitted: Vec<Stage>,
    id: String,
    received: String,
}

/// What a request is told by.
pub struct Asked<'a> {
    pub uri: &'a str,
    pub attributes: &'a Attributes,
    pub user_agent: &'a str,
    pub source: Option<std::net::IpAddr>,
}

impl Record {
    /// How much of the request is written.
    pub fn level(&self) -> Level {
        self.who.get().map_or(Level::None, |who| who.level)
    }

    /// Keeps the body of the request, where it is to be written.
    pub fn keep_request(&self, body: &Bytes) {
        if self.level() >= Level::Request && body.len() <= BODY_MAX {
            *self.request_object.lock() = Some(body.clone());
        }
    }
}

impl Audit {
    /// Writes what `policy` says to `sink`.
    pub fn new(policy: Policy, sink: Sink, clock: SharedClock) -> Self {
        Self { policy, sink, clock }
    }

    /// It is known who asks: says how much of the request is written, and writes that it came.
    pub fn received(
        &self,
        record: &Record,
        (user, impersonated): (&UserInfo, Option<&UserInfo>),
        id: String,
        asked: &Asked<'_>,
    ) {
        let (level, omitted) = self.policy.judge(impersonated.unwrap_or(user), asked.attributes);
        let received = rfc3339_micros(self.clock.now());
        let (user, impersonated) = (user.clone(), impersonated.cloned());
        let who = Who { user, impersonated, level, omitted, id, received };
        if record.who.set(who).is_ok() {
            self.tell(record, Stage::RequestReceived, asked, (0, None), &[]);
        }
    }

    /// Writes a stage of a request. `answer`: the code, and the object where the level says so.
    pub fn tell(
        &self,
        record: &Record,
        stage: Stage,
        asked: &Asked<'_>,
        (code, object): (u16, Option<Value>),
        annotations: &[(String, String)],
    ) {
        let Some(who) = record.who.get() else { return };
        if who.level == Level::None || who.omitted.contains(&stage) {
            return;
        }
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": who.level.word(),
            "auditID": who.id,
            "stage": stage.word(),
            "requestURI": asked.uri,
            "verb": asked.attributes.verb,
            "user": user(&who.user),
            "sourceIPs": asked.source.map(|ip| ip.to_string()).into_iter().collect::<Vec<_>>(),
            "userAgent": asked.user_agent,
            "requestReceivedTimestamp": who.received,
            "stageTimestamp": rfc3339_micros(self.clock.now()),
        });
        if let Some(impersonated) = &who.impersonated {
            event["impersonatedUser"] = user(impersonated);
        }
        if !asked.attributes.resource.is_empty() {
            event["objectRef"] = reference(asked.attributes);
        }
        if code > 0 {
            event["responseStatus"] = json!({"metadata": {}, "code": code});
        }
        if !annotations.is_empty() {
            let all: BTreeMap<&str, &str> =
                annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            event["annotations"] = json!(all);
        }
        if let Some(body) = record.request_object.lock().as_ref() {
            event["requestObject"] = serde_json::from_slice(body).unwrap_or_default();
        }
        if let Some(object) = object {
            event["responseObject"] = object;
        }
        self.sink.write(&event);
    }
}

fn user(of: &UserInfo) -> Value {
    let mut shown = json!({"username": of.name, "groups": of.groups});
    if !of.uid.is_empty() {
        shown["uid"] = of.uid.clone().into();
    }
    if !of.extra.is_empty() {
        shown["extra"] = json!(of.extra);
    }
    shown
}

fn reference(at: &Attributes) -> Value {
    let mut shown = json!({"resource": at.resource, "apiVersion": at.version});
    for (field, value) in [
        ("apiGroup", &at.group),
        ("namespace", &at.namespace),
        ("name", &at.name),
        ("subresource", &at.subresource),
    ] {
        if !value.is_empty() {
            shown[field] = value.clone().into();
        }
    }
    shown
}
