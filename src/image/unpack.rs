//! The files of an image as a directory, for `image` volumes: layers applied one over the other
//! (OCI Image Layer Filesystem Changeset).
//!
//! **Invariant:** whatever the archive says, nothing is written outside of the directory: every step
//! of a path is looked at, and a link is followed as seen from the directory, never from `/`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// What a volume may unpack to, in bytes and files.
const BYTES_MAX: u64 = 16 << 30;
const ENTRIES_MAX: usize = 1_000_000;
/// As the kernel: so many links a path.
const LINKS_MAX: usize = 40;

/// A directory that layers are applied to, the lowest first.
pub struct Tree {
    root: PathBuf,
    bytes: u64,
    entries: usize,
}

fn wrong(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Tree {
    /// An empty one; `root` must not exist yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir(root)?;
        Ok(Self { root: root.to_owned(), bytes: BYTES_MAX, entries: ENTRIES_MAX })
    }

    /// Applies the tar of a layer.
    ///
    /// # Errors
    /// It is damaged, too large, or the file system says no.
    pub fn apply(&mut self, layer: &mut dyn Read) -> io::Result<()> {
        let mut fresh: HashSet<PathBuf> = HashSet::new();
        let mut archive = tar::Archive::new(layer);
        for entry in archive.entries()? {
            let mut entry = entry?;
            self.entries =
                self.entries.checked_sub(1).ok_or_else(|| wrong("more than 1,000,000 files"))?;
            let path = entry.path()?.into_owned();
            let Some(name) = path.file_name().map(OsString::from) else {
                continue;
            };
            let parent = self.resolve(path.parent().unwrap_or(Path::new("")), true)?;
            let text = name.to_string_lossy();
            if text == ".wh..wh..opq" {
                hide_all(&parent, &fresh)?;
            } else if let Some(hidden) = text.strip_prefix(".wh.") {
                if !matches!(hidden, "" | "." | "..") && !hidden.contains('/') {
                    remove(&parent.join(hidden))?;
                }
            } else {
                let place = parent.join(&name);
                self.put(&mut entry, &place)?;
                fresh.insert(place);
            }
        }
        Ok(())
    }

    /// Writes one file that comes from elsewhere than an archive.
    ///
    /// # Errors
    /// The path leads outside, or the file system says no.
    pub fn add_file(&mut self, path: &str, from: &mut dyn Read) -> io::Result<()> {
        let path = Path::new(path);
        if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(wrong(format!("{} is no path below the volume", path.display())));
        }
        let name = path.file_name().ok_or_else(|| wrong("a file without a name"))?;
        let parent = self.resolve(path.parent().unwrap_or(Path::new("")), true)?;
        self.write(&parent.join(name), from, 0o644)
    }

    fn write(&mut self, place: &Path, from: &mut dyn Read, mode: u32) -> io::Result<()> {
        remove(place)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(place)?;
        let copied = io::copy(&mut from.take(self.bytes + 1), &mut file)?;
        self.bytes = self
            .bytes
            .checked_sub(copied)
            .ok_or_else(|| wrong("it unpacks to more than 16 GiB"))?;
        // Neither setuid nor what this process could not read again.
        file.set_permissions(fs::Permissions::from_mode((mode & 0o777) | 0o400))
    }

    fn put(&mut self, entry: &mut tar::Entry<'_, impl Read>, place: &Path) -> io::Result<()> {
        let mode = entry.header().mode().unwrap_or(0o644);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            if !fs::symlink_metadata(place).is_ok_and(|meta| meta.is_dir()) {
                remove(place)?;
                fs::create_dir(place)?;
            }
            return fs::set_permissions(place, fs::Permissions::from_mode((mode & 0o777) | 0o700));
        }
        if kind.is_symlink() {
            let to = entry.link_name()?.ok_or_else(|| wrong("a link to nothing"))?;
            remove(place)?;
            return symlink(to, place);
        }
        if kind.is_hard_link() {
            let to = entry.link_name()?.ok_or_else(|| wrong("a link to nothing"))?;
            let name = to.file_name().ok_or_else(|| wrong("a link to nothing"))?;
            let source = self.resolve(to.parent().unwrap_or(Path::new("")), false)?.join(name);
            if source == place {
                return Ok(());
            }
            if !fs::symlink_metadata(&source)?.is_file() {
                return Err(wrong(format!("a hard link to {}, which is no file", to.display())));
            }
            remove(place)?;
            return fs::hard_link(source, place);
        }
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            return self.write(place, entry, mode);
        }
        // Devices and pipes are of no use in a volume.
        Ok(())
    }

    /// Where a directory of the tree is, links followed as seen from the root.
    fn resolve(&self, path: &Path, make: bool) -> io::Result<PathBuf> {
        let mut at = self.root.clone();
        let mut rest: Vec<OsString> = Vec::new();
        push(&mut rest, path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                if at != self.root {
                    at.pop();
                }
                continue;
            }
            let next = at.join(&part);
            match fs::symlink_metadata(&next) {
                Ok(meta) if meta.is_dir() => at = next,
                Ok(meta) if meta.is_symlink() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(wrong(format!(
                            "{} leads through too many links",
                            path.display()
                        )));
                    }
                    let to = fs::read_link(&next)?;
                    if to.is_absolute() {
                        at.clone_from(&self.root);
                    }
                    push(&mut rest, &to);
                }
                Ok(_) if make => {
                    fs::remove_file(&next)?;
                    fs::create_dir(&next)?;
                    at = next;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                    fs::create_dir(&next)?;
                    at = next;
                }
                Ok(_) => return Err(wrong(format!("{} is no directory", path.display()))),
                Err(error) => return Err(error),
            }
        }
        Ok(at)
    }
}

/// The parts of a path, the first one last.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    let parts: Vec<OsString> = parts.collect();
    rest.extend(parts.into_iter().rev());
}

/// Removes what lower layers put into a directory.
fn hide_all(dir: &Path, fresh: &HashSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !fresh.iter().any(|new| new.starts_with(&path)) {
            remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    enum Put<'a> {
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
    }

    /// Builds a tar whose paths are taken as they are, however bad.
    fn layer(entries: &[Put<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            let (path, kind, content, link) = match entry {
                Put::File(path, text) => (path, tar::EntryType::Regular, *text, ""),
                Put::Link(path, to) => (path, tar::EntryType::Symlink, "", *to),
                Put::Hard(path, to) => (path, tar::EntryType::Link, "", *to),
            };
            let mut header = tar::Header::new_gnu();
            let old = header.as_old_mut();
            let len = path.len().min(100);
            old.name[..len].copy_from_slice(&path.as_bytes()[..len]);
            let len = link.len().min(100);
            old.linkname[..len].copy_from_slice(&link.as_bytes()[..len]);
            header.set_entry_type(kind);
            header.set_mode(0o4755);
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn text(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn layers_lie_one_over_the_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        let mut tree = Tree::create(&root).expect("made");
        let lower = layer(&[
            Put::File("usr/bin/a", "old"),
            Put::File("usr/gone", "x"),
            Put::File("opaque/old", "x"),
            Put::Link("bin", "usr/bin"),
            Put::Hard("usr/bin/b", "usr/bin/a"),
        ]);
        tree.apply(&mut &lower[..]).expect("applied");
        let upper = layer(&[
            Put::File("bin/a", "new"),
            Put::File("usr/.wh.gone", ""),
            Put::File("opaque/new", "y"),
            Put::File("opaque/.wh..wh..opq", ""),
        ]);
        tree.apply(&mut &upper[..]).expect("applied");
        assert_eq!(text(root.join("usr/bin/a")), "new");
        assert_eq!(text(root.join("usr/bin/b")), "old");
        assert!(!root.join("usr/gone").exists());
        assert!(!root.join("opaque/old").exists() && root.join("opaque/new").exists());
        let mode = fs::metadata(root.join("usr/bin/a")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        tree.add_file("sub/app.wasm", &mut &b"wasm"[..]).expect("added");
        assert!(tree.add_file("../x", &mut &b""[..]).is_err());
    }

    #[test]
    fn no_path_and_no_link_leads_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("secret"), "secret").expect("written");
        let root = dir.path().join("root");
        let mut tree = Tree::create(&root).expect("made");
        let away = outside.display().to_string();
        let bad = layer(&[
            Put::File("../../escape", "x"),
            Put::File("/etc/absolute", "x"),
            Put::Link("door", &away),
            Put::File("door/through", "x"),
            Put::Link("up", "../../.."),
            Put::File("up/climbed", "x"),
            Put::File(".wh..", ""),
        ]);
        tree.apply(&mut &bad[..]).expect("applied inside");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
        let names: Vec<_> = fs::read_dir(dir.path()).expect("there").flatten().collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for inside in ["escape", "etc/absolute", "climbed"] {
            assert!(root.join(inside).exists(), "{inside}");
        }
        let secret = format!("{away}/secret");
        let hard = layer(&[Put::Hard("stolen", &secret)]);
        assert!(tree.apply(&mut &hard[..]).is_err());
        let circle = layer(&[Put::Link("l1", "l2"), Put::Link("l2", "l1"), Put::File("l1/x", "")]);
        let told = tree.apply(&mut &circle[..]).expect_err("a circle").to_string();
        assert!(told.contains("too many links"), "{told}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_archive_says_it_stays_inside(
            entries in prop::collection::vec(
                ("(\\.\\./|/|a/|b/|\\./){0,4}(a|b|c|\\.\\.|\\.wh\\.a|\\.wh\\.\\.wh\\.\\.opq)",
                 "(\\.\\./|/|a/){0,3}(a|b|\\.\\.)?", 0..3u8),
                0..8,
            ),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let guard = dir.path().join("guard");
            fs::create_dir_all(guard.join("deep")).expect("made");
            let root = guard.join("deep/root");
            let mut tree = Tree::create(&root).expect("made");
            let puts: Vec<Put<'_>> = entries.iter().map(|(path, to, kind)| match kind {
                0 => Put::File(path, "x"),
                1 => Put::Link(path, to),
                _ => Put::Hard(path, to),
            }).collect();
            let _ = tree.apply(&mut &layer(&puts)[..]);
            let count = |dir: &Path| fs::read_dir(dir).expect("there").count();
            prop_assert_eq!((count(dir.path()), count(&guard), count(&guard.join("deep"))), (1, 1, 1));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
            let dir = tempfile::tempdir().expect("a directory");
            let mut tree = Tree::create(&dir.path().join("root")).expect("made");
            let _ = tree.apply(&mut &bytes[..]);
        }
    }
}
