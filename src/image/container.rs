//! Container images that hold one wasm file: layers are tar archives, of which only that file is
//! taken out.

use std::io::{self, BufReader, Read};

use flate2::read::GzDecoder;

use super::layout::{Descriptor, Layout};
use super::{ImageConfig, Store};

/// What all layers together may unpack to: a bomb ends here.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

/// A wasm file found in a layer.
struct Found {
    path: String,
    digest: String,
}

/// The wasm file of a container image, taken into `store`. Where the image has several, it is the
/// one that the entrypoint names.
pub(super) fn find_wasm(
    layout: &Layout,
    layers: &[Descriptor],
    config: &ImageConfig,
    store: &Store,
) -> Result<String, String> {
    let mut found: Vec<Found> = Vec::new();
    let mut budget = UNPACKED_BYTES_MAX;
    for layer in layers {
        let mut blob = layout.open(layer)?;
        let media_type = layer.media_type.as_str();
        if media_type.ends_with("tar+gzip") || media_type.ends_with("tar.gzip") {
            scan(&mut GzDecoder::new(BufReader::new(&mut blob)), &mut budget, store, &mut found)
        } else if media_type.ends_with(".tar") || media_type.ends_with("tar+uncompressed") {
            scan(&mut BufReader::new(&mut blob), &mut budget, store, &mut found)
        } else {
            return Err(format!(
                "a layer is of type {media_type:?}: build the image with gzip or plain layers, or \
                 push the module as an application/wasm artifact"
            ));
        }
        .map_err(|error| format!("layer {}: {error}", layer.digest))?;
        blob.finish()?;
    }
    choose(&found, config)
}

fn choose(found: &[Found], config: &ImageConfig) -> Result<String, String> {
    let program = config.entrypoint.iter().chain(&config.cmd).next();
    if let Some(program) = program {
        let program = program.trim_start_matches(['.', '/']);
        if let Some(file) = found.iter().find(|file| file.path == program) {
            return Ok(file.digest.clone());
        }
    }
    match found {
        [only] => Ok(only.digest.clone()),
        [] => Err("the image holds no .wasm file: it is a container image, which this node \
                   cannot run"
            .to_string()),
        more => Err(format!(
            "the image holds {} wasm files ({}): its entrypoint must name one of them",
            more.len(),
            more.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// Applies one layer: a later file of the same name replaces an earlier one, a whiteout removes it
/// (OCI Image Layer Filesystem Changeset).
fn scan(
    layer: &mut dyn Read,
    budget: &mut u64,
    store: &Store,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(Bounded { inner: layer, budget });
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches(['.', '/']).to_string();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let below =
            |parent: &str| if parent.is_empty() { String::new() } else { format!("{parent}/") };
        if name == ".wh..wh..opq" {
            found.retain(|file| !file.path.starts_with(&below(parent)));
        } else if let Some(removed) = name.strip_prefix(".wh.") {
            let removed = format!("{}{removed}", below(parent));
            found.retain(|f| f.path != removed && !f.path.starts_with(&below(&removed)));
        } else if name.ends_with(".wasm") && entry.header().entry_type().is_file() {
            let digest = store.add(&mut entry)?;
            found.retain(|file| file.path != path);
            found.push(Found { path, digest });
        }
    }
    Ok(())
}

struct Bounded<'a> {
    inner: &'a mut dyn Read,
    budget: &'a mut u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        *self.budget = self
            .budget
            .checked_sub(len as u64)
            .ok_or_else(|| io::Error::other("the image unpacks to more than 1 GiB"))?;
        Ok(len)
    }
}
