//! The registry of images on the API's port: users and roles are the cluster's.
//!
//! Roles speak of the resource `images` in the API group `coracle.dev`, with the verbs `get`,
//! `create` and `delete`. A repository whose first part is no host name is of the namespace of that
//! name (`team/app` of `team`); all others, such as `app` and `registry.k8s.io/pause`, are of the
//! cluster. `resourceNames` are whole repositories.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};

use crate::apiserver::auth::Attributes;
use crate::apiserver::beside::{Beside, Caller};
use crate::image::registry::{Access, Registry, Verb};

/// See the module.
pub struct ImagesOfCluster(pub Arc<Registry>);

struct ByRole(Caller);

/// The namespace whose roles decide on a repository; empty for the cluster's.
fn namespace(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((first, _)) if !first.contains(['.', '_']) && first != "localhost" => first,
        _ => "",
    }
}

#[async_trait]
impl Access for ByRole {
    fn is_known(&self) -> bool {
        self.0.known().is_some()
    }

    async fn may(&self, verb: Verb, repository: &str) -> Result<(), String> {
        let attributes = Attributes {
            verb: verb.as_str().to_owned(),
            group: "coracle.dev".to_owned(),
            version: "v1".to_owned(),
            resource: "images".to_owned(),
            namespace: namespace(repository).to_owned(),
            name: repository.to_owned(),
            ..Attributes::default()
        };
        self.0.may(&attributes).await
    }
}

#[async_trait]
impl Beside for ImagesOfCluster {
    async fn serve(&self, caller: Caller, request: Request<Body>) -> Response<Body> {
        self.0.serve(&ByRole(caller), request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_of_the_namespace_of_their_first_part() {
        for (repository, expected) in [
            ("app", ""),
            ("team/app", "team"),
            ("team/a/b", "team"),
            ("registry.k8s.io/pause", ""),
            ("localhost__5000/a", ""),
        ] {
            assert_eq!(namespace(repository), expected, "{repository}");
        }
    }
}
