//! The content store of a node: blobs, which images they make up, and what references meant when
//! they were last pulled.
//!
//! ```text
//! DIR/blobs, partial, tmp   see `blobs`
//! DIR/images/HEX            an image by the digest of its manifest: its blobs and form, as JSON
//! DIR/trees/HEX             the files of an image, for volumes
//! DIR/refs/HEX              sha256 of a reference and preference → the image's digest, as JSON
//! ```
//!
//! All of `images` and `refs` is in memory too; the files are read once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::blobs::Blobs;
use super::layer::open_layer;
use super::problem::Problem;
use super::signature::Signed;
use super::unpack::Tree;
use super::{ImageConfig, ImageKind, Layer, Module, PulledImage, Purpose};

/// Blobs that belong to no image serve a pull that is tried again for this long.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// A layer as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub digest: String,
    pub diff_id: String,
    pub size: u64,
    pub media_type: String,
}

/// What an image is run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    Module {
        digest: String,
        size: u64,
    },
    Container {
        config: String,
        layers: Vec<LayerRecord>,
    },
    /// For a volume.
    Files(Vec<FileRecord>),
}

/// A blob that gives files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub digest: String,
    /// The file that it is; a layer of files where there is none.
    pub title: Option<String>,
}

/// An image that is also run has another record than as a volume.
pub const FILES_SUFFIX: &str = "+files";

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of the manifest; of the file itself where there is none.
    pub digest: String,
    pub content: Content,
    pub config: ImageConfig,
    /// Everything that is to be kept for it, documents included, with sizes.
    pub blobs: BTreeMap<String, u64>,
    pub pulled_at: Timestamp,
    /// The indexes that it was found below, where signatures mattered.
    #[serde(default)]
    pub tops: Vec<String>,
    #[serde(default)]
    pub signatures: Vec<Signed>,
}

impl Record {
    pub fn new(
        digest: String,
        content: Content,
        config: ImageConfig,
        blobs: BTreeMap<String, u64>,
    ) -> Self {
        let pulled_at = Timestamp::now();
        Self { digest, content, config, blobs, pulled_at, tops: Vec::new(), signatures: Vec::new() }
    }

    pub fn size(&self) -> u64 {
        self.blobs.values().sum()
    }
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meaning {
    reference: String,
    purpose: Purpose,
    /// Of the image.
    digest: String,
    /// `docker.io/library/nginx@sha256:…`.
    id: String,
}

#[derive(Debug, Default)]
struct Known {
    images: HashMap<String, Record>,
    refs: HashMap<(String, Purpose), Meaning>,
    /// When an image was last asked for, by digest.
    used: HashMap<String, Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    pub blobs: Arc<Blobs>,
    images: PathBuf,
    refs: PathBuf,
    trees: PathBuf,
    known: Mutex<Known>,
}

/// An image as the Node object tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub digest: String,
    /// By digest first, then by tag.
    pub names: Vec<String>,
    pub size: u64,
    pub used_at: Timestamp,
}

/// What a collection took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    pub bytes: u64,
    pub images: Vec<String>,
}

fn read_all<T: DeserializeOwned>(dir: &Path) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(value) => all.push(value),
            None => {
                tracing::warn!(path = %path.display(), "a note of the content store cannot be read; it is dropped");
                let _ = fs::remove_file(&path);
            }
        }
    }
    Ok(all)
}

impl Store {
    /// Opens (or makes) the store in `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let store = Self {
            blobs: Arc::new(Blobs::open(dir)?),
            images: dir.join("images"),
            refs: dir.join("refs"),
            trees: dir.join("trees"),
            known: Mutex::default(),
        };
        for dir in [&store.images, &store.refs, &store.trees] {
            fs::create_dir_all(dir)?;
        }
        let mut known = Known::default();
        for record in read_all::<Record>(&store.images)? {
            // A blob may have been lost with the power.
            if record.blobs.iter().all(|(digest, size)| store.blobs.size(digest) == Some(*size)) {
                known.images.insert(record.digest.clone(), record);
            }
        }
        for meaning in read_all::<Meaning>(&store.refs)? {
            if known.images.contains_key(&meaning.digest) {
                known.refs.insert((meaning.reference.clone(), meaning.purpose), meaning);
            }
        }
        *store.known.lock() = known;
        Ok(store)
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let tmp = self.blobs.tmp_path();
        fs::write(&tmp, serde_json::to_vec(value)?)?;
        fs::rename(tmp, path)
    }

    fn image_file(&self, digest: &str) -> PathBuf {
        self.images.join(digest.trim_start_matches("sha256:"))
    }

    fn ref_file(&self, reference: &str, purpose: Purpose) -> PathBuf {
        let key = format!("{purpose:?} {reference}");
        self.refs.join(hex::encode(Sha256::digest(key.as_bytes())))
    }

    /// The image of a manifest that is here already.
    pub fn image(&self, digest: &str) -> Option<Record> {
        self.known.lock().images.get(digest).cloned()
    }

    /// `reference` means this image from now on. The blobs must be here.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remember(
        &self,
        reference: &str,
        purpose: Purpose,
        id: &str,
        record: &Record,
    ) -> io::Result<()> {
        let meaning = Meaning {
            reference: reference.to_owned(),
            purpose,
            digest: record.digest.clone(),
            id: id.to_owned(),
        };
        // The files first: what is told must survive.
        let known = self.image(&record.digest);
        if known.as_ref() != Some(record) {
            self.write(&self.image_file(&record.digest), record)?;
        }
        self.write(&self.ref_file(reference, purpose), &meaning)?;
        let mut known = self.known.lock();
        known.used.insert(record.digest.clone(), Timestamp::now());
        known.images.insert(record.digest.clone(), record.clone());
        known.refs.insert((reference.to_owned(), purpose), meaning);
        Ok(())
    }

    /// What `reference` meant when it was last pulled, if that is still here.
    pub fn remembered(&self, reference: &str, purpose: Purpose) -> Option<(Record, String)> {
        let mut known = self.known.lock();
        let meaning = known.refs.get(&(reference.to_owned(), purpose))?.clone();
        let record = known.images.get(&meaning.digest)?.clone();
        known.used.insert(meaning.digest, Timestamp::now());
        Some((record, meaning.id))
    }

    /// A record as those that run it see it.
    pub fn pulled(
        &self,
        reference: &str,
        id: String,
        record: &Record,
        present: bool,
    ) -> PulledImage {
        let kind = match &record.content {
            Content::Module { digest, size } => ImageKind::Wasm(Module {
                path: self.blobs.path(digest),
                digest: digest.clone(),
                size: *size,
            }),
            Content::Container { config, layers } => ImageKind::Container {
                config: self.blobs.path(config),
                layers: layers
                    .iter()
                    .map(|layer| Layer {
                        path: self.blobs.path(&layer.digest),
                        digest: layer.digest.clone(),
                        diff_id: layer.diff_id.clone(),
                        size: layer.size,
                        media_type: layer.media_type.clone(),
                    })
                    .collect(),
            },
            // Asked for by `Images::files` alone, which gives a tree.
            Content::Files(_) => {
                ImageKind::Container { config: PathBuf::new(), layers: Vec::new() }
            }
        };
        PulledImage {
            reference: reference.to_owned(),
            id,
            digest: record.digest.clone(),
            size: record.size(),
            config: record.config.clone(),
            kind,
            present,
        }
    }

    fn tree_path(&self, digest: &str) -> PathBuf {
        self.trees.join(digest.trim_start_matches("sha256:"))
    }

    /// The directory with the files of an image, unpacked where it is not yet.
    ///
    /// # Errors
    /// A layer is damaged, or the disk is full.
    pub fn tree(&self, record: &Record) -> Result<PathBuf, Problem> {
        let path = self.tree_path(&record.digest);
        let Content::Files(files) = &record.content else {
            return Err(Problem::refused("the image was not pulled for a volume"));
        };
        if path.exists() {
            return Ok(path);
        }
        let tmp = self.blobs.tmp_path();
        let unpacked = Tree::create(&tmp).and_then(|mut tree| {
            files.iter().try_for_each(|file| {
                let blob = self.blobs.path(&file.digest);
                let applied = match &file.title {
                    Some(title) => tree.add_file(title, &mut fs::File::open(&blob)?),
                    None => tree.apply(open_layer(&blob)?.as_mut()),
                };
                applied.map_err(|error| {
                    io::Error::new(error.kind(), format!("layer {}: {error}", file.digest))
                })
            })
        });
        if let Err(error) = unpacked {
            let _ = fs::remove_dir_all(&tmp);
            return Err(Problem::refused(error.to_string()));
        }
        fs::rename(&tmp, &path)?;
        Ok(path)
    }

    /// All images, the largest first.
    pub fn list(&self) -> Vec<Listed> {
        let known = self.known.lock();
        let mut names: HashMap<&str, (HashSet<&str>, HashSet<&str>)> = HashMap::new();
        for meaning in known.refs.values() {
            let (ids, tags) = names.entry(&meaning.digest).or_default();
            ids.insert(&meaning.id);
            if meaning.reference != meaning.id {
                tags.insert(&meaning.reference);
            }
        }
        let mut all: Vec<Listed> = known
            .images
            .values()
            .map(|record| {
                let (ids, tags) = names.remove(record.digest.as_str()).unwrap_or_default();
                let sorted = |set: HashSet<&str>| {
                    let mut all: Vec<String> = set.into_iter().map(str::to_owned).collect();
                    all.sort();
                    all
                };
                let used_at = known.used.get(&record.digest).copied();
                Listed {
                    digest: record.digest.clone(),
                    names: [sorted(ids), sorted(tags)].concat(),
                    size: record.size(),
                    used_at: used_at.unwrap_or(record.pulled_at),
                }
            })
            .collect();
        all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
        all
    }

    /// The uncompressed digests of all layers of all images.
    pub fn diff_ids(&self) -> HashSet<String> {
        let known = self.known.lock();
        let layers = known.images.values().flat_map(|record| match &record.content {
            Content::Container { layers, .. } => layers.as_slice(),
            Content::Module { .. } | Content::Files(_) => &[],
        });
        layers.map(|layer| layer.diff_id.clone()).collect()
    }

    /// Forgets an image and removes the blobs that no other has. What it freed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn forget(&self, digest: &str) -> io::Result<u64> {
        let mut known = self.known.lock();
        let Some(record) = known.images.remove(digest) else { return Ok(0) };
        known.used.remove(digest);
        let gone: Vec<(String, Purpose)> = known
            .refs
            .iter()
            .filter(|(_, meaning)| meaning.digest == digest)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let _ = fs::remove_file(self.ref_file(&key.0, key.1));
            known.refs.remove(&key);
        }
        let _ = fs::remove_file(self.image_file(digest));
        let _ = fs::remove_dir_all(self.tree_path(digest));
        let mut freed = 0;
        for blob in record.blobs.keys() {
            if !known.images.values().any(|other| other.blobs.contains_key(blob)) {
                freed += self.blobs.remove(blob)?;
            }
        }
        Ok(freed)
    }

    /// Removes blobs that belong to no image and beginnings of blobs, once they are old.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sweep(&self, age: Duration) -> io::Result<u64> {
        let now = SystemTime::now();
        let old = |found: &super::blobs::Found| {
            now.duration_since(found.modified).is_ok_and(|since| since >= age)
        };
        let mut freed = 0;
        for found in self.blobs.all()?.into_iter().filter(old) {
            // Held, so that a pull that ends just now has remembered its image or keeps its blobs.
            let known = self.known.lock();
            if !known.images.values().any(|record| record.blobs.contains_key(&found.digest)) {
                freed += self.blobs.remove(&found.digest)?;
            }
        }
        for found in self.blobs.partials()?.into_iter().filter(old) {
            self.blobs.forget_partial(&found.digest);
            freed += found.size;
        }
        Ok(freed)
    }

    /// Removes images that are not in `used` and were not asked for within `age`, those longest
    /// unused first, until `wanted` bytes are free.
    ///
    /// # Errors
    /// What the file system says.
    pub fn collect(
        &self,
        wanted: u64,
        used: &HashSet<String>,
        age: Duration,
        now: Timestamp,
    ) -> io::Result<Freed> {
        let mut freed = Freed { bytes: self.sweep(ORPHAN_AGE)?, images: Vec::new() };
        let mut unused = self.list();
        unused.retain(|image| {
            let since = Duration::try_from(now.duration_since(image.used_at)).unwrap_or_default();
            !used.contains(&image.digest) && since >= age
        });
        unused.sort_by_key(|image| image.used_at);
        for image in unused {
            if freed.bytes >= wanted {
                break;
            }
            freed.bytes += self.forget(&image.digest)?;
            freed.images.push(image.names.first().cloned().unwrap_or(image.digest));
        }
        Ok(freed)
    }
}
