//! What the server serves, by aggregated discovery, and how people name it: `pods`, `po`, `Pod`,
//! `deployments.apps`, `deployments.v1.apps`, `all`.

use serde_json::Value;

use super::call::{Connection, escape};
use super::failure::Failure;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                         application/json";

/// A kind that the server serves, in one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// As `Deployment`.
    pub kind: String,
    /// As `deployments`.
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<String>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// As in `pod/x` and `deployment.apps/x`.
    pub fn typed(&self) -> String {
        let singular = self.kind.to_lowercase();
        match self.group.as_str() {
            "" => singular,
            group => format!("{singular}.{group}"),
        }
    }

    /// As in `pods` and `deployments.apps`.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether it takes `verb`.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The path of its objects; `namespace` `None` is all of them.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", escape(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(Some(namespace)), escape(name))
    }

    fn is_called(&self, word: &str) -> bool {
        self.plural == word
            || self.singular == word
            || self.kind.to_lowercase() == word
            || self.short_names.iter().any(|s| s == word)
    }
}

/// Everything the server serves; of each group the preferred version first.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    resources: Vec<Resource>,
}

impl Discovery {
    /// Asks the server.
    ///
    /// # Errors
    /// The server could not be asked, or is too old for aggregated discovery.
    pub async fn of(connection: &Connection) -> Result<Self, Failure> {
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let document = connection.get(path, DISCOVERY).await?;
            if document["kind"] != "APIGroupDiscoveryList" {
                return Err(Failure::other(format!(
                    "the server answers {path} without aggregated discovery: it must be \
                     Kubernetes 1.26 or newer, or Coracle"
                )));
            }
            read_groups(&document, &mut resources);
        }
        Ok(Self { resources })
    }

    /// From resources that are known.
    pub fn new(resources: Vec<Resource>) -> Self {
        Self { resources }
    }

    /// Everything.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The resource that people call `word`.
    ///
    /// # Errors
    /// There is none; with the nearest names.
    pub fn find(&self, word: &str) -> Result<&Resource, Failure> {
        let lower = word.to_lowercase();
        let whole = self.resources.iter().find(|r| r.is_called(&lower));
        let qualified = || {
            let (name, rest) = lower.split_once('.')?;
            let fits = |r: &&Resource| {
                r.is_called(name)
                    && (r.group == rest
                        || rest.split_once('.') == Some((&r.version, &r.group))
                        || (r.group.is_empty() && r.version == rest))
            };
            self.resources.iter().find(fits)
        };
        whole.or_else(qualified).ok_or_else(|| {
            let near = nearest(&lower, self.resources.iter().flat_map(names));
            Failure::other(format!(
                "the server doesn't have a resource type \"{word}\"{}",
                did_you_mean(&near)
            ))
        })
    }

    /// The resources in a category that can be listed, as `all`.
    pub fn category(&self, word: &str) -> Vec<&Resource> {
        let in_it = |r: &&Resource| r.categories.iter().any(|c| c == word) && r.can("list");
        let mut found: Vec<&Resource> = Vec::new();
        for resource in self.resources.iter().filter(in_it) {
            let twice = |f: &&Resource| f.group == resource.group && f.plural == resource.plural;
            if !found.iter().any(twice) {
                found.push(resource);
            }
        }
        found
    }

    /// The resource of an object's `apiVersion` and `kind`.
    ///
    /// # Errors
    /// There is none; with the nearest kinds and the versions that there are.
    pub fn of_object(&self, api_version: &str, kind: &str) -> Result<&Resource, Failure> {
        let is = |r: &&Resource| r.kind == kind && r.api_version() == api_version;
        if let Some(found) = self.resources.iter().find(is) {
            return Ok(found);
        }
        let same: Vec<String> =
            self.resources.iter().filter(|r| r.kind == kind).map(Resource::api_version).collect();
        let hint = if same.is_empty() {
            let kinds = self.resources.iter().map(|r| r.kind.clone());
            let near = nearest(kind, kinds);
            format!("{}; is its CustomResourceDefinition installed?", did_you_mean(&near))
        } else {
            format!("; {kind} is served as {}", same.join(", "))
        };
        Err(Failure::other(format!(
            "no matches for kind \"{kind}\" in version \"{api_version}\"{hint}"
        )))
    }
}

fn names(resource: &Resource) -> impl Iterator<Item = String> {
    [resource.plural.clone(), resource.singular.clone()]
        .into_iter()
        .chain(resource.short_names.iter().cloned())
}

fn did_you_mean(near: &[String]) -> String {
    let quoted: Vec<String> = near.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        many => format!("; did you mean one of {}?", many.join(", ")),
    }
}

/// Up to three names that are spelled like `word`, the nearest first.
fn nearest(word: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let most = (word.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<(usize, String)> = names
        .map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= most && name.len() > 2)
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().map(|(_, name)| name).take(3).collect()
}

/// How many letters must be put in, taken out, changed or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let row = |i: usize| std::iter::once(i).chain(1..=b.len()).collect::<Vec<usize>>();
    let mut rows: Vec<Vec<usize>> = (0..=a.len()).map(row).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn read_groups(document: &Value, into: &mut Vec<Resource>) {
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                let own = &resource["responseKind"];
                let subresources = list(&resource["subresources"]);
                into.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&own["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: texts(&resource["verbs"]),
                    subresources: subresources.map(|s| text(&s["subresource"])).collect(),
                });
            }
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! A small picture of what a server serves.

    use super::*;

    /// A resource of `group` v1.
    pub fn resource(group: &str, kind: &str, short: &str, namespaced: bool) -> Resource {
        let singular = kind.to_lowercase();
        let plural = match singular.as_str() {
            "endpoints" => singular.clone(),
            s if s.ends_with('s') => format!("{s}es"),
            s => format!("{s}s"),
        };
        Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural,
            singular,
            short_names: vec![short.into()],
            categories: vec!["all".into()],
            namespaced,
            verbs: ["get", "list", "delete"].map(str::to_owned).to_vec(),
            subresources: Vec::new(),
        }
    }

    /// Pods, nodes, Deployments, Ingresses and two kinds of Events.
    pub fn discovery() -> Discovery {
        Discovery::new(vec![
            resource("", "Event", "ev", true),
            resource("", "Node", "no", false),
            resource("", "Pod", "po", true),
            resource("apps", "Deployment", "deploy", true),
            resource("events.k8s.io", "Event", "ev", true),
            resource("networking.k8s.io", "Ingress", "ing", true),
        ])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::discovery;
    use super::*;

    #[test]
    fn people_name_a_resource_in_many_ways() {
        let discovery = discovery();
        let table = [
            ("pods", "pods"),
            ("Pod", "pods"),
            ("po", "pods"),
            ("pods.v1", "pods"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployments.v1.apps", "deployments.apps"),
            ("ingress", "ingresses.networking.k8s.io"),
            ("events", "events"),
            ("ev.events.k8s.io", "events.events.k8s.io"),
        ];
        for (word, found) in table {
            assert_eq!(discovery.find(word).expect(word).qualified(), found);
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest() {
        let told = |word: &str| discovery().find(word).expect_err(word).to_string();
        assert_eq!(
            told("pdos"),
            "error: the server doesn't have a resource type \"pdos\"; did you mean \"pods\"?"
        );
        assert!(told("deploymnet").contains("did you mean one of \"deployment\""));
        assert_eq!(told("zebras"), "error: the server doesn't have a resource type \"zebras\"");
        let kind = discovery().of_object("v1", "Deployment").expect_err("apps/v1").to_string();
        assert!(kind.contains("Deployment is served as apps/v1"), "{kind}");
        let kind = discovery().of_object("apps/v1", "Deploymnt").expect_err("a typo").to_string();
        assert!(kind.contains("did you mean \"Deployment\"?"), "{kind}");
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let discovery = discovery();
        let deployments = discovery.find("deploy").expect("it is there");
        assert_eq!(
            deployments.object_path("default", "web"),
            "/apis/apps/v1/namespaces/default/deployments/web"
        );
        assert_eq!(deployments.path(None), "/apis/apps/v1/deployments");
        let nodes = discovery.find("no").expect("it is there");
        assert_eq!(nodes.object_path("default", "a b"), "/api/v1/nodes/a%20b");
    }

    #[test]
    fn aggregated_discovery_is_read() {
        let document = json!({"kind": "APIGroupDiscoveryList", "items": [{
            "metadata": {"name": "apps"},
            "versions": [{"version": "v1", "resources": [{
                "resource": "deployments", "singularResource": "deployment",
                "responseKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
                "scope": "Namespaced", "shortNames": ["deploy"], "categories": ["all"],
                "verbs": ["get", "list"], "subresources": [{"subresource": "scale"}],
            }]}],
        }]});
        let mut found = Vec::new();
        read_groups(&document, &mut found);
        assert_eq!(found[0].typed(), "deployment.apps");
        assert_eq!(found[0].subresources, ["scale"]);
        assert!(found[0].namespaced && found[0].can("list") && !found[0].can("watch"));
        assert_eq!(Discovery::new(found).category("all").len(), 1);
    }

    #[test]
    fn a_swap_of_two_letters_is_one_mistake() {
        assert_eq!(distance("pdos", "pods"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
