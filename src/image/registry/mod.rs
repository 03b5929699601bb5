//! The cluster's own registry (OCI Distribution Specification 1.1): push, pull, mount, uploads in
//! pieces, referrers, tags, deletion, collection. Bodies are streamed, to the disk and from it.
//!
//! It knows no users: who asks and what they may do, [`Access`] tells.
//!
//! | path below `/v2/` | methods | needs |
//! |---|---|---|
//! | `` | GET | anybody who says who they are |
//! | `_catalog` | GET | shows what may be read |
//! | `NAME/manifests/TAG or DIGEST` | GET, PUT, DELETE | get, create, delete |
//! | `NAME/blobs/DIGEST` | GET, DELETE | get, delete |
//! | `NAME/blobs/uploads/`, `…/ID` | POST, PATCH, PUT, GET, DELETE | create |
//! | `NAME/tags/list`, `NAME/referrers/DIGEST` | GET | get |

mod refusal;
mod repositories;
mod route;
#[cfg(test)]
mod tests;
mod uploads;

use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::body::Body;
use http::response::Builder;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

pub use refusal::Refusal;
use repositories::Repositories;
pub use repositories::{Ages, Collected};
use route::Route;
use uploads::{Uploads, range};

use super::manifest::{DOCUMENT_BYTES_MAX, OCI_INDEX};
use super::reference::{Version, is_repository};
use crate::base::shutdown::Shutdown;

/// What a list shows at once, unless it is asked for less.
const PAGE_MAX: usize = 1000;
/// Read from the disk at once.
const PIECE_BYTES: usize = 128 << 10;
const COLLECT_EVERY: Duration = Duration::from_secs(1800);

/// What is done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Create,
    Delete,
}

impl Verb {
    /// As roles name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Delete => "delete",
        }
    }
}

/// Who asks.
#[async_trait]
pub trait Access: Send + Sync {
    /// Whether they said who they are, and truly.
    fn is_known(&self) -> bool;

    /// Whether they may; if not, why.
    async fn may(&self, verb: Verb, repository: &str) -> Result<(), String>;
}

/// See the module.
pub struct Registry {
    repositories: Arc<Repositories>,
    uploads: Arc<Uploads>,
}

type Answer = Result<Response<Body>, Refusal>;

/// One request, whose route is known.
struct Call<'a> {
    registry: &'a Registry,
    access: &'a dyn Access,
    method: Method,
    headers: HeaderMap,
    query: Vec<(String, String)>,
}

impl Registry {
    /// Opens (or makes) the registry in `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            repositories: Arc::new(Repositories::open(dir)?),
            uploads: Arc::new(Uploads::open(dir)?),
        }))
    }

    /// Answers a request.
    pub async fn serve(&self, access: &dyn Access, request: Request<Body>) -> Response<Body> {
        let mut response = match self.answer(access, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        let version = http::HeaderValue::from_static("registry/2.0");
        response.headers_mut().insert("docker-distribution-api-version", version);
        response
    }

    async fn answer(&self, access: &dyn Access, request: Request<Body>) -> Answer {
        if !access.is_known() {
            return Err(Refusal::unauthorized());
        }
        let route = Route::parse(request.uri().path())?;
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let query = query.map_err(|error| Refusal::bad("UNSUPPORTED", error.to_string()))?.0;
        let (parts, body) = request.into_parts();
        let call =
            Call { registry: self, access, method: parts.method, headers: parts.headers, query };
        match route {
            Route::Base => call.base(),
            Route::Catalog => call.catalog().await,
            Route::Blob { repository, digest } => call.blob(repository, digest).await,
            Route::Uploads { repository } => call.begin(repository, body).await,
            Route::Upload { repository, id } => call.upload(repository, id, body).await,
            Route::Manifest { repository, version } => {
                call.manifest(repository, version, body).await
            }
            Route::Tags { repository } => call.tags(repository).await,
            Route::Referrers { repository, digest } => call.referrers(repository, digest).await,
        }
    }

    /// Collects what nobody names, until `shutdown`.
    pub async fn keep_clean(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(COLLECT_EVERY) => {}
            }
            match self.collect(Ages::default()).await {
                Ok(collected) if collected != Collected::default() => {
                    tracing::info!(?collected, "the registry was cleaned up");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the registry was not cleaned up"),
            }
        }
    }

    /// Collects what nobody names and is older than `ages`.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn collect(&self, ages: Ages) -> Result<Collected, Refusal> {
        let (repositories, uploads) = (self.repositories.clone(), self.uploads.clone());
        let now = SystemTime::now();
        aside(move || {
            uploads.forget_old(now);
            Ok(repositories.collect(ages, now)?)
        })
        .await
    }
}

async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

fn built(builder: Builder, body: Body) -> Answer {
    builder.body(body).map_err(|error| Refusal::from(std::io::Error::other(error)))
}

fn with_digest(status: StatusCode, digest: &str) -> Builder {
    Response::builder()
        .status(status)
        .header("docker-content-digest", digest)
        .header(header::ETAG, format!("\"{digest}\""))
}

impl Call<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    async fn may(&self, verb: Verb, repository: &str) -> Result<(), Refusal> {
        self.access.may(verb, repository).await.map_err(Refusal::denied)
    }

    fn repositories(&self) -> Arc<Repositories> {
        self.registry.repositories.clone()
    }

    fn base(&self) -> Answer {
        if !self.reads() {
            return Err(Refusal::not_allowed());
        }
        json_answer(&json!({}), "application/json", self.is_head())
    }

    /// A page of sorted names behind `last`, and whether there are more.
    fn page(&self, all: Vec<String>) -> (Vec<String>, bool) {
        let asked = self.get("n").and_then(|n| n.parse::<usize>().ok());
        let last = self.get("last").unwrap_or_default();
        let mut rest: Vec<String> = all.into_iter().filter(|name| name.as_str() > last).collect();
        let len = asked.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let more = rest.len() > len;
        rest.truncate(len);
        (rest, more)
    }

    fn paged(
        &self,
        path: &str,
        mut body: serde_json::Value,
        key: &str,
        all: Vec<String>,
    ) -> Answer {
        let (page, more) = self.page(all);
        let next = page.last().filter(|_| more).map(|last| {
            let n = self.get("n").unwrap_or("1000");
            format!("<{path}?n={n}&last={last}>; rel=\"next\"")
        });
        body[key] = json!(page);
        let mut response = json_answer(&body, "application/json", self.is_head())?;
        if let Some(value) = next.and_then(|next| next.parse().ok()) {
            response.headers_mut().insert(header::LINK, value);
        }
        Ok(response)
    }

    async fn catalog(&self) -> Answer {
        if !self.reads() {
            return Err(Refusal::not_allowed());
        }
        let repositories = self.repositories();
        let all = aside(move || Ok(repositories.repositories()?)).await?;
        let mut readable = Vec::new();
        for name in all {
            if self.access.may(Verb::Get, &name).await.is_ok() {
                readable.push(name);
            }
        }
        self.paged("/v2/_catalog", json!({}), "repositories", readable)
    }

    async fn tags(&self, repository: String) -> Answer {
        if !self.reads() {
            return Err(Refusal::not_allowed());
        }
        self.may(Verb::Get, &repository).await?;
        let (repositories, name) = (self.repositories(), repository.clone());
        let all = aside(move || match repositories.exists(&name) {
            true => Ok(repositories.tags(&name)?),
            false => {
                Err(Refusal::missing("NAME_UNKNOWN", format!("there is no repository {name}")))
            }
        });
        let all = all.await?;
        let path = format!("/v2/{repository}/tags/list");
        self.paged(&path, json!({"name": repository}), "tags", all)
    }

    async fn referrers(&self, repository: String, digest: String) -> Answer {
        if !self.reads() {
            return Err(Refusal::not_allowed());
        }
        self.may(Verb::Get, &repository).await?;
        let repositories = self.repositories();
        let mut all = aside(move || Ok(repositories.referrers(&repository, &digest)?)).await?;
        let wanted = self.get("artifactType");
        if let Some(wanted) = wanted {
            all.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        let body = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all});
        let mut response = json_answer(&body, OCI_INDEX, self.is_head())?;
        if wanted.is_some() {
            let filtered = http::HeaderValue::from_static("artifactType");
            response.headers_mut().insert("oci-filters-applied", filtered);
        }
        Ok(response)
    }

    async fn manifest(&self, repository: String, version: Version, body: Body) -> Answer {
        let repositories = self.repositories();
        match self.method {
            Method::GET | Method::HEAD => {
                self.may(Verb::Get, &repository).await?;
                let found = aside(move || repositories.manifest(&repository, &version)).await?;
                let builder = with_digest(StatusCode::OK, &found.digest)
                    .header(header::CONTENT_TYPE, found.media_type)
                    .header(header::CONTENT_LENGTH, found.bytes.len());
                let body = if self.is_head() { Body::empty() } else { Body::from(found.bytes) };
                built(builder, body)
            }
            Method::PUT => {
                self.may(Verb::Create, &repository).await?;
                let kind = self.header(header::CONTENT_TYPE).to_owned();
                let bytes = document(body).await?;
                let (name, told) = (repository.clone(), version.clone());
                let put =
                    aside(move || repositories.put_manifest(&name, &told, &kind, &bytes)).await?;
                let (digest, subject) = put;
                let location = format!("/v2/{repository}/manifests/{digest}");
                let mut builder =
                    with_digest(StatusCode::CREATED, &digest).header(header::LOCATION, location);
                if let Some(subject) = subject {
                    builder = builder.header("oci-subject", subject);
                }
                built(builder, Body::empty())
            }
            Method::DELETE => {
                self.may(Verb::Delete, &repository).await?;
                aside(move || repositories.delete_manifest(&repository, &version)).await?;
                built(Response::builder().status(StatusCode::ACCEPTED), Body::empty())
            }
            _ => Err(Refusal::not_allowed()),
        }
    }

    async fn blob(&self, repository: String, digest: String) -> Answer {
        match self.method {
            Method::GET | Method::HEAD => {
                self.may(Verb::Get, &repository).await?;
                self.read_blob(repository, digest).await
            }
            Method::DELETE => {
                self.may(Verb::Delete, &repository).await?;
                let repositories = self.repositories();
                aside(move || repositories.unlist_blob(&repository, &digest)).await?;
                built(Response::builder().status(StatusCode::ACCEPTED), Body::empty())
            }
            _ => Err(Refusal::not_allowed()),
        }
    }

    async fn read_blob(&self, repository: String, digest: String) -> Answer {
        let repositories = self.repositories();
        let asked = digest.clone();
        let size = aside(move || {
            repositories.has(&repository, &asked).ok_or_else(|| {
                Refusal::missing("BLOB_UNKNOWN", format!("{repository} has no blob {asked}"))
            })
        });
        let size = size.await?;
        let range = part(self.header(header::RANGE), size);
        let builder = |status, len: u64| {
            with_digest(status, &digest)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::ACCEPT_RANGES, "bytes")
                .header(header::CONTENT_LENGTH, len)
        };
        let (builder, first, len) = match range {
            Part::All => (builder(StatusCode::OK, size), 0, size),
            Part::Of(first, last) => {
                let len = last - first + 1;
                let builder = builder(StatusCode::PARTIAL_CONTENT, len)
                    .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
                (builder, first, len)
            }
            Part::Outside => {
                let plain = Refusal::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "BLOB_UNKNOWN",
                    format!("the blob has {size} bytes"),
                );
                let header = Some(("content-range", format!("bytes */{size}")));
                return Err(Refusal { header, ..plain });
            }
        };
        if self.is_head() {
            return built(builder, Body::empty());
        }
        let mut file = tokio::fs::File::open(self.repositories().blobs.path(&digest)).await?;
        if first > 0 {
            file.seek(SeekFrom::Start(first)).await?;
        }
        let stream = ReaderStream::with_capacity(file.take(len), PIECE_BYTES);
        built(builder, Body::from_stream(stream))
    }

    fn accepted(&self, repository: &str, id: &str, len: u64) -> Answer {
        let builder = Response::builder()
            .status(StatusCode::ACCEPTED)
            .header(header::LOCATION, format!("/v2/{repository}/blobs/uploads/{id}"))
            .header(header::RANGE, range(len))
            .header("docker-upload-uuid", id);
        built(builder, Body::empty())
    }

    fn created(repository: &str, digest: &str) -> Answer {
        let location = format!("/v2/{repository}/blobs/{digest}");
        let builder = with_digest(StatusCode::CREATED, digest).header(header::LOCATION, location);
        built(builder, Body::empty())
    }

    async fn begin(&self, repository: String, body: Body) -> Answer {
        if self.method != Method::POST {
            return Err(Refusal::not_allowed());
        }
        self.may(Verb::Create, &repository).await?;
        if let (Some(digest), Some(from)) = (self.get("mount"), self.get("from"))
            && let Ok(digest) = route::digest(digest)
            && is_repository(from)
            && self.access.may(Verb::Get, from).await.is_ok()
        {
            let repositories = self.repositories();
            let (from, to, asked) = (from.to_owned(), repository.clone(), digest.clone());
            if aside(move || Ok(repositories.mount(&from, &to, &asked)?)).await? {
                return Self::created(&repository, &digest);
            }
        }
        let uploads = self.registry.uploads.clone();
        let name = repository.clone();
        let id = aside(move || uploads.begin(&name)).await?;
        match self.get("digest").map(str::to_owned) {
            Some(digest) => self.finish(repository, id, &digest, body).await,
            None => self.accepted(&repository, &id, 0),
        }
    }

    async fn upload(&self, repository: String, id: String, body: Body) -> Answer {
        self.may(Verb::Create, &repository).await?;
        let uploads = self.registry.uploads.clone();
        match self.method {
            Method::GET | Method::HEAD => {
                let len = uploads.len(&repository, &id).await?;
                let mut response = self.accepted(&repository, &id, len)?;
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            Method::PATCH => {
                let len = uploads.append(&repository, &id, self.from()?, body).await?;
                self.accepted(&repository, &id, len)
            }
            Method::PUT => {
                let Some(digest) = self.get("digest").map(str::to_owned) else {
                    let message = "the end of an upload names its digest: ?digest=sha256:…";
                    return Err(Refusal::bad("DIGEST_INVALID", message));
                };
                self.finish(repository, id, &digest, body).await
            }
            Method::DELETE => {
                aside(move || uploads.cancel(&repository, &id)).await?;
                built(Response::builder().status(StatusCode::NO_CONTENT), Body::empty())
            }
            _ => Err(Refusal::not_allowed()),
        }
    }

    async fn finish(&self, repository: String, id: String, digest: &str, body: Body) -> Answer {
        let digest = route::digest(digest)?;
        let from = self.from()?;
        let (uploads, repositories) = (self.registry.uploads.clone(), self.repositories());
        uploads.append(&repository, &id, from, body).await?;
        uploads.end(&repository, &id, &digest, &repositories.blobs).await?;
        let (name, asked) = (repository.clone(), digest.clone());
        aside(move || Ok(repositories.list_blob(&name, &asked)?)).await?;
        Self::created(&repository, &digest)
    }

    /// Where the piece begins, by `Content-Range: FIRST-LAST`.
    fn from(&self) -> Result<Option<u64>, Refusal> {
        let text = self.header(header::CONTENT_RANGE);
        if text.is_empty() {
            return Ok(None);
        }
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let first = text.split('-').next().and_then(|first| first.trim().parse().ok());
        first.map(Some).ok_or_else(|| {
            Refusal::bad("BLOB_UPLOAD_INVALID", format!("Content-Range {text:?} is not FIRST-LAST"))
        })
    }
}

fn json_answer(body: &serde_json::Value, kind: &'static str, head: bool) -> Answer {
    let text = body.to_string();
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, text.len());
    built(builder, if head { Body::empty() } else { Body::from(text) })
}

async fn document(body: Body) -> Result<Vec<u8>, Refusal> {
    let max = usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX);
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes().to_vec()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "MANIFEST_INVALID",
            "a manifest may have 4 MiB",
        )),
        Err(error) => Err(Refusal::bad("MANIFEST_INVALID", format!("the body broke off: {error}"))),
    }
}

/// What of a blob is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// First and last byte.
    Of(u64, u64),
    Outside,
}

/// Reads `Range` (RFC 9110, 14.2): one range of bytes; what is none counts as not there.
fn part(text: &str, size: u64) -> Part {
    let Some(range) = text.strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Part::All;
    };
    let Some((first, last)) = range.split_once('-') else { return Part::All };
    let (first, last) = (first.trim(), last.trim());
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), _) if first >= size => Part::Outside,
        (Ok(first), Ok(last)) if last < first => Part::All,
        (Ok(first), Ok(last)) => Part::Of(first, last.min(size - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Part::Of(first, size - 1),
        (Err(_), Ok(0)) if first.is_empty() => Part::Outside,
        (Err(_), Ok(count)) if first.is_empty() && size > 0 => {
            Part::Of(size.saturating_sub(count), size - 1)
        }
        _ => Part::All,
    }
}
