//! The one directory below which everything of a demo lies, gone when the demo ends.
//!
//! A demo that is killed with SIGKILL cannot clean up; its directory is told from a living one's
//! by a lock that the kernel lets go with the process, and the next demo removes it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "coracle-demo-";
const LOCK: &str = "lock";

/// A directory that only this user may read; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held as long as the directory is in use.
    _lock: File,
}

impl Scratch {
    /// A new directory below `parent`.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub fn create(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        if path.exists() {
            // An earlier process of the same number, which the sweep left because it runs as
            // someone else or could not be removed.
            std::fs::remove_dir_all(&path)?;
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        // It gets its name only once it is locked, so that no sweep finds it unlocked.
        let unnamed = path.join("lock.new");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        std::fs::rename(&unnamed, path.join(LOCK))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the directory; tries again where a process that is just ending still wrote into it.
fn remove(path: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..20 {
        last = std::fs::remove_dir_all(path);
        match &last {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
    last
}

/// Removes what demos of this user that no longer run have left below `parent`.
pub fn sweep(parent: &Path) {
    let own = rustix::process::getuid().as_raw();
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        // Of the entry itself: a link to elsewhere is left alone.
        let ours = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() && m.uid() == own);
        let dead = || File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if ours && dead() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_owner() {
        let parent = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(parent.path()).expect("it can be made");
        std::fs::write(scratch.path().join("file"), "x").expect("it can be written to");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_sweep_takes_the_dead_and_leaves_the_living() {
        let parent = tempfile::tempdir().expect("a directory");
        let living = Scratch::create(parent.path()).expect("it can be made");
        let dead = parent.path().join("coracle-demo-dead");
        std::fs::create_dir(&dead).expect("it can be made");
        std::fs::write(dead.join(LOCK), "").expect("a lock that nobody holds");
        let other = parent.path().join("something-else");
        std::fs::create_dir(&other).expect("it can be made");
        sweep(parent.path());
        assert!(living.path().exists());
        assert!(!dead.exists());
        assert!(other.exists());
    }
}
