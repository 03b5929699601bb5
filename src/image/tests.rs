//! Images from every source, good and bad.

use std::fs;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const WASM: &[u8] = b"\0asm\x01\0\0\0";

fn sha(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn images(allow_file: bool) -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::new(&dir.path().join("store"), Policy { allow_file }).expect("a store");
    (dir, images)
}

/// Writes blobs, and an index that names the manifest `v1`.
struct LayoutBuilder {
    dir: PathBuf,
}

impl LayoutBuilder {
    fn at(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
        Self { dir }
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = sha(bytes);
        let path = self.dir.join("blobs/sha256").join(&digest["sha256:".len()..]);
        fs::write(path, bytes).expect("written");
        digest
    }

    fn image(&self, config_type: &str, config: serde_json::Value, layers: &[(&str, &[u8])]) {
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": self.blob(bytes), "size": bytes.len()});
        let layers: Vec<_> = layers.iter().map(|(kind, bytes)| descriptor(kind, bytes)).collect();
        let config = descriptor(config_type, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let mut manifest = descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        );
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("written");
    }
}

fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).expect("appended");
    }
    builder.into_inner().and_then(GzEncoder::finish).expect("packed")
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[tokio::test]
async fn a_file_is_run_only_where_the_node_allows_it() {
    let (dir, images) = images(false);
    let path = dir.path().join("app.wasm");
    fs::write(&path, WASM).expect("written");
    let reference = format!("file:{}", path.display());
    let error = images.resolve(&reference, PullPolicy::Always).await.expect_err("refused");
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("--allow-file-images"), "{error}");

    let images = Images::new(&dir.path().join("other"), Policy { allow_file: true }).expect("made");
    let artifact = images.resolve(&reference, PullPolicy::Never).await.expect("found");
    assert_eq!(artifact.digest, sha(WASM));
    assert_eq!(fs::read(&artifact.path).expect("there"), WASM);
    // The artifact is the copy: writing to the original changes nothing for those that run.
    fs::write(&path, b"other").expect("written");
    assert_eq!(fs::read(&artifact.path).expect("there"), WASM);
}

#[tokio::test]
async fn an_artifact_of_a_layout_is_found_by_its_tag_and_stays_when_the_layout_goes() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    layout.image("application/vnd.wasm.config.v0+json", json!({}), &[("application/wasm", WASM)]);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let missing = images.resolve(&reference, PullPolicy::Never).await.expect_err("not here yet");
    assert_eq!(missing.reason(), "ErrImageNeverPull");
    let artifact = images.resolve(&reference, PullPolicy::IfNotPresent).await.expect("pulled");
    assert!(!artifact.present);
    fs::remove_dir_all(&layout.dir).expect("removed");
    let again = images.resolve(&reference, PullPolicy::Never).await.expect("still here");
    assert_eq!(again, Artifact { present: true, ..artifact });
    let gone = images.resolve(&reference, PullPolicy::Always).await.expect_err("gone");
    assert!(gone.to_string().contains("no index.json"), "{gone}");
}

#[tokio::test]
async fn a_damaged_blob_is_named() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    layout.image("x", json!({}), &[("application/wasm", WASM)]);
    let blob = layout.dir.join("blobs/sha256").join(&sha(WASM)["sha256:".len()..]);
    fs::write(blob, b"rotten").expect("written");
    let reference = format!("oci:{}:v1", layout.dir.display());
    let error = images.resolve(&reference, PullPolicy::Always).await.expect_err("damaged");
    assert!(error.to_string().contains(&format!("blob {} is damaged", sha(WASM))), "{error}");
}

#[tokio::test]
async fn a_container_image_gives_its_one_wasm_file_and_says_how_to_run_it() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    let first = tar_gz(&[("app/old.wasm", b"old"), ("etc/motd", b"hi")]);
    let second = tar_gz(&[("app/.wh.old.wasm", b""), ("app/new.wasm", WASM)]);
    let config =
        json!({"config": {"Entrypoint": ["/app/new.wasm"], "Env": ["A=b"], "WorkingDir": "/app"}});
    layout.image(IMAGE_CONFIG, config, &[(LAYER, &first), (LAYER, &second)]);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let artifact = images.resolve(&reference, PullPolicy::Always).await.expect("found");
    assert_eq!(artifact.digest, sha(WASM));
    assert_eq!(artifact.config.entrypoint, ["/app/new.wasm"]);
    assert_eq!(artifact.config.env, ["A=b"]);
    assert_eq!(artifact.config.working_dir.as_deref(), Some("/app"));
    let again = images.resolve(&reference, PullPolicy::Never).await.expect("remembered");
    assert_eq!(again.config, artifact.config);
}

#[tokio::test]
async fn an_image_without_wasm_and_one_with_two_are_told_apart() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    let reference = format!("oci:{}:v1", layout.dir.display());
    layout.image(IMAGE_CONFIG, json!({}), &[(LAYER, &tar_gz(&[("bin/sh", b"elf")]))]);
    let error = images.resolve(&reference, PullPolicy::Always).await.expect_err("no wasm");
    assert!(error.to_string().contains("holds no .wasm file"), "{error}");
    layout.image(
        IMAGE_CONFIG,
        json!({}),
        &[(LAYER, &tar_gz(&[("a.wasm", b"a"), ("b.wasm", b"b")]))],
    );
    let error = images.resolve(&reference, PullPolicy::Always).await.expect_err("two");
    assert!(error.to_string().contains("2 wasm files (a.wasm, b.wasm)"), "{error}");
}

#[tokio::test]
async fn every_sample_is_there_and_no_other() {
    let (_dir, images) = images(false);
    for (name, bytes) in samples::SAMPLES {
        let reference = format!("coracle.dev/samples/{name}:v1");
        let artifact = images.resolve(&reference, PullPolicy::Never).await.expect("carried");
        assert_eq!(artifact.digest, sha(bytes));
        assert!(artifact.present);
    }
    let error = images.resolve("coracle.dev/samples/nope:v1", PullPolicy::Always).await;
    assert!(error.expect_err("unknown").to_string().contains("hello-http"));
    let error = images.resolve("coracle.dev/samples/spin:v2", PullPolicy::Always).await;
    assert!(error.expect_err("unknown").to_string().contains("only v1"));
}

#[tokio::test]
async fn what_is_no_reference_is_an_invalid_image_name() {
    let (_dir, images) = images(true);
    let error = images.resolve("No Such Thing", PullPolicy::Always).await.expect_err("invalid");
    assert_eq!(error.reason(), "InvalidImageName");
    let error = images.resolve("registry.example/a:v1", PullPolicy::Always).await;
    assert_eq!(error.expect_err("no registry yet").reason(), "ErrImagePull");
}
