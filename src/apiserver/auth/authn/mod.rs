//! Who asks: client certificates, then tokens of service accounts and bootstrap tokens. What
//! was brought and is not valid is refused; only who brings nothing is anonymous.

mod bootstrap_token;
mod claims;
mod service_account;
#[cfg(test)]
mod tests;
mod x509;

use async_trait::async_trait;

use bootstrap_token::BootstrapTokens;
pub(super) use claims::{Claims, Kubernetes, ObjectRef};
use service_account::ServiceAccountTokens;
use x509::Certificates;

use super::start::AuthConfig;
use super::{Authenticator, Credentials, UserInfo};
use crate::api::status::{ApiError, Reason};

/// Where a user's `extra` tells which credential it used.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The authenticators, in order.
pub(super) struct Chain {
    certificates: Certificates,
    accounts: ServiceAccountTokens,
    bootstrap: BootstrapTokens,
    audiences: Vec<String>,
}

impl Chain {
    pub fn new(config: &AuthConfig) -> Self {
        let AuthConfig { registry, key, issuer, audiences, clock } = config;
        let (registry, clock) = (registry.clone(), clock.clone());
        Self {
            certificates: Certificates::new(clock.clone()),
            accounts: ServiceAccountTokens::new(
                registry.clone(),
                key.clone(),
                issuer.clone(),
                clock.clone(),
            ),
            bootstrap: BootstrapTokens { registry, clock },
            audiences: audiences.clone(),
        }
    }

    /// The user behind a bearer token, and the audiences among `wanted` (those of the API server,
    /// where none are named) that it is for.
    ///
    /// # Errors
    /// Why it is not valid.
    pub async fn token(
        &self,
        token: &str,
        wanted: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        if let Some(answer) = self.accounts.user(token, wanted).await {
            return answer;
        }
        if let Some(answer) = self.bootstrap.user(token).await {
            // Such a token is for the API server alone.
            let ours = wanted.iter().filter(|audience| self.audiences.contains(audience));
            let ours: Vec<String> = ours.cloned().collect();
            if ours.is_empty() {
                return Err("the bootstrap token is for another audience".to_owned());
            }
            return answer.map(|user| (user, ours));
        }
        Err("invalid bearer token".to_owned())
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<UserInfo>, ApiError> {
        let refused = |why: String| {
            // What was wrong is for the log: a client that guesses learns nothing.
            tracing::debug!(why, "credentials were refused");
            ApiError::new(Reason::Unauthorized, "Unauthorized")
        };
        let mut why = None;
        if let Some(der) = &credentials.certificate {
            match self.certificates.user(der) {
                Ok(user) => return Ok(Some(user)),
                Err(error) => why = Some(error),
            }
        }
        if let Some(token) = &credentials.bearer {
            match self.token(token, &[]).await {
                Ok((user, _)) => return Ok(Some(user)),
                Err(error) => why = Some(error),
            }
        }
        match why {
            Some(why) => Err(refused(why)),
            None => Ok(None),
        }
    }
}
