//! `apply`: makes the cluster be as manifests say, as kubectl's client-side apply does it (the
//! manifest is kept in an annotation; a three-way patch changes only what manifests said), or by
//! asking the server to (`--server-side`).

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use crate::api::patch::three_way;
use crate::api::schema::{Schema, Type};
use crate::cli::call::{Connection, JSON, with_query};
use crate::cli::failure::Failure;
use crate::cli::manifest::{self, Manifest};
use crate::cli::out::Out;
use crate::cli::resources::{Discovery, Resource};

/// Where client-side apply keeps the manifest, so that kubectl and this can take turns.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// How often a patch is made anew after somebody else wrote the object meanwhile.
const CONFLICTS_MAX: usize = 5;

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Write.
    None,
    /// Only say what would be sent.
    Client,
    /// Let the server check it, and not keep it.
    Server,
}

/// What `apply` is asked.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Manifests: files, folders, or - for the input
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub filename: Vec<String>,
    /// Folders with all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Whether anything is written
    #[arg(
        long,
        value_enum,
        default_value = "none",
        default_missing_value = "client",
        num_args = 0..=1,
        require_equals = true
    )]
    pub dry_run: DryRun,
    /// Let the server merge (server-side apply)
    #[arg(long)]
    pub server_side: bool,
    /// With --server-side: take over fields that others own
    #[arg(long, requires = "server_side")]
    pub force_conflicts: bool,
    /// The name under which fields are owned
    #[arg(long, value_name = "NAME")]
    pub field_manager: Option<String>,
    /// What becomes of unknown fields
    #[arg(long, value_name = "strict|warn|ignore", default_value = "strict")]
    #[arg(value_parser = ["strict", "warn", "ignore"])]
    pub validate: String,
}

/// Applies every manifest; those that fail are told and the others still applied.
///
/// # Errors
/// A manifest that cannot be read, or no server.
pub async fn run(
    args: &ApplyArgs,
    connection: &Connection,
    namespace_given: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let manifests = manifest::read(&args.filename, args.recursive)?;
    let mut discovery = Discovery::of(connection).await?;
    for manifest in manifests {
        // A CustomResourceDefinition applied just before brings kinds with it.
        if discovery.of_object(manifest.api_version(), manifest.kind()).is_err() {
            discovery = Discovery::of(connection).await?;
        }
        let applied = one(args, connection, &discovery, namespace_given, manifest).await;
        match applied {
            Ok(line) => out.line(line)?,
            Err(failure) => out.fail(failure)?,
        }
        out.flush()?;
    }
    Ok(())
}

async fn one(
    args: &ApplyArgs,
    connection: &Connection,
    discovery: &Discovery,
    namespace_given: bool,
    mut manifest: Manifest,
) -> Result<String, Failure> {
    let place = manifest.place.clone();
    let resource = discovery
        .of_object(manifest.api_version(), manifest.kind())
        .map_err(|failure| at_place(&place, failure))?;
    let namespace = put_namespace(connection, resource, namespace_given, &mut manifest)?;
    if manifest.name().is_empty() {
        return Err(Failure::other(format!(
            "{place}: from {}: cannot use generate name with apply: give it a metadata.name",
            manifest.object["metadata"]["generateName"].as_str().unwrap_or_default()
        )));
    }
    let call = Call { args, connection, resource, namespace: &namespace, manifest: &manifest };
    let done = if args.server_side { call.server_side().await } else { call.client_side().await };
    let done = done.map_err(|failure| at_place(&place, failure))?;
    let dry = match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    Ok(format!("{}/{} {done}{dry}", resource.typed(), manifest.name()))
}

fn at_place(place: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Other(why) if !why.starts_with(place) => {
            Failure::Other(format!("unable to recognize \"{place}\": {why}"))
        }
        Failure::Server { status, doing } => {
            let doing = doing.unwrap_or_else(|| "error when applying".to_owned());
            Failure::Server { status, doing: Some(format!("{doing} \"{place}\"")) }
        }
        other => other,
    }
}

/// The namespace of the object, which is written into it where it says none.
fn put_namespace(
    connection: &Connection,
    resource: &Resource,
    given: bool,
    manifest: &mut Manifest,
) -> Result<String, Failure> {
    if !resource.namespaced {
        return Ok(String::new());
    }
    let own = manifest.namespace().map(str::to_owned);
    match own {
        Some(own) if given && own != connection.namespace => Err(Failure::other(format!(
            "{}: the namespace from the provided object \"{own}\" does not match the namespace \
             \"{}\". You must pass '--namespace={own}' to perform this operation.",
            manifest.place, connection.namespace
        ))),
        Some(own) => Ok(own),
        None => {
            manifest.object["metadata"]["namespace"] = connection.namespace.clone().into();
            Ok(connection.namespace.clone())
        }
    }
}

struct Call<'a> {
    args: &'a ApplyArgs,
    connection: &'a Connection,
    resource: &'a Resource,
    namespace: &'a str,
    manifest: &'a Manifest,
}

impl Call<'_> {
    fn query(&self, path: &str, manager: &str) -> String {
        let dry_run = if self.args.dry_run == DryRun::Server { "All" } else { "" };
        let validation = match self.args.validate.as_str() {
            "warn" => "Warn",
            "ignore" => "Ignore",
            _ => "Strict",
        };
        let manager = self.args.field_manager.as_deref().unwrap_or(manager);
        let force = if self.args.force_conflicts { "true" } else { "" };
        let query = [
            ("dryRun", dry_run),
            ("fieldManager", manager),
            ("fieldValidation", validation),
            ("force", force),
        ];
        with_query(path, &query)
    }

    fn path(&self) -> String {
        self.resource.object_path(self.namespace, self.manifest.name())
    }

    async fn server_side(&self) -> Result<&'static str, Failure> {
        if self.args.dry_run == DryRun::Client {
            return Err(Failure::usage(
                "--dry-run=client doesn't work with --server-side: use --dry-run=server",
            ));
        }
        let path = self.query(&self.path(), "coracle");
        let kind = "application/apply-patch+yaml";
        self.connection.write(Method::PATCH, &path, kind, &self.manifest.object).await?;
        Ok("serverside-applied")
    }

    async fn client_side(&self) -> Result<&'static str, Failure> {
        let wanted = with_last_applied(&self.manifest.object);
        for _ in 0..CONFLICTS_MAX {
            let Some(current) = self.connection.find(&self.path()).await? else {
                if self.args.dry_run == DryRun::Client {
                    return Ok("created");
                }
                let path = self.resource.path(Some(self.namespace));
                let path = self.query(&path, "kubectl-client-side-apply");
                match self.connection.write(Method::POST, &path, JSON, &wanted).await {
                    Ok(_) => return Ok("created"),
                    // Somebody else was faster: patch theirs.
                    Err(failure) if failure.reason() == "AlreadyExists" => continue,
                    Err(failure) => return Err(failure.doing("error when creating")),
                }
            };
            let of = builtin_type(self.resource);
            let patch = patch(of, &wanted, &current);
            if patch == json!({}) {
                return Ok("unchanged");
            }
            if self.args.dry_run == DryRun::Client {
                return Ok("configured");
            }
            let path = self.query(&self.path(), "kubectl-client-side-apply");
            let kind = if of.is_some() { STRATEGIC } else { MERGE };
            match self.connection.write(Method::PATCH, &path, kind, &patch).await {
                Ok(after) => {
                    let version = |o: &Value| o["metadata"]["resourceVersion"].clone();
                    let same = version(&after) == version(&current);
                    return Ok(if same && self.args.dry_run == DryRun::None {
                        "unchanged"
                    } else {
                        "configured"
                    });
                }
                Err(failure) if matches!(failure.reason(), "Conflict" | "NotFound") => {}
                Err(failure) => return Err(failure.doing("error when patching")),
            }
        }
        Err(Failure::other(format!(
            "{}: others kept writing the object meanwhile: apply it again",
            self.manifest.place
        )))
    }
}

/// The type of a kind that is Kubernetes' own.
fn builtin_type(resource: &Resource) -> Option<&'static Type> {
    let group = match resource.group.as_str() {
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    let own = !resource.group.contains('.') || resource.group.ends_with(".k8s.io");
    let name = format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind);
    Schema::builtin().get(&name).filter(|_| own)
}

/// The manifest with itself in its annotation.
fn with_last_applied(object: &Value) -> Value {
    let mut bare = object.clone();
    let metadata = &mut bare["metadata"];
    let annotations = metadata["annotations"].take();
    let mut annotations = match annotations {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    annotations.remove(LAST_APPLIED);
    metadata["annotations"] = Value::Object(annotations);
    let text = go_json(&bare) + "\n";
    bare["metadata"]["annotations"][LAST_APPLIED] = text.into();
    bare
}

/// JSON as Go's encoder writes it, so that kubectl finds the annotation as it would write it.
pub fn go_json(value: &Value) -> String {
    escape_as_go(&value.to_string())
}

/// Go's encoder escapes what HTML would read.
pub fn escape_as_go(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => text.push(c),
        }
    }
    text
}

/// The patch from `current` to the manifest `wanted`.
fn patch(of: Option<&Type>, wanted: &Value, current: &Value) -> Value {
    let applied = current["metadata"]["annotations"][LAST_APPLIED].as_str();
    let original = applied.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let mut patch = three_way(of, &original, wanted, current);
    let Some(map) = patch.as_object_mut() else { return patch };
    // Read in another version, it is the same object.
    map.remove("apiVersion");
    map.remove("kind");
    // What the server writes is not a manifest's to change.
    map.remove("status");
    if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        for own in ["creationTimestamp", "generation", "selfLink"] {
            metadata.remove(own);
        }
        if metadata.is_empty() {
            map.remove("metadata");
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::resources::testing::resource;

    #[test]
    fn the_manifest_is_kept_in_its_annotation_as_kubectl_keeps_it() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "a", "annotations": {"x": "<&>", LAST_APPLIED: "older"}}});
        let kept = with_last_applied(&object);
        assert_eq!(
            kept["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"annotations\":\
             {\"x\":\"\\u003c\\u0026\\u003e\"},\"name\":\"a\"}}\n"
        );
        assert_eq!(kept["metadata"]["annotations"]["x"], "<&>");
    }

    #[test]
    fn only_kubernetes_own_kinds_have_a_type() {
        assert!(builtin_type(&resource("apps", "Deployment", "", true)).is_some());
        assert!(builtin_type(&resource("", "Pod", "", true)).is_some());
        assert!(builtin_type(&resource("rbac.authorization.k8s.io", "Role", "", true)).is_some());
        assert!(builtin_type(&resource("apps.example.com", "Deployment", "", true)).is_none());
    }

    #[test]
    fn a_patch_leaves_what_the_server_writes_alone() {
        let wanted = with_last_applied(&json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "creationTimestamp": null}, "data": {"k": "1"}}));
        let mut current = wanted.clone();
        current["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z".into();
        current["data"]["other"] = "x".into();
        assert_eq!(patch(None, &wanted, &current), json!({}));
        current["data"]["k"] = "2".into();
        assert_eq!(patch(None, &wanted, &current), json!({"data": {"k": "1"}}));
    }
}
