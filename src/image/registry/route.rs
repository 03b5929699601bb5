//! What a path of the distribution API names. Pure.

use super::refusal::Refusal;
use crate::image::reference::{Version, is_digest, is_repository, is_tag};

/// The end of an upload's path.
const UPLOAD_ID_LEN: usize = 32;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Base,
    Catalog,
    Blob { repository: String, digest: String },
    Uploads { repository: String },
    Upload { repository: String, id: String },
    Manifest { repository: String, version: Version },
    Tags { repository: String },
    Referrers { repository: String, digest: String },
}

impl Route {
    /// Takes a path apart, `/v2` included.
    ///
    /// # Errors
    /// It names nothing, or not in the right form.
    pub fn parse(path: &str) -> Result<Self, Refusal> {
        let rest = path.strip_prefix("/v2").unwrap_or(path);
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Ok(Self::Base);
        }
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [name @ .., "blobs", "uploads"] => Ok(Self::Uploads { repository: repository(name)? }),
            [name @ .., "blobs", "uploads", id] => {
                let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                if id.len() != UPLOAD_ID_LEN || !id.bytes().all(hex) {
                    return Err(Refusal::missing("BLOB_UPLOAD_UNKNOWN", "there is no such upload"));
                }
                Ok(Self::Upload { repository: repository(name)?, id: (*id).to_owned() })
            }
            [name @ .., "blobs", text] => {
                Ok(Self::Blob { repository: repository(name)?, digest: digest(text)? })
            }
            [name @ .., "manifests", text] => {
                let version = match text.contains(':') {
                    true => Version::Digest(digest(text)?),
                    false if is_tag(text) => Version::Tag((*text).to_owned()),
                    false => {
                        let message = format!("{text:?} is neither a tag nor a digest");
                        return Err(Refusal::bad("MANIFEST_INVALID", message));
                    }
                };
                Ok(Self::Manifest { repository: repository(name)?, version })
            }
            [name @ .., "tags", "list"] => Ok(Self::Tags { repository: repository(name)? }),
            [name @ .., "referrers", text] => {
                Ok(Self::Referrers { repository: repository(name)?, digest: digest(text)? })
            }
            _ => Err(Refusal::missing("UNSUPPORTED", "the path is none of the distribution API")),
        }
    }
}

fn repository(parts: &[&str]) -> Result<String, Refusal> {
    let name = parts.join("/");
    if !is_repository(&name) {
        return Err(Refusal::bad(
            "NAME_INVALID",
            format!(
                "{name:?} is no name of a repository: lower-case words, joined by '/', '.', '_' or '-'"
            ),
        ));
    }
    Ok(name)
}

/// A digest of the only kind that is kept here.
///
/// # Errors
/// It is none.
pub fn digest(text: &str) -> Result<String, Refusal> {
    match is_digest(text) {
        true => Ok(text.to_owned()),
        false => Err(Refusal::bad("DIGEST_INVALID", format!("{text:?} is no sha256 digest"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_the_specification_says() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let repository = "team/app".to_owned();
        let id = "0f".repeat(16);
        for (path, expected) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            (
                format!("/v2/team/app/blobs/{digest}"),
                Route::Blob { repository: repository.clone(), digest: digest.clone() },
            ),
            (
                "/v2/team/app/blobs/uploads/".to_owned(),
                Route::Uploads { repository: repository.clone() },
            ),
            (
                format!("/v2/team/app/blobs/uploads/{id}"),
                Route::Upload { repository: repository.clone(), id },
            ),
            (
                "/v2/team/app/manifests/v1".to_owned(),
                Route::Manifest {
                    repository: repository.clone(),
                    version: Version::Tag("v1".to_owned()),
                },
            ),
            ("/v2/blobs/tags/list".to_owned(), Route::Tags { repository: "blobs".to_owned() }),
            (
                format!("/v2/registry.k8s.io/pause/referrers/{digest}"),
                Route::Referrers { repository: "registry.k8s.io/pause".to_owned(), digest },
            ),
        ] {
            assert_eq!(Route::parse(&path), Ok(expected), "{path}");
        }
        for (path, code) in [
            ("/v2/App/tags/list", "NAME_INVALID"),
            ("/v2/../x/tags/list", "NAME_INVALID"),
            ("/v2/_x/tags/list", "NAME_INVALID"),
            ("/v2/a/blobs/sha512:00", "DIGEST_INVALID"),
            ("/v2/a/manifests/.x", "MANIFEST_INVALID"),
            ("/v2/a/blobs/uploads/../../x", "UNSUPPORTED"),
            ("/v2/a/blobs/uploads/x", "BLOB_UPLOAD_UNKNOWN"),
            ("/v2/a", "UNSUPPORTED"),
        ] {
            assert_eq!(Route::parse(path).expect_err(path).code, code, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic_or_leads_outside(
            path in "/v2/([a-z_.~%/-]{0,20}/)?(blobs|manifests|tags|uploads|list|referrers|\\.\\.|/){0,4}[a-z.:/]{0,12}",
        ) {
            if let Ok(Route::Tags { repository } | Route::Uploads { repository }
                | Route::Manifest { repository, .. } | Route::Blob { repository, .. })
                = Route::parse(&path)
            {
                let named = |part: &str| !part.is_empty() && !part.starts_with(['.', '_']);
                let all = repository.split('/').all(named);
                proptest::prop_assert!(all);
            }
        }
    }
}
