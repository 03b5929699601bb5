//! `images import`: from a file to the cluster's registry, under the names that pods use.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Read;

use super::archive::Archive;
use super::remote::Remote;
use super::{human, registry_name, shown};
use crate::cli::call::Connection;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::image::blobs::digest_of;
use crate::image::manifest::{
    DOCUMENT_BYTES_MAX, Descriptor, Document, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use crate::image::{Name, Version};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Imports files.
///
/// # Errors
/// Bad usage, no server; a file that cannot be imported.
pub async fn run(
    files: &[PathBuf],
    name: Option<&str>,
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    if name.is_some() && files.len() > 1 {
        return Err(Failure::usage("--name names one image: import one file with it"));
    }
    for file in files {
        one(&Archive::open(file)?, name, connection, out).await?;
    }
    Ok(())
}

/// Imports what an archive holds.
///
/// # Errors
/// As [`run`].
pub async fn one(
    archive: &Archive,
    name: Option<&str>,
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let remote = Remote(connection);
    if let Some(index) = archive.read("index.json", DOCUMENT_BYTES_MAX)? {
        for (name, top) in layout_names(archive, &index, name)? {
            let repository = name.cluster_repository();
            let mut bytes = 0;
            push_tree(&remote, archive, &repository, &name.version, &top, &mut bytes).await?;
            told(out, &repository, &name.version, bytes)?;
        }
        return Ok(());
    }
    let Some(manifest) = archive.read("manifest.json", DOCUMENT_BYTES_MAX)? else {
        return Err(Failure::other(format!(
            "{} holds no images: it has neither index.json (OCI layout) nor manifest.json (docker \
             save)",
            archive.label
        )));
    };
    let saved: Vec<Saved> = serde_json::from_slice(&manifest)
        .map_err(|error| Failure::other(format!("{}: manifest.json: {error}", archive.label)))?;
    for image in saved {
        saved_image(&remote, archive, &image, name, out).await?;
    }
    Ok(())
}

fn told(out: &mut Out, repository: &str, version: &Version, bytes: u64) -> Result<(), Failure> {
    out.line(format!("imported {} ({})", shown(repository, version), human(bytes)))?;
    out.flush()
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The images of a layout and what they are called.
fn layout_names(
    archive: &Archive,
    index: &[u8],
    given: Option<&str>,
) -> Result<Vec<(Name, Descriptor)>, Failure> {
    let wrong = |why: String| Failure::other(format!("{}: {why}", archive.label));
    let index: Index =
        serde_json::from_slice(index).map_err(|error| wrong(format!("index.json: {error}")))?;
    if let Some(given) = given {
        let [only] = index.manifests.as_slice() else {
            let count = index.manifests.len();
            return Err(wrong(format!("--name names one image, and there are {count}")));
        };
        return Ok(vec![(registry_name(given)?, only.clone())]);
    }
    let mut found = Vec::new();
    for descriptor in index.manifests {
        let annotation = |key: &str| descriptor.annotations.get(key).cloned();
        let name = annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME));
        match name {
            Some(name) if name.contains(['/', ':', '@']) => {
                found.push((registry_name(&name)?, descriptor));
            }
            Some(tag) => {
                return Err(wrong(format!(
                    "the image is tagged {tag:?} and has no name: give it one with --name \
                     NAME:{tag}"
                )));
            }
            None => {
                return Err(wrong(format!(
                    "the image {} has no name: give it one with --name NAME:TAG",
                    descriptor.digest
                )));
            }
        }
    }
    match found.is_empty() {
        true => Err(wrong("index.json names no images".to_owned())),
        false => Ok(found),
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

/// Sends a manifest with all that is below it: blobs first. Of an index, what the archive has.
async fn push_tree(
    remote: &Remote<'_>,
    archive: &Archive,
    repository: &str,
    version: &Version,
    top: &Descriptor,
    bytes: &mut u64,
) -> Result<(), Failure> {
    let wrong = |why: String| Failure::other(format!("{}: {why}", archive.label));
    let missing = |digest: &str| wrong(format!("blob {digest} is missing"));
    let read = |digest: &str| -> Result<Option<(Vec<u8>, Document)>, Failure> {
        let Some(text) = archive.read(&blob_name(digest), DOCUMENT_BYTES_MAX)? else {
            return Ok(None);
        };
        let actual = digest_of(&text);
        if actual != digest {
            return Err(wrong(format!("blob {digest} is damaged: its bytes have digest {actual}")));
        }
        let document = Document::parse(&text).map_err(&wrong)?;
        Ok(Some((text, document)))
    };
    let (text, document) = read(&top.digest)?.ok_or_else(|| missing(&top.digest))?;
    if let Document::Index(entries) = &document {
        for entry in entries {
            let Some((text, below)) = read(&entry.digest)? else { continue };
            push_blobs(remote, archive, repository, &below, bytes).await?;
            let version = Version::Digest(entry.digest.clone());
            let kind = media_type(&text, OCI_MANIFEST);
            remote.put_manifest(repository, &version, &kind, &text).await?;
        }
    } else {
        push_blobs(remote, archive, repository, &document, bytes).await?;
    }
    let plain = if matches!(document, Document::Index(_)) { OCI_INDEX } else { OCI_MANIFEST };
    *bytes += text.len() as u64;
    remote.put_manifest(repository, version, &media_type(&text, plain), &text).await
}

async fn push_blobs(
    remote: &Remote<'_>,
    archive: &Archive,
    repository: &str,
    manifest: &Document,
    bytes: &mut u64,
) -> Result<(), Failure> {
    for descriptor in manifest.descriptors() {
        let Some((mut from, size)) = archive.open_file(&blob_name(&descriptor.digest))? else {
            return Err(Failure::other(format!(
                "{}: blob {} is missing",
                archive.label, descriptor.digest
            )));
        };
        remote.push_blob(repository, &descriptor.digest, from.as_mut()).await?;
        *bytes += size;
    }
    Ok(())
}

fn media_type(document: &[u8], plain: &str) -> String {
    let said: Value = serde_json::from_slice(document).unwrap_or_default();
    said["mediaType"].as_str().unwrap_or(plain).to_owned()
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Digest, size and first bytes of a file of the archive.
fn measured(archive: &Archive, name: &str) -> Result<(String, u64, Vec<u8>), Failure> {
    let wrong = |why: String| Failure::other(format!("{}: {name}: {why}", archive.label));
    let Some((mut from, size)) = archive.open_file(name)? else {
        return Err(wrong("it is missing".to_owned()));
    };
    let mut hash = Sha256::new();
    let (mut buffer, mut magic) = (vec![0; 1 << 16], Vec::new());
    loop {
        let len = from.read(&mut buffer).map_err(|error| wrong(error.to_string()))?;
        if len == 0 {
            break;
        }
        if magic.is_empty() {
            magic = buffer[..len.min(4)].to_vec();
        }
        hash.update(&buffer[..len]);
    }
    Ok((format!("sha256:{}", hex::encode(hash.finalize())), size, magic))
}

async fn saved_image(
    remote: &Remote<'_>,
    archive: &Archive,
    image: &Saved,
    given: Option<&str>,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut tags = image.repo_tags.clone().unwrap_or_default();
    if let Some(given) = given {
        tags = vec![given.to_owned()];
    }
    if tags.is_empty() {
        return Err(Failure::other(format!(
            "{}: an image has no name: give it one with --name NAME:TAG",
            archive.label
        )));
    }
    let mut layers = Vec::new();
    for layer in &image.layers {
        let (digest, size, magic) = measured(archive, layer)?;
        let kind = match magic.as_slice() {
            [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => "application/vnd.oci.image.layer.v1.tar",
        };
        layers.push(json!({"mediaType": kind, "digest": digest, "size": size}));
    }
    let (config, size, _) = measured(archive, &image.config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config, "size": size},
        "layers": layers,
    });
    let text = manifest.to_string();
    for tag in tags {
        let name = registry_name(&tag)?;
        let repository = name.cluster_repository();
        let files = image.layers.iter().chain([&image.config]);
        let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap_or_default());
        let digests: Vec<&str> = digests.chain([config.as_str()]).collect();
        let mut bytes = text.len() as u64;
        for (file, digest) in files.zip(digests) {
            let Some((mut from, size)) = archive.open_file(file)? else { continue };
            remote.push_blob(&repository, digest, from.as_mut()).await?;
            bytes += size;
        }
        remote.put_manifest(&repository, &name.version, OCI_MANIFEST, text.as_bytes()).await?;
        told(out, &repository, &name.version, bytes)?;
    }
    Ok(())
}
