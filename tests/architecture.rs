//! Holds the floors of the house: a module imports only what lies below it.

use std::fs;
use std::path::{Path, PathBuf};

/// Every room with the rooms that it may import. A room may always import itself.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &["base"]),
    ("store", &["base"]),
    ("link", &["base"]),
    ("stream", &["base"]),
    ("net", &["base", "link"]),
    ("runtime", &["base", "net"]),
    ("image", &["base"]),
    ("apiserver", &["base", "api", "store", "link", "stream"]),
    ("client", &["base", "api"]),
    ("scheduler", &["base", "api", "client"]),
    ("controllers", &["base", "api", "client"]),
    ("node", &["base", "api", "client", "link", "stream", "runtime", "image", "net"]),
];

/// Rooms that only wire the others together.
const WIRING: &[&str] = &["cli", "sim"];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source folder can be read") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn room_of(path: &Path, src: &Path) -> String {
    let below = path.strip_prefix(src).expect("a file below src");
    let first = below.components().next().expect("a file name").as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names as `crate::ROOM`, outside comments.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for part in code.split("crate::").skip(1) {
            let names: Vec<String> = match part.strip_prefix('{') {
                Some(list) => list.split(',').map(first_word).collect(),
                None => vec![first_word(part)],
            };
            found.extend(names.into_iter().map(|name| (number + 1, name)));
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let room = room_of(&file, &src);
        if WIRING.contains(&room.as_str()) || matches!(room.as_str(), "main" | "lib") {
            continue;
        }
        let allowed = FLOORS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("the room {room} has no floor: {}", file.display()))
            .1;
        let text = fs::read_to_string(&file).expect("a readable source file");
        for (line, name) in imports(&text) {
            let known = FLOORS.iter().any(|(n, _)| *n == name) || WIRING.contains(&name.as_str());
            if known && name != room && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}:{line}: {room} imports {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn plans_are_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files.iter().filter(|f| f.file_name().is_some_and(|n| n == "plan.rs")) {
        let text = fs::read_to_string(file).expect("a readable source file");
        for banned in ["async ", "tokio", "Timestamp::now", "Instant::now", "SystemTime"] {
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for line in code {
                assert!(!line.contains(banned), "{} uses {banned}: {line}", file.display());
            }
        }
    }
}

/// What `deny.toml` bans, held where `cargo deny` is not installed.
#[test]
fn no_crate_brings_a_second_tls_or_needs_protoc() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| fs::read_to_string(root.join(name)).expect("a readable file");
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let banned = deny.split("crate = \"").skip(1).map(|rest| rest.split('"').next());
    let banned: Vec<&str> = banned.map(|name| name.expect("a name")).collect();
    assert!(banned.contains(&"aws-lc-sys"), "{banned:?}");
    for name in banned {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name} came in");
    }
}
