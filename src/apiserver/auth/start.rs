//! Puts everything about who may do what together.

use std::collections::HashMap;
use std::sync::Arc;

use super::mirror::Mirror;
use super::{Authenticator, Authorizer, admission, answers, authn, authz};
use crate::api::status::ApiError;
use crate::apiserver::admission::Plugin;
use crate::apiserver::answers::Answer;
use crate::apiserver::bootstrap;
use crate::apiserver::registry::Registry;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::link::identity::ServiceAccountKey;

/// What it is made of.
#[derive(Clone)]
pub struct AuthConfig {
    pub registry: Arc<Registry>,
    /// Signs and verifies the tokens of service accounts.
    pub key: ServiceAccountKey,
    /// `iss` of those tokens: the URL under which the server is known to pods.
    pub issuer: String,
    /// The names that the API server answers to: a token is taken when it is for one of them, and
    /// is for all of them when its asker names none.
    pub audiences: Vec<String>,
    pub clock: SharedClock,
}

/// For [`crate::apiserver::ApiServerConfig`].
pub struct Auth {
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub answers: HashMap<String, Arc<dyn Answer>>,
    /// To stand before the other plugins.
    pub admission: Vec<Arc<dyn Plugin>>,
}

const RBAC: &str = "rbac.authorization.k8s.io";

impl Auth {
    /// Fills the tables from the store (which may be empty) and follows it until `shutdown`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(config: AuthConfig, shutdown: Shutdown) -> Result<Self, ApiError> {
        let authenticator = Arc::new(authn::Chain::new(&config));
        let authorizer = Arc::new(authorizer(&config.registry, &shutdown).await?);
        let answers = answers::answers(&config, &authenticator, &authorizer);
        let admission = admission::plugins(&config.registry, &authorizer);
        Ok(Self { authenticator, authorizer, answers, admission })
    }
}

async fn authorizer(
    registry: &Arc<Registry>,
    shutdown: &Shutdown,
) -> Result<authz::Chain, ApiError> {
    let rbac = Arc::new(authz::Rbac::default());
    let mut mirrors = Vec::new();
    for (roles, bindings, namespaced) in
        [("roles", "rolebindings", true), ("clusterroles", "clusterrolebindings", false)]
    {
        // Roles first: a binding is of no use without its role.
        let table = Arc::new(authz::Roles { rbac: rbac.clone(), namespaced });
        mirrors.push(Mirror::start(registry, (RBAC, roles), table, shutdown.clone()).await?);
        let table = Arc::new(authz::Bindings { rbac: rbac.clone(), namespaced });
        mirrors.push(Mirror::start(registry, (RBAC, bindings), table, shutdown.clone()).await?);
    }
    let pods = Arc::new(authz::NodePods::new(registry)?);
    let mirror = Mirror::start(registry, ("", "pods"), pods.clone(), shutdown.clone()).await?;
    let rules = bootstrap::node_rules()
        .into_iter()
        .map(|rule| serde_json::from_value(rule).expect("the rules of nodes are written as such"))
        .collect();
    let node = authz::NodeAuthorizer::new(registry, pods, mirror, rules);
    Ok(authz::Chain { node, rbac, mirrors })
}
