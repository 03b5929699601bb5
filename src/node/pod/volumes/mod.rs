//! The volumes of a pod on disk, and where a container sees them.
//!
//! ```text
//! data_dir/volumes/UID/NAME/            one directory a volume
//! data_dir/volumes/UID/..termination/   one termination message file a container
//! ```
//!
//! **Invariant:** a mount never leads outside its volume: what `subPath` resolves to is compared
//! with the volume after all symbolic links were followed.

pub mod atomic;
pub mod payload;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};

use super::expand::expand;
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
    #[error("volumeMount \"{mount}\" of container \"{container}\" names no volume of the pod")]
    Unknown { mount: String, container: String },
}

/// The kinds of volumes that this node cannot mount, by the name of their field.
fn unsupported(volume: &Volume) -> Option<String> {
    let value = serde_json::to_value(volume).ok()?;
    let known = ["name", "emptyDir", "configMap", "secret", "downwardAPI", "projected", "hostPath"];
    value.as_object()?.keys().find(|key| !known.contains(&key.as_str())).cloned()
}

/// The volumes of one pod.
pub struct Volumes {
    dir: PathBuf,
    host_paths: Vec<PathBuf>,
}

impl Volumes {
    /// Those of the pod with this UID; hostPath is allowed at and below `host_paths`.
    pub fn new(root: &Path, uid: &str, host_paths: Vec<PathBuf>) -> Self {
        Self { dir: root.join(uid), host_paths }
    }

    /// Where a volume's files are on this machine.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => self.dir.join(&volume.name),
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
        let dir = self.dir.join(&volume.name);
        if has_payload(volume) {
            return atomic::write(&dir, payload, now).map_err(|e| failed(e.to_string()));
        }
        let fresh = !dir.exists();
        let made = fs::create_dir_all(&dir).and_then(|()| match fresh {
            // Whoever the containers run as; nobody else comes as far as this directory.
            true => fs::set_permissions(&dir, Permissions::from_mode(0o777)),
            false => Ok(()),
        });
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
        let fits = match kind {
            "" => true,
            "Directory" | "DirectoryOrCreate" => path.is_dir(),
            "File" | "FileOrCreate" => path.is_file(),
            other => return Err(format!("hostPath type {other} is not supported by this node")),
        };
        match fits {
            true => Ok(()),
            false => Err(format!("hostPath type check failed: {} is not a {kind}", source.path)),
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
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let unknown = || VolumeError::Unknown {
                mount: mount.name.clone(),
                container: container.name.clone(),
            };
            let volume = volumes.iter().find(|v| v.name == mount.name).ok_or_else(unknown)?;
            let sub = match (&mount.sub_path_expr, &mount.sub_path) {
                (Some(expression), _) if !expression.is_empty() => expand(expression, env),
                (_, Some(path)) => path.clone(),
                _ => String::new(),
            };
            let read_only = mount.read_only.unwrap_or(false) || has_payload(volume);
            let host = sub_path(&self.path(volume), &sub, !has_payload(volume)).map_err(|e| {
                VolumeError::SubPath {
                    mount: mount.name.clone(),
                    container: container.name.clone(),
                    message: e.to_string(),
                }
            })?;
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
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
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
