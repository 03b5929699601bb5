//! Get and list.
//!
//! **Invariant:** every page of a list shows one snapshot, the one of its first page.

use super::token::Token;
use super::update::Target;
use super::{Registry, store_error};
use crate::api::status::{ApiError, FieldError, FieldErrorKind, Reason};
use crate::apiserver::catalog::Resource;
use crate::apiserver::encoding::ListMeta;
use crate::apiserver::filter::Filter;
use crate::store::{Entry, Range, Revision, StoreError};

/// What a filtered page reads from the store at once, at least.
const SCAN: usize = 500;

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    NotOlderThan,
    Exact,
}

/// `metav1.ListOptions`, as far as lists go.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub filter: Filter,
    /// 0: everything.
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
    pub version_match: String,
}

/// Entries with what `metadata` of the list says.
#[derive(Debug)]
pub struct Listed {
    pub meta: ListMeta,
    pub entries: Vec<Entry>,
}

impl ListOptions {
    fn refuse(kind: FieldErrorKind, field: &str, message: String) -> ApiError {
        let error = FieldError { kind, path: field.into(), message };
        ApiError::invalid("meta.k8s.io", "ListOptions", "", &[error])
    }

    /// The rules of `resourceVersion` and `resourceVersionMatch`.
    pub(crate) fn version_match(&self) -> Result<Option<Match>, ApiError> {
        let version = self.resource_version.as_str();
        let forbidden = |why: &str| {
            Err(Self::refuse(
                FieldErrorKind::Forbidden,
                "resourceVersionMatch",
                format!("Forbidden: {why}"),
            ))
        };
        let found = match self.version_match.as_str() {
            "" => None,
            "NotOlderThan" => Some(Match::NotOlderThan),
            "Exact" => Some(Match::Exact),
            other => {
                return Err(Self::refuse(
                    FieldErrorKind::NotSupported,
                    "resourceVersionMatch",
                    format!(
                        "Unsupported value: {other:?}: supported values: \"Exact\", \
                         \"NotOlderThan\", \"\""
                    ),
                ));
            }
        };
        match found {
            Some(_) if version.is_empty() => {
                forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")
            }
            Some(_) if !self.continue_token.is_empty() => {
                forbidden("resourceVersionMatch is forbidden when continue is provided")
            }
            Some(Match::Exact) if version == "0" => {
                forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
            }
            found => Ok(found),
        }
    }
}

/// A resourceVersion of a request; `None` where nothing is said.
///
/// # Errors
/// 400 for anything but a number.
pub fn parse_version(version: &str) -> Result<Option<Revision>, ApiError> {
    if version.is_empty() {
        return Ok(None);
    }
    version.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing \
             {version:?}: invalid syntax"
        ))
    })
}

impl Registry {
    /// The entry of an object.
    ///
    /// # Errors
    /// 404.
    pub(crate) async fn entry(&self, target: Target<'_>) -> Result<Entry, ApiError> {
        let entry = self.store.get(&target.key()).await.map_err(|e| store_error(&e))?;
        let entry = entry.ok_or_else(|| target.not_found())?;
        self.one_in_version(target.resource, entry).await
    }

    /// A page of a list.
    ///
    /// # Errors
    /// 400 and 422 for options that say nothing sound, 410 for a snapshot that is gone, 504 for
    /// one that is not there yet.
    pub(crate) async fn list_as(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        let prefix = resource.kind.prefix(namespace);
        let rule = options.version_match()?;
        let asked = parse_version(&options.resource_version)?;
        let (snapshot, after) = if options.continue_token.is_empty() {
            (self.snapshot(rule, asked, options.limit)?, None)
        } else {
            if asked.is_some_and(|version| version != 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::decode(&options.continue_token)?;
            (token.revision, Some(format!("{prefix}{}", token.after)))
        };
        match self.scan(&prefix, snapshot, after, options).await {
            Ok(mut listed) => {
                let entries = std::mem::take(&mut listed.entries);
                let converter = self.converting();
                listed.entries = super::convert::in_version(&converter, resource, entries).await?;
                Ok(listed)
            }
            Err(StoreError::Compacted { .. }) if !options.continue_token.is_empty() => {
                Err(expired(&options.continue_token))
            }
            Err(StoreError::Compacted { asked, .. }) => Err(ApiError::new(
                Reason::Expired,
                format!("The resourceVersion for the provided list is too old: {asked}"),
            )),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Which snapshot a first page shows.
    fn snapshot(
        &self,
        rule: Option<Match>,
        asked: Option<Revision>,
        limit: usize,
    ) -> Result<Option<Revision>, ApiError> {
        let Some(asked) = asked.filter(|asked| *asked > 0) else { return Ok(None) };
        let newest = self.store.revision();
        if asked > newest {
            return Err(store_error(&StoreError::Future { asked, newest }));
        }
        // Kubernetes' legacy rule: a limit with a version but without a match means exactly it.
        let exact = rule == Some(Match::Exact) || (rule.is_none() && limit > 0);
        Ok(exact.then_some(asked))
    }

    async fn scan(
        &self,
        prefix: &str,
        mut snapshot: Option<Revision>,
        mut after: Option<String>,
        options: &ListOptions,
    ) -> Result<Listed, StoreError> {
        let (filter, limit) = (&options.filter, options.limit);
        let prefix: std::sync::Arc<str> = prefix.into();
        let mut entries = Vec::new();
        loop {
            // One more than the page, so that a filtered page knows whether another follows.
            let wanted = match (limit, filter.is_empty()) {
                (0, _) => 0,
                (limit, true) => limit,
                (limit, false) => (limit + 1 - entries.len()).max(SCAN),
            };
            let page = self
                .store
                .list(Range {
                    prefix: prefix.clone(),
                    after: after.take().map(Into::into),
                    limit: wanted,
                    revision: snapshot,
                })
                .await?;
            snapshot = Some(page.revision);
            let last = page.entries.last().map(|entry| entry.key.clone());
            if filter.is_empty() {
                entries = page.entries;
            } else {
                let found = page.entries.into_iter();
                entries.extend(found.filter(|e| filter.matches(&e.key, &e.value.attrs)));
            }
            let full = limit > 0 && entries.len() > limit;
            let mut meta = ListMeta { revision: page.revision, ..ListMeta::default() };
            if full || (page.more && filter.is_empty()) {
                if full {
                    entries.truncate(limit);
                }
                let last = entries.last().map_or("", |e| &e.key[prefix.len()..]);
                let token = Token { revision: snapshot, after: last.to_owned() };
                meta.continue_token = Some(token.encode());
                meta.remaining = filter.is_empty().then_some(page.remaining);
                return Ok(Listed { meta, entries });
            }
            if !page.more {
                return Ok(Listed { meta, entries });
            }
            after = last.map(|key| key.to_string());
        }
    }
}

/// 410 with a token that goes on inconsistently.
fn expired(token: &str) -> ApiError {
    let mut error = ApiError::new(
        Reason::Expired,
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted \
         between the time the first chunk was returned and now may show up in the list.",
    );
    let token = Token::decode(token).map(|token| Token { revision: None, ..token }.encode());
    error.continue_token = token.ok();
    error
}
