//! Files by absolute path, found in the preopened directory with the longest matching name.

use std::fmt;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

/// What became of a path.
#[derive(Debug)]
pub struct FileError {
    path: String,
    code: Option<ErrorCode>,
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        self.code.is_none() || self.code == Some(ErrorCode::NoEntry)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.code {
            None | Some(ErrorCode::NoEntry) => "No such file or directory",
            Some(ErrorCode::Access | ErrorCode::NotPermitted) => "Permission denied",
            Some(ErrorCode::ReadOnly) => "Read-only file system",
            Some(ErrorCode::IsDirectory) => "Is a directory",
            Some(ErrorCode::NotDirectory) => "Not a directory",
            Some(ErrorCode::InsufficientSpace) => "No space left on device",
            Some(code) => return write!(f, "{}: {}", self.path, code.message()),
        };
        write!(f, "{}: {what}", self.path)
    }
}

impl From<FileError> for String {
    fn from(error: FileError) -> Self {
        error.to_string()
    }
}

/// One name in a directory.
pub struct Entry {
    pub name: String,
    pub is_directory: bool,
}

fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The preopened directory that holds `path`, and what is left of the path below it.
fn locate(path: &str) -> Result<(Descriptor, String), FileError> {
    let path = normal(path);
    let mut best: Option<(usize, Descriptor, String)> = None;
    for (descriptor, name) in get_directories() {
        let name = normal(&name);
        let base = name.trim_end_matches('/');
        let Some(rest) = path.strip_prefix(base) else { continue };
        if !rest.is_empty() && !rest.starts_with('/') {
            continue;
        }
        if best.as_ref().is_none_or(|(len, _, _)| base.len() >= *len) {
            let rest = rest.trim_start_matches('/');
            let rest = if rest.is_empty() { "." } else { rest };
            best = Some((base.len(), descriptor, rest.to_string()));
        }
    }
    best.map(|(_, descriptor, rest)| (descriptor, rest))
        .ok_or(FileError { path: path.to_string(), code: None })
}

fn open(path: &str, open: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, FileError> {
    let (base, rest) = locate(path)?;
    base.open_at(PathFlags::SYMLINK_FOLLOW, &rest, open, flags)
        .map_err(|code| FileError { path: path.to_string(), code: Some(code) })
}

/// The whole content of a file.
pub fn read(path: &str) -> Result<Vec<u8>, FileError> {
    let failed = |code| FileError { path: path.to_string(), code: Some(code) };
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut content = Vec::new();
    loop {
        let (bytes, end) = file.read(65_536, content.len() as u64).map_err(failed)?;
        content.extend_from_slice(&bytes);
        if end {
            return Ok(content);
        }
    }
}

/// Replaces the content of a file, which is made where it is missing.
pub fn write(path: &str, content: &[u8]) -> Result<(), FileError> {
    let failed = |code| FileError { path: path.to_string(), code: Some(code) };
    let file = open(path, OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE)?;
    let mut written = 0;
    while written < content.len() {
        written += file.write(&content[written..], written as u64).map_err(failed)? as usize;
    }
    Ok(())
}

/// The names in a directory, sorted; for a file, its own name.
pub fn list(path: &str) -> Result<Vec<Entry>, FileError> {
    let failed = |code| FileError { path: path.to_string(), code: Some(code) };
    let (base, rest) = locate(path)?;
    let stat = base.stat_at(PathFlags::SYMLINK_FOLLOW, &rest).map_err(failed)?;
    if stat.type_ != DescriptorType::Directory {
        return Ok(vec![Entry { name: path.to_string(), is_directory: false }]);
    }
    let directory = base
        .open_at(PathFlags::SYMLINK_FOLLOW, &rest, OpenFlags::DIRECTORY, DescriptorFlags::READ)
        .map_err(failed)?;
    let stream = directory.read_directory().map_err(failed)?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.read_directory_entry().map_err(failed)? {
        let is_directory = entry.type_ == DescriptorType::Directory;
        entries.push(Entry { name: entry.name, is_directory });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
