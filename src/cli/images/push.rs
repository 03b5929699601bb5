//! `push`: a wasm file becomes an artifact of the cluster's registry (CNCF TAG Runtime, wasm OCI
//! artifact); a file that holds an image is pushed as it is.

use std::fs::File;
use std::io::Read;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::remote::Remote;
use super::{PushArgs, human, import, registry_name, shown};
use crate::cli::call::Connection;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::image::blobs::digest_of;
use crate::image::manifest::{OCI_MANIFEST, WASM_CONFIG, WASM_LAYER};

/// Pushes a file.
///
/// # Errors
/// Bad usage, no server, a file that is nothing to be run.
pub async fn run(args: &PushArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let name = registry_name(&args.name)?;
    let label = args.file.display().to_string();
    let wrong = |why: String| Failure::other(format!("{label}: {why}"));
    if args.file.is_dir() {
        return import::one(&Archive::open(&args.file)?, Some(&args.name), connection, out).await;
    }
    let mut file = File::open(&args.file).map_err(|error| wrong(error.to_string()))?;
    let mut head = [0u8; 8];
    let len = file.read(&mut head).map_err(|error| wrong(error.to_string()))?;
    // The layer of the binary format: modules have 0 there, components 1.
    let os = match &head[..len] {
        [0, b'a', b's', b'm', _, _, 0, 0] => "wasip1",
        [0, b'a', b's', b'm', _, _, 1, 0] => "wasip2",
        _ => {
            return match Archive::open(&args.file) {
                Ok(archive) => import::one(&archive, Some(&args.name), connection, out).await,
                Err(_) => Err(wrong(
                    "it is neither a wasm file (a module or a component) nor a tar of an image"
                        .to_owned(),
                )),
            };
        }
    };
    let (digest, size) = measure(&args.file).map_err(wrong)?;
    let config = json!({"architecture": "wasm", "os": os, "layerDigests": [digest]}).to_string();
    let config_digest = digest_of(config.as_bytes());
    let title = args.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": WASM_CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{
            "mediaType": WASM_LAYER, "digest": digest, "size": size,
            "annotations": {"org.opencontainers.image.title": title.unwrap_or_default()},
        }],
    });
    let repository = name.cluster_repository();
    let remote = Remote(connection);
    let mut file = File::open(&args.file).map_err(|error| wrong(error.to_string()))?;
    remote.push_blob(&repository, &digest, &mut file).await?;
    remote.push_blob(&repository, &config_digest, &mut config.as_bytes()).await?;
    let text = manifest.to_string();
    remote.put_manifest(&repository, &name.version, OCI_MANIFEST, text.as_bytes()).await?;
    out.line(format!(
        "pushed {} ({}, {})",
        shown(&repository, &name.version),
        human(size),
        digest_of(text.as_bytes())
    ))
}

fn measure(path: &std::path::Path) -> Result<(String, u64), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let len = file.read(&mut buffer).map_err(|error| error.to_string())?;
        if len == 0 {
            break;
        }
        hash.update(&buffer[..len]);
        size += len as u64;
    }
    Ok((format!("sha256:{}", hex::encode(hash.finalize())), size))
}
