//! `tar` between the files of a guest and its standard streams, as `kubectl cp` calls it:
//! `tar cf - PATH…` and `tar -xmf - -C DIR`.
//!
//! **Invariant:** what is unpacked lies below the directories that the guest may write to; of a
//! stream that is read nothing is kept in memory but one name.

use std::io::{self, Read};
use std::path::Path;

use cap_std::fs::{MetadataExt, OpenOptions, Permissions, PermissionsExt};
use tar::{Archive, Builder, EntryType, Header};

use super::{Console, Keyboard, Screen, Tree};

/// The longest name in an archive.
const NAME_BYTES_MAX: u64 = 64 * 1024;
/// Directories in directories.
const DEPTH_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    Extract,
    List,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    mode: Mode,
    verbose: bool,
    /// Follow links.
    dereference: bool,
    same_permissions: bool,
    directory: Option<String>,
    paths: Vec<String>,
}

/// Runs it; 0, or 2 where anything went wrong.
pub fn run(args: &[String], tree: &Tree, console: &mut Console) -> i32 {
    let asked = match parse(args.get(1..).unwrap_or_default()) {
        Ok(asked) => asked,
        Err(problem) => {
            console.complain(&format!("tar: {problem}"));
            return 2;
        }
    };
    let done = match asked.mode {
        Mode::Create => create(&asked, tree, console),
        Mode::Extract | Mode::List => extract(&asked, tree, console),
    };
    match done {
        Ok(true) => 0,
        Ok(false) => {
            console.complain("tar: Exiting with failure status due to previous errors");
            2
        }
        Err(error) => {
            console.complain(&format!("tar: {error}"));
            2
        }
    }
}

fn parse(args: &[String]) -> Result<Asked, String> {
    let (mut mode, mut file, mut directory) = (None, None, None);
    let (mut verbose, mut dereference, mut same_permissions) = (false, false, true);
    let mut paths = Vec::new();
    let mut args = args.iter().enumerate();
    let mut options = true;
    while let Some((index, arg)) = args.next() {
        if options && arg == "--" {
            options = false;
        } else if let Some(long) = arg.strip_prefix("--").filter(|_| options) {
            match long {
                "no-same-permissions" => same_permissions = false,
                "no-same-owner" | "same-owner" | "touch" => {}
                "preserve-permissions" | "same-permissions" => same_permissions = true,
                "dereference" => dereference = true,
                other => return Err(format!("unrecognized option '--{other}'")),
            }
        } else if options && (index == 0 || (arg.starts_with('-') && arg != "-")) {
            for letter in arg.trim_start_matches('-').chars() {
                match letter {
                    'c' => mode = Some(Mode::Create),
                    'x' => mode = Some(Mode::Extract),
                    't' => mode = Some(Mode::List),
                    'v' => verbose = true,
                    'h' => dereference = true,
                    'p' => same_permissions = true,
                    'm' | 'o' => {}
                    'f' | 'C' => {
                        let missing = || format!("option requires an argument -- '{letter}'");
                        let value = args.next().ok_or_else(missing)?.1.clone();
                        *(if letter == 'f' { &mut file } else { &mut directory }) = Some(value);
                    }
                    other => return Err(format!("invalid option -- '{other}'")),
                }
            }
        } else {
            paths.push(arg.clone());
        }
    }
    let mode = mode.ok_or("You must specify one of the '-ctx' options")?;
    if file.as_deref().is_some_and(|file| file != "-") {
        return Err("only standard input and output can be the archive: use -f -".to_owned());
    }
    if mode == Mode::Create && paths.is_empty() {
        return Err("Cowardly refusing to create an empty archive".to_owned());
    }
    Ok(Asked { mode, verbose, dereference, same_permissions, directory, paths })
}

/// A path below the directory of `-C`.
fn below(directory: Option<&str>, path: &str) -> String {
    match directory {
        Some(directory) if !path.starts_with('/') => format!("{directory}/{path}"),
        _ => path.to_owned(),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "Read-only file system".to_owned(),
        _ => error.to_string(),
    }
}

// ---- create ----

struct Packer<'a> {
    asked: &'a Asked,
    tree: &'a Tree,
    console: &'a Console,
    out: Builder<Screen<'a>>,
    whole: bool,
}

fn create(asked: &Asked, tree: &Tree, console: &Console) -> io::Result<bool> {
    let out = Builder::new(Screen(console));
    let mut packer = Packer { asked, tree, console, out, whole: true };
    for path in &asked.paths {
        let guest = below(asked.directory.as_deref(), path);
        let name = path.trim_start_matches('/');
        packer.add(&guest, if name.is_empty() { "." } else { name }, 0)?;
    }
    packer.out.finish()?;
    Ok(packer.whole)
}

impl Packer<'_> {
    fn skip(&mut self, guest: &str, why: &str) {
        self.console.complain(&format!("tar: {guest}: {why}"));
        self.whole = false;
    }

    /// Adds what is at `guest` as `name`. Errors are those of the output; what cannot be read is
    /// told and passed over.
    fn add(&mut self, guest: &str, name: &str, depth: usize) -> io::Result<()> {
        let found = match self.asked.dereference {
            true => self.tree.metadata(guest),
            false => self.tree.symlink_metadata(guest),
        };
        let meta = match found {
            Ok(meta) => meta,
            Err(error) => {
                self.skip(guest, &format!("Cannot stat: {}", words(&error)));
                return Ok(());
            }
        };
        if name.split('/').any(|part| part == "..") {
            self.skip(guest, "Member names contain '..'");
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if self.asked.verbose {
            self.console.complain(name);
        }
        if meta.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.out.append_data(&mut header, format!("{name}/"), io::empty())?;
            if depth >= DEPTH_MAX {
                self.skip(guest, "Directories are nested too deeply");
                return Ok(());
            }
            match self.tree.names(guest) {
                Ok(names) => {
                    for child in names {
                        let inside = format!("{}/{child}", guest.trim_end_matches('/'));
                        let name = format!("{}/{child}", name.trim_end_matches('/'));
                        self.add(&inside, &name, depth + 1)?;
                    }
                }
                Err(error) => self.skip(guest, &format!("Cannot open: {}", words(&error))),
            }
            return Ok(());
        }
        if meta.is_symlink() {
            let place = self.tree.place(guest)?;
            match place.dir.read_link_contents(&place.path) {
                Ok(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    return self.out.append_link(&mut header, name, target);
                }
                Err(error) => self.skip(guest, &format!("Cannot read link: {}", words(&error))),
            }
            return Ok(());
        }
        if !meta.is_file() {
            self.skip(guest, "Not a file, directory or link");
            return Ok(());
        }
        let place = self.tree.place(guest)?;
        match place.dir.open(&place.path) {
            Ok(file) => {
                // A file that shrinks meanwhile is filled up, one that grows is cut.
                let size = meta.len();
                header.set_size(size);
                let content = file.take(size).chain(io::repeat(0)).take(size);
                self.out.append_data(&mut header, name, content)
            }
            Err(error) => {
                self.skip(guest, &format!("Cannot open: {}", words(&error)));
                Ok(())
            }
        }
    }
}

// ---- extract ----

/// What entries before tell of the one that follows.
#[derive(Default)]
struct Longer {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// What is told while the input is being read, and so cannot be written to the console.
type Complaints = Vec<String>;

fn extract(asked: &Asked, tree: &Tree, console: &mut Console) -> io::Result<bool> {
    let mut complaints = Complaints::new();
    let mut failed = 0_usize;
    let done = {
        let mut archive = Archive::new(Keyboard(console));
        unpack(&mut archive, asked, tree, &mut |line: String, bad: bool| {
            failed += usize::from(bad);
            if complaints.len() < 1000 {
                complaints.push(line);
            }
        })
    };
    // What follows the archive is read too, or who writes it would wait for ever.
    io::copy(&mut Keyboard(console), &mut io::sink())?;
    for line in &complaints {
        if asked.mode == Mode::List && !line.starts_with("tar: ") {
            let _ =
                console.write(crate::runtime::spec::Stdio::Stdout, format!("{line}\n").as_bytes());
        } else {
            console.complain(line);
        }
    }
    done?;
    Ok(failed == 0)
}

fn unpack<R: Read>(
    archive: &mut Archive<R>,
    asked: &Asked,
    tree: &Tree,
    tell: &mut dyn FnMut(String, bool),
) -> io::Result<()> {
    let mut longer = Longer::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let header = entry.header().clone();
        match header.entry_type() {
            EntryType::GNULongName => {
                longer.name = Some(text(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                longer.link = Some(text(&mut entry)?);
                continue;
            }
            EntryType::XHeader => {
                let records = text(&mut entry)?;
                for record in tar::PaxExtensions::new(&records) {
                    let record = record?;
                    match record.key_bytes() {
                        b"path" => longer.name = Some(record.value_bytes().to_vec()),
                        b"linkpath" => longer.link = Some(record.value_bytes().to_vec()),
                        b"size" => return Err(io::Error::other("a file of more than 8 GiB")),
                        _ => {}
                    }
                }
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let told = std::mem::take(&mut longer);
        let name = told.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = told.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let name = String::from_utf8_lossy(&name).into_owned();
        let link = link.map(|link| String::from_utf8_lossy(&link).into_owned());
        if asked.verbose || asked.mode == Mode::List {
            tell(name.clone(), false);
        }
        if asked.mode == Mode::Extract
            && let Err(error) = put(asked, tree, &header, &name, link.as_deref(), &mut entry)
        {
            tell(format!("tar: {name}: {}", words(&error)), true);
        }
    }
    Ok(())
}

/// The whole content of a short entry, without the NUL at its end.
fn text(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(NAME_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > NAME_BYTES_MAX {
        return Err(io::Error::other("a name is too long"));
    }
    if text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn put(
    asked: &Asked,
    tree: &Tree,
    header: &Header,
    name: &str,
    link: Option<&str>,
    content: &mut impl Read,
) -> io::Result<()> {
    if name.split('/').any(|part| part == "..") {
        return Err(io::Error::other("Member name contains '..'"));
    }
    let guest = below(asked.directory.as_deref(), name.trim_start_matches('/'));
    let place = tree.place(&guest)?;
    let path: &Path = &place.path;
    let mode = header.mode().unwrap_or(0o644) & 0o777;
    let mode = if asked.same_permissions { mode } else { mode & !0o022 };
    if header.entry_type() == EntryType::Directory {
        if place.dir.metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return Ok(());
        }
        place.for_writing()?;
        return place.dir.create_dir_all(path);
    }
    place.for_writing()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        place.dir.create_dir_all(parent)?;
    }
    let is_link = place.dir.symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            if header.entry_type() == EntryType::GNUSparse {
                return Err(io::Error::other("sparse files are not unpacked here"));
            }
            if is_link {
                place.dir.remove_file(path)?;
            }
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            let mut file = place.dir.open_with(path, &options)?;
            io::copy(content, &mut file)?;
            file.set_permissions(Permissions::from_mode(mode))
        }
        EntryType::Symlink => {
            let target = link.ok_or_else(|| io::Error::other("a link to nothing"))?;
            if place.dir.symlink_metadata(path).is_ok_and(|meta| !meta.is_dir()) {
                place.dir.remove_file(path)?;
            }
            // Not to an absolute path: what that means differs between guest and host.
            place.dir.symlink(target, path)
        }
        EntryType::Link => {
            let target = link.ok_or_else(|| io::Error::other("a link to nothing"))?;
            let target = below(asked.directory.as_deref(), target.trim_start_matches('/'));
            let original = tree.place(&target)?;
            original.for_writing()?;
            original.dir.hard_link(&original.path, place.dir, path)
        }
        other => Err(io::Error::other(format!("entries of type {other:?} are not unpacked here"))),
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
