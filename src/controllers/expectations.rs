//! What a controller wrote and its informer has not shown yet.
//!
//! A reconcile reads the informer, which lags behind the controller's own writes. Were it to count
//! pods before its last creations show, it would create them twice. So it notes the names that it
//! is about to create and the uids that it is about to delete, and does not act again on that
//! owner until the informer has shown all of them, or five minutes have passed.
//!
//! **Invariant:** a name is noted before the request goes out, so that the informer cannot show it
//! too early.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

/// After this time a write that never showed is given up (`ExpectationsTimeout`).
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Pending {
    creates: HashSet<String>,
    deletes: HashSet<String>,
    since: Duration,
}

/// The pending writes of each owner, by the owner's uid.
#[derive(Default)]
pub struct Expectations(Mutex<HashMap<String, Pending>>);

impl Expectations {
    /// An object called `name` is about to be created for `owner`.
    pub fn creating(&self, owner: &str, name: &str, now: Duration) {
        let mut all = self.0.lock();
        let pending = all.entry(owner.to_owned()).or_default();
        pending.creates.insert(name.to_owned());
        pending.since = now;
    }

    /// The object with this uid is about to be deleted for `owner`.
    pub fn deleting(&self, owner: &str, uid: &str, now: Duration) {
        let mut all = self.0.lock();
        let pending = all.entry(owner.to_owned()).or_default();
        pending.deletes.insert(uid.to_owned());
        pending.since = now;
    }

    /// The creation showed, or failed.
    pub fn created(&self, owner: &str, name: &str) {
        self.settle(owner, |pending| pending.creates.remove(name));
    }

    /// The deletion showed, or failed.
    pub fn deleted(&self, owner: &str, uid: &str) {
        self.settle(owner, |pending| pending.deletes.remove(uid));
    }

    fn settle(&self, owner: &str, change: impl FnOnce(&mut Pending) -> bool) {
        let mut all = self.0.lock();
        if let Some(pending) = all.get_mut(owner) {
            change(pending);
            if pending.creates.is_empty() && pending.deletes.is_empty() {
                all.remove(owner);
            }
        }
    }

    /// Whether everything written for `owner` has shown.
    pub fn satisfied(&self, owner: &str, now: Duration) -> bool {
        let mut all = self.0.lock();
        match all.get(owner) {
            None => true,
            Some(pending) if now.saturating_sub(pending.since) > TIMEOUT => {
                all.remove(owner);
                true
            }
            Some(_) => false,
        }
    }

    /// Whether the deletion of `uid` for `owner` has not shown yet.
    pub fn is_deleting(&self, owner: &str, uid: &str) -> bool {
        self.0.lock().get(owner).is_some_and(|pending| pending.deletes.contains(uid))
    }

    /// `owner` is gone.
    pub fn forget(&self, owner: &str) {
        self.0.lock().remove(owner);
    }
}

/// The resourceVersions of the last writes to owners, by uid: a controller that counts must not
/// start from a state that is older than what it wrote itself.
#[derive(Default)]
pub struct Written(Mutex<HashMap<String, u64>>);

impl Written {
    /// The write gave the object this resourceVersion.
    pub fn note(&self, uid: &str, version: Option<&str>) {
        if let Some(version) = version.and_then(|version| version.parse().ok()) {
            self.0.lock().insert(uid.to_owned(), version);
        }
    }

    /// Whether something newer than the object with this metadata was written.
    pub fn is_ahead(&self, meta: &ObjectMeta) -> bool {
        let version = meta.resource_version.as_deref().and_then(|n| n.parse().ok());
        let uid = meta.uid.as_deref().unwrap_or_default();
        self.0.lock().get(uid).is_some_and(|written| version.unwrap_or(0) < *written)
    }

    /// The object is gone, or nothing more is done for it.
    pub fn forget(&self, meta: &ObjectMeta) {
        self.0.lock().remove(meta.uid.as_deref().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_waits_until_all_its_writes_have_shown() {
        let all = Expectations::default();
        let now = Duration::from_secs(1);
        all.creating("rs", "a", now);
        all.creating("rs", "b", now);
        all.deleting("rs", "u", now);
        all.created("rs", "a");
        all.deleted("rs", "u");
        assert!(!all.satisfied("rs", now));
        assert!(all.satisfied("other", now));
        all.created("rs", "b");
        assert!(all.satisfied("rs", now));
    }

    #[test]
    fn a_write_that_never_shows_is_given_up() {
        let all = Expectations::default();
        all.creating("rs", "a", Duration::ZERO);
        assert!(!all.satisfied("rs", Duration::from_secs(299)));
        assert!(all.satisfied("rs", Duration::from_secs(301)));
    }

    #[test]
    fn an_object_older_than_the_last_write_is_behind() {
        let written = Written::default();
        let meta = |version: &str| ObjectMeta {
            uid: Some("u".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        assert!(!written.is_ahead(&meta("5")));
        written.note("u", Some("10"));
        assert!(written.is_ahead(&meta("9")));
        assert!(!written.is_ahead(&meta("10")));
        written.forget(&meta("10"));
        assert!(!written.is_ahead(&meta("1")));
    }
}
