//! The volumes of a pod on disk, and where a container sees them.
//!
//! ```text
//! data_dir/volumes/UID/NAME/            one directory a volume
//! data_dir/volumes/UID/..termination/   one termination message file a container
//! data_dir/volumes/UID/..subpaths/      what a container sees of a subPath of a ConfigMap or Secret
//! /dev/shm/coracle-…/UID/NAME/          an emptyDir in memory
//! ```
//!
//! **Invariant:** a mount never leads outside its volume: what `subPath` resolves to is compared
//! with the volume after all symbolic links were followed.

pub mod atomic;
pub mod payload;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::expand::expand;
use crate::image::Tree;
use crate::node::resources::amount;
use crate::runtime::Mount;
use payload::{Payload, has_payload};

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    SetUp { volume: String, message: String },
    #[error(
        "failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\": {message}"
    )]
    SubPath { mount: String, container: String, message: String },
    #[error(
        "volumeMount \"{mount}\" of container \"{container}\": mountPropagation Bidirectional is not possible here: a wasm container mounts nothing"
    )]
    Propagation { mount: String, container: String },
    #[error("volumeMount \"{mount}\" of container \"{container}\" names no volume of the pod")]
    Unknown { mount: String, container: String },
}

/// The kinds of volumes that this node cannot mount, by the name of their field.
fn unsupported(volume: &Volume) -> Option<String> {
    let value = serde_json::to_value(volume).ok()?;
    let known = [
        "name",
        "emptyDir",
        "configMap",
        "secret",
        "downwardAPI",
        "projected",
        "hostPath",
        "image",
    ];
    value.as_object()?.keys().find(|key| !known.contains(&key.as_str())).cloned()
}

/// The volumes of one pod.
pub struct Volumes {
    dir: PathBuf,
    host_paths: Vec<PathBuf>,
    /// Where emptyDirs in memory are, where the machine has such a place.
    memory: Option<PathBuf>,
    /// The files of image volumes, by the name of the volume.
    images: Mutex<BTreeMap<String, Tree>>,
}

/// Whether a volume is to be in memory.
fn in_memory(volume: &Volume) -> bool {
    let medium = volume.empty_dir.as_ref().and_then(|empty| empty.medium.as_deref());
    medium.is_some_and(|medium| medium == "Memory")
}

/// Where a node keeps emptyDirs in memory: below the machine's tmpfs, if it has one that an ordinary
/// process may write.
pub fn memory_root(data_dir: &Path) -> Option<PathBuf> {
    const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
    let shm = Path::new("/dev/shm");
    if rustix::fs::statfs(shm).ok()?.f_type != TMPFS_MAGIC {
        return None;
    }
    let name = hex::encode(&Sha256::digest(data_dir.as_os_str().as_encoded_bytes())[..8]);
    Some(shm.join(format!("coracle-{name}")))
}

impl Volumes {
    /// Those of the pod with this UID; hostPath is allowed at and below `host_paths`.
    pub fn new(root: &Path, uid: &str, host_paths: Vec<PathBuf>) -> Self {
        Self { dir: root.join(uid), host_paths, memory: None, images: Mutex::default() }
    }

    /// With emptyDirs of `medium: Memory` below this; on the disk where there is no such place.
    #[must_use]
    pub fn with_memory(self, root: Option<PathBuf>) -> Self {
        let uid = self.dir.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
        Self { memory: root.map(|root| root.join(uid)), ..self }
    }

    /// The files of an image volume.
    pub fn set_image(&self, volume: &str, tree: Tree) {
        self.images.lock().insert(volume.to_owned(), tree);
    }

    pub fn has_image(&self, volume: &str) -> bool {
        self.images.lock().contains_key(volume)
    }

    /// The images that volumes are made of, as the collector knows them.
    pub fn image_digests(&self) -> Vec<String> {
        self.images.lock().values().map(|tree| tree.digest.clone()).collect()
    }

    /// Where a volume's files are on this machine.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        if let Some(host) = &volume.host_path {
            return PathBuf::from(&host.path);
        }
        if let Some(tree) = self.images.lock().get(&volume.name) {
            return tree.path.clone();
        }
        match &self.memory {
            Some(memory) if in_memory(volume) => memory.join(&volume.name),
            _ => self.dir.join(&volume.name),
        }
    }

    /// Makes `volume` be there. `payload` is what its files are, where it is made of some; whether
    /// anything changed.
    pub fn set_up(
        &self,
        volume: &Volume,
        payload: &Payload,
        now: Timestamp,
    ) -> Result<bool, VolumeError> {
        let failed = |message: String| VolumeError::SetUp { volume: volume.name.clone(), message };
        if let Some(kind) = unsupported(volume) {
            return Err(failed(format!("{kind} volumes are not supported by this node")));
        }
        if let Some(host) = &volume.host_path {
            self.host_path(host).map_err(failed)?;
            return Ok(false);
        }
        if volume.image.is_some() {
            return match self.has_image(&volume.name) {
                true => Ok(false),
                false => Err(failed("the image is not here".to_owned())),
            };
        }
        let dir = self.path(volume);
        if has_payload(volume) {
            return atomic::write(&dir, payload, now).map_err(|e| failed(e.to_string()));
        }
        let fresh = !dir.exists();
        // Nobody else of this machine comes as far as this directory; in it, whoever the containers
        // run as.
        let made =
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).and_then(
                |()| match fresh {
                    true => fs::set_permissions(&dir, Permissions::from_mode(0o777)),
                    false => Ok(()),
                },
            );
        made.map_err(|e| failed(e.to_string()))?;
        Ok(fresh)
    }

    /// Gives a volume to a group (`fsGroup`): it owns what is there, and what will be made there.
    pub fn give_to(&self, volume: &Volume, group: u32) -> Result<(), VolumeError> {
        if volume.host_path.is_some() {
            return Ok(());
        }
        let writable = !has_payload(volume);
        give_to(&self.path(volume), group, writable).map_err(|error| VolumeError::SetUp {
            volume: volume.name.clone(),
            message: format!("fsGroup {group}: {error}"),
        })
    }

    /// The first emptyDir that holds more than its `sizeLimit`, or all together more than `total`;
    /// as the kubelet tells it.
    pub fn over_limit(&self, pod: &Pod, total: Option<u64>) -> Option<String> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let mut sum = 0;
        for volume in volumes {
            let Some(empty) = &volume.empty_dir else { continue };
            let used = usage(&self.path(volume));
            if !in_memory(volume) {
                sum += used;
            }
            let Some(limit) = &empty.size_limit else { continue };
            let most = u64::try_from(amount("memory", limit)).unwrap_or(0);
            if most > 0 && used > most {
                return Some(format!(
                    "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
                    volume.name, limit.0
                ));
            }
        }
        let total = total.filter(|total| sum > *total)?;
        Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
        ))
    }

    fn host_path(&self, source: &HostPathVolumeSource) -> Result<(), String> {
        let path = Path::new(&source.path);
        let within = |path: &Path| {
            let real = fs::canonicalize(path).ok();
            real.is_some_and(|real| {
                let allowed = self.host_paths.iter().filter_map(|p| fs::canonicalize(p).ok());
                allowed.into_iter().any(|allowed| real.starts_with(allowed))
            })
        };
        let refused = format!(
            "hostPath {} is not allowed on this node; its agent must be started with --allow-host-path",
            source.path
        );
        let kind = source.type_.as_deref().unwrap_or_default();
        if matches!(kind, "DirectoryOrCreate" | "FileOrCreate") && !path.exists() {
            let parent = path.ancestors().skip(1).find(|p| p.exists());
            if !parent.is_some_and(within) || path.components().any(|c| c.as_os_str() == "..") {
                return Err(refused);
            }
            let made = match kind {
                "DirectoryOrCreate" => fs::create_dir_all(path),
                _ => fs::File::create(path).map(drop),
            };
            made.map_err(|e| format!("cannot create {}: {e}", source.path))?;
        }
        if !within(path) {
            return Err(refused);
        }
        let found = fs::metadata(path).map_err(|e| format!("{}: {e}", source.path))?;
        let found = found.file_type();
        let (fits, what) = match kind {
            "" => (true, ""),
            "Directory" | "DirectoryOrCreate" => (found.is_dir(), "directory"),
            "File" | "FileOrCreate" => (found.is_file(), "file"),
            "Socket" => (found.is_socket(), "socket file"),
            "CharDevice" => (found.is_char_device(), "character device"),
            "BlockDevice" => (found.is_block_device(), "block device"),
            other => return Err(format!("hostPath type {other} is not known")),
        };
        match fits {
            true => Ok(()),
            false => Err(format!("hostPath type check failed: {} is not a {what}", source.path)),
        }
    }

    /// What `container` sees. `env` expands `subPathExpr`; volumes must be set up before.
    pub fn mounts<'e>(
        &self,
        pod: &Pod,
        container: &Container,
        env: impl Fn(&str) -> Option<&'e str> + Copy,
    ) -> Result<Vec<Mount>, VolumeError> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let unknown = || VolumeError::Unknown {
                mount: mount.name.clone(),
                container: container.name.clone(),
            };
            let volume = volumes.iter().find(|v| v.name == mount.name).ok_or_else(unknown)?;
            if mount.mount_propagation.as_deref() == Some("Bidirectional") {
                return Err(VolumeError::Propagation {
                    mount: mount.name.clone(),
                    container: container.name.clone(),
                });
            }
            let sub = match (&mount.sub_path_expr, &mount.sub_path) {
                (Some(expression), _) if !expression.is_empty() => expand(expression, env),
                (_, Some(path)) => path.clone(),
                _ => String::new(),
            };
            let given = has_payload(volume) || volume.image.is_some();
            let read_only = mount.read_only.unwrap_or(false) || given;
            let failed = |e: io::Error| VolumeError::SubPath {
                mount: mount.name.clone(),
                container: container.name.clone(),
                message: e.to_string(),
            };
            let create = !given && !mount.read_only.unwrap_or(false);
            let mut host = sub_path(&self.path(volume), &sub, create).map_err(failed)?;
            if has_payload(volume) && !sub.is_empty() {
                // The files of the volume are replaced as it changes; a subPath keeps what it was.
                let place = self.dir.join("..subpaths").join(&container.name);
                host = keep(&host, &place.join(mounts.len().to_string())).map_err(failed)?;
            }
            mounts.push(Mount { host, guest: absolute(&mount.mount_path), read_only });
        }
        Ok(mounts)
    }

    /// Where a run of `container` leaves its termination message.
    pub fn termination_path(&self, container: &str, run: u32) -> PathBuf {
        self.dir.join("..termination").join(container).join(run.to_string())
    }

    /// The file in which a run of `container` leaves its termination message, empty.
    pub fn termination_file(&self, container: &str, run: u32) -> io::Result<PathBuf> {
        let file = self.termination_path(container, run);
        let dir = file.parent().unwrap_or(&self.dir).to_path_buf();
        fs::create_dir_all(&dir)?;
        fs::write(&file, b"")?;
        // Whoever the container runs as.
        fs::set_permissions(&file, Permissions::from_mode(0o666))?;
        if run > 0 {
            let _ = fs::remove_file(dir.join((run - 1).to_string()));
        }
        Ok(file)
    }

    /// Removes everything of the pod.
    pub fn remove(&self) -> io::Result<()> {
        for dir in [Some(&self.dir), self.memory.as_ref()].into_iter().flatten() {
            match fs::remove_dir_all(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a directory takes on the disk, links not followed.
fn usage(dir: &Path) -> u64 {
    let mut sum = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            // Of a file with holes, what is there.
            sum += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

/// Copies files to a place below `dir`, unless they are there; where that is. Only the newest stays:
/// a container that starts again sees what is there then.
fn keep(from: &Path, dir: &Path) -> io::Result<PathBuf> {
    let name = hex::encode(&Sha256::digest(from.as_os_str().as_encoded_bytes())[..8]);
    let to = dir.join(name);
    if !to.exists() {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        copy(from, &to)?;
    }
    Ok(to)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::metadata(from)?.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).map(drop)
}

fn give_to(path: &Path, group: u32, writable: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let access = if writable { 0o060 } else { 0o040 };
    let extra = if meta.is_dir() { access | 0o2010 } else { access };
    let mode = meta.mode() & 0o7777;
    if mode | extra != mode {
        fs::set_permissions(path, Permissions::from_mode(mode | extra))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to(&entry?.path(), group, writable)?;
        }
    }
    Ok(())
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The place below `volume` that `sub` names, made as a directory where `create` allows it.
fn sub_path(volume: &Path, sub: &str, create: bool) -> io::Result<PathBuf> {
    if sub.is_empty() {
        return Ok(volume.to_owned());
    }
    let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| c.as_os_str() == "..") {
        return Err(wrong(format!("subPath {sub:?} must be a relative path without \"..\"")));
    }
    let root = fs::canonicalize(volume)?;
    let path = volume.join(relative);
    if create && !path.exists() {
        // What exists of the way must be inside before anything is made below it.
        let existing = path.ancestors().find(|p| p.exists()).unwrap_or(volume);
        if !fs::canonicalize(existing)?.starts_with(&root) {
            return Err(wrong(format!("subPath {sub:?} leads outside of the volume")));
        }
        fs::create_dir_all(&path)?;
    }
    let real = fs::canonicalize(&path)?;
    match real.starts_with(&root) {
        true => Ok(real),
        false => Err(wrong(format!("subPath {sub:?} leads outside of the volume"))),
    }
}

#[cfg(test)]
mod tests;
