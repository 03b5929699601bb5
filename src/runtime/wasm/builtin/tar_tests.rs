use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::runtime::wasm::pipe::Pipe;
use crate::runtime::wasm::stdio::{Outputs, Tap};

/// Two directories of a guest: `/data`, and `/ro`, which it may not write to.
struct Guest {
    host: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Guest {
    fn new() -> Self {
        let host = tempfile::tempdir().expect("a directory");
        for name in ["data", "ro", "outside"] {
            std::fs::create_dir(host.path().join(name)).expect("made");
        }
        Self { host }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect(name)
    }

    fn run(&self, line: &str, input: &[u8]) -> Ran {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.expect("a runtime");
        let (data, ro) = (self.path("data"), self.path("ro"));
        let mounts: [(&Path, &str, bool); 2] = [(&data, "/data", true), (&ro, "/ro", false)];
        let tree = Tree::open(mounts.into_iter(), None).expect("opened");
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (stdin, out, err) = (Pipe::default(), Pipe::default(), Pipe::default());
        let tap = Tap { stdout: Some(out.clone()), stderr: Some(err.clone()) };
        let all = async |pipe: Pipe| {
            let mut all = Vec::new();
            while let Some(bytes) = pipe.read(usize::MAX).await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        runtime.block_on(async {
            let outputs = Outputs::tapped(tap.clone(), false);
            let mut console = Console::new(stdin.clone(), outputs);
            let ran = tokio::task::spawn_blocking(move || {
                let code = run(&args, &tree, &mut console);
                tap.finish();
                code
            });
            let fed = async {
                for piece in input.chunks(1000) {
                    let _ = stdin.write(Bytes::copy_from_slice(piece)).await;
                }
                stdin.finish();
            };
            let (code, (), out, err) = tokio::join!(ran, fed, all(out), all(err));
            let err = String::from_utf8_lossy(&err).into_owned();
            Ran { code: code.expect("no panic"), out, err }
        })
    }
}

#[test]
fn a_directory_goes_out_and_comes_back_as_it_was() {
    let guest = Guest::new();
    let long = "n".repeat(150);
    std::fs::create_dir_all(guest.path("data/a/b")).expect("made");
    std::fs::write(guest.path("data/a/b/file"), "content").expect("written");
    std::fs::write(guest.path(&format!("data/a/{long}")), vec![b'x'; 100_000]).expect("written");
    std::os::unix::fs::symlink("b/file", guest.path("data/a/link")).expect("linked");
    let packed = guest.run("tar cf - /data/a", b"");
    assert_eq!((packed.code, packed.err.as_str()), (0, ""));
    let back =
        guest.run("tar --no-same-permissions --no-same-owner -xmf - -C /data/new", &packed.out);
    assert_eq!((back.code, back.err.as_str()), (0, ""));
    assert_eq!(guest.read("data/new/data/a/b/file"), "content");
    assert_eq!(guest.read(&format!("data/new/data/a/{long}")).len(), 100_000);
    assert_eq!(guest.read("data/new/data/a/link"), "content");
    let listed = guest.run("tar tf -", &packed.out);
    assert!(String::from_utf8_lossy(&listed.out).starts_with("data/a/\ndata/a/b/\n"));
}

#[test]
fn what_is_missing_is_told_and_the_rest_is_packed() {
    let guest = Guest::new();
    std::fs::write(guest.path("data/there"), "x").expect("written");
    let packed = guest.run("tar cf - /data/gone /data/there", b"");
    assert_eq!(packed.code, 2);
    assert!(packed.err.contains("/data/gone: Cannot stat: No such file or directory"));
    assert_eq!(guest.run("tar -xf - -C /data/new", &packed.out).code, 0);
    assert_eq!(guest.read("data/new/data/there"), "x");
    for (line, why) in [
        ("tar cf -", "Cowardly refusing"),
        ("tar cf /data/archive /data/there", "only standard input and output"),
        ("tar -f -", "You must specify one"),
        ("tar -zcf - /data", "invalid option -- 'z'"),
    ] {
        let told = guest.run(line, b"");
        assert_eq!(told.code, 2);
        assert!(told.err.contains(why), "{line}: {}", told.err);
    }
}

fn archive(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().expect("finished")
}

fn entry(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let bytes = header.as_gnu_mut().expect("a GNU header");
    bytes.name[..name.len()].copy_from_slice(name.as_bytes());
    bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive(|builder| builder.append(&header, content).expect("appended"))
}

#[test]
fn nothing_is_written_outside_of_what_the_guest_may_write_to() {
    let guest = Guest::new();
    let outside = guest.path("outside");
    std::os::unix::fs::symlink(&outside, guest.path("data/trap")).expect("linked");
    std::os::unix::fs::symlink("../outside", guest.path("data/up")).expect("linked");
    let file = |name: &str| entry(EntryType::Regular, name, "", b"evil");
    let attempts = [
        file("../outside/x"),
        file("trap/x"),
        file("up/x"),
        entry(EntryType::Symlink, "abs", outside.to_str().expect("text"), b""),
        entry(EntryType::Link, "hard", "../outside/x", b""),
        entry(EntryType::Char, "dev", "", b""),
    ];
    for (number, attempt) in attempts.iter().enumerate() {
        let ran = guest.run("tar -xf - -C /data", attempt);
        assert_eq!(ran.code, 2, "{number}: {}", ran.err);
    }
    let ran = guest.run("tar -xf - -C /ro", &file("x"));
    assert!(ran.code == 2 && ran.err.contains("x: Read-only file system"), "{}", ran.err);
    let ran = guest.run("tar -xf - -C /nowhere", &file("x"));
    assert_eq!(ran.code, 2);
    assert_eq!(std::fs::read_dir(&outside).expect("listed").count(), 0);
    assert!(!guest.path("data/abs").exists() && !guest.path("data/hard").exists());
    assert_eq!(guest.run("tar -xf - -C /data", &file("/abs/olute")).code, 0);
    assert_eq!(guest.read("data/abs/olute"), "evil");
}

#[test]
fn a_name_without_end_is_refused() {
    let guest = Guest::new();
    let endless = entry(EntryType::GNULongName, "././@LongLink", "", &vec![b'x'; 100_000]);
    let ran = guest.run("tar -xf - -C /data", &endless);
    assert!(ran.code == 2 && ran.err.contains("a name is too long"), "{}", ran.err);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_archive_makes_it_panic(
        kind in any::<u8>(),
        flip in proptest::collection::vec((0..2048_usize, any::<u8>()), 0..8),
        cut in 0..2048_usize,
    ) {
        let guest = Guest::new();
        let mut bytes = entry(EntryType::new(kind), "name", "target", b"content");
        for (at, byte) in flip {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let ran = guest.run("tar -xf - -C /data", &bytes);
        prop_assert!(matches!(ran.code, 0 | 2));
    }
}
