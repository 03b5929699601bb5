//! What repositories hold, on disk. Everything here waits for the disk.
//!
//! ```text
//! DIR/blobs, partial, tmp                see `blobs`; shared by all repositories
//! DIR/repositories/NAME/_layers/HEX      empty: the blob is of this repository
//! DIR/repositories/NAME/_manifests/HEX   the media type; the bytes are a blob
//! DIR/repositories/NAME/_tags/TAG        the manifest's digest
//! DIR/repositories/NAME/_untagged/HEX    empty: the manifest had a tag that is another's now
//! DIR/repositories/NAME/_referrers/HEX/HEX  descriptor of a manifest by its subject
//! ```
//!
//! **Invariant:** a manifest is listed only once all that it names is; what is listed is not
//! collected.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use parking_lot::RwLock;

use super::refusal::Refusal;
use crate::image::blobs::{Blobs, digest_of, touch};
use crate::image::manifest::{
    DOCUMENT_BYTES_MAX, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::image::reference::{Version, is_digest, is_tag};

/// See the module.
pub struct Repositories {
    root: PathBuf,
    pub blobs: Arc<Blobs>,
    /// Who lists something holds it together with others; who collects holds it alone.
    collecting: RwLock<()>,
}

/// A manifest as it is served.
#[derive(Debug, Clone)]
pub struct Served {
    pub digest: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// How long what nobody names is kept.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Blobs that no manifest names (yet).
    pub loose: Duration,
    /// Manifests whose tag is another's now.
    pub untagged: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        Self { loose: Duration::from_secs(3600), untagged: Duration::from_secs(24 * 3600) }
    }
}

/// What a collection took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub manifests: usize,
    pub blobs: usize,
    pub bytes: u64,
}

fn hex_of(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    Ok(all)
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_older(path: &Path, age: Duration, now: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|since| since >= age))
}

impl Repositories {
    /// Opens (or makes) the directories below `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let root = dir.join("repositories");
        fs::create_dir_all(&root)?;
        let blobs = Arc::new(Blobs::open(dir)?);
        Ok(Self { root, blobs, collecting: RwLock::default() })
    }

    fn dir(&self, repository: &str, part: &str) -> PathBuf {
        self.root.join(repository).join(part)
    }

    /// Writes a small file so that it is whole or not there.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().expect("a file below the root");
        fs::create_dir_all(dir)?;
        let tmp = self.blobs.tmp_path();
        fs::write(&tmp, bytes)?;
        fs::File::open(&tmp)?.sync_data()?;
        fs::rename(tmp, path)?;
        fs::File::open(dir)?.sync_all()
    }

    /// The names of all repositories that have manifests.
    ///
    /// # Errors
    /// What the file system says.
    pub fn repositories(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(at) = open.pop() {
            for name in names(&self.root.join(&at))? {
                if name == "_manifests" && !names(&self.root.join(&at).join(&name))?.is_empty() {
                    found.push(at.clone());
                } else if !name.starts_with('_') {
                    open.push(if at.is_empty() { name } else { format!("{at}/{name}") });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether a repository has a blob; being asked for counts as use.
    pub fn has(&self, repository: &str, digest: &str) -> Option<u64> {
        let listed = self.dir(repository, "_layers").join(hex_of(digest));
        touch(&listed).ok()?;
        self.blobs.size(digest)
    }

    /// Lists a blob that is here in a repository.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list_blob(&self, repository: &str, digest: &str) -> io::Result<()> {
        let _together = self.collecting.read();
        self.write(&self.dir(repository, "_layers").join(hex_of(digest)), b"")
    }

    /// Lists in `to` a blob that `from` has; whether it has.
    ///
    /// # Errors
    /// What the file system says.
    pub fn mount(&self, from: &str, to: &str, digest: &str) -> io::Result<bool> {
        if self.has(from, digest).is_none() {
            return Ok(false);
        }
        self.list_blob(to, digest)?;
        Ok(self.blobs.has(digest))
    }

    /// Takes a blob off a repository's list.
    ///
    /// # Errors
    /// It is not there.
    pub fn unlist_blob(&self, repository: &str, digest: &str) -> Result<(), Refusal> {
        match remove(&self.dir(repository, "_layers").join(hex_of(digest)))? {
            true => Ok(()),
            false => Err(Refusal::missing("BLOB_UNKNOWN", "the repository has no such blob")),
        }
    }

    fn digest_of_version(&self, repository: &str, version: &Version) -> io::Result<Option<String>> {
        let digest = match version {
            Version::Digest(digest) => digest.clone(),
            Version::Tag(tag) => {
                match fs::read_to_string(self.dir(repository, "_tags").join(tag)) {
                    Ok(text) if is_digest(&text) => text,
                    Ok(_) => return Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        let listed = self.dir(repository, "_manifests").join(hex_of(&digest));
        Ok(listed.exists().then_some(digest))
    }

    /// A manifest.
    ///
    /// # Errors
    /// It is not there.
    pub fn manifest(&self, repository: &str, version: &Version) -> Result<Served, Refusal> {
        let unknown = || {
            let message = format!("{repository} has no manifest {version}");
            Refusal::missing("MANIFEST_UNKNOWN", message)
        };
        let digest = self.digest_of_version(repository, version)?.ok_or_else(unknown)?;
        let listed = self.dir(repository, "_manifests").join(hex_of(&digest));
        let media_type = fs::read_to_string(listed).map_err(|_| unknown())?;
        let bytes = self.blobs.read(&digest, DOCUMENT_BYTES_MAX)?;
        Ok(Served { digest, media_type, bytes })
    }

    /// Takes a manifest in. Its digest, and its subject where it names one.
    ///
    /// # Errors
    /// It is none, names what is not here, or is not what its digest says.
    pub fn put_manifest(
        &self,
        repository: &str,
        version: &Version,
        content_type: &str,
        bytes: &[u8],
    ) -> Result<(String, Option<String>), Refusal> {
        let invalid = |why: String| Refusal::bad("MANIFEST_INVALID", why);
        let document = Document::parse(bytes).map_err(invalid)?;
        let media_type = media_type(bytes, content_type, &document)?;
        let digest = digest_of(bytes);
        if let Version::Digest(asked) = version
            && *asked != digest
        {
            let message = format!("the manifest has digest {digest}");
            return Err(Refusal::bad("DIGEST_INVALID", message));
        }
        let _together = self.collecting.read();
        if let Document::Manifest(manifest) = &document {
            self.check_blobs(repository, manifest)?;
        }
        self.blobs.add_bytes(bytes)?;
        let manifests = self.dir(repository, "_manifests");
        self.write(&manifests.join(hex_of(&digest)), media_type.as_bytes())?;
        let subject = match &document {
            Document::Manifest(manifest) => self.refer(repository, manifest, &media_type, bytes)?,
            Document::Index(_) => None,
        };
        if let Version::Tag(tag) = version {
            self.tag(repository, tag, &digest)?;
        }
        Ok((digest, subject))
    }

    fn check_blobs(&self, repository: &str, manifest: &Manifest) -> Result<(), Refusal> {
        for descriptor in manifest.config.iter().chain(&manifest.layers) {
            // Layers that may not be handed on are fetched elsewhere.
            let kind = &descriptor.media_type;
            if kind.contains("nondistributable") || kind.contains(".foreign.") {
                continue;
            }
            match self.has(repository, &descriptor.digest) {
                Some(size) if size == descriptor.size => {}
                Some(size) => {
                    return Err(Refusal::bad(
                        "SIZE_INVALID",
                        format!(
                            "blob {} has {size} bytes, and the manifest says {}",
                            descriptor.digest, descriptor.size
                        ),
                    ));
                }
                None => {
                    return Err(Refusal::missing(
                        "MANIFEST_BLOB_UNKNOWN",
                        format!("{repository} has no blob {}: push it first", descriptor.digest),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lists a manifest with its subject.
    fn refer(
        &self,
        repository: &str,
        manifest: &Manifest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Option<String>, Refusal> {
        let Some(subject) = &manifest.subject else { return Ok(None) };
        let kind = manifest
            .artifact_type
            .clone()
            .or_else(|| manifest.config.as_ref().map(|config| config.media_type.clone()));
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: digest_of(bytes),
            size: bytes.len() as u64,
            annotations: manifest.annotations.clone(),
            platform: None,
            artifact_type: kind.filter(|kind| !kind.is_empty()),
        };
        let dir = self.dir(repository, "_referrers").join(hex_of(&subject.digest));
        let text = serde_json::to_vec(&descriptor).map_err(io::Error::other)?;
        self.write(&dir.join(hex_of(&descriptor.digest)), &text)?;
        Ok(Some(subject.digest.clone()))
    }

    fn tag(&self, repository: &str, tag: &str, digest: &str) -> io::Result<()> {
        let before = self.digest_of_version(repository, &Version::Tag(tag.to_owned()))?;
        self.write(&self.dir(repository, "_tags").join(tag), digest.as_bytes())?;
        let untagged = self.dir(repository, "_untagged");
        remove(&untagged.join(hex_of(digest)))?;
        if let Some(before) = before.filter(|before| before != digest)
            && !self.tagged(repository)?.contains(&before)
        {
            self.write(&untagged.join(hex_of(&before)), b"")?;
        }
        Ok(())
    }

    fn tagged(&self, repository: &str) -> io::Result<HashSet<String>> {
        let mut all = HashSet::new();
        for tag in self.tags(repository)? {
            all.extend(self.digest_of_version(repository, &Version::Tag(tag))?);
        }
        Ok(all)
    }

    /// The tags of a repository, in order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn tags(&self, repository: &str) -> io::Result<Vec<String>> {
        let mut all = names(&self.dir(repository, "_tags"))?;
        all.retain(|tag| is_tag(tag));
        Ok(all)
    }

    pub fn exists(&self, repository: &str) -> bool {
        self.dir(repository, "_manifests").is_dir()
    }

    /// Removes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete_manifest(&self, repository: &str, version: &Version) -> Result<(), Refusal> {
        let _together = self.collecting.read();
        let unknown = || {
            let message = format!("{repository} has no manifest {version}");
            Refusal::missing("MANIFEST_UNKNOWN", message)
        };
        let digest = self.digest_of_version(repository, version)?.ok_or_else(unknown)?;
        match version {
            Version::Tag(tag) => {
                remove(&self.dir(repository, "_tags").join(tag))?;
                if !self.tagged(repository)?.contains(&digest) {
                    let mark = self.dir(repository, "_untagged").join(hex_of(&digest));
                    self.write(&mark, b"")?;
                }
                Ok(())
            }
            Version::Digest(_) => Ok(self.drop_manifest(repository, &digest)?),
        }
    }

    fn drop_manifest(&self, repository: &str, digest: &str) -> io::Result<()> {
        for tag in self.tags(repository)? {
            let path = self.dir(repository, "_tags").join(&tag);
            if fs::read_to_string(&path).is_ok_and(|text| text == digest) {
                remove(&path)?;
            }
        }
        for subject in names(&self.dir(repository, "_referrers"))? {
            remove(&self.dir(repository, "_referrers").join(subject).join(hex_of(digest)))?;
        }
        remove(&self.dir(repository, "_untagged").join(hex_of(digest)))?;
        remove(&self.dir(repository, "_manifests").join(hex_of(digest)))?;
        Ok(())
    }

    /// The manifests whose subject is `digest`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn referrers(&self, repository: &str, digest: &str) -> io::Result<Vec<Descriptor>> {
        let dir = self.dir(repository, "_referrers").join(hex_of(digest));
        let mut all = Vec::new();
        for name in names(&dir)? {
            all.extend(fs::read(dir.join(name)).ok().and_then(|b| serde_json::from_slice(&b).ok()));
        }
        Ok(all)
    }

    /// Removes what nobody names any more.
    ///
    /// # Errors
    /// What the file system says; what was found until then is gone.
    pub fn collect(&self, ages: Ages, now: SystemTime) -> io::Result<Collected> {
        let _alone = self.collecting.write();
        let mut collected = Collected::default();
        let mut live = HashSet::new();
        for repository in self.repositories_with_anything()? {
            collected.manifests += self.drop_untagged(&repository, ages.untagged, now)?;
            let mut named: HashSet<String> = HashSet::new();
            for hex in names(&self.dir(&repository, "_manifests"))? {
                let digest = format!("sha256:{hex}");
                if let Some(document) = self.document(&digest) {
                    let below = document.descriptors().into_iter().map(|d| d.digest.clone());
                    named.extend(below);
                }
                named.insert(digest);
            }
            let layers = self.dir(&repository, "_layers");
            for hex in names(&layers)? {
                let digest = format!("sha256:{hex}");
                if named.contains(&digest) || !is_older(&layers.join(&hex), ages.loose, now) {
                    named.insert(digest);
                } else {
                    remove(&layers.join(&hex))?;
                }
            }
            live.extend(named);
        }
        for found in self.blobs.all()? {
            let old = now.duration_since(found.modified).is_ok_and(|since| since >= ages.loose);
            if old && !live.contains(&found.digest) {
                collected.bytes += self.blobs.remove(&found.digest)?;
                collected.blobs += 1;
            }
        }
        Ok(collected)
    }

    /// As [`Self::repositories`], with those that had only an upload.
    fn repositories_with_anything(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let mut open = vec![String::new()];
        while let Some(at) = open.pop() {
            for name in names(&self.root.join(&at))? {
                if name.starts_with('_') {
                    found.insert(at.clone());
                } else {
                    open.push(if at.is_empty() { name } else { format!("{at}/{name}") });
                }
            }
        }
        Ok(found)
    }

    fn document(&self, digest: &str) -> Option<Document> {
        Document::parse(&self.blobs.read(digest, DOCUMENT_BYTES_MAX).ok()?).ok()
    }

    /// Drops manifests that lost their tag long ago and are below no index.
    fn drop_untagged(&self, repository: &str, age: Duration, now: SystemTime) -> io::Result<usize> {
        let marks = self.dir(repository, "_untagged");
        let mut old = names(&marks)?;
        old.retain(|hex| is_older(&marks.join(hex), age, now));
        if old.is_empty() {
            return Ok(0);
        }
        let mut below = HashSet::new();
        for hex in names(&self.dir(repository, "_manifests"))? {
            if !old.contains(&hex)
                && let Some(Document::Index(entries)) = self.document(&format!("sha256:{hex}"))
            {
                below.extend(entries.into_iter().map(|entry| entry.digest));
            }
        }
        let mut dropped = 0;
        for hex in old {
            let digest = format!("sha256:{hex}");
            if !below.contains(&digest) {
                // What signed it signs nothing any more.
                for referrer in self.referrers(repository, &digest)? {
                    self.drop_manifest(repository, &referrer.digest)?;
                    dropped += 1;
                }
                self.drop_manifest(repository, &digest)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// What a manifest is served as: what it says itself, which must be what its sender says.
fn media_type(bytes: &[u8], content_type: &str, document: &Document) -> Result<String, Refusal> {
    let said: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = said["mediaType"].as_str().unwrap_or_default();
    let told = content_type.split(';').next().unwrap_or_default().trim();
    let told = if told == "application/octet-stream" { "" } else { told };
    match (said, told) {
        ("", "") => Ok(match document {
            Document::Index(_) => OCI_INDEX,
            Document::Manifest(_) => OCI_MANIFEST,
        }
        .to_owned()),
        (one, "") | ("", one) => Ok(one.to_owned()),
        (said, told) if said == told => Ok(told.to_owned()),
        (said, told) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "MANIFEST_INVALID",
            format!("the manifest says that it is {said:?}, and its Content-Type is {told:?}"),
        )),
    }
    .and_then(|kind| match kind.len() <= 255 && kind.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(kind),
        false => Err(Refusal::bad("MANIFEST_INVALID", "the media type is none")),
    })
}
