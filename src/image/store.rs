//! The content store: a file per sha256, and what references meant when they were last fetched.
//!
//! ```text
//! DIR/blobs/sha256/HEX   the wasm
//! DIR/refs/HEX           sha256 of the reference → digest and config, as JSON
//! DIR/tmp/               files that are still being written
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ARTIFACT_BYTES_MAX, Artifact, Fetched, ImageConfig, Reference, Source};

pub(super) struct Store {
    blobs: PathBuf,
    refs: PathBuf,
    tmp: PathBuf,
    serial: AtomicU64,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    reference: String,
    digest: String,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: Option<String>,
}

impl Store {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let store = Self {
            blobs: dir.join("blobs/sha256"),
            refs: dir.join("refs"),
            tmp: dir.join("tmp"),
            serial: AtomicU64::new(0),
        };
        // What a killed process left half-written is of no use to anyone.
        let _ = fs::remove_dir_all(&store.tmp);
        for dir in [&store.blobs, &store.refs, &store.tmp] {
            fs::create_dir_all(dir)?;
        }
        Ok(store)
    }

    /// Takes in all of `from` and gives its digest.
    pub fn add(&self, from: &mut dyn Read) -> io::Result<String> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp.join(format!("{}-{serial}", std::process::id()));
        let added = self.add_at(&path, from);
        if added.is_err() {
            let _ = fs::remove_file(&path);
        }
        added
    }

    fn add_at(&self, path: &Path, from: &mut dyn Read) -> io::Result<String> {
        let mut file = File::create(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let len = from.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            size += len as u64;
            if size > ARTIFACT_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "larger than {} MiB, which is the most that is taken",
                    ARTIFACT_BYTES_MAX >> 20
                )));
            }
            hash.update(&buffer[..len]);
            file.write_all(&buffer[..len])?;
        }
        let hex = hex::encode(hash.finalize());
        let target = self.blobs.join(&hex);
        if target.exists() {
            fs::remove_file(path)?;
        } else {
            file.sync_data()?;
            fs::rename(path, target)?;
        }
        Ok(format!("sha256:{hex}"))
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.trim_start_matches("sha256:"))
    }

    /// The artifact of a digest that was added.
    pub fn artifact(
        &self,
        digest: &str,
        config: ImageConfig,
        present: bool,
    ) -> io::Result<Artifact> {
        let path = self.blob(digest);
        let size = fs::metadata(&path)?.len();
        Ok(Artifact { path, digest: digest.to_string(), size, config, present })
    }

    fn ref_file(&self, reference: &str) -> PathBuf {
        self.refs.join(hex::encode(Sha256::digest(reference.as_bytes())))
    }

    pub fn remember(&self, reference: &str, artifact: &Artifact) -> io::Result<()> {
        let config = artifact.config.clone();
        let remembered = Remembered {
            reference: reference.to_string(),
            digest: artifact.digest.clone(),
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            working_dir: config.working_dir,
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp.join(format!("{}-{serial}", std::process::id()));
        fs::write(&path, serde_json::to_vec(&remembered)?)?;
        fs::rename(path, self.ref_file(reference))
    }

    /// What `reference` meant when it was last fetched, if that is still here.
    pub fn remembered(&self, reference: &str) -> Option<Artifact> {
        let bytes = fs::read(self.ref_file(reference)).ok()?;
        let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
        let config = ImageConfig {
            entrypoint: remembered.entrypoint,
            cmd: remembered.cmd,
            env: remembered.env,
            working_dir: remembered.working_dir,
        };
        self.artifact(&remembered.digest, config, true).ok()
    }
}

/// `file:` references.
pub(super) struct FileSource;

impl Source for FileSource {
    fn local(&self) -> bool {
        true
    }

    fn fetch(&self, reference: &Reference, store: &Store) -> Result<Fetched, String> {
        let Reference::File(path) = reference else {
            return Err("not a file: reference".to_string());
        };
        let named = |error: io::Error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(named)?;
        if !file.metadata().map_err(named)?.is_file() {
            return Err(format!("{}: not a regular file", path.display()));
        }
        // Copied, so that a file that is written while its pod runs harms nobody.
        let digest = store.add(&mut { file }).map_err(named)?;
        Ok(Fetched { digest, config: ImageConfig::default() })
    }
}
