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

fn policy(allow_file: bool) -> Policy {
    let client = ClientConfig { tries_max: 1, ..ClientConfig::default() };
    Policy { allow_file, client, ..Policy::default() }
}

fn images(allow_file: bool) -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::new(&dir.path().join("store"), policy(allow_file)).expect("a store");
    (dir, images)
}

async fn get(
    images: &Images,
    reference: &str,
    policy: PullPolicy,
) -> Result<PulledImage, ImageError> {
    images.resolve(&PullRequest::new(reference, policy)).await
}

fn module(image: &PulledImage) -> &Module {
    image.module().expect("a wasm image")
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
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("refused");
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("--allow-file-images"), "{error}");

    let images = Images::new(&dir.path().join("other"), policy(true)).expect("made");
    let artifact = get(&images, &reference, PullPolicy::Never).await.expect("found");
    assert_eq!(module(&artifact).digest, sha(WASM));
    assert_eq!(fs::read(&module(&artifact).path).expect("there"), WASM);
    // The artifact is the copy: writing to the original changes nothing for those that run.
    fs::write(&path, b"other").expect("written");
    assert_eq!(fs::read(&module(&artifact).path).expect("there"), WASM);
}

#[tokio::test]
async fn an_artifact_of_a_layout_is_found_by_its_tag_and_stays_when_the_layout_goes() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    layout.image("application/vnd.wasm.config.v0+json", json!({}), &[("application/wasm", WASM)]);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let missing = get(&images, &reference, PullPolicy::Never).await.expect_err("not here yet");
    assert_eq!(missing.reason(), "ErrImageNeverPull");
    let artifact = get(&images, &reference, PullPolicy::IfNotPresent).await.expect("pulled");
    assert!(!artifact.present);
    fs::remove_dir_all(&layout.dir).expect("removed");
    let again = get(&images, &reference, PullPolicy::Never).await.expect("still here");
    assert_eq!(again, PulledImage { present: true, ..artifact });
    let gone = get(&images, &reference, PullPolicy::Always).await.expect_err("gone");
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
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("damaged");
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
    let artifact = get(&images, &reference, PullPolicy::Always).await.expect("found");
    assert_eq!(module(&artifact).digest, sha(WASM));
    assert_eq!(artifact.config.entrypoint, ["/app/new.wasm"]);
    assert_eq!(artifact.config.env, ["A=b"]);
    assert_eq!(artifact.config.working_dir.as_deref(), Some("/app"));
    let again = get(&images, &reference, PullPolicy::Never).await.expect("remembered");
    assert_eq!(again.config, artifact.config);
}

#[tokio::test]
async fn a_container_image_is_handed_on_and_two_wasm_files_are_one_too_many() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    let reference = format!("oci:{}:v1", layout.dir.display());
    let layer = tar_gz(&[("bin/sh", b"elf")]);
    let config = json!({
        "os": "linux", "architecture": manifest::architecture(),
        "config": {"Cmd": ["/bin/sh"], "User": "7"}, "rootfs": {"diff_ids": [sha(b"tar")]},
    });
    layout.image(IMAGE_CONFIG, config, &[(LAYER, &layer)]);
    let image = get(&images, &reference, PullPolicy::Always).await.expect("a container image");
    let ImageKind::Container { config, layers } = &image.kind else { panic!("{image:?}") };
    assert!(fs::read_to_string(config).expect("there").contains("/bin/sh"));
    assert_eq!((layers[0].digest.clone(), layers[0].diff_id.clone()), (sha(&layer), sha(b"tar")));
    assert_eq!(image.config.user.as_deref(), Some("7"));
    let mut tar = open_layer(&layers[0].path).expect("opened");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut tar, &mut bytes).expect("unpacked");
    assert_eq!(&bytes[..6], b"bin/sh");
    assert_eq!(images.known_layers(), [sha(b"tar")].into());

    let two = tar_gz(&[("a.wasm", b"a"), ("b.wasm", b"b")]);
    layout.image(IMAGE_CONFIG, json!({}), &[(LAYER, &two)]);
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("two");
    assert!(error.to_string().contains("2 wasm files (a.wasm, b.wasm)"), "{error}");
    let foreign = json!({"os": "linux", "architecture": "s390x", "config": {"Cmd": ["/x"]}});
    layout.image(IMAGE_CONFIG, foreign, &[]);
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("foreign");
    assert!(error.to_string().contains("the image is for linux/s390x"), "{error}");
}

#[tokio::test]
async fn layers_that_are_no_archives_or_bombs_leave_nothing_outside() {
    let (dir, images) = images(false);
    let layout = LayoutBuilder::at(dir.path().join("layout"));
    let reference = format!("oci:{}:v1", layout.dir.display());
    layout.image(IMAGE_CONFIG, json!({}), &[(LAYER, b"\x1f\x8bno gzip at all")]);
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("corrupt");
    assert!(error.to_string().contains("layer sha256:"), "{error}");

    // Zeros pack into next to nothing.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("a path");
    header.set_size(2 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    std::io::Write::write_all(&mut bomb, header.as_bytes()).expect("packed");
    let zeros = vec![0; 1 << 20];
    for _ in 0..20 {
        std::io::Write::write_all(&mut bomb, &zeros).expect("packed");
    }
    let bomb = bomb.finish().expect("packed");
    layout.image(IMAGE_CONFIG, json!({}), &[(LAYER, &bomb)]);
    let error = get(&images, &reference, PullPolicy::Always).await.expect_err("a bomb");
    assert!(error.to_string().contains("unpacks to more than 16 MiB"), "{error}");

    let mut escape = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..19].copy_from_slice(b"../../../escape.was");
    header.as_old_mut().name[19] = b'm';
    header.set_size(WASM.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    escape.append(&header, WASM).expect("appended");
    let escape = escape.into_inner().expect("packed");
    layout.image(IMAGE_CONFIG, json!({}), &[(LAYER, &escape)]);
    let image = get(&images, &reference, PullPolicy::Always).await.expect("by its digest");
    let store = dir.path().join("store");
    assert!(module(&image).path.starts_with(&store));
    assert!(!dir.path().join("escape.wasm").exists() && !store.join("escape.wasm").exists());
}

#[tokio::test]
async fn images_that_nobody_uses_make_room_oldest_first() {
    let (dir, images) = images(false);
    let mut digests = Vec::new();
    for text in ["one", "two", "three"] {
        let layout = LayoutBuilder::at(dir.path().join(text));
        layout.image(
            "x",
            json!({"n": text}),
            &[("application/wasm", &[WASM, text.as_bytes()].concat())],
        );
        let reference = format!("oci:{}:v1", layout.dir.display());
        digests.push(get(&images, &reference, PullPolicy::Always).await.expect("pulled").digest);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(images.list().len(), 3);
    let used = HashSet::from([digests[0].clone()]);
    let soon = images.collect(1, &used, Duration::from_secs(60), Timestamp::now());
    assert_eq!(soon.expect("asked"), Freed::default());
    let freed = images.collect(1, &used, Duration::ZERO, Timestamp::now()).expect("collected");
    assert_eq!(freed.images.len(), 1);
    assert!(freed.images[0].contains("/two@"), "{freed:?}");
    let left: HashSet<String> = images.list().into_iter().map(|image| image.digest).collect();
    assert_eq!(left, HashSet::from([digests[0].clone(), digests[2].clone()]));
    let all = images.collect(u64::MAX, &HashSet::new(), Duration::ZERO, Timestamp::now());
    assert_eq!(all.expect("collected").images.len(), 2);
    assert_eq!(images.store.blobs.all().expect("listed"), []);
}

#[tokio::test]
async fn every_sample_is_there_and_no_other() {
    let (_dir, images) = images(false);
    for (name, bytes) in samples::SAMPLES {
        let reference = format!("coracle.dev/samples/{name}:v1");
        let artifact = get(&images, &reference, PullPolicy::Never).await.expect("carried");
        assert_eq!(module(&artifact).digest, sha(bytes));
        assert!(artifact.present);
    }
    let error = get(&images, "coracle.dev/samples/nope:v1", PullPolicy::Always).await;
    assert!(error.expect_err("unknown").to_string().contains("hello-http"));
    let error = get(&images, "coracle.dev/samples/spin:v2", PullPolicy::Always).await;
    assert!(error.expect_err("unknown").to_string().contains("only v1"));
}

#[tokio::test]
async fn what_is_no_reference_is_an_invalid_image_name() {
    let (_dir, images) = images(true);
    let error = get(&images, "No Such Thing", PullPolicy::Always).await.expect_err("invalid");
    assert_eq!(error.reason(), "InvalidImageName");
    let error = get(&images, "registry.example/a:v1", PullPolicy::Always).await;
    assert_eq!(error.expect_err("no registry yet").reason(), "ErrImagePull");
}
