//! What is in a file of images: a tar (OCI layout, or what `docker save` writes), compressed or
//! not, or a folder that is an OCI layout.
//!
//! Nothing of a tar is unpacked: where its files begin is noted, and they are read from there, so no
//! path of it is ever one of this machine.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::image::open_layer;
use crate::image::reference::is_digest;

/// No archive of images has so many files.
const ENTRIES_MAX: usize = 200_000;
/// What a compressed archive may unpack to.
const UNPACKED_BYTES_MAX: u64 = 256 << 30;

/// What a file holds, and its size in bytes.
type Content = (Box<dyn Read + Send>, u64);

/// A file that is removed with the value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Debug)]
enum Source {
    Tar {
        path: PathBuf,
        /// Where each file begins, and its size.
        entries: BTreeMap<String, (u64, u64)>,
        links: BTreeMap<String, String>,
        _scratch: Option<Scratch>,
    },
    Folder(PathBuf),
}

/// See the module.
#[derive(Debug)]
pub struct Archive {
    /// As it was named.
    pub label: String,
    source: Source,
}

fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

impl Archive {
    /// Looks into a file or folder.
    ///
    /// # Errors
    /// It is none that holds images.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let label = path.display().to_string();
        let named = |error: io::Error| Failure::other(format!("{label}: {error}"));
        if path.is_dir() {
            return Ok(Self { source: Source::Folder(path.to_owned()), label });
        }
        let mut magic = [0u8; 4];
        let len = File::open(path).map_err(named)?.read(&mut magic).map_err(named)?;
        let gzip = magic[..len].starts_with(&[0x1f, 0x8b]);
        let zstd = magic[..len] == [0x28, 0xb5, 0x2f, 0xfd];
        let (path, scratch) = if gzip || zstd {
            let scratch = unpacked(path).map_err(named)?;
            (scratch.0.clone(), Some(scratch))
        } else {
            (path.to_owned(), None)
        };
        let (entries, links) = contents(&path).map_err(|error| {
            Failure::other(format!("{label} is no tar of images ({error}): name an OCI layout, or what `docker save` or `coracle images export` wrote"))
        })?;
        Ok(Self { source: Source::Tar { path, entries, links, _scratch: scratch }, label })
    }

    /// Opens a file of the archive; its size.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open_file(&self, name: &str) -> Result<Option<Content>, Failure> {
        let named = |error: io::Error| Failure::other(format!("{}: {name}: {error}", self.label));
        match &self.source {
            Source::Tar { path, entries, links, .. } => {
                let mut name = plain(name);
                for _ in 0..8 {
                    match links.get(&name) {
                        Some(to) => name.clone_from(to),
                        None => break,
                    }
                }
                let Some((begin, size)) = entries.get(&name) else { return Ok(None) };
                let mut file = File::open(path).map_err(named)?;
                file.seek(SeekFrom::Start(*begin)).map_err(named)?;
                Ok(Some((Box::new(file.take(*size)), *size)))
            }
            Source::Folder(dir) => {
                let known = matches!(name, "index.json" | "oci-layout");
                let blob = name.strip_prefix("blobs/sha256/");
                let blob = blob.is_some_and(|hex| is_digest(&format!("sha256:{hex}")));
                if !known && !blob {
                    return Ok(None);
                }
                let file = match File::open(dir.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(named)?,
                };
                let size = file.metadata().map_err(named)?.len();
                Ok(Some((Box::new(file), size)))
            }
        }
    }

    /// All of a small file; none where it is not there.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `max`.
    pub fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, Failure> {
        let Some((from, size)) = self.open_file(name)? else { return Ok(None) };
        if size > max {
            return Err(Failure::other(format!(
                "{}: {name} is larger than {max} bytes",
                self.label
            )));
        }
        let mut bytes = Vec::new();
        from.take(max)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::other(format!("{}: {name}: {error}", self.label)))?;
        Ok(Some(bytes))
    }
}

/// A compressed file without its compression.
fn unpacked(path: &Path) -> io::Result<Scratch> {
    static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let to =
        std::env::temp_dir().join(format!("coracle-import-{}-{serial}.tar", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&to)?;
    let scratch = Scratch(to);
    let copied = io::copy(&mut open_layer(path)?.take(UNPACKED_BYTES_MAX), &mut file)?;
    if copied == UNPACKED_BYTES_MAX {
        return Err(io::Error::other("it unpacks to more than 256 GiB"));
    }
    Ok(scratch)
}

type Contents = (BTreeMap<String, (u64, u64)>, BTreeMap<String, String>);

fn contents(path: &Path) -> io::Result<Contents> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let (mut entries, mut links) = (BTreeMap::new(), BTreeMap::new());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() + links.len() >= ENTRIES_MAX {
            return Err(io::Error::other("it has more than 200,000 files"));
        }
        let name = plain(&entry.path()?.to_string_lossy());
        let kind = entry.header().entry_type();
        if kind.is_file() {
            entries.insert(name, (entry.raw_file_position(), entry.size()));
        } else if kind.is_symlink() || kind.is_hard_link() {
            // `docker save` once linked layers that are the same: `../HASH/layer.tar`.
            let Some(to) = entry.link_name()? else { continue };
            let to = to.to_string_lossy();
            let base = name.rsplit_once('/').map_or("", |(base, _)| base);
            let to = match to.strip_prefix("../") {
                Some(rest) => plain(rest),
                None if kind.is_hard_link() || base.is_empty() => plain(&to),
                None => plain(&format!("{base}/{to}")),
            };
            links.insert(name, to);
        }
    }
    if entries.is_empty() {
        return Err(io::Error::other("it has no files"));
    }
    Ok((entries, links))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_are_read_where_they_lie_and_links_are_followed_inside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "one/layer.tar", &b"bytes"[..]).expect("appended");
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "two/layer.tar", "../one/layer.tar").expect("appended");
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "evil", "/etc/passwd").expect("appended");
        let bytes = builder.into_inner().expect("packed");
        std::fs::write(&path, &bytes).expect("written");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&bytes).expect("packed");
        let gz = dir.path().join("a.tar.gz");
        std::fs::write(&gz, packed.finish().expect("packed")).expect("written");
        for path in [path, gz] {
            let archive = Archive::open(&path).expect("opened");
            for name in ["one/layer.tar", "./two/layer.tar"] {
                assert_eq!(archive.read(name, 10).expect("read").as_deref(), Some(&b"bytes"[..]));
            }
            assert!(archive.read("evil", 10).expect("asked").is_none());
            assert!(archive.read("one/layer.tar", 4).is_err());
        }
        std::fs::write(dir.path().join("b"), b"no tar").expect("written");
        let told = Archive::open(&dir.path().join("b")).expect_err("no tar").to_string();
        assert!(told.contains("is no tar of images"), "{told}");
    }
}
