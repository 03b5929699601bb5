//! The files of a guest.
//!
//! WASI knows directories that were opened for the guest (preopens), found by the longest name
//! that matches a path. Each mounted directory is one. What lies between them, and files that are
//! mounted alone, is a tree made for the workload on the host and opened, read only, as `/`: so
//! `ls /` shows the mount points, and a path to a single file finds it there.
//!
//! A file mounted alone is a hard link there, so that it is the volume's own file; where it must
//! be written to, the directory of the tree that holds it is opened for writing as well. A mount
//! inside another mounted directory needs its name to exist there, as with any mount: it is made
//! where the outer one may be written to, without following links, which guests can make.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::filesystem::FsPerms;

use super::builtin::Tree;
use crate::runtime::error::StartError;
use crate::runtime::spec::Mount;

/// Mounts of one workload.
const MOUNTS_MAX: usize = 256;

#[derive(Debug, PartialEq, Eq)]
struct Preopen {
    host: PathBuf,
    guest: String,
    writable: bool,
}

/// The files of a workload; the tree made for it is removed when this is dropped.
#[derive(Debug)]
pub struct Files {
    tree: PathBuf,
    preopens: Vec<Preopen>,
}

impl Files {
    /// Makes the tree at `tree`, which must not exist.
    ///
    /// # Errors
    /// [`StartError::Mount`], naming the mount.
    pub fn prepare(tree: PathBuf, mounts: &[Mount]) -> Result<Self, StartError> {
        if mounts.len() > MOUNTS_MAX {
            return Err(failed("/", format!("more than {MOUNTS_MAX} mounts")));
        }
        fs::create_dir_all(&tree)
            .map_err(|error| failed("/", format!("{}: {error}", tree.display())))?;
        // From here on a failure removes the tree.
        let mut files = Self { tree, preopens: Vec::new() };
        let mut mounts: Vec<(String, &Mount)> = mounts
            .iter()
            .map(|mount| Ok((normal(&mount.guest)?, mount)))
            .collect::<Result<_, StartError>>()?;
        mounts.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = mounts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(failed(&pair[0].0, "mounted twice".to_string()));
        }
        let writable: BTreeSet<String> = mounts
            .iter()
            .filter(|(_, mount)| !mount.read_only && mount.host.is_file())
            .map(|(guest, _)| parent(guest).to_string())
            .collect();
        for (guest, mount) in &mounts {
            files.place(guest, mount, &writable)?;
        }
        if !files.preopens.iter().any(|preopen| preopen.guest == "/") {
            let host = files.tree.clone();
            let writable = writable.contains("/");
            files.preopens.push(Preopen { host, guest: "/".to_string(), writable });
        }
        Ok(files)
    }

    fn place(
        &mut self,
        guest: &str,
        mount: &Mount,
        writable: &BTreeSet<String>,
    ) -> Result<(), StartError> {
        let at_host =
            |error: io::Error| failed(guest, format!("{}: {error}", mount.host.display()));
        let meta = fs::metadata(&mount.host).map_err(at_host)?;
        if meta.is_dir() {
            self.place_directory(guest, mount);
            return Ok(());
        }
        if !meta.is_file() {
            let host = mount.host.display();
            return Err(failed(guest, format!("{host} is neither a directory nor a file")));
        }
        let source = fs::canonicalize(&mount.host).map_err(at_host)?;
        let dir = parent(guest);
        let name = &guest[guest.rfind('/').map_or(0, |at| at + 1)..];
        match self.outer(guest) {
            Some(outer) if !outer.writable => {
                Err(failed(guest, format!("inside {}, which is mounted read only", outer.guest)))
            }
            Some(outer) => {
                let rest = below(&outer.guest, dir);
                let dir = make_directories(&outer.host, rest).map_err(at_host)?;
                put_file(&source, &dir, name, mount.read_only).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        failed(guest, format!("a file of this name is in {} already", outer.guest))
                    }
                    _ => at_host(error),
                })
            }
            None => {
                let open = make_directories(&self.tree, below("/", dir)).map_err(at_host)?;
                let opened_for_writing = writable.contains(dir);
                put_file(&source, &open, name, mount.read_only && opened_for_writing)
                    .map_err(at_host)?;
                let known = self.preopens.iter().any(|preopen| preopen.guest == dir);
                if opened_for_writing && !known {
                    let host = self.tree.join(below("/", dir));
                    self.preopens.push(Preopen { host, guest: dir.to_string(), writable: true });
                }
                Ok(())
            }
        }
    }

    fn place_directory(&mut self, guest: &str, mount: &Mount) {
        // The name of the mount point, for those who list what is around it. Where it cannot be
        // made the mount is there all the same.
        let _ = match self.outer(guest) {
            Some(outer) if outer.writable => {
                make_directories(&outer.host, below(&outer.guest, guest)).map(drop)
            }
            Some(_) => Ok(()),
            None => make_directories(&self.tree, below("/", guest)).map(drop),
        };
        let (host, guest) = (mount.host.clone(), guest.to_string());
        self.preopens.push(Preopen { host, guest, writable: !mount.read_only });
    }

    /// The mounted directory that `guest` lies in; mounts are placed from the outside in.
    fn outer(&self, guest: &str) -> Option<&Preopen> {
        self.preopens
            .iter()
            .filter(|preopen| !preopen.host.starts_with(&self.tree))
            .filter(|preopen| preopen.guest != guest && is_below(&preopen.guest, guest))
            .max_by_key(|preopen| preopen.guest.len())
    }

    /// The same files for commands of the worker's own.
    ///
    /// # Errors
    /// When one of the directories has gone.
    pub fn tree(&self, working_dir: Option<&str>) -> io::Result<Tree> {
        let mounts = self.preopens.iter();
        Tree::open(mounts.map(|p| (p.host.as_path(), p.guest.as_str(), p.writable)), working_dir)
    }

    /// Opens the directories for one instance.
    ///
    /// # Errors
    /// When one of them has gone.
    pub fn open(&self, builder: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for preopen in &self.preopens {
            let perms = if preopen.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            builder.preopened_dir(&preopen.host, &preopen.guest, perms)?;
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.tree)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(tree = %self.tree.display(), %error, "a workload's root stays behind");
        }
    }
}

fn failed(guest: &str, problem: String) -> StartError {
    StartError::Mount { guest: guest.to_string(), problem }
}

fn normal(guest: &str) -> Result<String, StartError> {
    if !guest.starts_with('/') {
        return Err(failed(guest, "not an absolute path".to_string()));
    }
    let parts: Vec<&str> =
        guest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(failed(guest, "a mount path must not contain ..".to_string()));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn parent(guest: &str) -> &str {
    match guest.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &guest[..at],
    }
}

fn is_below(outer: &str, guest: &str) -> bool {
    outer == "/"
        || guest.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is left of `guest` below `outer`, without a leading slash.
fn below<'a>(outer: &str, guest: &'a str) -> &'a str {
    guest.strip_prefix(outer).unwrap_or(guest).trim_start_matches('/')
}

/// Makes the directories of `path` below `base`, without following links, and opens the last.
fn make_directories(base: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(CWD, base, flags, Mode::empty())?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        dir = rustix::fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

/// Puts the file `source` into `dir`: as a link to the same file, or as a copy where the guest
/// may not write to the original but could to the link.
fn put_file(source: &Path, dir: &OwnedFd, name: &str, copy: bool) -> io::Result<()> {
    let link = || rustix::fs::linkat(CWD, source, dir, name, rustix::fs::AtFlags::empty());
    match if copy { Err(rustix::io::Errno::XDEV) } else { link() } {
        Ok(()) => Ok(()),
        // Another file system, or somebody else's file.
        Err(rustix::io::Errno::XDEV | rustix::io::Errno::PERM) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let to = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?;
            io::copy(&mut fs::File::open(source)?, &mut fs::File::from(to)).map(drop)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().expect("a directory") }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn dir(&self, name: &str) -> PathBuf {
            fs::create_dir_all(self.path(name)).expect("made");
            self.path(name)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            fs::write(self.path(name), text).expect("written");
            self.path(name)
        }

        fn prepare(&self, mounts: &[Mount]) -> Result<Files, StartError> {
            Files::prepare(self.path("tree"), mounts)
        }
    }

    fn mount(host: PathBuf, guest: &str, read_only: bool) -> Mount {
        Mount { host, guest: guest.to_string(), read_only }
    }

    fn preopen(host: PathBuf, guest: &str, writable: bool) -> Preopen {
        Preopen { host, guest: guest.to_string(), writable }
    }

    #[test]
    fn the_root_shows_the_mount_points_and_goes_with_the_workload() {
        let host = Host::new();
        let (data, config) = (host.dir("data"), host.file("app.conf", "a=b"));
        let files = host
            .prepare(&[
                mount(data.clone(), "/data/", false),
                mount(config, "/etc/app/app.conf", true),
            ])
            .expect("prepared");
        let tree = host.path("tree");
        assert!(tree.join("data").is_dir());
        assert_eq!(fs::read_to_string(tree.join("etc/app/app.conf")).expect("linked"), "a=b");
        assert_eq!(
            files.preopens,
            [preopen(data, "/data", true), preopen(tree.clone(), "/", false)]
        );
        drop(files);
        assert!(!tree.exists());
        assert!(host.path("app.conf").exists());
    }

    #[test]
    fn a_single_file_that_may_be_written_to_is_the_volume_s_own() {
        let host = Host::new();
        let (one, two) = (host.file("one", "1"), host.file("two", "2"));
        let files = host
            .prepare(&[mount(one, "/etc/one", false), mount(two, "/etc/two", true)])
            .expect("prepared");
        let etc = host.path("tree/etc");
        assert!(files.preopens.contains(&preopen(etc.clone(), "/etc", true)));
        fs::write(etc.join("one"), "changed").expect("written");
        fs::write(etc.join("two"), "changed").expect("written");
        assert_eq!(fs::read_to_string(host.path("one")).expect("there"), "changed");
        assert_eq!(fs::read_to_string(host.path("two")).expect("there"), "2", "it was read only");
    }

    #[test]
    fn a_mount_inside_a_volume_does_not_follow_the_links_of_a_guest() {
        let host = Host::new();
        let (volume, inner, outside) = (host.dir("volume"), host.dir("inner"), host.dir("outside"));
        std::os::unix::fs::symlink(&outside, volume.join("trap")).expect("linked");
        let file = host.file("file", "x");
        let error = host
            .prepare(&[
                mount(volume.clone(), "/v", false),
                mount(file.clone(), "/v/trap/file", false),
            ])
            .expect_err("a link is in the way");
        assert!(matches!(error, StartError::Mount { guest, .. } if guest == "/v/trap/file"));
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);

        let files = host
            .prepare(&[mount(volume.clone(), "/v", false), mount(inner, "/v/a/b", true)])
            .expect("prepared");
        assert!(volume.join("a/b").is_dir());
        drop(files);
        let read_only = [mount(volume, "/v", true), mount(file, "/v/file", true)];
        let error = host.prepare(&read_only).expect_err("no place for its name");
        assert!(error.to_string().contains("read only"), "{error}");
    }

    #[test]
    fn what_is_missing_or_meant_twice_is_named() {
        let host = Host::new();
        let error = host.prepare(&[mount(host.path("gone"), "/x", true)]).expect_err("missing");
        assert!(error.to_string().starts_with("mount /x: "), "{error}");
        let data = host.dir("data");
        let twice = [mount(data.clone(), "/x", true), mount(data.clone(), "/x/", true)];
        assert!(host.prepare(&twice).expect_err("twice").to_string().contains("mounted twice"));
        assert!(host.prepare(&[mount(data, "/a/../b", true)]).is_err());
        assert!(!host.path("tree").exists(), "a failed start leaves nothing");
    }
}
