//! A blob from a registry to the disk: what breaks off is resumed where it broke, what is whole is
//! verified before it has a name.
//!
//! ```text
//! partial file ─▶ GET, Range: bytes=N- ─▶ 206 append │ 200 from the start ─▶ size, digest ─▶ blobs/
//!        ▲                                │ breaks off, stands still
//!        └──────── pause, doubling ───────┘
//! ```

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::remote::Remote;
use crate::image::blobs::{Blobs, Feed, Sink};
use crate::image::manifest::Descriptor;
use crate::image::problem::Problem;

/// A try that brought as much counts as none that failed.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Left free on the disk.
const SPARE_BYTES: u64 = 32 << 20;

/// Fetches a blob.
///
/// # Errors
/// It cannot be had, or is not what its digest says.
pub async fn blob(
    remote: &Remote,
    descriptor: &Descriptor,
    blobs: &Arc<Blobs>,
) -> Result<(), Problem> {
    check_space(blobs, descriptor)?;
    let (mut backoff, mut rng, tries) = remote.backoff();
    let mut begun = 0;
    loop {
        let problem = match once(remote, descriptor, blobs).await {
            Err(problem @ Problem::Unreachable(_)) => problem,
            other => return other,
        };
        let partial = blobs.partial_path(&descriptor.digest);
        let have = std::fs::metadata(partial).map_or(0, |meta| meta.len());
        if have >= begun + PROGRESS_BYTES {
            backoff.reset();
        }
        begun = have;
        if backoff.failures() + 1 >= tries {
            return Err(problem.doing(&format!("failed to copy blob {}", descriptor.digest)));
        }
        tracing::debug!(digest = descriptor.digest, have, %problem, "a blob is resumed");
        tokio::time::sleep(backoff.next_delay(&mut rng)).await;
    }
}

/// A disk that is too small is told before it is full.
fn check_space(blobs: &Blobs, descriptor: &Descriptor) -> Result<(), Problem> {
    let path = blobs.partial_path("");
    let Ok(disk) = rustix::fs::statvfs(&path) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let begun = std::fs::metadata(blobs.partial_path(&descriptor.digest)).map_or(0, |m| m.len());
    let needed = descriptor.size.saturating_sub(begun);
    if needed.saturating_add(SPARE_BYTES) > free {
        return Err(Problem::Disk(format!(
            "no space left: blob {} needs {needed} bytes, and {free} are free",
            descriptor.digest
        )));
    }
    Ok(())
}

async fn once(remote: &Remote, descriptor: &Descriptor, blobs: &Arc<Blobs>) -> Result<(), Problem> {
    let path = blobs.partial_path(&descriptor.digest);
    let max = descriptor.size;
    let begun = tokio::task::spawn_blocking(move || Sink::resume(&path, max)).await;
    let mut sink = begun.map_err(|error| Problem::Disk(error.to_string()))??;
    if sink.written() < descriptor.size || descriptor.size == 0 {
        let mut headers = HeaderMap::new();
        if sink.written() > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", sink.written()));
            headers.insert(header::RANGE, range.expect("ASCII"));
        }
        let path = format!("/blobs/{}", descriptor.digest);
        let response = remote.get(&path, headers).await?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT
            && starts_at(response.headers(), sink.written());
        if !resumed {
            sink.restart()?;
        }
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Problem::Unreachable("the registry resumes nothing".to_owned()));
            }
            StatusCode::PARTIAL_CONTENT if !resumed => {
                return Err(Problem::Unreachable("the registry gave another range".to_owned()));
            }
            _ => {}
        }
        sink = copy(remote, response.into_body(), sink, descriptor).await?;
    }
    let (descriptor, blobs) = (descriptor.clone(), blobs.clone());
    let done = tokio::task::spawn_blocking(move || finish(&descriptor, &blobs, sink)).await;
    done.unwrap_or_else(|error| Err(Problem::Disk(error.to_string())))
}

fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

async fn copy(
    remote: &Remote,
    mut body: hyper::body::Incoming,
    sink: Sink,
    descriptor: &Descriptor,
) -> Result<Sink, Problem> {
    let feed = Feed::start(sink);
    let arrived = loop {
        match remote.http.piece(&mut body).await {
            Ok(Some(piece)) => {
                if !feed.push(piece).await {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(problem) => break Err(problem),
        }
    };
    // What was written stays, also where the rest did not come.
    let (sink, written) = feed.end().await;
    match (sink, written) {
        (Some(sink), Err(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            sink.discard();
            Err(Problem::refused(format!(
                "{} sends more for blob {} than the {} bytes of the manifest",
                remote.label(),
                descriptor.digest,
                descriptor.size
            )))
        }
        (_, Err(error)) => Err(error.into()),
        (None, Ok(())) => Err(Problem::Disk("the writer is gone".to_owned())),
        (Some(sink), Ok(())) => arrived.map(|()| sink),
    }
}

fn finish(descriptor: &Descriptor, blobs: &Blobs, sink: Sink) -> Result<(), Problem> {
    if sink.written() < descriptor.size {
        return Err(Problem::Unreachable(format!(
            "the answer ended after {} of {} bytes",
            sink.written(),
            descriptor.size
        )));
    }
    let actual = sink.digest();
    if actual != descriptor.digest {
        // Of no use for another try.
        sink.discard();
        return Err(crate::image::local::mismatch(&descriptor.digest, &actual));
    }
    blobs.commit(sink)?;
    Ok(())
}
