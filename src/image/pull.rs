//! From a source to an image in the store: the document behind a name, the manifest for this
//! machine, its blobs, and what of them is run.
//!
//! ```text
//! document ─▶ index? choose the platform ─▶ manifest ─▶ config ─▶ layers, several at once
//!                                                   └─ form: module │ Spin │ files ─▶ a wasm inside?
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::blobs::{Kept, touch};
use super::layer::find_wasm;
use super::manifest::{
    Config, DOCUMENT_BYTES_MAX, Descriptor, Document, Form, Manifest, architecture, choose,
    spin_component,
};
use super::problem::Problem;
use super::reference::Version;
use super::store::{Content, FILES_SUFFIX, FileRecord, LayerRecord, Record, Store};
use super::{ImageConfig, Purpose};

/// Blobs of one image that are fetched at once.
const BLOBS_AT_ONCE: usize = 4;
/// No image is larger.
const IMAGE_BYTES_MAX: u64 = 64 << 30;

/// A document and the digest that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub digest: String,
}

/// A place that images come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The manifest or index of a version. Its bytes have the digest that is told, and that which
    /// was asked for, where one was.
    async fn document(&self, version: &Version) -> Result<Fetched, Problem>;

    /// Puts a blob into the store, verified. Only asked for what is not there.
    async fn blob(&self, descriptor: &Descriptor, store: &Arc<Store>) -> Result<(), Problem>;
}

/// Blobs that are being fetched by anybody: who comes second waits for the first.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    /// Who holds it, fetches.
    pub fn of(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock();
        all.retain(|_, flight| flight.strong_count() > 0);
        let known = all.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(tokio::sync::Mutex::new(()));
            all.insert(digest.to_owned(), Arc::downgrade(&fresh));
            fresh
        })
    }
}

/// One pull.
pub struct Pull<'a> {
    pub source: &'a dyn Source,
    pub store: &'a Arc<Store>,
    pub flights: &'a Flights,
    pub purpose: Purpose,
}

/// What a version turned out to be.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the name stands for: of the index, where it is one.
    pub top: Fetched,
    /// The manifest for this machine.
    pub chosen: Fetched,
    manifest: Manifest,
}

impl Resolved {
    /// What is to be fetched.
    pub fn blobs(&self) -> Vec<Descriptor> {
        self.manifest.config.iter().chain(&self.manifest.layers).cloned().collect()
    }
}

impl Pull<'_> {
    /// Finds out which manifest `version` means.
    ///
    /// # Errors
    /// The source does not have it, or nothing of it fits.
    pub async fn resolve(&self, version: &Version) -> Result<Resolved, Problem> {
        let top = self.source.document(version).await?;
        let chosen = match Document::parse(&top.bytes).map_err(Problem::refused)? {
            Document::Manifest(manifest) => {
                return Ok(Resolved { chosen: top.clone(), top, manifest: *manifest });
            }
            Document::Index(entries) => choose(&entries, self.purpose.prefer(), architecture())
                .map_err(Problem::refused)?
                .digest
                .clone(),
        };
        let chosen = self.source.document(&Version::Digest(chosen)).await?;
        match Document::parse(&chosen.bytes).map_err(Problem::refused)? {
            Document::Manifest(manifest) => Ok(Resolved { top, chosen, manifest: *manifest }),
            Document::Index(_) => Err(Problem::refused("an index names another index")),
        }
    }

    /// Brings everything of a resolved image here. Hold what is kept until it is remembered.
    ///
    /// # Errors
    /// The source does not give it, or it cannot be run.
    pub async fn fetch(&self, resolved: &Resolved) -> Result<(Record, Kept), Problem> {
        let Resolved { top, chosen, manifest } = resolved;
        let digest = match self.purpose {
            Purpose::Run(_) => chosen.digest.clone(),
            Purpose::Files => format!("{}{FILES_SUFFIX}", chosen.digest),
        };
        let wanted = manifest.config.iter().chain(&manifest.layers);
        let documents = [&top.digest, &chosen.digest].into_iter().cloned();
        let all = wanted.clone().map(|blob| blob.digest.clone()).chain(documents);
        let mut kept = self.store.blobs.keep(all);
        if let Some(known) = self.store.image(&digest) {
            known.blobs.keys().for_each(|blob| kept.also(blob));
            return Ok((known, kept));
        }
        let bytes: u64 = wanted.clone().fold(0, |sum, blob| blob.size.saturating_add(sum));
        if bytes > IMAGE_BYTES_MAX {
            return Err(Problem::refused(format!(
                "the image has {bytes} bytes, and 64 GiB is the most"
            )));
        }
        let mut blobs = BTreeMap::new();
        for document in [top, chosen] {
            self.store.blobs.add_bytes(&document.bytes)?;
            blobs.insert(document.digest.clone(), document.bytes.len() as u64);
        }
        if self.purpose == Purpose::Files {
            self.blobs(&manifest.layers).await?;
            blobs.extend(manifest.layers.iter().map(|layer| (layer.digest.clone(), layer.size)));
            let content = Content::Files(file_records(&manifest.layers));
            let config = ImageConfig::default();
            return Ok((Record::new(digest, content, config, blobs), kept));
        }
        let form = Form::of(manifest).map_err(Problem::refused)?;
        let (content, config) = match form {
            Form::Module(layer) => {
                self.blobs([&layer]).await?;
                blobs.insert(layer.digest.clone(), layer.size);
                (Content::Module { digest: layer.digest, size: layer.size }, ImageConfig::default())
            }
            Form::Spin { config } => {
                let text = self.config(&config).await?;
                let (layer, image) =
                    spin_component(&text, &manifest.layers).map_err(Problem::refused)?;
                self.blobs([&layer]).await?;
                blobs.insert(config.digest, config.size);
                blobs.insert(layer.digest.clone(), layer.size);
                (Content::Module { digest: layer.digest, size: layer.size }, image)
            }
            Form::Files { config } => {
                let text = self.config(&config).await?;
                let read = Config::parse(&text).map_err(Problem::refused)?;
                check_platform(&read)?;
                self.blobs(&manifest.layers).await?;
                for blob in manifest.layers.iter().chain([&config]) {
                    blobs.insert(blob.digest.clone(), blob.size);
                }
                let content = self.files(&config, &read, &manifest.layers).await?;
                if let Content::Module { digest, size } = &content {
                    blobs.insert(digest.clone(), *size);
                    kept.also(digest);
                }
                (content, read.image)
            }
        };
        Ok((Record::new(digest, content, config, blobs), kept))
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Problem> {
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(Problem::refused("the image's config is larger than 4 MiB"));
        }
        self.blobs([descriptor]).await?;
        Ok(self.store.blobs.read(&descriptor.digest, DOCUMENT_BYTES_MAX)?)
    }

    /// What container images are run as: by runc, unless they are a wasm file in a box.
    async fn files(
        &self,
        config: &Descriptor,
        read: &Config,
        layers: &[Descriptor],
    ) -> Result<Content, Problem> {
        if read.starts_wasm() || read.starts_nothing() {
            let paths: Vec<_> = layers
                .iter()
                .map(|layer| (layer.digest.clone(), self.store.blobs.path(&layer.digest)))
                .collect();
            let (store, read) = (Arc::clone(self.store), read.clone());
            let looked =
                tokio::task::spawn_blocking(move || find_wasm(&paths, &read, &store.blobs)).await;
            let found = looked.map_err(|error| Problem::Disk(error.to_string()))?;
            if let Some((digest, size)) = found.map_err(Problem::refused)? {
                return Ok(Content::Module { digest, size });
            }
        }
        if read.platform.is_wasm() {
            return Err(Problem::refused("the image is for wasm, and holds no .wasm file"));
        }
        if read.diff_ids.len() != layers.len() {
            return Err(Problem::refused(format!(
                "the image has {} layers, and its config speaks of {}",
                layers.len(),
                read.diff_ids.len()
            )));
        }
        let layers = layers.iter().zip(&read.diff_ids).map(|(layer, diff_id)| LayerRecord {
            digest: layer.digest.clone(),
            diff_id: diff_id.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
        });
        Ok(Content::Container { config: config.digest.clone(), layers: layers.collect() })
    }

    /// Brings blobs here, each once however many want it.
    async fn blobs<'d>(
        &self,
        wanted: impl IntoIterator<Item = &'d Descriptor>,
    ) -> Result<(), Problem> {
        let wanted: Vec<Descriptor> = wanted.into_iter().cloned().collect();
        futures::stream::iter(wanted)
            .map(|descriptor| async move {
                let flight = self.flights.of(&descriptor.digest);
                let _turn = flight.lock().await;
                match self.store.blobs.size(&descriptor.digest) {
                    Some(size) if size == descriptor.size => {
                        // It may be what an old pull left behind: nobody sweeps what is new.
                        let _ = touch(&self.store.blobs.path(&descriptor.digest));
                        Ok(())
                    }
                    Some(size) => Err(Problem::refused(format!(
                        "blob {} has {size} bytes, and the manifest says {}",
                        descriptor.digest, descriptor.size
                    ))),
                    None => self.source.blob(&descriptor, self.store).await,
                }
            })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect()
            .await
    }
}

/// Which files layers give: archives theirs, everything else itself, under its title.
fn file_records(layers: &[Descriptor]) -> Vec<FileRecord> {
    let title = |layer: &Descriptor| {
        let kind = layer.media_type.as_str();
        let archive = kind.contains(".tar") || kind.contains("rootfs") || kind.contains("+gzip");
        let named = layer.annotations.get("org.opencontainers.image.title").cloned();
        match archive {
            true => None,
            false => Some(named.unwrap_or_else(|| layer.digest.replace(':', "-"))),
        }
    };
    let record =
        |layer: &Descriptor| FileRecord { digest: layer.digest.clone(), title: title(layer) };
    layers.iter().map(record).collect()
}

fn check_platform(config: &Config) -> Result<(), Problem> {
    let platform = &config.platform;
    let (os, here) = (platform.os.as_str(), architecture());
    let fits = platform.is_wasm()
        || (matches!(os, "" | "linux") && matches!(platform.architecture.as_str(), "" | "unknown"))
        || (os == "linux" && platform.architecture == here);
    // What starts a wasm file runs on every processor, whatever its build said.
    if fits || config.starts_wasm() {
        return Ok(());
    }
    Err(Problem::refused(format!(
        "no match for platform in manifest: the image is for {platform}, and this node is linux/{here}"
    )))
}
