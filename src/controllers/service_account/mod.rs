//! Gives every namespace its `default` ServiceAccount, fills Secrets that ask for a ServiceAccount's
//! token, and deletes them when the account is gone.

pub(crate) mod plan;
pub(crate) mod run;
