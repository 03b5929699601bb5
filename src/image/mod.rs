//! From an image reference to a file of a known digest.
//!
//! [`Images::resolve`] is the one place: it parses the reference, asks the source that serves its
//! kind, and answers with an [`Artifact`] in the content store, whose file is named by the sha256 of
//! its bytes. A source is a [`Source`]; registries slot in as one more.
//!
//! | reference | source |
//! |---|---|
//! | `file:/path/to/app.wasm` | that file, where the node allows it |
//! | `oci:/path/to/layout:tag`, `oci:/path/to/layout@sha256:…` | an OCI image layout |
//! | `coracle.dev/samples/NAME:v1` | the guests carried in this binary |
//!
//! **Invariant:** the bytes at [`Artifact::path`] have the digest [`Artifact::digest`], and a name in
//! the content store is never written twice.

mod container;
mod layout;
mod reference;
pub mod samples;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use reference::Reference;
use store::Store;

/// An artifact larger than this is refused.
const ARTIFACT_BYTES_MAX: u64 = 256 << 20;

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// What this node lets its pods name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Whether `file:` references work: they let a pod run any wasm file of the host.
    pub allow_file: bool,
}

/// How the image says it is to be run; empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
}

/// A wasm file, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The file in the content store.
    pub path: PathBuf,
    /// `sha256:` and 64 hexadecimal digits, of the wasm itself.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What the image's own config says.
    pub config: ImageConfig,
    /// Whether it was on this machine already, for the `Pulled` event.
    pub present: bool,
}

/// Why there is no artifact. The text is that of the pod's event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(
        "Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: {problem}"
    )]
    InvalidName { reference: String, problem: String },
    #[error("Container image {reference:?} is not present with pull policy of Never")]
    NeverPull { reference: String },
    #[error("Failed to pull image {reference:?}: {problem}")]
    Pull { reference: String, problem: String },
}

impl ImageError {
    /// The waiting reason of the container, as the kubelet names it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::Pull { .. } => "ErrImagePull",
        }
    }
}

/// What a source found: the wasm in the content store, and the image's config.
struct Fetched {
    digest: String,
    config: ImageConfig,
}

/// A place that images come from.
trait Source: Send + Sync {
    /// Whether a reference of this source is always at hand, so that pulling it is no question.
    fn local(&self) -> bool;

    /// Puts the wasm that `reference` names into `store`. The error names what is wrong and what
    /// to do, without the reference.
    fn fetch(&self, reference: &Reference, store: &Store) -> Result<Fetched, String>;
}

/// The images of a node.
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    policy: Policy,
}

impl Images {
    /// Opens (or makes) the content store in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(dir: &Path, policy: Policy) -> std::io::Result<Self> {
        Ok(Self { shared: Arc::new(Shared { store: Store::open(dir)?, policy }) })
    }

    /// The artifact that `reference` names, fetched where `policy` asks for it.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn resolve(
        &self,
        reference: &str,
        policy: PullPolicy,
    ) -> Result<Artifact, ImageError> {
        let shared = self.shared.clone();
        let text = reference.to_string();
        tokio::task::spawn_blocking(move || shared.resolve(&text, policy)).await.unwrap_or_else(
            |error| {
                Err(ImageError::Pull {
                    reference: reference.to_string(),
                    problem: format!("the task that fetched it broke: {error}"),
                })
            },
        )
    }
}

impl Shared {
    fn resolve(&self, text: &str, policy: PullPolicy) -> Result<Artifact, ImageError> {
        let reference = Reference::parse(text)
            .map_err(|problem| ImageError::InvalidName { reference: text.to_string(), problem })?;
        let failed = |problem| ImageError::Pull { reference: text.to_string(), problem };
        let source = self.source(&reference).map_err(failed)?;
        if !source.local() && policy != PullPolicy::Always {
            if let Some(artifact) = self.store.remembered(text) {
                return Ok(artifact);
            }
            if policy == PullPolicy::Never {
                return Err(ImageError::NeverPull { reference: text.to_string() });
            }
        }
        let fetched = source.fetch(&reference, &self.store).map_err(failed)?;
        let present = source.local();
        let artifact = self.store.artifact(&fetched.digest, fetched.config, present);
        let artifact = artifact.map_err(|error| failed(format!("content store: {error}")))?;
        if !source.local() {
            self.store
                .remember(text, &artifact)
                .map_err(|error| failed(format!("content store: {error}")))?;
        }
        Ok(artifact)
    }

    fn source(&self, reference: &Reference) -> Result<Box<dyn Source>, String> {
        match reference {
            Reference::File(_) if !self.policy.allow_file => {
                Err("this node does not run files of its host: start its agent with \
                 --allow-file-images, or use an oci: layout"
                    .to_string())
            }
            Reference::File(_) => Ok(Box::new(store::FileSource)),
            Reference::Layout { .. } => Ok(Box::new(layout::LayoutSource)),
            Reference::Registry { .. } if samples::is_sample(reference) => {
                Ok(Box::new(samples::SampleSource))
            }
            Reference::Registry { domain, .. } => Err(format!(
                "registry {domain} cannot be reached from here: use oci:/path/to/layout:tag or \
                 file:/path/to/app.wasm"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
