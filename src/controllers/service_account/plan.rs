//! What to do with a Secret of type `kubernetes.io/service-account-token`.

use crate::controllers::context::TokenSecret;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Its account is gone, or another one has its name now.
    Delete,
    /// Write a token into it.
    Fill,
}

/// What to do with the Secret, given the uid of the account of that name.
pub fn plan(secret: &TokenSecret, account: Option<&str>) -> Action {
    if secret.meta.deletion_timestamp.is_some() || secret.account.is_empty() {
        return Action::Nothing;
    }
    match account {
        None => Action::Delete,
        Some(uid) if !secret.account_uid.is_empty() && secret.account_uid != uid => Action::Delete,
        Some(_) if secret.has_token => Action::Nothing,
        Some(_) => Action::Fill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn a_token_lives_as_long_as_its_account() {
        let secret = |uid: &str, has_token| TokenSecret {
            meta: ObjectMeta::default(),
            account: "robot".to_owned(),
            account_uid: uid.to_owned(),
            has_token,
        };
        let cases = [
            (secret("", false), Some("u1"), Action::Fill),
            (secret("u1", true), Some("u1"), Action::Nothing),
            (secret("u1", true), Some("u2"), Action::Delete),
            (secret("u1", true), None, Action::Delete),
        ];
        for (secret, account, expected) in cases {
            assert_eq!(plan(&secret, account), expected, "{secret:?} {account:?}");
        }
    }
}
