//! Files that hold keys: nobody but their owner may read them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::IdentityError;

fn failed(path: &Path) -> impl Fn(std::io::Error) -> IdentityError + '_ {
    move |error| IdentityError::File { path: path.to_owned(), why: error.to_string() }
}

/// Makes `dir` (and its parents) with mode 0700, or tightens it to that.
///
/// # Errors
/// [`IdentityError::File`].
pub fn private_dir(dir: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed(dir))
}

/// Replaces `path` by a file of mode 0600 with `content`, durably.
///
/// # Errors
/// [`IdentityError::File`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write(path, content, 0o600)
}

/// Replaces `path` by a file of mode 0644 with `content`, durably.
///
/// # Errors
/// [`IdentityError::File`].
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    // A leftover of a crash may have other permissions than these.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed(&temporary))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed(&temporary))?;
    fs::rename(&temporary, path).map_err(failed(path))?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))?;
    }
    Ok(())
}

/// The text of `path`; `None` where there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}
