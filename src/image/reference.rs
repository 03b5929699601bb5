//! Image references, as the distribution grammar has them, and two schemes of our own for what
//! lies on the node's disk.

use std::path::PathBuf;

/// What an image field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `file:/path`.
    File(PathBuf),
    /// `oci:/path:tag` or `oci:/path@sha256:…`.
    Layout { dir: PathBuf, version: Version },
    /// `[domain/]repository[:tag][@digest]`.
    Registry { domain: String, repository: String, version: Version },
}

/// Which of the images of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    Tag(String),
    Digest(String),
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
        parse_registry(text)
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

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

pub(super) fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn parse_registry(text: &str) -> Result<Reference, String> {
    let (name, version) = split_version(text)?;
    let (domain, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let repository = match domain {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_string(),
    };
    let in_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if !domain.chars().all(in_domain) || !repository.split('/').all(is_path_component) {
        let upper = repository.chars().any(|c| c.is_ascii_uppercase());
        let problem = if upper { "repository name must be lowercase" } else { INVALID };
        return Err(problem.to_string());
    }
    Ok(Reference::Registry { domain: domain.to_string(), repository, version })
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
            Ok(Reference::Registry { domain, repository, version }) => {
                (domain, repository, version)
            }
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
}
