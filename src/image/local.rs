//! What needs no registry: a file of this machine, a guest that this program carries, and image
//! layouts (OCI Image Layout Specification 1.1) as a [`Source`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;

use super::blobs::{Sink, digest_of};
use super::layer::MODULE_BYTES_MAX;
use super::manifest::{DOCUMENT_BYTES_MAX, Descriptor};
use super::problem::Problem;
use super::pull::{Fetched, Source};
use super::reference::{Version, is_digest};
use super::store::Store;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd writes the whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Takes a file of this machine into the store. Copied, so that a file that is written while its
/// pod runs harms nobody. Digest and size.
///
/// # Errors
/// It cannot be read.
pub fn add_file(path: &Path, store: &Store) -> Result<(String, u64), Problem> {
    let named = |error: io::Error| Problem::refused(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    if !file.metadata().map_err(named)?.is_file() {
        return Err(Problem::refused(format!("{}: not a regular file", path.display())));
    }
    store.blobs.add(&mut file, MODULE_BYTES_MAX).map_err(named)
}

/// An image layout on disk.
#[derive(Debug, Clone)]
pub struct Layout {
    pub dir: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// One entry of a layout's `index.json`.
#[derive(Debug, Clone)]
pub struct Entry {
    pub descriptor: Descriptor,
    /// As the tool that wrote the layout named it.
    pub name: Option<String>,
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::refused(format!("{}: {error}", path.display())))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(bytes)
}

pub fn mismatch(wanted: &str, actual: &str) -> Problem {
    Problem::refused(format!("blob {wanted} is damaged: its bytes have digest {actual}"))
}

impl Layout {
    /// What the layout holds.
    ///
    /// # Errors
    /// It is none.
    pub fn entries(&self) -> Result<Vec<Entry>, Problem> {
        let path = self.dir.join("index.json");
        let bytes = read_bounded(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Problem::refused(format!(
                "{} is no OCI image layout: it has no index.json",
                self.dir.display()
            )),
            _ => Problem::refused(format!("{}: {error}", path.display())),
        })?;
        let index: Index = parse(&path, &bytes)?;
        let name = |descriptor: &Descriptor| {
            let named = |key| descriptor.annotations.get(key).cloned();
            named(CONTAINERD_NAME).or_else(|| named(REF_NAME))
        };
        Ok(index
            .manifests
            .into_iter()
            .map(|descriptor| Entry { name: name(&descriptor), descriptor })
            .collect())
    }

    fn find(&self, version: &Version) -> Result<Option<Descriptor>, Problem> {
        let entries = self.entries()?;
        let found = entries.iter().find(|entry| match version {
            // Some tools write the whole name there.
            Version::Tag(tag) => entry.name.as_ref().is_some_and(|name| {
                name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
            }),
            Version::Digest(digest) => entry.descriptor.digest == *digest,
        });
        if let (None, Version::Tag(tag)) = (found, version) {
            let names: Vec<String> =
                entries.iter().filter_map(|entry| entry.name.clone()).collect();
            return Err(Problem::NotFound(format!(
                "{} holds no image tagged {tag:?}; it holds: {}",
                self.dir.display(),
                names.join(", ")
            )));
        }
        Ok(found.map(|entry| entry.descriptor.clone()))
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf, Problem> {
        if !is_digest(digest) {
            return Err(Problem::refused(format!("{digest:?} is no sha256 digest")));
        }
        Ok(self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))
    }

    fn read(&self, version: &Version) -> Result<Fetched, Problem> {
        let digest = match (self.find(version)?, version) {
            (Some(found), _) => found.digest,
            // Below an index, manifests are found by their blobs.
            (None, Version::Digest(digest)) => digest.clone(),
            (None, Version::Tag(_)) => unreachable!("a tag that is not there is an error"),
        };
        let path = self.blob_path(&digest)?;
        let bytes = read_bounded(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Problem::NotFound(format!("{} holds no image {digest}", self.dir.display()))
            }
            _ => Problem::refused(format!("{}: {error}", path.display())),
        })?;
        match digest_of(&bytes) {
            actual if actual == digest => Ok(Fetched { bytes, digest }),
            actual => Err(mismatch(&digest, &actual)),
        }
    }

    fn copy(&self, descriptor: &Descriptor, store: &Store) -> Result<(), Problem> {
        let path = self.blob_path(&descriptor.digest)?;
        let named = |error: io::Error| Problem::refused(format!("{}: {error}", path.display()));
        let mut file = File::open(&path).map_err(named)?;
        let mut sink = Sink::create(&store.blobs.tmp_path(), descriptor.size)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let len = file.read(&mut buffer).map_err(named)?;
            if len == 0 {
                break;
            }
            if let Err(error) = sink.write(&buffer[..len]) {
                sink.discard();
                return Err(Problem::refused(format!("blob {}: {error}", descriptor.digest)));
            }
        }
        let actual = sink.digest();
        if actual != descriptor.digest {
            sink.discard();
            return Err(mismatch(&descriptor.digest, &actual));
        }
        store.blobs.commit(sink)?;
        Ok(())
    }
}

async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::Disk(format!("the task that read broke: {error}"))))
}

#[async_trait]
impl Source for Layout {
    async fn document(&self, version: &Version) -> Result<Fetched, Problem> {
        let (layout, version) = (self.clone(), version.clone());
        aside(move || layout.read(&version)).await
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        store: &std::sync::Arc<Store>,
    ) -> Result<(), Problem> {
        let (layout, descriptor, store) = (self.clone(), descriptor.clone(), store.clone());
        aside(move || layout.copy(&descriptor, &store)).await
    }
}
