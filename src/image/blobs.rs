//! Files named by the sha256 of what they hold.
//!
//! ```text
//! DIR/blobs/sha256/HEX   whole and verified; never written again
//! DIR/partial/HEX        the beginning of a blob that is being fetched; kept, so that it is resumed
//! DIR/tmp/…              files that are still being written
//! ```
//!
//! **Invariant:** a file gets its name in `blobs` only after its bytes were hashed and are on disk.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces on their way to the disk.
const QUEUED_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Blobs {
    blobs: PathBuf,
    partial: PathBuf,
    tmp: PathBuf,
    serial: AtomicU64,
    /// Digests that somebody is about to use: they are not swept.
    busy: Mutex<HashMap<String, usize>>,
}

/// A blob on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub digest: String,
    pub size: u64,
    pub modified: SystemTime,
}

pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

impl Blobs {
    /// Opens (or makes) the directories below `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let blobs = Self {
            blobs: dir.join("blobs/sha256"),
            partial: dir.join("partial"),
            tmp: dir.join("tmp"),
            serial: AtomicU64::new(0),
            busy: Mutex::default(),
        };
        // What a killed process left half-written is of no use to anyone.
        let _ = fs::remove_dir_all(&blobs.tmp);
        for dir in [&blobs.blobs, &blobs.partial, &blobs.tmp] {
            fs::create_dir_all(dir)?;
        }
        Ok(blobs)
    }

    /// Where the blob of a digest is. The digest must have been checked to be one.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.blobs.join(hex_of(digest))
    }

    /// Its size, where it is there.
    pub fn size(&self, digest: &str) -> Option<u64> {
        let found = fs::metadata(self.path(digest)).ok()?;
        found.is_file().then_some(found.len())
    }

    pub fn has(&self, digest: &str) -> bool {
        self.size(digest).is_some()
    }

    /// All of a small blob.
    ///
    /// # Errors
    /// It is missing or longer than `max`.
    pub fn read(&self, digest: &str, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(digest))?.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::other(format!("{digest} is larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// A name for a file that is to be written, on the same file system.
    pub fn tmp_path(&self) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.tmp.join(format!("{}-{serial}", std::process::id()))
    }

    /// Where the beginning of a blob is kept.
    pub fn partial_path(&self, digest: &str) -> PathBuf {
        self.partial.join(hex_of(digest))
    }

    /// Takes in all of `from` and gives its digest and size.
    ///
    /// # Errors
    /// What `from` or the file system says, or that it is longer than `max`.
    pub fn add(&self, from: &mut dyn Read, max: u64) -> io::Result<(String, u64)> {
        let mut sink = Sink::create(&self.tmp_path(), max)?;
        let mut buffer = vec![0; 1 << 16];
        let written = loop {
            match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    if let Err(error) = sink.write(&buffer[..len]) {
                        break Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = written {
            sink.discard();
            return Err(error);
        }
        let size = sink.written();
        Ok((self.commit(sink)?, size))
    }

    /// Takes in a document.
    ///
    /// # Errors
    /// What the file system says.
    pub fn add_bytes(&self, mut bytes: &[u8]) -> io::Result<String> {
        self.add(&mut bytes, u64::MAX).map(|(digest, _)| digest)
    }

    /// Gives what was written its name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn commit(&self, sink: Sink) -> io::Result<String> {
        let digest = sink.digest();
        let target = self.path(&digest);
        if target.exists() {
            sink.discard();
            // It counts as new for those who look for what is old.
            let _ = touch(&target);
            return Ok(digest);
        }
        sink.file.sync_data()?;
        fs::rename(&sink.path, &target)?;
        File::open(&self.blobs)?.sync_all()?;
        Ok(digest)
    }

    /// Removes a blob, unless somebody is about to use it. Its size.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, digest: &str) -> io::Result<u64> {
        // Held while the file goes, so that nobody finds it between.
        let busy = self.busy.lock();
        if busy.contains_key(digest) {
            return Ok(0);
        }
        let size = self.size(digest).unwrap_or(0);
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(size),
        }
    }

    /// All blobs.
    ///
    /// # Errors
    /// What the file system says.
    pub fn all(&self) -> io::Result<Vec<Found>> {
        list(&self.blobs)
    }

    /// All beginnings of blobs.
    ///
    /// # Errors
    /// What the file system says.
    pub fn partials(&self) -> io::Result<Vec<Found>> {
        list(&self.partial)
    }

    /// Forgets the beginning of a blob, unless it is being fetched.
    pub fn forget_partial(&self, digest: &str) {
        let busy = self.busy.lock();
        if !busy.contains_key(digest) {
            let _ = fs::remove_file(self.partial_path(digest));
        }
    }

    /// Keeps blobs from being removed for as long as the guard lives.
    pub fn keep(self: &Arc<Self>, digests: impl IntoIterator<Item = String>) -> Kept {
        let digests: Vec<String> = digests.into_iter().collect();
        let mut busy = self.busy.lock();
        for digest in &digests {
            *busy.entry(digest.clone()).or_default() += 1;
        }
        Kept { blobs: Arc::clone(self), digests }
    }
}

fn list(dir: &Path) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        if super::reference::is_digest(&digest) {
            let modified = meta.modified()?;
            all.push(Found { digest, size: meta.len(), modified });
        }
    }
    Ok(all)
}

/// Makes a file new.
pub fn touch(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.set_modified(SystemTime::now())
}

/// See [`Blobs::keep`].
#[derive(Debug)]
pub struct Kept {
    blobs: Arc<Blobs>,
    digests: Vec<String>,
}

impl Kept {
    /// Keeps one more.
    pub fn also(&mut self, digest: &str) {
        *self.blobs.busy.lock().entry(digest.to_owned()).or_default() += 1;
        self.digests.push(digest.to_owned());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut busy = self.blobs.busy.lock();
        for digest in &self.digests {
            match busy.get_mut(digest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(busy.remove(digest)),
            }
        }
    }
}

/// A file that is hashed while it is written.
#[derive(Debug)]
pub struct Sink {
    file: File,
    path: PathBuf,
    hash: Sha256,
    len: u64,
    max: u64,
}

impl Sink {
    /// A new file that may have `max` bytes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path, max: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
        Ok(Self { file, path: path.to_owned(), hash: Sha256::new(), len: 0, max })
    }

    /// Goes on behind what is there already.
    ///
    /// # Errors
    /// What the file system says.
    pub fn resume(path: &Path, max: u64) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut len = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            len += read as u64;
        }
        let mut sink = Self { file, path: path.to_owned(), hash, len, max };
        if sink.len > max {
            sink.restart()?;
        }
        Ok(sink)
    }

    /// Forgets what was written.
    ///
    /// # Errors
    /// What the file system says.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// # Errors
    /// What the file system says, or that it would be too long.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = self.len + bytes.len() as u64;
        if len > self.max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than the {} bytes that it may have", self.max),
            ));
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.len = len;
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.len
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }

    /// Removes the file.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Carries what arrives on the network to a [`Sink`] on a thread that may wait for the disk.
pub struct Feed {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<(Sink, io::Result<()>)>,
}

impl Feed {
    pub fn start(mut sink: Sink) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUED_MAX);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                if let Err(error) = sink.write(&piece) {
                    return (sink, Err(error));
                }
            }
            (sink, Ok(()))
        });
        Self { pieces, writer }
    }

    /// Whether the writer still takes pieces; why it does not, [`Self::end`] tells.
    pub async fn push(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// What the file system said, beside the sink as it is then.
    pub async fn end(self) -> (Option<Sink>, io::Result<()>) {
        drop(self.pieces);
        match self.writer.await {
            Ok((sink, result)) => (Some(sink), result),
            Err(error) => (None, Err(io::Error::other(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_resumed_and_gets_the_digest_of_the_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("opened");
        let whole = b"a whole blob";
        let path = blobs.partial_path(&digest_of(whole));
        let mut sink = Sink::resume(&path, 100).expect("made");
        sink.write(&whole[..5]).expect("written");
        drop(sink);
        let mut sink = Sink::resume(&path, 100).expect("resumed");
        assert_eq!(sink.written(), 5);
        sink.write(&whole[5..]).expect("written");
        assert_eq!(blobs.commit(sink).expect("committed"), digest_of(whole));
        assert_eq!(blobs.size(&digest_of(whole)), Some(12));
        assert!(!path.exists());
    }

    #[test]
    fn a_blob_longer_than_allowed_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("opened");
        let error = blobs.add(&mut &[0u8; 11][..], 10).expect_err("too long");
        assert!(error.to_string().contains("larger than the 10 bytes"), "{error}");
        assert!(blobs.all().expect("listed").is_empty());
        assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("there").count(), 0);
    }

    #[test]
    fn what_is_kept_is_not_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Arc::new(Blobs::open(dir.path()).expect("opened"));
        let digest = blobs.add_bytes(b"x").expect("added");
        let first = blobs.keep([digest.clone()]);
        let second = blobs.keep([digest.clone()]);
        drop(first);
        assert_eq!(blobs.remove(&digest).expect("asked"), 0);
        drop(second);
        assert_eq!(blobs.remove(&digest).expect("asked"), 1);
        assert!(!blobs.has(&digest));
    }
}
