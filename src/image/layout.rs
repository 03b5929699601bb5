//! OCI image layouts on the node's disk (OCI Image Layout Specification 1.1): `index.json`, and
//! blobs by digest. Every blob is verified against the digest by which it was found.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::reference::{Version, is_digest};
use super::{Fetched, ImageConfig, Reference, Source, Store, container};

/// A manifest, index or config larger than this is refused.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Layers that are the wasm itself: CNCF TAG Runtime's wasm OCI artifact, and what older tools
/// wrote.
const WASM_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Default)]
struct ConfigFile {
    #[serde(default)]
    config: Option<ConfigBody>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigBody {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

/// `oci:` references.
pub(super) struct LayoutSource;

impl Source for LayoutSource {
    fn local(&self) -> bool {
        false
    }

    fn fetch(&self, reference: &Reference, store: &Store) -> Result<Fetched, String> {
        let Reference::Layout { dir, version } = reference else {
            return Err("not an oci: reference".to_string());
        };
        let layout = Layout { dir: dir.clone() };
        let manifest: Manifest = layout.document(&layout.find(version)?.digest)?;
        let config = layout.config(manifest.config.as_ref())?;
        let wasm = |layer: &&Descriptor| WASM_LAYERS.contains(&layer.media_type.as_str());
        let digest = match manifest.layers.iter().filter(wasm).collect::<Vec<_>>().as_slice() {
            [layer] => layout.copy(layer, store)?,
            [] => container::find_wasm(&layout, &manifest.layers, &config, store)?,
            more => {
                return Err(format!(
                    "the artifact has {} wasm layers, and which to run cannot be told",
                    more.len()
                ));
            }
        };
        Ok(Fetched { digest, config })
    }
}

pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn find(&self, version: &Version) -> Result<Descriptor, String> {
        let path = self.dir.join("index.json");
        let bytes = read_bounded(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("{} is no OCI image layout: it has no index.json", self.dir.display())
            }
            _ => format!("{}: {error}", path.display()),
        })?;
        let index: Index = parse(&path, &bytes)?;
        let names = || {
            let named = index.manifests.iter().filter_map(|m| m.annotations.get(REF_NAME));
            named.cloned().collect::<Vec<_>>().join(", ")
        };
        let found = index.manifests.iter().find(|manifest| match version {
            // Some tools write the whole name there.
            Version::Tag(tag) => manifest.annotations.get(REF_NAME).is_some_and(|name| {
                name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
            }),
            Version::Digest(digest) => manifest.digest == *digest,
        });
        let found = match (found, version) {
            (Some(found), _) => found.clone(),
            (None, Version::Tag(tag)) => {
                return Err(format!(
                    "{} holds no image tagged {tag:?}; it holds: {}",
                    self.dir.display(),
                    names()
                ));
            }
            (None, Version::Digest(digest)) => {
                return Err(format!("{} holds no image {digest}", self.dir.display()));
            }
        };
        self.choose_platform(found)
    }

    /// Of an index of several platforms, the one for wasm.
    fn choose_platform(&self, found: Descriptor) -> Result<Descriptor, String> {
        if found.media_type != IMAGE_INDEX && found.media_type != DOCKER_LIST {
            return Ok(found);
        }
        let index: Index = self.document(&found.digest)?;
        let is_wasm = |manifest: &&Descriptor| {
            manifest.platform.as_ref().is_some_and(|platform| {
                platform.architecture.starts_with("wasm") || platform.os.starts_with("wasi")
            })
        };
        let mut fitting = index.manifests.iter().filter(is_wasm);
        match (fitting.next(), index.manifests.as_slice()) {
            (Some(manifest), _) => Ok(manifest.clone()),
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err("none of the image's platforms is wasm".to_string()),
        }
    }

    fn config(&self, descriptor: Option<&Descriptor>) -> Result<ImageConfig, String> {
        // The config of a plain artifact is often the two bytes of an empty object, or not JSON
        // at all; only that of a container image says how to run it.
        let Some(descriptor) = descriptor.filter(|d| d.media_type.contains("image")) else {
            return Ok(ImageConfig::default());
        };
        let body = self.document::<ConfigFile>(&descriptor.digest)?.config.unwrap_or_default();
        Ok(ImageConfig {
            entrypoint: body.entrypoint.unwrap_or_default(),
            cmd: body.cmd.unwrap_or_default(),
            env: body.env.unwrap_or_default(),
            working_dir: body.working_dir.filter(|dir| !dir.is_empty()),
        })
    }

    fn document<T: for<'de> Deserialize<'de>>(&self, digest: &str) -> Result<T, String> {
        let path = self.blob_path(digest)?;
        let bytes = read_bounded(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let actual = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if actual != digest {
            return Err(mismatch(digest, &actual));
        }
        parse(&path, &bytes)
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf, String> {
        if !is_digest(digest) {
            return Err(format!("{digest:?} is no sha256 digest"));
        }
        Ok(self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))
    }

    /// The bytes of a blob, whose digest is known good once all of them were read and
    /// [`Verified::finish`] was asked.
    pub fn open(&self, descriptor: &Descriptor) -> Result<Verified, String> {
        let path = self.blob_path(&descriptor.digest)?;
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Verified { file, hash: Sha256::new(), digest: descriptor.digest.clone() })
    }

    fn copy(&self, layer: &Descriptor, store: &Store) -> Result<String, String> {
        let mut verified = self.open(layer)?;
        let digest = store.add(&mut verified).map_err(|error| error.to_string())?;
        // The store names the file by what it holds, so a wrong blob can only be unused.
        if digest == layer.digest { Ok(digest) } else { Err(mismatch(&layer.digest, &digest)) }
    }
}

/// A blob that is hashed while it is read.
pub(super) struct Verified {
    file: File,
    hash: Sha256,
    digest: String,
}

impl Verified {
    /// Reads what is left and compares.
    pub fn finish(mut self) -> Result<(), String> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| error.to_string())?;
        let actual = format!("sha256:{}", hex::encode(self.hash.finalize()));
        if actual == self.digest { Ok(()) } else { Err(mismatch(&self.digest, &actual)) }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(buffer)?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}

fn mismatch(wanted: &str, actual: &str) -> String {
    format!("blob {wanted} is damaged: its bytes have digest {actual}")
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(bytes)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{}: {error}", path.display()))
}
