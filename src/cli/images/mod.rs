//! `coracle push` and `coracle images`: what is in the cluster's own registry, on the way of the
//! Kubernetes API and with its credentials.
//!
//! | module | is |
//! |---|---|
//! | [`remote`] | the registry, as these commands ask it |
//! | [`archive`] | what is in a file or folder of images |
//! | [`push`], [`import`], [`export`], [`list`] | the commands |

pub mod archive;
pub mod export;
pub mod import;
pub mod list;
pub mod push;
pub mod remote;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::call::Connection;
use super::failure::Failure;
use super::out::Out;
use crate::image::{Name, Reference, Version};

/// What `push` is asked.
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// A wasm file, or a file or folder that holds one image (OCI layout, `docker save`)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The name under which pods name it, as app:1 or team/app:1
    #[arg(value_name = "NAME:TAG")]
    pub name: String,
}

/// What `images` is asked.
#[derive(Debug, Clone, Args)]
pub struct ImagesArgs {
    #[command(subcommand)]
    pub command: ImagesCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ImagesCommand {
    /// Show what the cluster's registry holds
    #[command(alias = "list")]
    Ls {
        /// Only these names
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Write images into one file, to carry it elsewhere
    Export {
        /// The file to write, an OCI layout in a tar
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Take images in, under the names that the file gives them
    Import {
        /// Files or folders: OCI layouts, `docker save`, `skopeo copy … oci-archive:`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The name of an image whose file gives it none, or another than it gives
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<String>,
    },
    /// Remove images
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Runs `images`.
///
/// # Errors
/// Bad usage, no server, what it refuses.
pub async fn run(args: &ImagesArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        ImagesCommand::Ls { names } => list::run(names, connection, out).await,
        ImagesCommand::Export { output, names } => {
            export::run(output, names, connection, out).await
        }
        ImagesCommand::Import { files, name } => {
            import::run(files, name.as_deref(), connection, out).await
        }
        ImagesCommand::Rm { names } => list::remove(names, connection, out).await,
    }
}

/// An image's name, where it is one of a registry.
fn registry_name(text: &str) -> Result<Name, Failure> {
    match Reference::parse(text) {
        Ok(Reference::Registry(name)) => Ok(name),
        Ok(_) => Err(Failure::usage(format!(
            "{text:?} names a file of a node: name an image as app:1 or registry.k8s.io/pause:3.10"
        ))),
        Err(why) => Err(Failure::usage(format!("{text:?} is no name of an image: {why}"))),
    }
}

/// As people write a name of the cluster's registry: `app:1`.
fn shown(repository: &str, version: &Version) -> String {
    match version {
        Version::Tag(tag) => format!("{repository}:{tag}"),
        Version::Digest(digest) => format!("{repository}@{digest}"),
    }
}

/// A size as people read it.
fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut left = bytes;
    while left >= 10 * 1024 && unit + 1 < units.len() {
        left /= 1024;
        unit += 1;
    }
    format!("{left} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, expected) in
            [(0, "0 B"), (10_239, "10239 B"), (10_240, "10 KiB"), (5 << 30, "5120 MiB")]
        {
            assert_eq!(human(bytes), expected);
        }
    }

    #[test]
    fn only_names_of_registries_are_taken() {
        assert_eq!(registry_name("app:1").expect("a name").cluster_repository(), "app");
        assert_eq!(registry_name("file:/x").expect_err("a file").exit_code(), 2);
        assert_eq!(registry_name("A b").expect_err("no name").exit_code(), 2);
    }
}
