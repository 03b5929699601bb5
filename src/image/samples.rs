//! The guests that this binary carries, as `coracle.dev/samples/NAME:v1`, so that the demo's
//! manifests run on any node. Their sources are in `wasm-samples/`.

use super::problem::Problem;
use super::reference::{Name, Version};
use super::store::Store;

const DOMAIN: &str = "coracle.dev";
const PREFIX: &str = "samples/";
const TAG: &str = "v1";

macro_rules! samples {
    ($($name:literal),* $(,)?) => {
        /// Name and bytes of every sample.
        pub const SAMPLES: &[(&str, &[u8])] = &[$((
            $name,
            include_bytes!(concat!("../../wasm-samples/", $name, "/", $name, ".wasm")),
        )),*];
    };
}

samples!("batch", "counter-tcp", "greeter", "hello-http", "memhog", "spin", "toolbox", "udp-echo");

/// The bytes of a sample.
pub fn sample(name: &str) -> Option<&'static [u8]> {
    SAMPLES.iter().find(|(sample, _)| *sample == name).map(|(_, bytes)| *bytes)
}

pub(super) fn is_sample(name: &Name) -> bool {
    name.domain == DOMAIN && name.repository.starts_with(PREFIX)
}

/// Puts the sample of that name into the store. Digest and size.
///
/// # Errors
/// There is none.
pub(super) fn add_sample(name: &Name, store: &Store) -> Result<(String, u64), Problem> {
    let short = name.repository.strip_prefix(PREFIX).unwrap_or(&name.repository);
    let known = || SAMPLES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let mut bytes = sample(short).ok_or_else(|| {
        Problem::NotFound(format!("no sample named {short:?}; there are {}", known()))
    })?;
    let size = bytes.len() as u64;
    let (digest, _) = store.blobs.add(&mut bytes, size)?;
    match &name.version {
        Version::Tag(tag) if tag == TAG => Ok((digest, size)),
        Version::Digest(wanted) if *wanted == digest => Ok((digest, size)),
        Version::Tag(tag) => {
            Err(Problem::NotFound(format!("sample {short} has no tag {tag:?}, only {TAG}")))
        }
        Version::Digest(wanted) => {
            Err(Problem::NotFound(format!("sample {short} has digest {digest}, not {wanted}")))
        }
    }
}
