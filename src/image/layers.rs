//! Unpacked layers of container images, one directory a chain id, shared by all images.
//!
//! ```text
//! DIR/HEX/      what overlayfs takes as a lower directory; HEX: 32 digits of the chain id
//! DIR/HEX.diff  the sha256 of the tar that it was made from
//! DIR/tmp/      layers that are still being unpacked
//! ```
//! Whiteouts become overlayfs' own: a character device 0/0 hides a name, the attribute
//! `trusted.overlay.opaque` hides what lower layers have in a directory.
//!
//! A tar archive may name its files through symbolic links of lower layers (`bin/sh` where `bin`
//! leads to `usr/bin`). Every path is therefore walked by hand, name by name, in this layer and
//! then in the lower ones; a link is replaced by what it says, counted from the image's root.
//!
//! **Invariant:** nothing is ever followed by the kernel: each name is looked at without following
//! it before it is used, so no archive reaches outside of its layer. The directory is the node's
//! alone, so nobody changes it meanwhile.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::{Layer, open_layer};

/// What one layer may unpack to.
const LAYER_BYTES_MAX: u64 = 16 << 30;
/// Files of one layer.
const ENTRIES_MAX: u64 = 2_000_000;
/// Symbolic links on the way to one file.
const LINKS_MAX: usize = 40;
const PATH_BYTES_MAX: usize = 4096;
/// What the name of a layer's digest ends with.
const DIFF_ID: &str = ".diff";

/// See the module.
pub struct Layers {
    dir: PathBuf,
    tmp: PathBuf,
    serial: AtomicU64,
}

/// The chain ids of an image's layers (OCI image config, "Layer ChainID"), bottom first.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let id = match chain.last() {
            None => diff.clone(),
            Some(below) => {
                format!("sha256:{}", hex::encode(Sha256::digest(format!("{below} {diff}"))))
            }
        };
        chain.push(id);
    }
    chain
}

impl Layers {
    /// Those kept in `dir`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let layers =
            Self { dir: dir.to_path_buf(), tmp: dir.join("tmp"), serial: AtomicU64::new(0) };
        // What a killed process left half-unpacked is of no use to anyone.
        let _ = fs::remove_dir_all(&layers.tmp);
        fs::create_dir_all(&layers.tmp)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        Ok(layers)
    }

    /// The directories of a container image, the lowest first; unpacked where they are not yet.
    /// It blocks.
    ///
    /// # Errors
    /// A layer is damaged or hostile, or cannot be written: the text names it.
    pub fn of_image(&self, image: &[Layer]) -> Result<Vec<PathBuf>, String> {
        let diff_ids: Vec<String> = image.iter().map(|layer| layer.diff_id.clone()).collect();
        let mut lower = Vec::with_capacity(image.len());
        for (layer, id) in image.iter().zip(chain_ids(&diff_ids)) {
            let path = match self.get(&id) {
                Some(there) => there,
                None => open_layer(&layer.path)
                    .map_err(|error| error.to_string())
                    .and_then(|mut tar| self.unpack(&id, &lower, &mut tar, &layer.diff_id))
                    .map_err(|why| format!("layer {}: {why}", layer.digest))?,
            };
            lower.push(path);
        }
        Ok(lower)
    }

    /// Removes the layers whose `diff_ids` no image has any more. An image that something runs on
    /// must be among them.
    pub fn keep(&self, diff_ids: &HashSet<String>) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(layer) = path.to_str().and_then(|text| text.strip_suffix(DIFF_ID)) else {
                continue;
            };
            if fs::read_to_string(&path).is_ok_and(|id| diff_ids.contains(&id)) {
                continue;
            }
            let removed = remove(Path::new(layer)).and_then(|()| fs::remove_file(&path));
            if let Err(error) = removed {
                tracing::warn!(layer, %error, "an unused layer was not removed");
            }
        }
    }

    /// The paths of overlayfs' lower directories are few bytes in all, so names are short.
    fn path(&self, chain_id: &str) -> PathBuf {
        let hex = chain_id.trim_start_matches("sha256:");
        self.dir.join(&hex[..hex.len().min(32)])
    }

    /// The layer, if it was unpacked already.
    fn get(&self, chain_id: &str) -> Option<PathBuf> {
        Some(self.path(chain_id)).filter(|path| path.is_dir())
    }

    /// Unpacks the `tar` of a layer onto `lower` (lowest first), or finds that somebody has.
    fn unpack(
        &self,
        chain_id: &str,
        lower: &[PathBuf],
        tar: &mut dyn Read,
        diff_id: &str,
    ) -> Result<PathBuf, String> {
        if let Some(there) = self.get(chain_id) {
            return Ok(there);
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let root = self.tmp.join(serial.to_string());
        let unpacked = unpack_into(&root, lower, tar, diff_id).and_then(|()| {
            let path = self.path(chain_id);
            // Before the layer itself, so that none is there that cannot be told.
            let sidecar = format!("{}{DIFF_ID}", path.display());
            fs::write(sidecar, diff_id).map_err(|error| error.to_string())?;
            match fs::rename(&root, &path) {
                Ok(()) => Ok(path),
                // Two pods pulled it at once; both are the same.
                Err(_) if path.is_dir() => Ok(path),
                Err(error) => Err(error.to_string()),
            }
        });
        let _ = fs::remove_dir_all(&root);
        unpacked
    }
}

fn unpack_into(
    root: &Path,
    lower: &[PathBuf],
    tar: &mut dyn Read,
    diff_id: &str,
) -> Result<(), String> {
    fs::create_dir(root).map_err(|error| error.to_string())?;
    fs::set_permissions(root, Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let mut hashed = Hashed { inner: tar, hash: Sha256::new(), left: LAYER_BYTES_MAX };
    let mut tree = Tree { root, lower };
    tree.extract(&mut hashed).map_err(|error| error.to_string())?;
    // Padding after the archive's end counts for the digest as well.
    io::copy(&mut hashed, &mut io::sink()).map_err(|error| error.to_string())?;
    let actual = format!("sha256:{}", hex::encode(hashed.hash.finalize()));
    match actual == diff_id {
        true => Ok(()),
        false => {
            Err(format!("it is damaged: it should unpack to {diff_id}, but unpacks to {actual}"))
        }
    }
}

struct Hashed<'a> {
    inner: &'a mut dyn Read,
    hash: Sha256,
    left: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(len as u64)
            .ok_or_else(|| io::Error::other("a layer unpacks to more than 16 GiB"))?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}

/// One layer while it is being unpacked.
struct Tree<'a> {
    root: &'a Path,
    lower: &'a [PathBuf],
}

/// Where a name was found.
enum Found {
    Here(fs::Metadata),
    Below(fs::Metadata, PathBuf),
    Nowhere,
}

impl Tree<'_> {
    fn extract(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(from);
        let mut count = 0;
        for entry in archive.entries()? {
            let mut entry = entry?;
            count += 1;
            if count > ENTRIES_MAX {
                return Err(io::Error::other("a layer has more than 2000000 files"));
            }
            let path = entry.path()?.into_owned();
            self.entry(&mut entry, &path)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    fn entry<R: Read>(&self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(io::Error::other("a path longer than 4096 bytes"));
        }
        let names = names(path)?;
        let Some((name, parent)) = names.split_last() else {
            // The root itself: its mode and owner count, nothing else.
            return match entry.header().entry_type() {
                EntryType::Directory => self.finish(self.root, entry),
                _ => Ok(()),
            };
        };
        let parent = self.directory(parent)?;
        let text = name.as_bytes();
        if text == b".wh..wh..opq" {
            return rustix::fs::setxattr(
                &parent,
                "trusted.overlay.opaque",
                b"y",
                XattrFlags::empty(),
            )
            .map_err(Into::into);
        }
        if let Some(hidden) = text.strip_prefix(b".wh.") {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(io::Error::other("a whiteout of nothing"));
            }
            let path = parent.join(std::ffi::OsStr::from_bytes(hidden));
            remove(&path)?;
            return mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
                .map_err(Into::into);
        }
        self.make(entry, &parent.join(name))
    }

    fn make<R: Read>(&self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let device = || -> io::Result<_> {
            let part = |n: io::Result<Option<u32>>| n.map(Option::unwrap_or_default);
            Ok(makedev(part(header.device_major())?, part(header.device_minor())?))
        };
        let node = |kind, device| {
            remove(path)?;
            mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).map_err(io::Error::from)
        };
        match kind {
            EntryType::Directory => {
                let there = fs::symlink_metadata(path);
                if !there.as_ref().is_ok_and(fs::Metadata::is_dir) {
                    remove(path)?;
                    fs::create_dir(path)?;
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(path)?;
                let mut file = File::create_new(path)?;
                io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("no target"))?;
                remove(path)?;
                symlink(target, path)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("no target"))?;
                return self.hard_link(&target, path);
            }
            EntryType::Char => node(FileType::CharacterDevice, device()?)?,
            EntryType::Block => node(FileType::BlockDevice, device()?)?,
            EntryType::Fifo => node(FileType::Fifo, 0)?,
            // Headers that carry no file.
            _ => return Ok(()),
        }
        self.finish(path, entry)
    }

    /// A hard link to a file of a lower layer is a copy: layers share no inodes.
    fn hard_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        let names = names(target)?;
        let (name, parent) = names.split_last().ok_or_else(|| io::Error::other("a link to /"))?;
        let parent = self.directory(parent)?;
        let here = parent.join(name);
        remove(path)?;
        let found = self.look(parent.strip_prefix(self.root).unwrap_or(Path::new("")), name);
        match found {
            Found::Here(meta) if !meta.is_dir() => fs::hard_link(here, path),
            Found::Below(meta, from) if meta.is_file() => {
                fs::copy(&from, path)?;
                lchown(path, Some(meta.uid()), Some(meta.gid()))?;
                fs::set_permissions(path, Permissions::from_mode(meta.mode() & 0o7777))
            }
            Found::Below(meta, from) if meta.is_symlink() => symlink(fs::read_link(from)?, path),
            _ => Err(io::Error::other(format!("a link to {}, which is no file", target.display()))),
        }
    }

    /// Owner, mode, attributes and time, in the order in which they do not undo each other.
    fn finish<R: Read>(&self, path: &Path, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode()?);
        let fields = header.as_old();
        let mtime = number(&fields.mtime, header.mtime())?;
        let uid = number(&fields.uid, header.uid())?;
        let gid = number(&fields.gid, header.gid())?;
        let id = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("an owner out of range"));
        lchown(path, Some(id(uid)?), Some(id(gid)?))?;
        if kind != EntryType::Symlink {
            fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(attributes) = entry.pax_extensions()? {
            for attribute in attributes {
                let attribute = attribute?;
                let key = attribute.key().unwrap_or_default();
                // Attributes of overlayfs itself would make the layer something else.
                if let Some(name) = key.strip_prefix("SCHILY.xattr.")
                    && !name.starts_with("trusted.overlay.")
                {
                    let value = attribute.value_bytes();
                    let set = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
                    // A file system without them (or without this one) still runs programs.
                    if let Err(error) = set {
                        tracing::debug!(path = %path.display(), name, %error, "attribute not set");
                    }
                }
            }
        }
        if kind == EntryType::Regular {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
            let _ = File::open(path).and_then(|file| file.set_modified(time));
        }
        Ok(())
    }

    /// The directory that `names` lead to, in this layer: made where only lower layers have it,
    /// as they have it, or nobody has.
    fn directory(&self, names: &[OsString]) -> io::Result<PathBuf> {
        let mut todo: VecDeque<OsString> = names.to_vec().into();
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let target = match self.look(&at, &name) {
                Found::Here(meta) if meta.is_symlink() => {
                    Some(fs::read_link(self.root.join(&at).join(&name))?)
                }
                Found::Below(meta, from) if meta.is_symlink() => Some(fs::read_link(from)?),
                Found::Here(meta) if meta.is_dir() => None,
                Found::Below(meta, _) if meta.is_dir() => {
                    let path = self.root.join(&at).join(&name);
                    fs::create_dir(&path)?;
                    lchown(&path, Some(meta.uid()), Some(meta.gid()))?;
                    fs::set_permissions(&path, Permissions::from_mode(meta.mode() & 0o7777))?;
                    None
                }
                // A file (or a whiteout) where a later entry needs a directory gives way.
                Found::Here(_) => {
                    let path = self.root.join(&at).join(&name);
                    remove(&path)?;
                    fs::create_dir(&path)?;
                    None
                }
                Found::Below(..) | Found::Nowhere => {
                    let path = self.root.join(&at).join(&name);
                    fs::create_dir(&path)?;
                    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
                    None
                }
            };
            let Some(target) = target else {
                at.push(name);
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("too many levels of symbolic links"));
            }
            if target.is_absolute() {
                at = PathBuf::new();
            }
            for component in target.components().rev() {
                match component {
                    Component::Normal(part) => todo.push_front(part.to_os_string()),
                    Component::ParentDir => todo.push_front("..".into()),
                    _ => {}
                }
            }
        }
        Ok(self.root.join(at))
    }

    /// Who has `name` in the directory `at`, whose own way holds no links: this layer, or the
    /// highest lower one that is not hidden.
    fn look(&self, at: &Path, name: &OsString) -> Found {
        let own = self.root.join(at).join(name);
        if let Ok(meta) = fs::symlink_metadata(&own) {
            return Found::Here(meta);
        }
        for lower in self.lower.iter().rev() {
            let path = lower.join(at).join(name);
            match fs::symlink_metadata(&path) {
                Ok(meta) if is_whiteout(&meta) => return Found::Nowhere,
                Ok(meta) => return Found::Below(meta, path),
                Err(_) if hides(lower, at) => return Found::Nowhere,
                Err(_) => {}
            }
        }
        Found::Nowhere
    }
}

/// Whether a layer hides what those below it have at `at`: a way that ends in a whiteout or
/// leads through an opaque directory.
fn hides(layer: &Path, at: &Path) -> bool {
    let mut path = layer.to_path_buf();
    for name in at.components() {
        path.push(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if !meta.is_dir() => return true,
            Ok(_) => {
                let mut value = [0u8; 4];
                let got = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value);
                if got.is_ok_and(|len| &value[..len] == b"y") {
                    return true;
                }
            }
            Err(_) => return false,
        }
    }
    false
}

fn is_whiteout(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// A number of a header; some tools leave a field empty and mean 0.
fn number(field: &[u8], read: io::Result<u64>) -> io::Result<u64> {
    let empty = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if empty { Ok(0) } else { read }
}

/// The names of a path, without `.`, never above the root.
fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_os_string()),
            Component::ParentDir => {
                return Err(io::Error::other("a path with \"..\""));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(names)
}

/// Removes whatever has the name, a directory with all that is in it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
