//! Which kinds the server stores, custom ones included.

use serde::Deserialize;

use crate::client::rest;

/// A kind that the server serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: String,
    pub version: String,
    /// As `deployments`.
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether the server lets one do all of `verbs` with it.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|have| have == verb))
    }

    /// The path of its objects, of all namespaces where `namespace` is empty.
    pub fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            format!("{root}/namespaces/{namespace}/{}", self.plural)
        } else {
            format!("{root}/{}", self.plural)
        }
    }

    /// The path of one object.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }

    /// As `deployments.apps`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// What discovery found.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// One version of each kind: the one that the server prefers.
    pub resources: Vec<Resource>,
    /// The group versions that could not be asked, with the reason.
    pub failed: Vec<String>,
}

impl Discovered {
    /// The resource of a kind in a group.
    pub fn find(&self, group: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.group == group && resource.kind == kind)
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    name: String,
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// Asks the server what it serves.
///
/// # Errors
/// When the groups themselves cannot be read; a group that cannot is told in the answer.
pub async fn discover(client: &kube::Client) -> Result<Discovered, kube::Error> {
    let groups: Groups = rest::get(client, "/apis").await?;
    let mut versions = vec![(String::new(), "v1".to_owned())];
    versions.extend(groups.groups.into_iter().map(|g| (g.name, g.preferred_version.version)));
    let mut found = Discovered::default();
    for (group, version) in versions {
        let path = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        match rest::get::<Resources>(client, &path).await {
            Ok(list) => {
                let main = list.resources.into_iter().filter(|r| !r.name.contains('/'));
                found.resources.extend(main.map(|listed| Resource {
                    group: group.clone(),
                    version: version.clone(),
                    plural: listed.name,
                    kind: listed.kind,
                    namespaced: listed.namespaced,
                    verbs: listed.verbs,
                }));
            }
            // A group that went away between the two questions.
            Err(error) if rest::is_not_found(&error) => {}
            Err(error) => found.failed.push(format!("{group}/{version}: {error}")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing;
    use serde_json::json;

    #[tokio::test]
    async fn the_preferred_version_of_every_group_is_read() {
        let client = testing::client(|asked| async move {
            match asked.path.as_str() {
                "/apis" => testing::json(
                    200,
                    &json!({"groups": [
                        {"name": "apps", "preferredVersion": {"version": "v1"}},
                        {"name": "broken", "preferredVersion": {"version": "v2"}}]}),
                ),
                "/api/v1" => testing::json(
                    200,
                    &json!({"resources": [
                        {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["list"]},
                        {"name": "pods/log", "kind": "Pod", "namespaced": true, "verbs": []}]}),
                ),
                "/apis/apps/v1" => testing::json(200, &json!({"resources": []})),
                _ => testing::failure(503, "ServiceUnavailable"),
            }
        });
        let found = discover(&client).await.expect("the groups are read");
        assert_eq!(found.resources.len(), 1);
        assert_eq!(found.resources[0].object("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(found.failed.len(), 1);
    }
}
