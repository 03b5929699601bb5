//! Watches: the events of a path, line by line, and waiting until an object is as wished.

use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use serde_json::Value;
use tokio::time::Instant;

use super::target::Named;
use crate::cli::call::{Connection, JSON, with_query};
use crate::cli::failure::Failure;

/// The longest line of a watch or a log that is taken.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a watch lasts at most before it is opened again.
const WATCH_SECONDS: &str = "300";
/// Between two looks where the server ends the watch at once.
const PAUSE: Duration = Duration::from_millis(200);

/// What happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`.
    pub kind: String,
    /// The object, or a table of it.
    pub object: Value,
}

/// The events of an open watch.
pub struct Watch<R> {
    stream: R,
}

/// Opens a watch of `path`, from `resource_version` on.
///
/// # Errors
/// The server refused.
pub async fn watch(
    connection: &Connection,
    path: &str,
    resource_version: &str,
    accept: &str,
) -> Result<Watch<impl AsyncBufRead + Unpin + Send + use<>>, Failure> {
    let query = [
        ("watch", "true"),
        ("resourceVersion", resource_version),
        ("timeoutSeconds", WATCH_SECONDS),
    ];
    Ok(Watch { stream: connection.stream(&with_query(path, &query), accept).await? })
}

impl<R: AsyncBufRead + Unpin> Watch<R> {
    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// The server sent an error, or no event.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            let Some(line) = line(&mut self.stream).await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut event: Value = serde_json::from_slice(&line).map_err(|error| {
                Failure::other(format!("the server sent a watch event that is no JSON: {error}"))
            })?;
            let object = event["object"].take();
            return match event["type"].as_str().unwrap_or_default() {
                "ERROR" => Err(Failure::status(object)),
                kind => Ok(Some(Event { kind: kind.to_owned(), object })),
            };
        }
    }
}

/// The next line with its newline; `None` at the end, also where the connection broke off.
///
/// # Errors
/// A line that is too long.
pub async fn line<R: AsyncBufRead + Unpin>(stream: &mut R) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
    if line.len() as u64 >= LINE_BYTES_MAX {
        return Err(Failure::other(format!(
            "the server sent a line of more than {} MiB",
            LINE_BYTES_MAX / 1024 / 1024
        )));
    }
    match read {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line)),
        Err(_) if line.is_empty() => Ok(None),
        Err(_) => Ok(Some(line)),
    }
}

/// Looks at an object whenever it changes, until `done` answers something. `None` is told to it
/// where the object is gone.
///
/// # Errors
/// The server refused, `done` failed, or `deadline` passed (`late` makes the failure).
pub async fn until<T>(
    connection: &Connection,
    named: &Named,
    deadline: Option<Instant>,
    late: impl Fn() -> Failure,
    mut done: impl FnMut(Option<&Value>) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let watching = async {
        loop {
            let object = connection.find(&named.path()).await?;
            if let Some(answer) = done(object.as_ref())? {
                return Ok(answer);
            }
            if !named.resource.can("watch") || object.is_none() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let version = object.as_ref().map(|o| &o["metadata"]["resourceVersion"]);
            let version = version.and_then(Value::as_str).unwrap_or_default();
            let path = named.resource.path(Some(&named.namespace));
            let fields = format!("metadata.name={}", named.name);
            let path = with_query(&path, &[("fieldSelector", &fields)]);
            let mut watch = match watch(connection, &path, version, JSON).await {
                Ok(watch) => watch,
                Err(failure @ Failure::Connection(_)) => return Err(failure),
                // Who may get but not watch looks again and again.
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while let Ok(Some(event)) = watch.next().await {
                let object = match event.kind.as_str() {
                    "BOOKMARK" => continue,
                    "DELETED" => None,
                    _ => Some(&event.object),
                };
                if let Some(answer) = done(object)? {
                    return Ok(answer);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match deadline {
        None => watching.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, watching).await {
            Ok(ended) => ended,
            Err(_) => Err(late()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn events(text: &str) -> Result<Vec<(String, Value)>, String> {
        let mut watch = Watch { stream: text.as_bytes() };
        let mut found = Vec::new();
        while let Some(event) = watch.next().await.map_err(|failure| failure.to_string())? {
            found.push((event.kind, event.object));
        }
        Ok(found)
    }

    #[tokio::test]
    async fn a_watch_is_read_line_by_line() {
        let found =
            events("{\"type\":\"ADDED\",\"object\":1}\n\n{\"type\":\"DELETED\",\"object\":2}")
                .await
                .expect("two events");
        assert_eq!(found, [("ADDED".into(), 1.into()), ("DELETED".into(), 2.into())]);
        let gone = r#"{"type":"ERROR","object":{"reason":"Expired","message":"too old"}}"#;
        let told = events(gone).await.expect_err("an error");
        assert_eq!(told, "Error from server (Expired): too old");
        assert!(events("nonsense\n").await.expect_err("no JSON").contains("no JSON"));
    }
}
