//! The files of a guest as the worker reaches them for it: guest paths, looked up in the directory
//! that is mounted nearest above them.

use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata};

/// A directory that the guest sees.
struct Mounted {
    guest: String,
    dir: Dir,
    writable: bool,
}

/// All directories that a guest sees.
pub struct Tree {
    mounts: Vec<Mounted>,
    working_dir: String,
}

/// Where a guest path leads.
pub struct Place<'a> {
    pub dir: &'a Dir,
    /// Below `dir`; `.` for itself.
    pub path: PathBuf,
    pub writable: bool,
}

impl Place<'_> {
    /// # Errors
    /// `ReadOnlyFilesystem`.
    pub fn for_writing(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }
}

impl Tree {
    /// Opens the directories `(host, guest, writable)`.
    ///
    /// # Errors
    /// One of them has gone.
    pub fn open<'a>(
        mounts: impl Iterator<Item = (&'a Path, &'a str, bool)>,
        working_dir: Option<&str>,
    ) -> io::Result<Self> {
        let open = |(host, guest, writable): (&Path, &str, bool)| {
            let dir = Dir::open_ambient_dir(host, ambient_authority())?;
            Ok(Mounted { guest: guest.to_owned(), dir, writable })
        };
        let mounts = mounts.map(open).collect::<io::Result<_>>()?;
        Ok(Self { mounts, working_dir: working_dir.unwrap_or("/").to_owned() })
    }

    /// The absolute form of a path, without `.` and `..`.
    pub fn absolute(&self, path: &str) -> String {
        let whole = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.working_dir),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Where a path leads.
    ///
    /// # Errors
    /// `NotFound`: nothing is mounted above it.
    pub fn place(&self, path: &str) -> io::Result<Place<'_>> {
        let path = self.absolute(path);
        let below = |guest: &str| -> Option<String> {
            let rest = if guest == "/" { path.as_str() } else { path.strip_prefix(guest)? };
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| rest.trim_start_matches('/').to_owned())
        };
        let found = self.mounts.iter().filter_map(|mount| Some((mount, below(&mount.guest)?)));
        let nearest = found.max_by_key(|(mount, _)| mount.guest.len());
        let (mount, rest) = nearest.ok_or(io::ErrorKind::NotFound)?;
        let path = if rest.is_empty() { ".".into() } else { rest.into() };
        Ok(Place { dir: &mount.dir, path, writable: mount.writable })
    }

    /// What is at a path, behind links.
    ///
    /// # Errors
    /// Nothing is there, or a link leads out.
    pub fn metadata(&self, path: &str) -> io::Result<Metadata> {
        let place = self.place(path)?;
        place.dir.metadata(&place.path)
    }

    /// What is at a path, be it a link.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn symlink_metadata(&self, path: &str) -> io::Result<Metadata> {
        let place = self.place(path)?;
        place.dir.symlink_metadata(&place.path)
    }

    pub fn is_writable(&self, path: &str) -> bool {
        self.place(path).is_ok_and(|place| place.writable)
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let place = self.place(path)?;
        let mut names = Vec::new();
        for entry in place.dir.read_dir(&place.path)? {
            // A name that is no text cannot be told to a guest either.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_looked_into_and_no_link_leads_out() {
        let host = tempfile::tempdir().expect("a directory");
        let path = |name: &str| host.path().join(name);
        for name in ["root", "data", "inner", "outside"] {
            std::fs::create_dir(path(name)).expect("made");
        }
        std::fs::create_dir(path("root/data")).expect("made");
        std::fs::write(path("inner/file"), "x").expect("written");
        std::fs::write(path("outside/secret"), "x").expect("written");
        std::os::unix::fs::symlink(path("outside"), path("data/trap")).expect("linked");
        std::os::unix::fs::symlink("../outside", path("data/up")).expect("linked");
        let (root, data, inner) = (path("root"), path("data"), path("inner"));
        let mounts: [(&Path, &str, bool); 3] =
            [(&root, "/", false), (&data, "/data", true), (&inner, "/data/in", false)];
        let tree = Tree::open(mounts.into_iter(), Some("/data")).expect("opened");
        assert_eq!(tree.absolute("../a/./b//c/.."), "/a/b");
        assert!(tree.metadata("in/file").expect("there").is_file());
        assert!(tree.metadata("/data").expect("there").is_dir());
        assert!(tree.is_writable("new") && !tree.is_writable("/new"));
        assert!(!tree.is_writable("/data/in/file") && tree.is_writable("/data/inside"));
        for trap in ["/data/trap/secret", "/data/up/secret", "/../outside/secret"] {
            assert!(tree.metadata(trap).is_err(), "{trap}");
        }
        assert!(tree.symlink_metadata("trap").expect("there").is_symlink());
        assert_eq!(tree.names("/").expect("listed"), ["data"]);
    }
}
