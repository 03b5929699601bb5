//! Layers, good and hostile.

use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A tar archive whose files belong to whoever runs the test.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        header.set_mtime(1_700_000_000);
        header
    }

    /// The path is written as it is, also where it is none that a tool would write.
    fn entry(mut self, kind: EntryType, path: &str, link: Option<&str>, bytes: &[u8]) -> Self {
        let mut header = Self::header(kind, bytes.len());
        let field = &mut header.as_old_mut().name;
        field[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            let field = &mut header.as_old_mut().linkname;
            field[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.0.append(&header, bytes).expect("appended");
        self
    }

    fn file(self, path: &str, bytes: &str) -> Self {
        self.entry(EntryType::Regular, path, None, bytes.as_bytes())
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, Some(target), b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("packed")
    }
}

fn diff_id(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn store() -> (TempDir, Layers) {
    let dir = tempfile::tempdir().expect("a directory");
    let layers = Layers::open(&dir.path().join("store")).expect("a store");
    (dir, layers)
}

/// Unpacks archives one onto the other.
fn unpack(layers: &Layers, archives: Vec<Vec<u8>>) -> Result<Vec<PathBuf>, String> {
    let ids: Vec<String> = archives.iter().map(|bytes| diff_id(bytes)).collect();
    let mut lower = Vec::new();
    for ((bytes, id), chain) in archives.iter().zip(&ids).zip(chain_ids(&ids)) {
        lower.push(layers.unpack(&chain, &lower, &mut bytes.as_slice(), id)?);
    }
    Ok(lower)
}

#[test]
fn a_later_layer_hides_what_it_removes_and_goes_through_links_of_lower_ones() {
    let (_dir, layers) = store();
    let first = Archive::new()
        .entry(EntryType::Directory, "usr/bin/", None, b"")
        .link("bin", "usr/bin")
        .file("etc/gone", "old")
        .file("usr/bin/sh", "shell")
        .bytes();
    let second = Archive::new()
        .file("etc/.wh.gone", "")
        .file("bin/new", "tool")
        .entry(EntryType::Link, "bin/same", Some("usr/bin/sh"), b"")
        .bytes();
    let found = unpack(&layers, vec![first, second]).expect("unpacked");
    let top = &found[1];
    let gone = fs::symlink_metadata(top.join("etc/gone")).expect("a whiteout");
    assert!(is_whiteout(&gone));
    assert_eq!(fs::read_to_string(top.join("usr/bin/new")).expect("there"), "tool");
    assert!(!top.join("bin").exists(), "the lower link is not hidden by a directory");
    assert_eq!(fs::read_to_string(top.join("usr/bin/same")).expect("there"), "shell");
    let meta = fs::metadata(found[0].join("etc/gone")).expect("there");
    assert_eq!((meta.mode() & 0o777, meta.mtime()), (0o644, 1_700_000_000));
}

#[test]
fn a_layer_is_unpacked_once_for_all_images() {
    let (_dir, layers) = store();
    let bytes = Archive::new().file("a", "1").bytes();
    let first = unpack(&layers, vec![bytes.clone()]).expect("unpacked");
    fs::write(first[0].join("mark"), "kept").expect("written");
    let again = unpack(&layers, vec![bytes]).expect("found");
    assert_eq!(first, again);
    assert!(again[0].join("mark").exists());
}

#[test]
fn no_archive_writes_outside_of_its_layer() {
    let victim = |dir: &TempDir| dir.path().join("victim");
    let (dir, layers) = store();
    fs::create_dir(victim(&dir)).expect("made");
    fs::write(victim(&dir).join("file"), "safe").expect("written");
    let outside = victim(&dir).display().to_string();
    let short = |path: &str| path.len() < 100;
    assert!(short(&outside), "the path fits into a header");
    let hostile = [
        Archive::new().file("../../../victim/file", "evil").bytes(),
        Archive::new().link("out", &outside).file("out/file", "evil").bytes(),
        Archive::new().link("out", "../../../victim").file("out/file", "evil").bytes(),
        Archive::new().link("a", "b").link("b", "a").file("a/file", "evil").bytes(),
        Archive::new().file("..", "evil").bytes(),
        Archive::new().file("x/.wh...", "").bytes(),
        Archive::new()
            .entry(EntryType::Link, "stolen", Some(&format!("{outside}/file")), b"")
            .bytes(),
        Archive::new().link("file", &format!("{outside}/file")).file("file", "evil").bytes(),
    ];
    for bytes in hostile {
        // Some are refused, some end up inside; none reaches out.
        let _ = unpack(&layers, vec![bytes]);
        assert_eq!(fs::read_to_string(victim(&dir).join("file")).expect("there"), "safe");
        assert_eq!(fs::read_dir(victim(&dir)).expect("there").count(), 1);
    }
    let up = Archive::new().file("a/../../b", "evil").bytes();
    let error = unpack(&layers, vec![up]).expect_err("refused");
    assert!(error.contains("\"..\""), "{error}");
}

#[test]
fn a_layer_that_is_not_what_the_image_says_is_refused_and_leaves_nothing() {
    let (dir, layers) = store();
    let bytes = Archive::new().file("a", "1").bytes();
    let wrong = diff_id(b"something else");
    let refused = layers.unpack(&wrong, &[], &mut bytes.as_slice(), &wrong);
    let error = refused.expect_err("refused");
    assert!(error.contains("is damaged"), "{error}");
    assert!(layers.get(&wrong).is_none());
    let left = fs::read_dir(dir.path().join("store/tmp")).expect("there").count();
    assert_eq!(left, 0);
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    // Both digests of the example in the image specification are of one layer: its own.
    let one = vec![diff_id(b"a")];
    assert_eq!(chain_ids(&one), one);
    let two = vec![diff_id(b"a"), diff_id(b"b")];
    let text = format!("{} {}", two[0], two[1]);
    assert_eq!(chain_ids(&two)[1], diff_id(text.as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_layer_holds_is_read_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
        flips in prop::collection::vec((0usize..3000, any::<u8>()), 0..8),
    ) {
        let (_dir, layers) = store();
        let id = diff_id(&bytes);
        let _ = layers.unpack(&id, &[], &mut bytes.as_slice(), &id);
        // A good archive with a few bytes of it changed comes further.
        let mut good = Archive::new().file("a/b", "text").link("l", "a").file("l/c", "x").bytes();
        for (at, value) in flips {
            let len = good.len();
            good[at % len] = value;
        }
        let id = diff_id(&good);
        let _ = layers.unpack(&id, &[], &mut good.as_slice(), &id);
    }
}

#[test]
fn layers_of_images_that_are_gone_are_removed() {
    let (dir, layers) = store();
    let archives: Vec<Vec<u8>> =
        ["1", "2", "3"].map(|text| Archive::new().file("a", text).bytes()).into();
    let ids: Vec<String> = archives.iter().map(|bytes| diff_id(bytes)).collect();
    let both = unpack(&layers, archives[..2].to_vec()).expect("unpacked");
    let other = unpack(&layers, archives[2..].to_vec()).expect("unpacked");
    layers.keep(&ids[..2].iter().cloned().collect());
    assert!(both.iter().all(|path| path.is_dir()));
    assert!(!other[0].exists());
    let left = fs::read_dir(dir.path().join("store")).expect("there").count();
    assert_eq!(left, 5, "two layers, their digests, tmp");
}
