//! From an image reference to files of known digests.
//!
//! [`Images::resolve`] is the one place: it parses the reference, looks into the content store where
//! the pull policy allows it, asks the sources that may have it in turn, and answers with a
//! [`PulledImage`] whose every file is in the store under the sha256 of its bytes.
//!
//! | reference | source |
//! |---|---|
//! | `file:/path/to/app.wasm` | that file, where the node allows it |
//! | `oci:/path/to/layout:tag`, `oci:/path/to/layout@sha256:…` | an OCI image layout |
//! | `coracle.dev/samples/NAME:v1` | the guests carried in this binary |
//! | `app:1`, `registry.example/team/app@sha256:…` | the cluster's registry, mirrors, the registry |
//!
//! | module | is |
//! |---|---|
//! | [`reference`], [`manifest`] | what names and documents say; pure |
//! | [`blobs`], [`store`] | what is on disk |
//! | [`pull`] | the way from a source to the store |
//! | [`layers`] | container images as directories |
//! | [`local`], [`samples`], [`client`] | the sources |
//! | [`signature`] | whose signature an image needs |
//! | [`unpack`] | an image's files as a directory |
//! | [`registry`] | the cluster's own registry, as a server serves it |
//!
//! **Invariant:** the bytes of every file that a [`PulledImage`] names have the digest that is told
//! for them, and a name in the content store is never written twice.

pub mod blobs;
pub mod client;
pub mod keyring;
pub mod layer;
pub mod layers;
mod local;
pub mod manifest;
mod problem;
mod pull;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod samples;
mod signature;
mod store;
mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use client::{ClientConfig, ClusterRegistry};
pub use keyring::Keyring;
pub use layer::open_layer;
pub use layers::Layers;
pub use problem::Problem;
pub use reference::{Name, Reference, Version};
pub use registries::Registries;
pub use signature::SignaturePolicy;
pub use store::{Freed, Listed};

use client::Client;
use local::Layout;
use pull::{Flights, Pull, Source};
use store::{Content, Record, Store};

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Which platform of an image is taken, where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Prefer {
    /// `wasi/wasm`, else this machine's Linux.
    #[default]
    Wasm,
    /// This machine's Linux, else `wasi/wasm`.
    Linux,
}

/// What an image is pulled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Purpose {
    Run(Prefer),
    /// An `image` volume.
    Files,
}

impl Purpose {
    fn prefer(self) -> Prefer {
        match self {
            Self::Run(prefer) => prefer,
            Self::Files => Prefer::Linux,
        }
    }
}

/// The files of an image, as a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub path: PathBuf,
    /// What the collector knows the image by.
    pub digest: String,
    /// Bytes of its blobs.
    pub size: u64,
    /// Whether it was on this machine already.
    pub present: bool,
}

/// What this node lets its pods name, and where it looks for it.
#[derive(Clone, Default)]
pub struct Policy {
    /// Whether `file:` references work: they let a pod run any wasm file of the host.
    pub allow_file: bool,
    /// Mirrors, and how registries are spoken to.
    pub registries: Registries,
    /// The cluster's own registry, asked before all others.
    pub cluster: Option<ClusterRegistry>,
    /// Patience with registries.
    pub client: ClientConfig,
    /// Whose signature images need.
    pub signatures: SignaturePolicy,
}

/// How the image says it is to be run; empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// `1000:1000`, `nobody`.
    pub user: Option<String>,
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// A wasm file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The file in the content store.
    pub path: PathBuf,
    /// `sha256:` and 64 hexadecimal digits, of the wasm itself.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// A layer of a container image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob; [`open_layer`] reads its tar.
    pub path: PathBuf,
    /// Of the blob.
    pub digest: String,
    /// Of the uncompressed tar, as the config says. Not verified here: who unpacks it does.
    pub diff_id: String,
    pub size: u64,
    pub media_type: String,
}

/// What an image is run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageKind {
    Wasm(Module),
    Container {
        /// The config blob, JSON (OCI Image Configuration).
        config: PathBuf,
        /// The lowest first.
        layers: Vec<Layer>,
    },
}

/// An image whose every file is in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// As it was asked for.
    pub reference: String,
    /// What a status tells as its id: `docker.io/library/nginx@sha256:…`.
    pub id: String,
    /// Of the manifest; of the file itself, where there is none.
    pub digest: String,
    /// Bytes of all its blobs.
    pub size: u64,
    /// What the image's own config says.
    pub config: ImageConfig,
    pub kind: ImageKind,
    /// Whether it was on this machine already, for the `Pulled` event.
    pub present: bool,
}

impl PulledImage {
    /// The wasm file, where it is one.
    pub fn module(&self) -> Option<&Module> {
        match &self.kind {
            ImageKind::Wasm(module) => Some(module),
            ImageKind::Container { .. } => None,
        }
    }

    /// The layers of a container image, the lowest first.
    pub fn layers(&self) -> &[Layer] {
        match &self.kind {
            ImageKind::Wasm(_) => &[],
            ImageKind::Container { layers, .. } => layers,
        }
    }
}

/// Why there is no image. The text is that of the pod's event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(
        "Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: {problem}"
    )]
    InvalidName { reference: String, problem: String },
    #[error("Container image {reference:?} is not present with pull policy of Never")]
    NeverPull { reference: String },
    #[error(
        "image pull failed for {reference:?} because the signature validation failed: {problem}"
    )]
    Unsigned { reference: String, problem: String },
    #[error("Failed to pull image {reference:?}: {problem}")]
    Pull { reference: String, problem: Problem },
}

impl ImageError {
    /// The waiting reason of the container, as the kubelet names it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::Unsigned { .. } => "SignatureValidationFailed",
            Self::Pull { .. } => "ErrImagePull",
        }
    }
}

/// Which image is wanted, and how.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// As the Pod names it.
    pub reference: String,
    pub policy: PullPolicy,
    pub prefer: Prefer,
    /// Of the pod, for the policy of signatures.
    pub namespace: String,
    /// What its `imagePullSecrets` hold.
    pub keyring: Keyring,
}

impl PullRequest {
    /// A request without secrets.
    pub fn new(reference: impl Into<String>, policy: PullPolicy) -> Self {
        Self {
            reference: reference.into(),
            policy,
            prefer: Prefer::default(),
            namespace: String::new(),
            keyring: Keyring::default(),
        }
    }
}

/// The images of a node.
pub struct Images {
    store: Arc<Store>,
    allow_file: bool,
    client: Client,
    signatures: SignaturePolicy,
    flights: Flights,
    /// Never collected.
    pinned: Mutex<HashSet<String>>,
    /// What images that are being pulled are made of, by reference.
    wanted: Mutex<HashMap<String, Vec<manifest::Descriptor>>>,
}

/// What a source gave.
struct Found {
    record: Record,
    id: String,
    /// Its blobs stay until it is remembered.
    kept: blobs::Kept,
}

impl Found {
    /// `NAME@sha256:…`.
    fn named(self, name: &str) -> Self {
        Self { id: format!("{name}@{}", self.id), ..self }
    }
}

fn parse(text: &str) -> Result<Reference, ImageError> {
    Reference::parse(text)
        .map_err(|problem| ImageError::InvalidName { reference: text.to_owned(), problem })
}

fn failed(text: &str, problem: &Problem) -> ImageError {
    ImageError::Pull { reference: text.to_owned(), problem: problem.clone() }
}

impl Images {
    /// Opens (or makes) the content store in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(dir: &Path, policy: Policy) -> std::io::Result<Self> {
        Ok(Self {
            store: Arc::new(Store::open(dir)?),
            allow_file: policy.allow_file,
            client: Client::new(policy.registries, policy.cluster, policy.client),
            signatures: policy.signatures,
            flights: Flights::default(),
            pinned: Mutex::default(),
            wanted: Mutex::default(),
        })
    }

    /// The image that is asked for, pulled where its policy asks for it.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn resolve(&self, request: &PullRequest) -> Result<PulledImage, ImageError> {
        match self.look(request).await? {
            Some(found) => Ok(found),
            None => self.pull(request).await,
        }
    }

    /// The image, where it is here and its policy takes it from here.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn look(&self, request: &PullRequest) -> Result<Option<PulledImage>, ImageError> {
        let text = &request.reference;
        let reference = parse(text)?;
        if let Some(local) = self.always_here(&reference).await {
            if matches!(reference, Reference::File(_)) {
                self.judge(&reference, request, &[], &[])?;
            }
            return local.map(Some).map_err(|problem| failed(text, &problem));
        }
        if request.policy == PullPolicy::Always {
            return Ok(None);
        }
        match self.store.remembered(&reference.to_string(), Purpose::Run(request.prefer)) {
            // Without the signatures that are asked for now, it is as if it were not here.
            Some((record, _)) if self.judge_record(&reference, request, &record).is_err() => {
                match request.policy {
                    PullPolicy::Never => {
                        self.judge_record(&reference, request, &record).map(|()| None)
                    }
                    _ => Ok(None),
                }
            }
            Some((record, id)) => Ok(Some(self.store.pulled(text, id, &record, true))),
            None if request.policy == PullPolicy::Never => {
                Err(ImageError::NeverPull { reference: text.clone() })
            }
            None => Ok(None),
        }
    }

    /// Pulls an image, whatever is here.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn pull(&self, request: &PullRequest) -> Result<PulledImage, ImageError> {
        let (record, id) = self.bring(request, Purpose::Run(request.prefer)).await?;
        Ok(self.store.pulled(&request.reference, id, &record, false))
    }

    async fn bring(
        &self,
        request: &PullRequest,
        purpose: Purpose,
    ) -> Result<(Record, String), ImageError> {
        let text = &request.reference;
        let reference = parse(text)?;
        let pulled = self.fetch_from_source(&reference, request, purpose).await;
        self.wanted.lock().remove(text);
        let Found { record, id, kept } = pulled.map_err(|problem| failed(text, &problem))?;
        self.judge_record(&reference, request, &record)?;
        let stored = self.store.remember(&reference.to_string(), purpose, &id, &record);
        stored.map_err(|error| failed(text, &error.into()))?;
        drop(kept);
        Ok((record, id))
    }

    fn judge_record(
        &self,
        reference: &Reference,
        request: &PullRequest,
        record: &Record,
    ) -> Result<(), ImageError> {
        let own = record.digest.trim_end_matches(store::FILES_SUFFIX);
        let digests: Vec<&str> = record.tops.iter().map(String::as_str).chain([own]).collect();
        self.judge(reference, request, &digests, &record.signatures)
    }

    fn judge(
        &self,
        reference: &Reference,
        request: &PullRequest,
        digests: &[&str],
        signatures: &[signature::Signed],
    ) -> Result<(), ImageError> {
        let name = policy_name(reference);
        let judged = self.signatures.judge(&name, &request.namespace, digests, signatures);
        judged.map_err(|problem| ImageError::Unsigned {
            reference: request.reference.clone(),
            problem,
        })
    }

    /// Whether the files of an image are here and its policy takes them from here.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn has_files(&self, request: &PullRequest) -> Result<bool, ImageError> {
        let reference = parse(&request.reference)?;
        let known = self.store.remembered(&reference.to_string(), Purpose::Files);
        let known = known
            .is_some_and(|(record, _)| self.judge_record(&reference, request, &record).is_ok());
        match request.policy {
            PullPolicy::Never if !known => {
                Err(ImageError::NeverPull { reference: request.reference.clone() })
            }
            PullPolicy::Always => Ok(false),
            _ => Ok(known),
        }
    }

    /// The files of an image, for an `image` volume: its layers one over the other, or, of an
    /// artifact, its blobs under their titles.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn files(&self, request: &PullRequest) -> Result<Tree, ImageError> {
        let text = &request.reference;
        let present = self.has_files(request)?;
        let known = self.store.remembered(&parse(text)?.to_string(), Purpose::Files);
        let record = match known.filter(|_| present) {
            Some((record, _)) => record,
            None => self.bring(request, Purpose::Files).await?.0,
        };
        let flight = self.flights.of(&record.digest);
        let _turn = flight.lock().await;
        let (store, wanted) = (Arc::clone(&self.store), record.clone());
        let path = tokio::task::spawn_blocking(move || store.tree(&wanted)).await;
        let path = path.unwrap_or_else(|error| Err(Problem::Disk(error.to_string())));
        let path = path.map_err(|problem| failed(text, &problem))?;
        Ok(Tree { path, digest: record.digest.clone(), size: record.size(), present })
    }

    /// How many of the bytes of an image that is being pulled are here, and how many it has.
    pub fn progress(&self, reference: &str) -> Option<(u64, u64)> {
        let wanted = self.wanted.lock().get(reference).cloned()?;
        let blobs = &self.store.blobs;
        let here = |blob: &manifest::Descriptor| {
            blobs.size(&blob.digest).or_else(|| {
                std::fs::metadata(blobs.partial_path(&blob.digest)).ok().map(|meta| meta.len())
            })
        };
        let done = wanted.iter().filter_map(here).sum();
        Some((done, wanted.iter().map(|blob| blob.size).sum()))
    }

    /// Files and samples: pulling them is no question.
    async fn always_here(&self, reference: &Reference) -> Option<Result<PulledImage, Problem>> {
        match reference {
            Reference::File(_) if !self.allow_file => {
                return Some(Err(Problem::refused(
                    "this node does not run files of its host: start its agent with \
                     --allow-file-images, or use an oci: layout",
                )));
            }
            Reference::File(_) => {}
            Reference::Registry(name) if samples::is_sample(name) => {}
            _ => return None,
        }
        let (store, reference) = (Arc::clone(&self.store), reference.clone());
        let added = tokio::task::spawn_blocking(move || add_local(&reference, &store)).await;
        Some(added.unwrap_or_else(|error| Err(Problem::Disk(error.to_string()))))
    }

    async fn fetch_from_source(
        &self,
        reference: &Reference,
        request: &PullRequest,
        purpose: Purpose,
    ) -> Result<Found, Problem> {
        match reference {
            Reference::Layout { dir, version } => {
                let layout = Layout { dir: dir.clone() };
                let found = self.take(&layout, version, (reference, request), purpose).await?;
                Ok(found.named(&format!("oci:{}", dir.display())))
            }
            Reference::Registry(name) if samples::is_sample(name) => {
                Err(Problem::refused("the samples are no volumes"))
            }
            Reference::Registry(name) => {
                self.fetch_from_registries(name, (reference, request), purpose).await
            }
            Reference::File(_) => {
                Err(Problem::refused("a file of the node is no volume: use hostPath"))
            }
        }
    }

    /// The image for this machine behind `version`; its id is the digest of what that names.
    async fn take(
        &self,
        source: &dyn Source,
        version: &Version,
        (reference, request): (&Reference, &PullRequest),
        purpose: Purpose,
    ) -> Result<Found, Problem> {
        let pull = Pull { source, store: &self.store, flights: &self.flights, purpose };
        let resolved = pull.resolve(version).await?;
        self.wanted.lock().insert(request.reference.clone(), resolved.blobs());
        let (mut record, kept) = pull.fetch(&resolved).await?;
        let top = resolved.top.digest;
        if self.signatures.asks(&policy_name(reference), &request.namespace) {
            record.signatures = signature::fetch(source, &top, &self.store).await?;
            if !record.tops.contains(&top) {
                record.tops.push(top.clone());
            }
        }
        Ok(Found { record, id: top, kept })
    }

    async fn fetch_from_registries(
        &self,
        name: &Name,
        (reference, request): (&Reference, &PullRequest),
        purpose: Purpose,
    ) -> Result<Found, Problem> {
        let mut problems = client::Problems::new(name);
        for remote in self.client.remotes(name, &request.keyring) {
            let remote = match remote {
                Ok(remote) => remote,
                Err(problem) => {
                    problems.push(None, problem);
                    continue;
                }
            };
            match self.take(&remote, &name.version, (reference, request), purpose).await {
                Ok(found) => return Ok(found.named(&name.familiar())),
                // No other source makes the disk larger.
                Err(problem @ Problem::Disk(_)) => return Err(problem),
                Err(problem) => problems.push(Some(&remote), problem),
            }
        }
        Err(problems.told())
    }

    /// All images of this node, the largest first.
    pub fn list(&self) -> Vec<Listed> {
        self.store.list()
    }

    /// The uncompressed digests of all layers that images here are made of.
    pub fn known_layers(&self) -> HashSet<String> {
        self.store.diff_ids()
    }

    /// Removes images whose digest is not in `used` and that were not asked for within `age`, those
    /// longest unused first, until `wanted` bytes are free. Waits for the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn collect(
        &self,
        wanted: u64,
        used: &HashSet<String>,
        age: Duration,
        now: Timestamp,
    ) -> std::io::Result<Freed> {
        let all: HashSet<String> = self.pinned.lock().union(used).cloned().collect();
        self.store.collect(wanted, &all, age, now)
    }

    /// Keeps an image whatever the disk looks like.
    pub fn pin(&self, digest: &str) {
        self.pinned.lock().insert(digest.to_owned());
    }
}

/// What the policy of signatures knows an image by.
fn policy_name(reference: &Reference) -> String {
    match reference {
        Reference::Registry(name) => name.familiar(),
        other => other.to_string(),
    }
}

fn add_local(reference: &Reference, store: &Store) -> Result<PulledImage, Problem> {
    let (digest, size) = match reference {
        Reference::File(path) => local::add_file(path, store)?,
        Reference::Registry(name) => samples::add_sample(name, store)?,
        Reference::Layout { .. } => unreachable!("a layout is pulled"),
    };
    let record = Record {
        digest: digest.clone(),
        content: Content::Module { digest: digest.clone(), size },
        config: ImageConfig::default(),
        blobs: BTreeMap::from([(digest.clone(), size)]),
        pulled_at: Timestamp::now(),
        tops: Vec::new(),
        signatures: Vec::new(),
    };
    let text = reference.to_string();
    let same = store
        .remembered(&text, Purpose::Run(Prefer::Wasm))
        .is_some_and(|(known, _)| known.digest == record.digest);
    if !same {
        store.remember(&text, Purpose::Run(Prefer::Wasm), &digest, &record)?;
    }
    Ok(store.pulled(&text, digest, &record, true))
}

#[cfg(test)]
mod tests;
