//! Webhook configurations, read once.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::expressions::{Compiled, conditions};
use super::super::matching::Matcher;
use crate::api::Object;
use crate::api::meta::{self, list};

/// Where a webhook is.
#[derive(Debug, Clone)]
pub struct Target {
    pub place: Place,
    /// As it stands in the URL, with its slash.
    pub path: String,
    /// PEM; empty: the machine's own roots.
    pub ca_bundle: Vec<u8>,
}

/// By what it is found.
#[derive(Debug, Clone)]
pub enum Place {
    Service {
        namespace: String,
        name: String,
        port: i64,
    },
    Host {
        host: String,
        port: u16,
    },
    /// A URL that is none.
    Nowhere(String),
}

impl Target {
    /// From `clientConfig`.
    pub fn parse(config: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ca_bundle = STANDARD.decode(text(&config["caBundle"])).unwrap_or_default();
        let service = &config["service"];
        if service.is_object() {
            let path = text(&service["path"]);
            let slash = if path.starts_with('/') { "" } else { "/" };
            return Self {
                place: Place::Service {
                    namespace: text(&service["namespace"]),
                    name: text(&service["name"]),
                    port: service["port"].as_i64().unwrap_or(443),
                },
                path: format!("{slash}{path}"),
                ca_bundle,
            };
        }
        let url = text(&config["url"]);
        let uri: Option<http::Uri> = url.parse().ok();
        let host = uri
            .as_ref()
            .and_then(|uri| uri.host())
            .map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        let path = uri.as_ref().map_or("/", |uri| uri.path()).to_owned();
        let port = uri.as_ref().and_then(http::Uri::port_u16).unwrap_or(443);
        let place = host.map_or(Place::Nowhere(url), |host| Place::Host { host, port });
        Self { place, path, ca_bundle }
    }
}

/// A webhook.
pub(super) struct Hook {
    pub name: String,
    pub matcher: Matcher,
    pub conditions: Vec<(String, Compiled)>,
    /// `failurePolicy: Fail`.
    pub fails: bool,
    pub may_run_dry: bool,
    pub timeout: Duration,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
    pub target: Target,
}

/// All of them, in the order in which they are asked.
pub(super) struct Hooks {
    pub all: Vec<Hook>,
}

impl Hooks {
    pub(super) fn of(mut objects: Vec<Vec<Object>>) -> Self {
        let mut configurations = objects.pop().unwrap_or_default();
        configurations.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
        let all = configurations.iter().flat_map(|c| list(&c["webhooks"])).map(hook);
        Self { all: all.collect() }
    }
}

fn hook(source: &Value) -> Hook {
    let text = |field: &str| source[field].as_str().unwrap_or_default().to_owned();
    let versions = list(&source["admissionReviewVersions"]);
    let known = |v: &&Value| matches!(v.as_str(), Some("v1" | "v1beta1"));
    Hook {
        name: text("name"),
        matcher: Matcher::of_webhook(source),
        conditions: conditions(&source["matchConditions"]),
        fails: source["failurePolicy"] != "Ignore",
        may_run_dry: matches!(text("sideEffects").as_str(), "None" | "NoneOnDryRun"),
        timeout: Duration::from_secs(source["timeoutSeconds"].as_u64().unwrap_or(10)),
        version: versions.iter().find(known).and_then(Value::as_str).unwrap_or("v1").to_owned(),
        reinvoked: source["reinvocationPolicy"] == "IfNeeded",
        target: Target::parse(&source["clientConfig"]),
    }
}
