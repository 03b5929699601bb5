//! Image references, as the distribution grammar has them, and two schemes of our own for what
//! lies on the node's disk.
//!
//! **Invariant:** a [`Name`] that parses is safe as a path of a URL and of the disk: no component is
//! empty, `.` or `..`, and none begins with a dot or an underscore.

use std::fmt;
use std::path::PathBuf;

/// The domain of images that are in the cluster's own registry and nowhere else.
pub const CLUSTER_DOMAIN: &str = "coracle.local";
/// The domain of a name that names none.
pub const DEFAULT_DOMAIN: &str = "docker.io";

/// The longest name that is taken, as in the distribution grammar.
const NAME_BYTES_MAX: usize = 255;

/// What an image field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `file:/path`.
    File(PathBuf),
    /// `oci:/path:tag` or `oci:/path@sha256:…`.
    Layout { dir: PathBuf, version: Version },
    /// `[domain/]repository[:tag][@digest]`.
    Registry(Name),
}

/// An image in a registry, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// With the port, where it names one.
    pub domain: String,
    pub repository: String,
    pub version: Version,
}

/// Which of the images of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    Tag(String),
    Digest(String),
}

impl fmt::Display for Version {
    /// As it stands behind `/manifests/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(text) | Self::Digest(text) => f.write_str(text),
        }
    }
}

impl Name {
    /// `docker.io/library/nginx`.
    pub fn familiar(&self) -> String {
        format!("{}/{}", self.domain, self.repository)
    }

    /// Where the cluster's own registry keeps this name (decision 0008): images of
    /// `coracle.local` and of `docker.io` under their repository (`library/` left out), all others
    /// below their domain. A domain's port is set off by `__`, which no domain holds.
    pub fn cluster_repository(&self) -> String {
        let repository = &self.repository;
        match self.domain.as_str() {
            CLUSTER_DOMAIN => repository.clone(),
            DEFAULT_DOMAIN => repository.strip_prefix("library/").unwrap_or(repository).to_owned(),
            domain => {
                format!("{}/{repository}", domain.replace(':', "__").to_ascii_lowercase())
            }
        }
    }
}

impl fmt::Display for Name {
    /// `docker.io/library/nginx:1`, `docker.io/library/nginx@sha256:…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.familiar()),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.familiar()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Layout { dir, version: Version::Tag(tag) } => {
                write!(f, "oci:{}:{tag}", dir.display())
            }
            Self::Layout { dir, version: Version::Digest(digest) } => {
                write!(f, "oci:{}@{digest}", dir.display())
            }
            Self::Registry(name) => name.fmt(f),
        }
    }
}

const INVALID: &str = "invalid reference format";

impl Reference {
    /// Parses the text of an `image` field.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File(absolute(path, "file:/path/to/app.wasm")?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, version) = split_version(rest)?;
            let dir = absolute(path, "oci:/path/to/layout:tag")?;
            return Ok(Self::Layout { dir, version });
        }
        parse_registry(text).map(Self::Registry)
    }
}

fn absolute(path: &str, form: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(format!("not an absolute path; write {form}")) }
}

/// Splits `name[:tag][@digest]`; a digest wins over a tag, none of both is `latest`.
fn split_version(text: &str) -> Result<(&str, Version), String> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let base = name.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match name[base..].find(':') {
        Some(at) => (&name[..base + at], Some(&name[base + at + 1..])),
        None => (name, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(INVALID.to_string());
    }
    match digest {
        Some(digest) if is_digest(digest) => Ok((name, Version::Digest(digest.to_string()))),
        Some(_) => Err(INVALID.to_string()),
        None => Ok((name, Version::Tag(tag.unwrap_or("latest").to_string()))),
    }
}

pub(super) fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn parse_registry(text: &str) -> Result<Name, String> {
    if text.len() > 2 * NAME_BYTES_MAX {
        return Err("repository name must not be more than 255 characters".to_string());
    }
    let (name, version) = split_version(text)?;
    let (domain, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    // As in Docker: the registry's old name is the same place.
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let repository = match domain {
        DEFAULT_DOMAIN if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_string(),
    };
    if !is_domain(domain) || !is_repository(&repository) {
        let upper = repository.chars().any(|c| c.is_ascii_uppercase());
        let problem = if upper { "repository name must be lowercase" } else { INVALID };
        return Err(problem.to_string());
    }
    if domain.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("repository name must not be more than 255 characters".to_string());
    }
    Ok(Name { domain: domain.to_string(), repository, version })
}

/// A host name or address, with a port or not.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| port.len() <= 5 && port.parse::<u16>().is_ok())
}

/// The path of a repository: components joined by slashes.
pub(super) fn is_repository(repository: &str) -> bool {
    repository.len() <= NAME_BYTES_MAX && repository.split('/').all(is_path_component)
}

/// Lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_well =
        bytes.first().copied().is_some_and(word) && bytes.last().copied().is_some_and(word);
    let separators: Vec<&[u8]> =
        bytes.split(|b| word(*b)).filter(|separator| !separator.is_empty()).collect();
    ends_well
        && separators.iter().all(|separator| {
            matches!(*separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(text: &str) -> (String, String, Version) {
        match Reference::parse(text) {
            Ok(Reference::Registry(name)) => (name.domain, name.repository, name.version),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn names_get_the_defaults_that_users_know() {
        let tag = |tag: &str| Version::Tag(tag.to_string());
        let strings = |a: &str, b: &str, v| (a.to_string(), b.to_string(), v);
        assert_eq!(registry("nginx"), strings("docker.io", "library/nginx", tag("latest")));
        assert_eq!(registry("a/b:1.2"), strings("docker.io", "a/b", tag("1.2")));
        assert_eq!(registry("localhost:5000/a:x"), strings("localhost:5000", "a", tag("x")));
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(
            registry(&format!("r.example/a__b/c-d:v1@{digest}")),
            strings("r.example", "a__b/c-d", Version::Digest(digest)),
        );
    }

    #[test]
    fn paths_on_the_node_must_be_absolute() {
        assert_eq!(Reference::parse("file:/a/b.wasm"), Ok(Reference::File("/a/b.wasm".into())));
        assert!(Reference::parse("file:b.wasm").is_err_and(|e| e.contains("absolute")));
        assert_eq!(
            Reference::parse("oci:/a:b/c:v1"),
            Ok(Reference::Layout { dir: "/a:b/c".into(), version: Version::Tag("v1".into()) }),
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in ["", "a b", "A/b", "a/", "a:", "a@sha256:12", "-a", "a..b", "a___b", "ü"] {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn every_name_has_one_place_in_the_clusters_registry() {
        for (text, place) in [
            ("app:1", "app"),
            ("docker.io/library/app:1", "app"),
            ("coracle.local/app:1", "app"),
            ("coracle.local/team/app", "team/app"),
            ("team/app", "team/app"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause"),
            ("localhost:5000/a/b", "localhost__5000/a/b"),
        ] {
            let Ok(Reference::Registry(name)) = Reference::parse(text) else { panic!("{text}") };
            assert_eq!(name.cluster_repository(), place, "{text}");
            assert!(is_repository(place), "{place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_is_safe_on_disk(text in "\\PC{0,80}") {
            if let Ok(Reference::Registry(name)) = Reference::parse(&text) {
                let place = name.cluster_repository();
                proptest::prop_assert!(place.split('/').all(|part| {
                    !part.is_empty() && !part.starts_with(['.', '_']) && !part.contains('\\')
                }), "{place}");
            }
        }

        #[test]
        fn a_full_name_reads_as_itself(
            domain in "[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?",
            repository in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}([._-][a-z0-9]{1,3})?){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{domain}/{repository}:{tag}");
            let read = Reference::parse(&text).map(|read| read.to_string());
            if domain != DEFAULT_DOMAIN {
                proptest::prop_assert_eq!(read, Ok(text));
            }
        }
    }
}
