//! Compiled artifacts: on disk by digest, in memory while they are used.
//!
//! ```text
//! asked for ─▶ loaded? ─yes─▶ shared
//!                 │no
//!                 ▼
//!            on disk, MAC right? ─no─▶ compiled in a child process, sealed with the MAC
//!                 │yes                                        │
//!                 ▼                                           │
//!            mapped, linked, shared ◀─────────────────────────┘
//! ```
//!
//! Loading a compiled file runs native code from it, so a file is mapped only after its MAC, under
//! a key that only this node has, was verified over the very descriptor that is then mapped. The
//! directory is 0700 and in reach of no volume. The name of a file says what it was compiled from
//! and for: the digest of the wasm, and a hash of all that compiled code relies on.
//!
//! **Invariant:** of each digest at most one copy is loaded, and one compiles, at a time.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::engine::Engines;
use super::linker::{Linked, Linkers};
use super::recognize::{self, ArtifactKind};
use crate::runtime::compile;
use crate::runtime::config::{CompileLimits, Compiler, RuntimeConfig};
use crate::runtime::error::{PrepareError, RuntimeError};

/// Code that is loaded, shared by all that run it.
pub struct Code {
    pub linked: Linked,
    pub engine: Engine,
    pub uses_files: bool,
    digest: String,
    /// Milliseconds on the artifacts' clock.
    last_used: AtomicU64,
}

/// What loading and linking gave, before it is shared.
struct Loaded {
    linked: Linked,
    engine: Engine,
    uses_files: bool,
}

/// The compiled artifacts of a node.
pub struct Artifacts {
    dir: PathBuf,
    key: hmac::Key,
    compiler: Compiler,
    limits: CompileLimits,
    loaded_max: usize,
    engines: Arc<Engines>,
    linkers: Arc<Vec<Linkers>>,
    loaded: Mutex<HashMap<String, Arc<Code>>>,
    /// One lock a digest, so that a digest is compiled once.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    compiling: Semaphore,
    start: Instant,
    serial: AtomicU64,
}

impl Artifacts {
    /// Opens (or makes) the cache below the node's state directory.
    ///
    /// # Errors
    /// When the directory or the key is out of reach.
    pub fn open(config: &RuntimeConfig, engines: Arc<Engines>) -> Result<Self, RuntimeError> {
        let dir = config.state_dir.join("artifacts");
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| RuntimeError::StateDir { path, error }
        };
        private_dir(&config.state_dir).map_err(at(&config.state_dir))?;
        private_dir(&dir).map_err(at(&dir))?;
        remove_leftovers(&dir, &engines.compatibility).map_err(at(&dir))?;
        let key_file = config.state_dir.join("artifact.key");
        let key = load_key(&key_file).map_err(at(&key_file))?;
        let linkers = engines
            .pool
            .iter()
            .chain([&engines.on_demand])
            .map(Linkers::new)
            .collect::<wasmtime::Result<Vec<_>>>()
            .map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        Ok(Self {
            dir,
            key,
            compiler: config.compiler.clone(),
            limits: config.compile,
            loaded_max: config.loaded_max,
            engines,
            linkers: Arc::new(linkers),
            loaded: Mutex::default(),
            busy: Mutex::default(),
            compiling: Semaphore::new(config.compile.parallel.max(1)),
            start: Instant::now(),
            serial: AtomicU64::new(0),
        })
    }

    /// Marks code as used now.
    pub fn touch(&self, code: &Code) {
        code.last_used.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How many artifacts are loaded.
    pub fn loaded(&self) -> usize {
        self.loaded.lock().len()
    }

    /// The code of `digest`, compiled from `wasm` if it never was before.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub async fn get(&self, wasm: &Path, digest: &str) -> Result<Arc<Code>, PrepareError> {
        if let Some(code) = self.find(digest) {
            return Ok(code);
        }
        let lock = self.lock_of(digest);
        let _alone = lock.lock().await;
        if let Some(code) = self.find(digest) {
            return Ok(code);
        }
        let stored = self.stored(digest)?;
        let loaded = match self.load(&stored).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                self.compile(wasm, digest, &stored).await?;
                self.load(&stored).await?.ok_or_else(|| {
                    PrepareError::Cache("what was just compiled is damaged".to_string())
                })?
            }
            Err(error) => return Err(error),
        };
        Ok(self.share(digest, loaded))
    }

    fn find(&self, digest: &str) -> Option<Arc<Code>> {
        let code = self.loaded.lock().get(digest).cloned()?;
        self.touch(&code);
        Some(code)
    }

    fn lock_of(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock();
        if let Some(lock) = busy.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        busy.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(digest.to_string(), Arc::downgrade(&lock));
        lock
    }

    fn share(&self, digest: &str, loaded: Loaded) -> Arc<Code> {
        let code = Arc::new(Code {
            linked: loaded.linked,
            engine: loaded.engine,
            uses_files: loaded.uses_files,
            digest: digest.to_string(),
            last_used: AtomicU64::new(0),
        });
        self.touch(&code);
        let unloaded = {
            let mut all = self.loaded.lock();
            all.insert(digest.to_string(), code.clone());
            self.take_idle(&mut all)
        };
        // Unmapping takes its time, and nobody should wait for it.
        drop(unloaded);
        code
    }

    /// Takes out idle code, least recently used first, until as much is left as may be.
    fn take_idle(&self, all: &mut HashMap<String, Arc<Code>>) -> Vec<Arc<Code>> {
        let excess = all.len().saturating_sub(self.loaded_max);
        if excess == 0 {
            return Vec::new();
        }
        let mut idle: Vec<(u64, String)> = all
            .values()
            .filter(|code| Arc::strong_count(code) == 1)
            .map(|code| (code.last_used.load(Ordering::Relaxed), code.digest.clone()))
            .collect();
        idle.sort_unstable();
        // A few more than must go, so that not every load has to look again.
        let goes = excess + self.loaded_max / 16;
        idle.iter().take(goes).filter_map(|(_, digest)| all.remove(digest)).collect()
    }

    fn stored(&self, digest: &str) -> Result<PathBuf, PrepareError> {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(PrepareError::Cache(format!("{digest:?} is no sha256 digest")));
        }
        Ok(self.dir.join(format!("{hex}-{}.cwasm", self.engines.compatibility)))
    }

    async fn compile(&self, wasm: &Path, digest: &str, to: &Path) -> Result<(), PrepareError> {
        let _turn = self.compiling.acquire().await.expect("never closed");
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("tmp-{serial}"));
        let _ = fs::remove_file(&temporary);
        let start = Instant::now();
        let space = self.engines.address_space;
        let compiled =
            compile::compile(&self.compiler, &self.limits, space, wasm, &temporary).await;
        let sealed = compiled.and_then(|()| self.seal(&temporary, to).map_err(cache_error));
        if sealed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        info!(digest, ms = start.elapsed().as_millis() as u64, ok = sealed.is_ok(), "compiled");
        sealed
    }

    /// Names the compiled file for good, with its MAC beside it.
    fn seal(&self, temporary: &Path, to: &Path) -> io::Result<()> {
        let mut file = File::open(temporary)?;
        let tag = hmac::sign(&self.key, &sealed_message(to, &mut file)?);
        let seal = to.with_extension("mac");
        let mut temporary_seal = temporary.as_os_str().to_owned();
        temporary_seal.push(".mac");
        let mut options = OpenOptions::new();
        let mut out =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary_seal)?;
        out.write_all(tag.as_ref())?;
        fs::rename(temporary, to)?;
        fs::rename(temporary_seal, seal)
    }

    async fn load(&self, path: &Path) -> Result<Option<Loaded>, PrepareError> {
        let (linkers, key, path) = (self.linkers.clone(), self.key.clone(), path.to_path_buf());
        let load = move || match verified(&key, &path).map_err(cache_error)? {
            Some(file) => load_into(&linkers, &file).map(Some),
            None => Ok(None),
        };
        tokio::task::spawn_blocking(load)
            .await
            .unwrap_or_else(|error| Err(PrepareError::Cache(format!("loading broke: {error}"))))
    }
}

/// What the MAC is made over: the name, which says what the file was compiled from and for, and
/// the hash of the bytes.
fn sealed_message(name: &Path, file: &mut File) -> io::Result<Vec<u8>> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            len => hash.update(&buffer[..len]),
        }
    }
    let mut message = name.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    message.push(0);
    message.extend_from_slice(hash.finish().as_ref());
    Ok(message)
}

/// Opens a compiled file whose MAC is right; `None` where there is none such.
fn verified(key: &hmac::Key, path: &Path) -> io::Result<Option<File>> {
    let opened = fs::read(path.with_extension("mac")).and_then(|mac| Ok((mac, File::open(path)?)));
    let (mac, mut file) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if hmac::verify(key, &sealed_message(path, &mut file)?, &mac).is_err() {
        warn!(path = %path.display(), "a compiled artifact was changed; it is compiled again");
        return Ok(None);
    }
    Ok(Some(file))
}

/// Loads into the first engine that the artifact fits: the pool, then on demand.
fn load_into(linkers: &[Linkers], file: &File) -> Result<Loaded, PrepareError> {
    let mut refused = None;
    for linkers in linkers {
        match map(linkers.engine(), file) {
            Ok(Mapped::Module(module)) => {
                let linked = linkers.link_module(&module)?;
                let engine = linkers.engine().clone();
                return Ok(Loaded { linked, engine, uses_files: true });
            }
            Ok(Mapped::Component(component)) => {
                let linked = linkers.link_component(&component)?;
                let engine = linkers.engine().clone();
                let uses_files = linked.kind() != ArtifactKind::HttpHandler
                    || recognize::uses_files(&component, &engine);
                return Ok(Loaded { linked, engine, uses_files });
            }
            Err(error) => refused = Some(format!("{error:#}")),
        }
    }
    Err(PrepareError::Cache(refused.unwrap_or_else(|| "there is no engine".to_string())))
}

enum Mapped {
    Module(Module),
    Component(Component),
}

/// Maps a compiled file by the descriptor that was verified.
#[allow(unsafe_code)]
fn map(engine: &Engine, file: &File) -> wasmtime::Result<Mapped> {
    // The link names the open file itself, whatever has become of its path since.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match Engine::detect_precompiled_file(&path)? {
        // SAFETY: the bytes behind this descriptor carry a MAC under this node's key, verified
        // over the same descriptor, so they are what a compiler of this node wrote. Nobody else
        // can write to the file: it lies in a directory of mode 0700 and is never written to
        // after its MAC was made.
        Some(Precompiled::Module) => {
            unsafe { Module::deserialize_file(engine, &path) }.map(Mapped::Module)
        }
        // SAFETY: as above.
        Some(Precompiled::Component) => {
            unsafe { Component::deserialize_file(engine, &path) }.map(Mapped::Component)
        }
        None => Err(wasmtime::format_err!("not a compiled artifact")),
    }
}

fn cache_error(error: io::Error) -> PrepareError {
    PrepareError::Cache(error.to_string())
}

fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Removes half-written files of a process that was killed, and what other engines compiled.
fn remove_leftovers(dir: &Path, compatibility: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !stem.ends_with(compatibility) || stem.starts_with("tmp-") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The node's key for MACs, made at the first start.
fn load_key(path: &Path) -> io::Result<hmac::Key> {
    const LEN: usize = 32;
    let bytes = match fs::read(path) {
        Ok(bytes) if bytes.len() == LEN => bytes,
        Ok(_) => return Err(io::Error::other("not a key of 32 bytes; remove it to get a new one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = vec![0; LEN];
            let no_randomness = |_| io::Error::other("no randomness");
            SystemRandom::new().fill(&mut bytes).map_err(no_randomness)?;
            let temporary = path.with_extension("tmp");
            let _ = fs::remove_file(&temporary);
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            bytes
        }
        Err(error) => return Err(error),
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}
