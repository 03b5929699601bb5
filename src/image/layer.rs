//! The layers of a container image: tar archives, compressed or not. Which of the two they are,
//! their first bytes say; media types have been wrong before.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::ImageConfig;
use super::blobs::Blobs;
use super::manifest::Config;

/// What all layers together may unpack to while a wasm file is looked for: a bomb ends here.
/// (Tests meet a small one.)
const UNPACKED_BYTES_MAX: u64 = if cfg!(test) { 16 << 20 } else { 1 << 30 };
/// No archive has so many entries.
const ENTRIES_MAX: usize = 1_000_000;
/// A wasm file larger than this is refused.
pub const MODULE_BYTES_MAX: u64 = 256 << 20;

/// The tar of a layer whose blob is at `path`, uncompressed.
///
/// # Errors
/// It cannot be read.
pub fn open_layer(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let magic = file.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::Decoder::with_buffer(file)?));
    }
    Ok(Box::new(file))
}

/// A wasm file found in a layer.
struct Found {
    path: String,
    digest: String,
    size: u64,
}

/// Digest and size of the wasm file of a container image whose layers lie at `layers` (lowest
/// first), taken into `blobs`. Where the image has several, it is the one that the entrypoint
/// names. None where it has no wasm.
///
/// # Errors
/// A layer is damaged, or which file is meant cannot be told.
pub fn find_wasm(
    layers: &[(String, std::path::PathBuf)],
    config: &Config,
    blobs: &Blobs,
) -> Result<Option<(String, u64)>, String> {
    let mut found: Vec<Found> = Vec::new();
    let mut budget = UNPACKED_BYTES_MAX;
    for (digest, path) in layers {
        let scanned = open_layer(path)
            .and_then(|mut layer| scan(layer.as_mut(), &mut budget, blobs, &mut found));
        scanned.map_err(|error| format!("layer {digest}: {error}"))?;
    }
    // Files that are not chosen are swept once they are old.
    choose(&found, &config.image)
}

fn choose(found: &[Found], config: &ImageConfig) -> Result<Option<(String, u64)>, String> {
    let file = |file: &Found| Some((file.digest.clone(), file.size));
    if let Some(program) = config.entrypoint.iter().chain(&config.cmd).next() {
        let program = resolved(config.working_dir.as_deref(), program);
        if let Some(named) = found.iter().find(|file| file.path == program) {
            return Ok(file(named));
        }
    }
    match found {
        [only] => Ok(file(only)),
        [] => Ok(None),
        more => Err(format!(
            "the image holds {} wasm files ({}): its entrypoint must name one of them",
            more.len(),
            more.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// A program's path without the slash in front, seen from the working directory.
fn resolved(dir: Option<&str>, program: &str) -> String {
    let whole = match dir {
        Some(dir) if !program.starts_with('/') => format!("{dir}/{program}"),
        _ => program.to_owned(),
    };
    plain(&whole)
}

fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

/// Applies one layer: a later file of the same name replaces an earlier one, a whiteout removes it
/// (OCI Image Layer Filesystem Changeset). Only wasm files are taken out, and under their digest, so
/// no path of the archive is ever one of this machine.
fn scan(
    layer: &mut dyn Read,
    budget: &mut u64,
    blobs: &Blobs,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(Bounded { inner: layer, budget });
    let mut fresh: Vec<Found> = Vec::new();
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(io::Error::other("the archive has more than 1,000,000 entries"));
        }
        let mut entry = entry?;
        let path = plain(&entry.path()?.to_string_lossy());
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let below =
            |parent: &str| if parent.is_empty() { String::new() } else { format!("{parent}/") };
        if name == ".wh..wh..opq" {
            found.retain(|file| !file.path.starts_with(&below(parent)));
        } else if let Some(removed) = name.strip_prefix(".wh.") {
            let removed = format!("{}{removed}", below(parent));
            found.retain(|f| f.path != removed && !f.path.starts_with(&below(&removed)));
        } else if name.ends_with(".wasm") && entry.header().entry_type().is_file() {
            let (digest, size) = blobs.add(&mut entry, MODULE_BYTES_MAX)?;
            fresh.retain(|file| file.path != path);
            fresh.push(Found { path, digest, size });
        }
    }
    found.retain(|old| fresh.iter().all(|new| new.path != old.path));
    found.append(&mut fresh);
    Ok(())
}

struct Bounded<'a> {
    inner: &'a mut dyn Read,
    budget: &'a mut u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        *self.budget = self.budget.checked_sub(len as u64).ok_or_else(|| {
            let most = UNPACKED_BYTES_MAX >> 20;
            io::Error::other(format!("the image unpacks to more than {most} MiB"))
        })?;
        Ok(len)
    }
}
