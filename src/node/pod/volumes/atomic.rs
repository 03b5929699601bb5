//! The atomic writer: readers of a volume see all of the old files or all of the new ones.
//!
//! ```text
//! VOLUME/..2026_03_04_05_06_07.089000000/config.yaml     the files
//! VOLUME/..data -> ..2026_03_04_05_06_07.089000000       swapped by rename(2)
//! VOLUME/config.yaml -> ..data/config.yaml               what is mounted
//! ```
//!
//! The layout is the kubelet's (KEP-less, but programs that reload their configuration watch
//! `..data`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use jiff::Timestamp;

use super::payload::{File, Payload};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the files below `volume` be `payload`; whether anything changed.
///
/// # Errors
/// What the file system says; the old files stay in place then. A path that leaves the volume is
/// `InvalidInput`.
pub fn write(volume: &Path, payload: &Payload, now: Timestamp) -> io::Result<bool> {
    for path in payload.keys() {
        let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
        if path.is_empty() || !plain || path.starts_with("..") {
            let message = format!("invalid path in a volume: {path:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    }
    fs::create_dir_all(volume)?;
    let old = fs::read_link(volume.join(DATA)).ok();
    if let Some(old) = &old
        && is(&volume.join(old), payload)
    {
        return Ok(false);
    }
    let mut name = now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    while volume.join(&name).exists() {
        name.push('x');
    }
    let fresh = volume.join(&name);
    if let Err(error) = fill(&fresh, payload) {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    let _ = fs::remove_file(volume.join(DATA_NEW));
    symlink(&name, volume.join(DATA_NEW))?;
    fs::rename(volume.join(DATA_NEW), volume.join(DATA))?;
    show(volume, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(true)
}

fn fill(dir: &Path, payload: &Payload) -> io::Result<()> {
    fs::create_dir(dir)?;
    for (path, file) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// The links that a user sees: one for the first component of every path.
fn show(volume: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(first).collect();
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(volume.join(name))?;
        }
    }
    for name in wanted {
        let link = volume.join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&name), link)?;
        }
    }
    Ok(())
}

/// Whether the files below `dir` are exactly `payload`.
fn is(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        let Ok(entries) = fs::read_dir(&at) else { return false };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let Ok(relative) = path.strip_prefix(dir) else { return false };
            found.insert(relative.to_string_lossy().into_owned());
        }
    }
    let same = |path: &str, file: &File| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o777).ok();
        mode == Some(file.mode) && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| found.contains(path) && same(path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { bytes: text.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_change_swaps_all_files_at_once_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        let first = payload(&[("a", "1"), ("sub/b", "2"), ("sub/c", "3")]);
        assert!(write(&volume, &first, at(1)).expect("written"));
        assert!(!write(&volume, &first, at(2)).expect("unchanged"));
        assert_eq!(fs::read_to_string(volume.join("sub/b")).expect("a file"), "2");
        let mode = fs::metadata(volume.join("a")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        assert!(write(&volume, &payload(&[("a", "9"), ("d", "4")]), at(1)).expect("written"));
        assert_eq!(fs::read_to_string(volume.join("a")).expect("a file"), "9");
        assert!(!volume.join("sub").exists());
        let names: Vec<_> = fs::read_dir(&volume).expect("a directory").flatten().collect();
        assert_eq!(names.len(), 4, "the links a and d, ..data and its directory: {names:?}");
    }

    #[test]
    fn a_path_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["../x", "/etc/passwd", "a/../../b", "..data", ""] {
            let error = write(dir.path(), &payload(&[(path, "x")]), at(1)).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn an_open_file_keeps_its_old_content() {
        use std::io::Read;
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), &payload(&[("a", "old")]), at(1)).expect("written");
        let mut open = fs::File::open(dir.path().join("a")).expect("a file");
        write(dir.path(), &payload(&[("a", "new")]), at(2)).expect("written");
        let mut text = String::new();
        open.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "old");
    }
}
