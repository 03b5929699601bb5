//! One watch request: initial events, what was missed, then what happens.
//!
//! ```text
//! initial (list, ADDED each) ─▶ catching up (store watch up to the hub's position) ─▶ live (queue)
//!                                    │ revision gone                                 │
//!                                    └─▶ ERROR 410, end      queue lost, timeout: end ◀┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::time::Instant;

use super::told::{self, Kind, Told};
use super::{Interest, Subscription};
use crate::api::status::{ApiError, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding::ListMeta;
use crate::apiserver::filter::Filter;
use crate::apiserver::negotiate::{Form, Media};
use crate::apiserver::registry::convert::{Converting, in_version};
use crate::apiserver::registry::read::{ListOptions, parse_version};
use crate::apiserver::registry::{Registry, store_error};
use crate::base::clock::SharedClock;
use crate::store::{Event, Notice, Revision, StoreError, WatchStream};

/// How often an idle watcher that allows it is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// `metav1.ListOptions`, as far as watches go.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    pub list: ListOptions,
    pub bookmarks: bool,
    pub initial_events: Option<bool>,
    /// After this the stream ends.
    pub timeout: Duration,
    pub form: Form,
    pub media: Media,
}

/// A watch that was begun.
pub struct Watcher {
    resource: Arc<Resource>,
    namespace: Option<String>,
    filter: Filter,
    form: Form,
    media: Media,
    clock: SharedClock,
    converter: Converting,
    pending: VecDeque<Bytes>,
    catching_up: Option<WatchStream>,
    subscription: Subscription,
    /// Events up to this one were told.
    told: Revision,
    /// Ends the stream once `pending` is told.
    ended: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
}

impl Registry {
    /// Begin to watch.
    ///
    /// # Errors
    /// 400 and 422 for options that say nothing sound. A revision that is gone is no error here
    /// but the watch's first event, as in Kubernetes.
    pub(crate) async fn watch_as(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<Watcher, ApiError> {
        let version = check_options(&options)?;
        let filter = options.list.filter.clone();
        let interest = interest(resource, namespace, &filter);
        let subscription = self.hubs.subscribe(resource, interest).await;
        let subscription = subscription.map_err(|e| store_error(&e))?;
        let now = Instant::now();
        let mut watcher = Watcher {
            resource: resource.clone(),
            namespace: namespace.map(str::to_owned),
            filter,
            form: options.form,
            media: options.media,
            clock: self.clock.clone(),
            converter: self.converting(),
            pending: VecDeque::new(),
            catching_up: None,
            told: subscription.joined,
            subscription,
            ended: false,
            bookmarks: options.bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            deadline: now + options.timeout,
        };
        let from_now_on = version.is_none() && options.initial_events == Some(false);
        let resumes = version.filter(|v| *v > 0 && options.initial_events != Some(true));
        match resumes {
            Some(version) => watcher.resume(self, version).await?,
            None if from_now_on
                || (version == Some(0) && options.initial_events == Some(false)) =>
            {
                watcher.told = self.revision();
            }
            None => watcher.begin(self, options.initial_events == Some(true)).await?,
        }
        Ok(watcher)
    }
}

/// The rules of `sendInitialEvents`. Answers the resourceVersion.
fn check_options(options: &WatchOptions) -> Result<Option<Revision>, ApiError> {
    let refuse = |field: &str, why: &str| {
        let error = crate::api::status::FieldError {
            kind: crate::api::status::FieldErrorKind::Forbidden,
            path: field.into(),
            message: format!("Forbidden: {why}"),
        };
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &[error]))
    };
    let matched = options.list.version_match.as_str();
    match options.initial_events {
        Some(true) if !options.bookmarks => {
            return refuse(
                "sendInitialEvents",
                "sendInitialEvents requires setting allowWatchBookmarks to true",
            );
        }
        Some(_) if matched != "NotOlderThan" => {
            return refuse(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        None if !matched.is_empty() => {
            return refuse(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        _ => {}
    }
    parse_version(&options.list.resource_version)
}

fn interest(resource: &Resource, namespace: Option<&str>, filter: &Filter) -> Interest {
    let placed = !resource.namespaced() || namespace.is_some();
    if let (Some(name), true) = (filter.wanted_name(), placed) {
        return Interest::Key(resource.kind.key(namespace.unwrap_or_default(), name));
    }
    let field = super::hub::index_field(resource).and_then(|index| filter.wanted_field(index));
    match (field, namespace) {
        (Some(value), _) => Interest::Field(value.to_owned()),
        (None, Some(namespace)) if resource.namespaced() => {
            Interest::Namespace(namespace.to_owned())
        }
        _ => Interest::All,
    }
}

impl Watcher {
    /// Tell everything that is there, then go on.
    async fn begin(&mut self, registry: &Registry, bookmark: bool) -> Result<(), ApiError> {
        let options = ListOptions { filter: self.filter.clone(), ..ListOptions::default() };
        let listed = registry.list_as(&self.resource, self.namespace.as_deref(), &options).await?;
        let now = self.clock.now();
        for entry in &listed.entries {
            let line =
                told::line(&self.resource, (self.form, self.media), Kind::Added, entry, now)?;
            self.pending.push_back(line);
        }
        self.told = listed.meta.revision;
        if bookmark {
            let line = self.bookmark(self.told, true);
            self.pending.push_back(line);
        }
        Ok(())
    }

    /// Go on after a revision.
    async fn resume(&mut self, registry: &Registry, after: Revision) -> Result<(), ApiError> {
        self.told = after;
        if after >= self.subscription.joined {
            return Ok(());
        }
        let prefix = self.subscription.hub.prefix().to_owned();
        match registry.store.watch(&prefix, after).await {
            Ok(notices) => {
                self.catching_up = Some(notices);
                registry.store.progress(&prefix);
            }
            Err(error @ StoreError::Compacted { .. }) => self.fail(&store_error(&error)),
            Err(error) => return Err(store_error(&error)),
        }
        Ok(())
    }

    /// The lines of the stream.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send {
        futures::stream::unfold(self, |mut watcher| async move {
            watcher.next().await.map(|line| (line, watcher))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            if self.catching_up.is_some() {
                self.catch_up().await;
                continue;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.deadline) => self.ended = true,
                () = self.subscription.ending.cancelled() => self.ended = true,
                told = self.subscription.queue.recv() => match told {
                    Some(told) => self.tell(&told).await,
                    None => self.ended = true,
                },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.mark().await;
                }
            }
        }
    }

    /// One notice of what was missed.
    async fn catch_up(&mut self) {
        let Some(notices) = self.catching_up.as_mut() else { return };
        let joined = self.subscription.joined;
        match notices.next().await {
            Some(Ok(Notice::Event(event))) if event.revision <= joined => {
                self.tell(&Told::new(event)).await;
            }
            Some(Ok(Notice::Progress(revision))) if revision < joined => {}
            Some(Ok(_)) => self.catching_up = None,
            Some(Err(error @ StoreError::Compacted { .. })) => self.fail(&store_error(&error)),
            Some(Err(_)) | None => self.ended = true,
        }
        if self.told >= joined {
            self.catching_up = None;
        }
    }

    async fn tell(&mut self, told: &Told) {
        let event: &Event = &told.event;
        if event.revision <= self.told {
            return;
        }
        self.told = event.revision;
        if !self.is_in_namespace(&event.entry.key) {
            return;
        }
        let Some(kind) = told.seen_by(&self.filter) else { return };
        let now = self.clock.now();
        let line = match self.resource.kind.custom.as_deref() {
            // What a webhook converts is not shared.
            Some(custom) if custom.webhook.is_object() => {
                let (converter, resource) = (self.converter.clone(), self.resource.clone());
                let form = (self.form, self.media);
                let entries = vec![event.entry.clone()];
                let entries = in_version(&converter, &resource, entries).await;
                entries.and_then(|all| told::line(&resource, form, kind, &all[0], now))
            }
            _ => told.line(&self.resource, (self.form, self.media), kind, now),
        };
        match line {
            Ok(line) => self.pending.push_back(line),
            Err(error) => self.fail(&error),
        }
    }

    fn is_in_namespace(&self, key: &str) -> bool {
        match &self.namespace {
            Some(namespace) if self.resource.namespaced() => {
                crate::apiserver::filter::namespace_of(key) == namespace
            }
            _ => true,
        }
    }

    /// Tell how far the watch is, if nothing waits to be told.
    async fn mark(&mut self) {
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
        let position = self.subscription.hub.position();
        // Read the queue after the position: what was handed out before it is in there.
        if let Ok(told) = self.subscription.queue.try_recv() {
            self.tell(&told).await;
        } else if position > self.told {
            self.told = position;
            let line = self.bookmark(position, false);
            self.pending.push_back(line);
        } else if self.told > 0 {
            let line = self.bookmark(self.told, false);
            self.pending.push_back(line);
        }
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({
                "kind": self.resource.kind.kind,
                "apiVersion": self.resource.api_version,
                "metadata": metadata,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
            Form::Table(_) => {
                let meta = ListMeta { revision, ..ListMeta::default() };
                crate::apiserver::table::of_rows(&self.resource, &meta, Vec::new())
            }
        };
        self.line_of("BOOKMARK", &object)
    }

    fn fail(&mut self, error: &ApiError) {
        let mut status = error.clone();
        if status.reason == Reason::Gone {
            status.reason = Reason::Expired;
        }
        self.pending.push_back(self.line_of("ERROR", &status.to_status()));
        self.ended = true;
    }

    fn line_of(&self, kind: &str, object: &serde_json::Value) -> Bytes {
        if self.media == Media::Protobuf
            && let Ok(frame) = told::frame(kind, object)
        {
            return frame;
        }
        format!("{}\n", json!({"type": kind, "object": object})).into()
    }
}
