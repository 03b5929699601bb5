//! Keeps an informer's picture: list once, then watch, and begin again where that is the only way.
//!
//! ```text
//!   List(page…) ──last page──▶ Watch(rv) ──connected──▶ Stream(rv) ──┐ events, bookmarks move rv
//!     ▲   │ error                │ error                 │ ▲─────────┘
//!     │   ▼                      ▼                       │ ended, broken
//!     │  wait, List again       wait, Watch again ◀──────┘
//!     └────────────── 410 (rv or continue token too old), from anywhere
//! ```
//!
//! **Invariant:** `rv` is the version of the last change applied, so that no change between list
//! and watch, or between two watches, is lost.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use http::{Request, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::wire::{self, Events};
use super::{Informer, Source};
use crate::base::backoff::Backoff;
use crate::base::rng::Rng;
use crate::client::meta::{Key, Object};
use crate::client::rest;

/// A watch that ends sooner than this counts as failed, so that a server that closes every
/// connection at once is not asked in a tight loop.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Listed<K> {
    #[serde(default)]
    metadata: ListMeta,
    items: Vec<K>,
}

enum State<K, P> {
    List { token: Option<String>, gathered: Vec<(Key, P)> },
    Watch { rv: String },
    Stream { rv: String, events: Events<K>, since: Instant },
}

impl<K, P> State<K, P> {
    fn fresh() -> Self {
        Self::List { token: None, gathered: Vec::new() }
    }
}

pub(super) struct Reflector<K, P> {
    client: kube::Client,
    source: Source,
    project: Box<dyn Fn(K) -> Option<P> + Send + Sync>,
    informer: Informer<P>,
    backoff: Backoff,
    rng: Rng,
}

impl<K, P> Reflector<K, P>
where
    K: Object + DeserializeOwned + Send + 'static,
    P: Send + Sync + 'static,
{
    pub(super) fn new(
        client: kube::Client,
        source: Source,
        project: Box<dyn Fn(K) -> Option<P> + Send + Sync>,
        informer: Informer<P>,
        seed: u64,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        Self { client, source, project, informer, backoff, rng: Rng::seeded(seed) }
    }

    pub(super) async fn run(mut self) {
        let mut state = State::fresh();
        loop {
            state = self.step(state).await;
        }
    }

    async fn step(&mut self, state: State<K, P>) -> State<K, P> {
        match state {
            State::List { token, gathered } => self.list(token, gathered).await,
            State::Watch { rv } => self.watch(rv).await,
            State::Stream { rv, events, since } => self.stream(rv, events, since).await,
        }
    }

    async fn list(&mut self, token: Option<String>, mut gathered: Vec<(Key, P)>) -> State<K, P> {
        let mut query = self.query();
        query.append_pair("limit", &self.source.page.to_string());
        if let Some(token) = &token {
            query.append_pair("continue", token);
        }
        let path = query.finish(&self.source.path);
        let answer = match self.request(&path, rest::ACCEPT_PARTIAL_LIST) {
            Ok(request) => wire::list::<Listed<K>>(&self.client, request).await,
            Err(error) => Err(error),
        };
        let page = match answer {
            Ok(page) => page,
            // The token is too old: what was gathered may be as well.
            Err(error) if rest::code(&error) == Some(410) && token.is_some() => {
                return State::fresh();
            }
            Err(error) => {
                self.wait("list failed", &error).await;
                return State::List { token, gathered };
            }
        };
        for item in page.items {
            let key = Key::of(item.meta());
            if let Some(object) = (self.project)(item) {
                gathered.push((key, object));
            }
        }
        if let Some(next) = page.metadata.continue_.filter(|token| !token.is_empty()) {
            return State::List { token: Some(next), gathered };
        }
        self.backoff.reset();
        self.replace(gathered);
        self.informer.set_synced();
        State::Watch { rv: page.metadata.resource_version.unwrap_or_default() }
    }

    /// Makes the picture be `objects` and nothing else.
    fn replace(&self, objects: Vec<(Key, P)>) {
        let kept: HashSet<Key> = objects.iter().map(|(key, _)| key.clone()).collect();
        for key in self.informer.keys().into_iter().filter(|key| !kept.contains(key)) {
            self.informer.apply(&key, None);
        }
        for (key, object) in objects {
            self.informer.apply(&key, Some(object));
        }
    }

    async fn watch(&mut self, rv: String) -> State<K, P> {
        // Spread over five minutes, so that the watches of many clients do not end together.
        let timeout = 240 + self.rng.below(60);
        let mut query = self.query();
        query.append_pair("watch", "true");
        query.append_pair("allowWatchBookmarks", "true");
        query.append_pair("resourceVersion", &rv);
        query.append_pair("timeoutSeconds", &timeout.to_string());
        let path = query.finish(&self.source.path);
        let events = match self.request(&path, rest::ACCEPT_PARTIAL) {
            Ok(request) => wire::events::<K>(&self.client, request).await,
            Err(error) => Err(error),
        };
        match events {
            Ok(events) => State::Stream { rv, events, since: Instant::now() },
            Err(error) if rest::code(&error) == Some(410) => State::fresh(),
            Err(error) => {
                self.wait("watch failed", &error).await;
                State::Watch { rv }
            }
        }
    }

    async fn stream(
        &mut self,
        mut rv: String,
        mut events: Events<K>,
        since: Instant,
    ) -> State<K, P> {
        loop {
            let event = match events.next().await {
                Some(Ok(event)) => event,
                Some(Err(kube::Error::SerdeError(error))) => {
                    tracing::warn!(path = %self.source.path, %error,
                        "an object could not be read and is left out");
                    continue;
                }
                Some(Err(error)) if rest::code(&error) == Some(410) => return State::fresh(),
                Some(Err(error)) => {
                    self.wait("watch broke", &error).await;
                    return State::Watch { rv };
                }
                None if since.elapsed() < SHORTEST_WATCH => {
                    let delay = self.backoff.next_delay(&mut self.rng);
                    tokio::time::sleep(delay).await;
                    return State::Watch { rv };
                }
                None => return State::Watch { rv },
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    note(&mut rv, object.meta().resource_version.as_deref());
                    let key = Key::of(object.meta());
                    let projected = (self.project)(object);
                    self.informer.apply(&key, projected);
                }
                WatchEvent::Deleted(object) => {
                    note(&mut rv, object.meta().resource_version.as_deref());
                    self.informer.apply(&Key::of(object.meta()), None);
                }
                WatchEvent::Bookmark(bookmark) => {
                    note(&mut rv, Some(&bookmark.metadata.resource_version));
                }
                WatchEvent::Error(status) if status.code == 410 => return State::fresh(),
                WatchEvent::Error(status) => {
                    self.wait("watch broke", &kube::Error::Api(status)).await;
                    return State::Watch { rv };
                }
            }
            self.backoff.reset();
        }
    }

    async fn wait(&mut self, what: &'static str, error: &kube::Error) {
        let delay = self.backoff.next_delay(&mut self.rng);
        tracing::info!(path = %self.source.path, what, %error,
            delay_ms = delay.as_millis() as u64, "the watch begins again after a pause");
        tokio::time::sleep(delay).await;
    }

    fn query(&self) -> Query {
        let mut query = Query(String::new());
        if !self.source.labels.is_empty() {
            query.append_pair("labelSelector", &self.source.labels);
        }
        if !self.source.fields.is_empty() {
            query.append_pair("fieldSelector", &self.source.fields);
        }
        query
    }

    fn request(&self, path: &str, partial: &'static str) -> Result<Request<Vec<u8>>, kube::Error> {
        let accept = if self.source.metadata_only { partial } else { "application/json" };
        Request::get(path)
            .header(header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)
    }
}

fn note(rv: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        rv.clear();
        rv.push_str(seen);
    }
}

/// A query string in the making.
struct Query(String);

impl Query {
    fn append_pair(&mut self, name: &str, value: &str) {
        use std::fmt::Write;
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    self.0.push(char::from(byte));
                }
                _ => write!(self.0, "%{byte:02X}").expect("writing to a string cannot fail"),
            }
        }
    }

    fn finish(self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}
