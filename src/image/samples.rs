//! The guests that this binary carries, as `coracle.dev/samples/NAME:v1`, so that the demo's
//! manifests run on any node. Their sources are in `wasm-samples/`.

use super::reference::Version;
use super::{Fetched, ImageConfig, Reference, Source, Store};

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

pub(super) fn is_sample(reference: &Reference) -> bool {
    matches!(reference, Reference::Registry { domain, repository, .. }
        if domain == DOMAIN && repository.starts_with(PREFIX))
}

/// References to samples.
pub(super) struct SampleSource;

impl Source for SampleSource {
    fn local(&self) -> bool {
        true
    }

    fn fetch(&self, reference: &Reference, store: &Store) -> Result<Fetched, String> {
        let Reference::Registry { repository, version, .. } = reference else {
            return Err("not the name of a sample".to_string());
        };
        let name = repository.strip_prefix(PREFIX).unwrap_or(repository);
        let known = || SAMPLES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let mut bytes = sample(name)
            .ok_or_else(|| format!("no sample named {name:?}; there are {}", known()))?;
        let digest = store.add(&mut bytes).map_err(|error| format!("content store: {error}"))?;
        match version {
            Version::Tag(tag) if tag == TAG => {}
            Version::Digest(wanted) if *wanted == digest => {}
            Version::Tag(tag) => {
                return Err(format!("sample {name} has no tag {tag:?}, only {TAG}"));
            }
            Version::Digest(wanted) => {
                return Err(format!("sample {name} has digest {digest}, not {wanted}"));
            }
        }
        Ok(Fetched { digest, config: ImageConfig::default() })
    }
}
