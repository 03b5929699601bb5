//! `GET /containerLogs/NAMESPACE/POD/CONTAINER` with the options of `PodLogOptions`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::refuse;
use crate::node::agent::Node;
use crate::node::logs::read::LogError;
use crate::node::logs::{LogOptions, LogReader};

/// The query, as `kubectl logs` and the API server write it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

fn flag(value: Option<&str>) -> bool {
    matches!(value, Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

impl LogQuery {
    fn options(&self, now: Timestamp) -> Result<LogOptions, String> {
        let count = |n: Option<i64>, name: &str, least: u64| match n {
            None => Ok(None),
            Some(n) => match u64::try_from(n) {
                Ok(n) if n >= least => Ok(Some(n)),
                _ => Err(format!("{name} must be greater than or equal to {least}")),
            },
        };
        let since = match (self.since_seconds, &self.since_time) {
            (Some(_), Some(_)) => {
                return Err("at most one of sinceTime or sinceSeconds may be specified".to_owned());
            }
            (Some(seconds), None) => {
                let ago = count(Some(seconds), "sinceSeconds", 1)?.unwrap_or(0);
                Some(now - Duration::from_secs(ago))
            }
            (None, Some(text)) => {
                let wrong = |e| format!("sinceTime {text:?} is not an RFC 3339 time: {e}");
                Some(text.parse().map_err(wrong)?)
            }
            (None, None) => None,
        };
        Ok(LogOptions {
            follow: flag(self.follow.as_deref()),
            previous: flag(self.previous.as_deref()),
            timestamps: flag(self.timestamps.as_deref()),
            since,
            tail: count(self.tail_lines, "tailLines", 0)?,
            limit_bytes: count(self.limit_bytes, "limitBytes", 1)?,
            stream: match self.stream.as_deref() {
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                _ => None,
            },
            run: None,
        })
    }
}

/// Why there is nothing to read of a container yet, if so; in the kubelet's words.
fn nothing_yet(
    status: Option<&ContainerStatus>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<(), String> {
    let Some(status) = status else { return Ok(()) };
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    if previous && last.is_none() {
        return Err(format!(
            "previous terminated container \"{container}\" in pod \"{pod}\" not found"
        ));
    }
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    match waiting.filter(|_| last.is_none()) {
        None => Ok(()),
        Some(waiting) => {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            let why = match reason {
                "ErrImagePull" | "ErrImageNeverPull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                reason => reason,
            };
            Err(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"))
        }
    }
}

fn status_of<'a>(status: Option<&'a PodStatus>, container: &str) -> Option<&'a ContainerStatus> {
    let status = status?;
    let init = status.init_container_statuses.iter().flatten();
    let added = status.ephemeral_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten()).chain(added);
    all.into_iter().find(|s| s.name == container)
}

pub(super) async fn logs(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let options = match query.options(node.clock.now()) {
        Ok(options) => options,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let Some(handle) = node.find(&namespace, &name) else {
        return refuse(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist"));
    };
    let uid = {
        let view = handle.view.lock();
        let spec = view.pod.spec.as_ref();
        let known = spec.is_some_and(|s| {
            let known = s.init_containers.iter().flatten().chain(&s.containers);
            let mut added = s.ephemeral_containers.iter().flatten();
            known.into_iter().any(|c| c.name == container) || added.any(|c| c.name == container)
        });
        if !known {
            let message = format!("container {container} is not valid for pod {name}");
            return refuse(StatusCode::BAD_REQUEST, message);
        }
        let status = status_of(view.status.as_deref(), &container);
        if let Err(message) = nothing_yet(status, &name, &container, options.previous) {
            return refuse(StatusCode::BAD_REQUEST, message);
        }
        view.pod.metadata.uid.clone().unwrap_or_default()
    };
    let dir = node.logs.pod_dir(&namespace, &name, &uid).join(&container);
    let writer = node.logs.current(&uid, &container);
    let opened = tokio::task::spawn_blocking(move || LogReader::open(dir, writer, options)).await;
    match opened {
        Ok(Ok(reader)) => stream(reader),
        Ok(Err(LogError::NoPrevious)) => {
            let message = format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            );
            refuse(StatusCode::BAD_REQUEST, message)
        }
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn stream(reader: LogReader) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    tokio::spawn(async move {
        if let Err(error) = reader.pump(sender).await {
            tracing::debug!(%error, "a log was not read to its end");
        }
    });
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    let body = Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(query: &str) -> Result<LogOptions, String> {
        let uri: http::Uri = format!("/x?{query}").parse().expect("a URI");
        let Query(query) = Query::<LogQuery>::try_from_uri(&uri).expect("a query");
        query.options("2026-03-04T05:06:07Z".parse().expect("a time"))
    }

    #[test]
    fn the_query_of_kubectl_logs_is_understood() {
        let options = parse("follow=true&tailLines=0&timestamps=true&limitBytes=9&sinceSeconds=7");
        let options = options.expect("options");
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail, options.limit_bytes), (Some(0), Some(9)));
        assert_eq!(options.since, Some("2026-03-04T05:06:00Z".parse().expect("a time")));
        assert!(parse("tailLines=-1").expect_err("negative").contains("tailLines"));
        assert!(parse("sinceTime=yesterday").expect_err("no time").contains("RFC 3339"));
        assert!(parse("sinceSeconds=1&sinceTime=x").expect_err("both").contains("at most one"));
    }

    #[test]
    fn a_container_without_a_log_says_why() {
        let waiting = |reason: &str| -> ContainerStatus {
            serde_json::from_value(json!({
                "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}},
            }))
            .expect("a status")
        };
        let why = |status: &ContainerStatus, previous| {
            nothing_yet(Some(status), "web", "app", previous).expect_err("nothing")
        };
        assert_eq!(
            why(&waiting("ContainerCreating"), false),
            "container \"app\" in pod \"web\" is waiting to start: ContainerCreating"
        );
        assert!(why(&waiting("ImagePullBackOff"), false).ends_with("failing to pull image"));
        assert!(why(&waiting("x"), true).starts_with("previous terminated container \"app\""));
        let mut crashed = waiting("CrashLoopBackOff");
        crashed.last_state = serde_json::from_value(json!({"terminated": {"exitCode": 1}})).ok();
        assert_eq!(nothing_yet(Some(&crashed), "web", "app", false), Ok(()));
    }
}
