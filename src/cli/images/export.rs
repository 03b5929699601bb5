//! `images export`: from the cluster's registry to one file that is an OCI layout, for
//! `images import` elsewhere, and for Docker and containerd.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::remote::{Document as Found, Remote};
use super::{human, registry_name};
use crate::cli::call::Connection;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::image::manifest::{Document, OCI_INDEX};
use crate::image::{Name, Version};

/// A tar that is written as it comes, so that no blob is ever whole in memory.
struct Tar {
    file: BufWriter<File>,
    label: String,
}

impl Tar {
    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::other(format!("{}: {error}", self.label))
    }

    fn begin(&mut self, name: &str, size: u64) -> Result<(), Failure> {
        let mut header = tar::Header::new_ustar();
        let set = header.set_path(name);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        let written = set.and_then(|()| self.file.write_all(header.as_bytes()));
        written.map_err(|error| self.failed(&error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| self.failed(&error))
    }

    fn end(&mut self, size: u64) -> Result<(), Failure> {
        let rest = usize::try_from(size % 512).unwrap_or(0);
        self.write(&vec![0; (512 - rest) % 512])
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let size = bytes.len() as u64;
        self.begin(name, size)?;
        self.write(bytes)?;
        self.end(size)
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

/// What goes into the file.
#[derive(Default)]
struct Contents {
    documents: BTreeMap<String, Vec<u8>>,
    /// Repository and size of each blob by its digest.
    blobs: BTreeMap<String, (String, u64)>,
    index: Vec<Value>,
    /// For `docker load`.
    saved: Vec<Value>,
}

/// Writes images into a file.
///
/// # Errors
/// No server, a name that is not there, a file that cannot be written.
pub async fn run(
    output: &Path,
    names: &[String],
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let remote = Remote(connection);
    let mut contents = Contents::default();
    for text in names {
        let name = registry_name(text)?;
        let repository = name.cluster_repository();
        let found = remote.manifest(&repository, &name.version).await?;
        let found = found.ok_or_else(|| {
            Failure::other(format!("{text} is not in the cluster's registry: `coracle images ls`"))
        })?;
        contents.add(&remote, &repository, &name, found).await?;
    }
    let label = output.display().to_string();
    let part = output.with_extension("part");
    let file = File::create(&part)
        .map_err(|error| Failure::other(format!("{}: {error}", part.display())))?;
    let mut tar = Tar { file: BufWriter::new(file), label: label.clone() };
    let written = contents.write(&remote, &mut tar).await;
    let size = match written {
        Ok(size) => size,
        Err(failure) => {
            let _ = std::fs::remove_file(&part);
            return Err(failure);
        }
    };
    std::fs::rename(&part, output).map_err(|error| Failure::other(format!("{label}: {error}")))?;
    out.line(format!("exported {} images to {label} ({})", names.len(), human(size)))
}

impl Contents {
    async fn add(
        &mut self,
        remote: &Remote<'_>,
        repository: &str,
        name: &Name,
        found: Found,
    ) -> Result<(), Failure> {
        let wrong = |why: String| Failure::other(format!("{name}: {why}"));
        let document = Document::parse(&found.bytes).map_err(wrong)?;
        // Docker's name, so that it is the same wherever the file is taken in.
        let full = name.to_string();
        let tag = name.version.to_string();
        self.index.push(json!({
            "mediaType": found.media_type, "digest": found.digest, "size": found.bytes.len(),
            "annotations": {
                "io.containerd.image.name": full,
                "org.opencontainers.image.ref.name": tag,
            },
        }));
        match &document {
            Document::Manifest(_) => {
                self.blobs_of(repository, &document);
                self.saved_as(name, &document);
            }
            Document::Index(entries) => {
                for entry in entries {
                    let version = Version::Digest(entry.digest.clone());
                    // An index may name more than what was pushed.
                    let Some(below) = remote.manifest(repository, &version).await? else {
                        continue;
                    };
                    let document = Document::parse(&below.bytes).map_err(wrong)?;
                    self.blobs_of(repository, &document);
                    self.documents.insert(below.digest, below.bytes);
                }
            }
        }
        self.documents.insert(found.digest, found.bytes);
        Ok(())
    }

    fn blobs_of(&mut self, repository: &str, document: &Document) {
        for descriptor in document.descriptors() {
            let place = (repository.to_owned(), descriptor.size);
            self.blobs.insert(descriptor.digest.clone(), place);
        }
    }

    fn saved_as(&mut self, name: &Name, document: &Document) {
        let Document::Manifest(manifest) = document else { return };
        let Some(config) = manifest.config.as_ref().filter(|c| c.media_type.contains("image"))
        else {
            return;
        };
        let layers: Vec<String> = manifest.layers.iter().map(|l| blob_name(&l.digest)).collect();
        let tags = match &name.version {
            Version::Tag(_) => vec![name.to_string()],
            Version::Digest(_) => Vec::new(),
        };
        let config = blob_name(&config.digest);
        self.saved.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
    }

    async fn write(&self, remote: &Remote<'_>, tar: &mut Tar) -> Result<u64, Failure> {
        let mut total = 0;
        tar.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for (digest, bytes) in &self.documents {
            tar.add(&blob_name(digest), bytes)?;
            total += bytes.len() as u64;
        }
        for (digest, (repository, size)) in &self.blobs {
            let mut body = remote.open_blob(repository, digest).await?;
            tar.begin(&blob_name(digest), *size)?;
            let (mut hash, mut written) = (Sha256::new(), 0u64);
            while let Some(frame) = body.frame().await {
                let frame = frame
                    .map_err(|error| Failure::other(format!("blob {digest} broke off: {error}")))?;
                if let Ok(piece) = frame.into_data() {
                    hash.update(&piece);
                    written += piece.len() as u64;
                    tar.write(&piece)?;
                }
            }
            let actual = format!("sha256:{}", hex::encode(hash.finalize()));
            if actual != *digest || written != *size {
                return Err(Failure::other(format!("blob {digest} came damaged: {actual}")));
            }
            tar.end(*size)?;
            total += size;
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.index});
        tar.add("index.json", index.to_string().as_bytes())?;
        if !self.saved.is_empty() {
            tar.add("manifest.json", json!(self.saved).to_string().as_bytes())?;
        }
        tar.write(&[0; 1024])?;
        let flushed = tar.file.flush().and_then(|()| tar.file.get_ref().sync_all());
        flushed.map_err(|error| tar.failed(&error))?;
        Ok(total)
    }
}
