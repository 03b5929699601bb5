//! Blobs on their way in: begun, gone on with in pieces that follow one another, ended by their
//! digest.
//!
//! ```text
//! POST ─▶ uploads/ID ─▶ PATCH 0-99 ─▶ PATCH 100-… ─▶ PUT ?digest= ─▶ verified ─▶ blobs/
//!                          └──────── may break off; GET tells how far it came
//! ```

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::image::blobs::{Blobs, Feed, Sink};

/// No blob is larger.
const BLOB_BYTES_MAX: u64 = 32 << 30;
/// Uploads that may be open.
const UPLOADS_MAX: usize = 512;
/// A client that sends nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// An upload that nobody went on with is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Upload {
    repository: String,
    /// None until somebody goes on with it after a start of the server.
    sink: tokio::sync::Mutex<Option<Sink>>,
}

/// See the module.
pub struct Uploads {
    dir: PathBuf,
    open: Mutex<HashMap<String, Arc<Upload>>>,
}

fn unknown() -> Refusal {
    Refusal::missing("BLOB_UPLOAD_UNKNOWN", "there is no such upload: begin it again")
}

impl Uploads {
    /// Opens (or makes) the directory below `dir`, with the uploads that are there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("uploads");
        fs::create_dir_all(&dir)?;
        let mut open = HashMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if let Some(id) = id.strip_suffix(".of")
                && let Ok(repository) = fs::read_to_string(&path)
            {
                let sink = tokio::sync::Mutex::new(None);
                open.insert(id.to_owned(), Arc::new(Upload { repository, sink }));
            }
        }
        Ok(Self { dir, open: Mutex::new(open) })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Begins an upload; its id.
    ///
    /// # Errors
    /// There are too many.
    pub fn begin(&self, repository: &str) -> Result<String, Refusal> {
        let mut bytes = [0u8; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| Refusal::from(io::Error::other("the system has no randomness")))?;
        let id = hex::encode(bytes);
        let mut open = self.open.lock();
        if open.len() >= UPLOADS_MAX {
            let message = format!("{UPLOADS_MAX} uploads are open: end some, or try again later");
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message));
        }
        let sink = Sink::create(&self.path(&id), BLOB_BYTES_MAX)?;
        fs::write(self.dir.join(format!("{id}.of")), repository)?;
        let upload =
            Upload { repository: repository.to_owned(), sink: tokio::sync::Mutex::new(Some(sink)) };
        open.insert(id.clone(), Arc::new(upload));
        Ok(id)
    }

    fn find(&self, repository: &str, id: &str) -> Result<Arc<Upload>, Refusal> {
        let found = self.open.lock().get(id).cloned();
        found.filter(|upload| upload.repository == repository).ok_or_else(unknown)
    }

    async fn sink(&self, upload: &mut Option<Sink>, id: &str) -> Result<Sink, Refusal> {
        if let Some(sink) = upload.take() {
            return Ok(sink);
        }
        let path = self.path(id);
        let resumed = tokio::task::spawn_blocking(move || {
            if !path.exists() {
                return Err(unknown());
            }
            Ok(Sink::resume(&path, BLOB_BYTES_MAX)?)
        });
        resumed.await.map_err(|error| Refusal::from(io::Error::other(error)))?
    }

    /// How many bytes are here.
    ///
    /// # Errors
    /// There is no such upload.
    pub async fn len(&self, repository: &str, id: &str) -> Result<u64, Refusal> {
        let upload = self.find(repository, id)?;
        let mut held = upload.sink.lock().await;
        let sink = self.sink(&mut held, id).await?;
        let len = sink.written();
        *held = Some(sink);
        Ok(len)
    }

    /// Appends a body; `from` is where its sender believes to be. How many bytes are here then.
    ///
    /// # Errors
    /// It does not follow what is here, breaks off or is too long; what came stays.
    pub async fn append(
        &self,
        repository: &str,
        id: &str,
        from: Option<u64>,
        body: Body,
    ) -> Result<u64, Refusal> {
        let upload = self.find(repository, id)?;
        let mut held = upload.sink.lock().await;
        let sink = self.sink(&mut held, id).await?;
        let len = sink.written();
        if from.is_some_and(|from| from != len) {
            *held = Some(sink);
            let message = format!("the upload is at byte {len}");
            let refusal =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message);
            return Err(Refusal { header: Some(("range", range(len))), ..refusal });
        }
        let (sink, result) = take(sink, body).await;
        let len = sink.as_ref().map_or(0, Sink::written);
        *held = sink;
        result.map(|()| len)
    }

    /// Ends an upload: what is here must have this digest.
    ///
    /// # Errors
    /// It has not.
    pub async fn end(
        &self,
        repository: &str,
        id: &str,
        digest: &str,
        blobs: &Arc<Blobs>,
    ) -> Result<(), Refusal> {
        let upload = self.find(repository, id)?;
        let mut held = upload.sink.lock().await;
        let sink = self.sink(&mut held, id).await?;
        let actual = sink.digest();
        let (blobs, wanted) = (blobs.clone(), digest.to_owned());
        let ended = tokio::task::spawn_blocking(move || {
            if actual != wanted {
                sink.discard();
                let message = format!("what was sent has digest {actual}, not {wanted}");
                return Err(Refusal::bad("DIGEST_INVALID", message));
            }
            blobs.commit(sink)?;
            Ok(())
        });
        let ended = ended.await.map_err(|error| Refusal::from(io::Error::other(error)))?;
        self.forget(id);
        ended
    }

    /// Breaks an upload off.
    ///
    /// # Errors
    /// There is no such upload.
    pub fn cancel(&self, repository: &str, id: &str) -> Result<(), Refusal> {
        self.find(repository, id)?;
        self.forget(id);
        Ok(())
    }

    fn forget(&self, id: &str) {
        self.open.lock().remove(id);
        let _ = fs::remove_file(self.path(id));
        let _ = fs::remove_file(self.dir.join(format!("{id}.of")));
    }

    /// Forgets uploads that nobody went on with.
    pub fn forget_old(&self, now: SystemTime) {
        let ids: Vec<String> = self.open.lock().keys().cloned().collect();
        for id in ids {
            let modified = fs::metadata(self.path(&id)).and_then(|meta| meta.modified());
            let since = modified.ok().and_then(|at| now.duration_since(at).ok());
            if since.is_none_or(|since| since >= FORGOTTEN_AFTER) {
                self.forget(&id);
            }
        }
    }
}

/// As `Range` tells how far an upload is.
pub fn range(len: u64) -> String {
    format!("0-{}", len.saturating_sub(1))
}

async fn take(sink: Sink, mut body: Body) -> (Option<Sink>, Result<(), Refusal>) {
    let feed = Feed::start(sink);
    let arrived = loop {
        match tokio::time::timeout(IDLE, body.frame()).await {
            Ok(None) => break Ok(()),
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data()
                    && !feed.push(piece).await
                {
                    break Ok(());
                }
            }
            Ok(Some(Err(error))) => {
                let message = format!("the body broke off: {error}");
                break Err(Refusal::bad("BLOB_UPLOAD_INVALID", message));
            }
            Err(_) => {
                let message = format!("no byte came for {} s", IDLE.as_secs());
                break Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "BLOB_UPLOAD_INVALID",
                    message,
                ));
            }
        }
    };
    let (sink, written) = feed.end().await;
    let written = written.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "a blob may have 32 GiB")
        }
        _ => error.into(),
    });
    (sink, written.and(arrived))
}
