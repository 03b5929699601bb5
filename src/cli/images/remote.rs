//! The cluster's registry over the connection of the Kubernetes API: same address, same
//! credentials.

use std::io::Read;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::Value;

use crate::cli::call::{Connection, escape};
use crate::cli::failure::Failure;
use crate::image::Version;
use crate::image::manifest::{ACCEPTED, DOCUMENT_BYTES_MAX};

/// What is sent at once: never a whole blob.
const PIECE_BYTES: usize = 4 << 20;

/// See the module.
pub struct Remote<'a>(pub &'a Connection);

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Document {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: String,
}

fn header_of(response: &Response<Body>, name: header::HeaderName) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

impl Remote<'_> {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Vec<u8>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(body)
            .map_err(|error| Failure::usage(format!("{path} is no path: {error}")))?;
        self.0.raw(request).await
    }

    async fn collect(&self, response: Response<Body>) -> Result<Bytes, Failure> {
        let max = usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX);
        let collected = Limited::new(response.into_body(), max).collect().await;
        let collected = collected
            .map_err(|error| Failure::other(format!("the registry's answer broke off: {error}")))?;
        Ok(collected.to_bytes())
    }

    /// What the registry says of a request that it refused.
    async fn refused(&self, response: Response<Body>) -> Failure {
        let status = response.status();
        let body = self.collect(response).await.unwrap_or_default();
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let entry = said.as_ref().map(|said| &said["errors"][0]);
        match entry.and_then(|entry| Some((entry["code"].as_str()?, entry["message"].as_str()?))) {
            Some(("UNAUTHORIZED", message)) => {
                Failure::other(format!("the registry does not know who you are: {message}"))
            }
            Some((code, message)) => {
                Failure::other(format!("the registry refuses: {code}: {message}"))
            }
            None if status == StatusCode::NOT_FOUND => Failure::other(
                "the server has no registry of images: is it a `coracle server`?".to_owned(),
            ),
            None => Failure::other(format!("the registry answered {status}")),
        }
    }

    async fn expect(
        &self,
        response: Response<Body>,
        status: StatusCode,
    ) -> Result<Response<Body>, Failure> {
        match response.status() == status {
            true => Ok(response),
            false => Err(self.refused(response).await),
        }
    }

    /// A manifest; none where it is not there.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn manifest(
        &self,
        repository: &str,
        version: &Version,
    ) -> Result<Option<Document>, Failure> {
        let path = format!("/v2/{repository}/manifests/{version}");
        let accept = [(header::ACCEPT, ACCEPTED.join(", "))];
        let response = self.ask(Method::GET, &path, &accept, Vec::new()).await?;
        if response.status() == StatusCode::NOT_FOUND
            && response.headers().contains_key("docker-distribution-api-version")
        {
            return Ok(None);
        }
        let response = self.expect(response, StatusCode::OK).await?;
        let media_type = header_of(&response, header::CONTENT_TYPE);
        let bytes = self.collect(response).await?.to_vec();
        let digest = crate::image::blobs::digest_of(&bytes);
        Ok(Some(Document { bytes, media_type, digest }))
    }

    /// Puts a manifest whose blobs are there.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn put_manifest(
        &self,
        repository: &str,
        version: &Version,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let path = format!("/v2/{repository}/manifests/{version}");
        let kind = [(header::CONTENT_TYPE, media_type.to_owned())];
        let response = self.ask(Method::PUT, &path, &kind, bytes.to_vec()).await?;
        self.expect(response, StatusCode::CREATED).await.map(drop)
    }

    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn has_blob(&self, repository: &str, digest: &str) -> Result<bool, Failure> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.ask(Method::HEAD, &path, &[], Vec::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(response).await),
        }
    }

    /// Sends a blob, unless it is there.
    ///
    /// # Errors
    /// What the registry says, or that the file cannot be read.
    pub async fn push_blob(
        &self,
        repository: &str,
        digest: &str,
        from: &mut (dyn Read + Send),
    ) -> Result<(), Failure> {
        if self.has_blob(repository, digest).await? {
            return Ok(());
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.ask(Method::POST, &path, &[], Vec::new()).await?;
        let begun = self.expect(begun, StatusCode::ACCEPTED).await?;
        let mut location = header_of(&begun, header::LOCATION);
        let mut sent = 0usize;
        loop {
            let mut piece = Vec::new();
            from.take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)
                .map_err(|error| Failure::other(format!("blob {digest}: {error}")))?;
            if piece.is_empty() {
                break;
            }
            let last = sent + piece.len() - 1;
            let range = [(header::CONTENT_RANGE, format!("{sent}-{last}"))];
            sent += piece.len();
            let taken = self.ask(Method::PATCH, &location, &range, piece).await?;
            let taken = self.expect(taken, StatusCode::ACCEPTED).await?;
            location = header_of(&taken, header::LOCATION);
        }
        let joint = if location.contains('?') { '&' } else { '?' };
        let end = format!("{location}{joint}digest={}", escape(digest));
        let ended = self.ask(Method::PUT, &end, &[], Vec::new()).await?;
        self.expect(ended, StatusCode::CREATED).await.map(drop)
    }

    /// The bytes of a blob, as a stream.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn open_blob(&self, repository: &str, digest: &str) -> Result<Body, Failure> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.ask(Method::GET, &path, &[], Vec::new()).await?;
        Ok(self.expect(response, StatusCode::OK).await?.into_body())
    }

    /// All of a list that comes in pages.
    async fn all(&self, path: &str, key: &str) -> Result<Vec<String>, Failure> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let page = match all.last() {
                Some(last) => format!("{path}?n=1000&last={}", escape(last)),
                None => format!("{path}?n=1000"),
            };
            let response = self.ask(Method::GET, &page, &[], Vec::new()).await?;
            let response = self.expect(response, StatusCode::OK).await?;
            let more = response.headers().contains_key(header::LINK);
            let body: Value = serde_json::from_slice(&self.collect(response).await?)
                .map_err(|error| Failure::other(format!("{path}: no JSON: {error}")))?;
            let names = body[key].as_array().into_iter().flatten();
            let before = all.len();
            all.extend(names.filter_map(Value::as_str).map(str::to_owned));
            if !more || all.len() == before {
                return Ok(all);
            }
        }
    }

    /// The repositories that may be read.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn repositories(&self) -> Result<Vec<String>, Failure> {
        self.all("/v2/_catalog", "repositories").await
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, Failure> {
        self.all(&format!("/v2/{repository}/tags/list"), "tags").await
    }

    /// Removes a tag, or a manifest.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn delete(&self, repository: &str, version: &Version) -> Result<(), Failure> {
        let path = format!("/v2/{repository}/manifests/{version}");
        let response = self.ask(Method::DELETE, &path, &[], Vec::new()).await?;
        self.expect(response, StatusCode::ACCEPTED).await.map(drop)
    }
}
