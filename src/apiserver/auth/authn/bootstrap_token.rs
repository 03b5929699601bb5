//! Bootstrap tokens, `id.secret`, by which machines join: Secrets `bootstrap-token-ID` in
//! `kube-system` (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::api::Object;
use crate::api::meta;
use crate::apiserver::auth::UserInfo;
use crate::apiserver::registry::Registry;
use crate::base::clock::SharedClock;
use crate::link::identity::JoinToken;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The authenticator.
pub(super) struct BootstrapTokens {
    pub registry: Arc<Registry>,
    pub clock: SharedClock,
}

impl BootstrapTokens {
    /// `None`: the token is no bootstrap token.
    ///
    /// # Errors
    /// Why it is not valid.
    pub async fn user(&self, token: &str) -> Option<Result<UserInfo, String>> {
        let (id, secret) = JoinToken::split_bearer(token)?;
        let name = format!("bootstrap-token-{id}");
        let found = self.registry.get(("", "secrets"), NAMESPACE, &name).await;
        Some(match found {
            Ok(Some(stored)) => judge(&stored, id, secret, self.clock.now()),
            Ok(None) => Err("there is no such bootstrap token".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

/// What the stored Secret makes of the two halves of a token.
fn judge(stored: &Object, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    let refuse = |why: &str| Err(format!("the bootstrap token {id} {why}"));
    if meta::is_deleting(stored) {
        return refuse("is being deleted");
    }
    if stored["type"] != TYPE {
        return refuse("is kept in a Secret of another type");
    }
    let data = |key: &str| -> Vec<u8> {
        let text = stored["data"][key].as_str().unwrap_or_default();
        STANDARD.decode(text).unwrap_or_default()
    };
    let text = |key: &str| String::from_utf8(data(key)).unwrap_or_default();
    let known = data("token-secret");
    if known.is_empty() || !same(&known, secret.as_bytes()) {
        return refuse("has another secret");
    }
    if text("token-id") != id {
        return refuse("has another id");
    }
    let expiration = text("expiration");
    if !expiration.is_empty() && !expiration.parse::<Timestamp>().is_ok_and(|at| now < at) {
        return refuse("has expired");
    }
    if text("usage-bootstrap-authentication") != "true" {
        return refuse("is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = text("auth-extra-groups");
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_extra_group(group) {
            return refuse("names an invalid group");
        }
        if !groups.iter().any(|known| known == group) {
            groups.push(group.to_owned());
        }
    }
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// Equality in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

/// `system:bootstrappers:` and a word.
fn is_extra_group(group: &str) -> bool {
    let Some(word) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-".contains(&b);
    let last = word.bytes().last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    last && word.len() <= 256 && word.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn stored(changes: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let fields = [
            ("token-id", "abcdef"),
            ("token-secret", SECRET),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-02T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:edge"),
        ];
        for (key, value) in fields.iter().chain(changes) {
            data[*key] = json!(STANDARD.encode(value));
        }
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": data})
    }

    #[test]
    fn a_token_is_judged_by_its_secret() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let user = judge(&stored(&[]), "abcdef", SECRET, now).expect("valid");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:edge"]);
        let never = judge(&stored(&[("expiration", "")]), "abcdef", SECRET, now);
        assert!(never.is_ok(), "a token without an expiration never expires");
        for (changes, secret, expected) in [
            (&[][..], "0123456789abcdee", "another secret"),
            (&[("token-secret", "")][..], "", "another secret"),
            (&[("token-id", "fedcba")][..], SECRET, "another id"),
            (&[("expiration", "2026-01-01T00:00:00Z")][..], SECRET, "expired"),
            (&[("expiration", "tomorrow")][..], SECRET, "expired"),
            (&[("usage-bootstrap-authentication", "false")][..], SECRET, "not for authentication"),
            (&[("auth-extra-groups", "system:masters")][..], SECRET, "invalid group"),
        ] {
            let error = judge(&stored(changes), "abcdef", secret, now).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let mut other = stored(&[]);
        other["type"] = json!("Opaque");
        assert!(judge(&other, "abcdef", SECRET, now).expect_err("a type").contains("another type"));
        let mut deleting = stored(&[]);
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(judge(&deleting, "abcdef", SECRET, now).is_err());
    }

    #[test]
    fn extra_groups_are_those_of_bootstrappers() {
        for (group, expected) in [
            ("system:bootstrappers:a", true),
            ("system:bootstrappers:a-b:c", true),
            ("system:bootstrappers:", false),
            ("system:bootstrappers:a-", false),
            ("system:bootstrappers:A", false),
            ("system:nodes", false),
        ] {
            assert_eq!(is_extra_group(group), expected, "{group}");
        }
    }
}
