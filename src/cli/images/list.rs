//! `images ls` and `images rm`.

use super::remote::Remote;
use super::{human, registry_name, shown};
use crate::cli::call::Connection;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::image::Version;
use crate::image::manifest::{Document, WASM_CONFIG};

/// Shows what the registry holds.
///
/// # Errors
/// No server, what it refuses.
pub async fn run(names: &[String], connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let remote = Remote(connection);
    let repositories = match names {
        [] => remote.repositories().await?,
        names => {
            let all = names.iter().map(|name| Ok(registry_name(name)?.cluster_repository()));
            all.collect::<Result<_, Failure>>()?
        }
    };
    let mut rows = vec![["NAME", "TAG", "DIGEST", "SIZE", "KIND"].map(str::to_owned)];
    for repository in repositories {
        for tag in remote.tags(&repository).await? {
            let version = Version::Tag(tag.clone());
            let Some(found) = remote.manifest(&repository, &version).await? else { continue };
            let digest: String = found.digest.chars().take("sha256:".len() + 12).collect();
            let (size, kind) = measure(&remote, &repository, &found.bytes).await?;
            rows.push([repository.clone(), tag, digest, human(size), kind.to_owned()]);
        }
    }
    if rows.len() == 1 {
        return out.note("No images found: `coracle push FILE NAME:TAG` brings one.");
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.line(cells.collect::<Vec<_>>().join("   ").trim_end())?;
    }
    Ok(())
}

/// Bytes of all blobs, and what it is.
async fn measure(
    remote: &Remote<'_>,
    repository: &str,
    bytes: &[u8],
) -> Result<(u64, &'static str), Failure> {
    let sum = |document: &Document| document.descriptors().iter().map(|d| d.size).sum::<u64>();
    let document = match Document::parse(bytes) {
        Ok(document) => document,
        Err(_) => return Ok((0, "unknown")),
    };
    match &document {
        Document::Manifest(manifest) => {
            let config = manifest.config.as_ref().map(|config| config.media_type.as_str());
            let kind = match config {
                Some(WASM_CONFIG) => "wasm",
                Some(config) if config.contains("image") => "container",
                _ => "artifact",
            };
            Ok((sum(&document), kind))
        }
        Document::Index(entries) => {
            let mut size = 0;
            for entry in entries {
                let version = Version::Digest(entry.digest.clone());
                let below = remote.manifest(repository, &version).await?;
                let below = below.and_then(|found| Document::parse(&found.bytes).ok());
                size += below.map_or(0, |below| sum(&below));
            }
            Ok((size, "index"))
        }
    }
}

/// Removes images: the tag, and the image with it where no other tag names it.
///
/// # Errors
/// No server; names that are not there are told one by one.
pub async fn remove(
    names: &[String],
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let remote = Remote(connection);
    for text in names {
        let name = registry_name(text)?;
        let repository = name.cluster_repository();
        let Some(found) = remote.manifest(&repository, &name.version).await? else {
            let told = format!("{text} is not in the cluster's registry");
            out.fail(Failure::other(told))?;
            continue;
        };
        let digest = Version::Digest(found.digest.clone());
        if let Version::Tag(_) = &name.version {
            remote.delete(&repository, &name.version).await?;
            let mut named = false;
            for tag in remote.tags(&repository).await? {
                let other = remote.manifest(&repository, &Version::Tag(tag)).await?;
                named |= other.is_some_and(|other| other.digest == found.digest);
            }
            if !named {
                remote.delete(&repository, &digest).await?;
            }
        } else {
            remote.delete(&repository, &digest).await?;
        }
        out.line(format!("removed {}", shown(&repository, &name.version)))?;
    }
    Ok(())
}
