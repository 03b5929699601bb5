//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, for rolling back.
//!
//! `kubectl rollout history|undo` reads and applies exactly these: `data` is a strategic merge
//! patch that replaces the template.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::context::Context;
use super::deployment::hash;
use super::pods::Owner;
use super::view;
use crate::client::meta::{Key, controller_of};
use crate::client::rest;

/// The label of a pod that names its revision; of a DaemonSet's revision that carries its hash.
pub const REVISION_HASH: &str = "controller-revision-hash";
/// The label of a StatefulSet's revision that carries its hash.
pub const HASH: &str = "controller.kubernetes.io/hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A ControllerRevision, its data replaced by a digest.
#[derive(Debug, Clone)]
pub struct Revision {
    pub meta: ObjectMeta,
    pub number: i64,
    /// The digest of the template.
    pub digest: String,
}

impl Revision {
    pub fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    /// The hash in its name.
    pub fn hash(&self) -> &str {
        let labels = self.meta.labels.as_ref();
        let label = labels.and_then(|all| all.get(REVISION_HASH).or_else(|| all.get(HASH)));
        label.map_or("", String::as_str)
    }
}

/// The template that a revision keeps.
pub fn template(data: &RawExtension) -> PodTemplateSpec {
    let mut template = data.0["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    serde_json::from_value(template).unwrap_or_default()
}

/// The patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).expect("a template is valid JSON");
    value["$patch"] = json!("replace");
    json!({"spec": {"template": value}})
}

/// The projection of a ControllerRevision.
pub fn revision(revision: ControllerRevision) -> Option<Revision> {
    let digest = view::digest(&template(&revision.data));
    let mut meta = revision.metadata;
    view::trim(&mut meta);
    Some(Revision { meta, number: revision.revision.unwrap_or(0), digest })
}

/// How the newest template becomes the newest revision.
#[derive(Debug, Clone)]
pub enum Newest {
    /// It is already.
    Is(Arc<Revision>),
    /// It was once: that revision gets this number.
    Again(Arc<Revision>, i64),
    /// A new one is made with this number.
    New(i64),
}

/// Finds the revision of the template with this digest.
pub fn newest(revisions: &[Arc<Revision>], digest: &str) -> Newest {
    let last = revisions.iter().map(|revision| revision.number).max();
    let equal = revisions.iter().filter(|revision| revision.digest == digest);
    match equal.max_by_key(|revision| revision.number) {
        Some(revision) if Some(revision.number) == last => Newest::Is(revision.clone()),
        Some(revision) => Newest::Again(revision.clone(), last.unwrap_or(0) + 1),
        None => Newest::New(last.unwrap_or(0) + 1),
    }
}

/// The revisions beyond the limit that nobody uses, the oldest first.
pub fn surplus(
    revisions: &[Arc<Revision>],
    used: &HashSet<String>,
    limit: Option<i32>,
) -> Vec<Arc<Revision>> {
    let mut free: Vec<_> =
        revisions.iter().filter(|revision| !used.contains(revision.name())).cloned().collect();
    free.sort_by_key(|revision| revision.number);
    let keep = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    free.truncate(free.len().saturating_sub(keep));
    free
}

/// What a set had until now.
pub fn owned(context: &Context, owner: &Owner) -> Vec<Arc<Revision>> {
    context.informers.revisions.indexed("controller", &owner.uid)
}

/// Takes revisions that nobody controls and that this owner made (their names and labels are its).
///
/// # Errors
/// What the server answered.
pub async fn adopt(
    context: &Context,
    owner: &Owner,
    matches: impl Fn(&Revision) -> bool,
) -> Result<bool, kube::Error> {
    let mut orphans = context.informers.revisions.indexed("orphan", &owner.key.namespace);
    let prefix = format!("{}-", owner.key.name);
    orphans.retain(|revision| revision.name().starts_with(&prefix) && matches(revision));
    if orphans.is_empty() || !owner.is_alive(&context.client).await? {
        return Ok(false);
    }
    for revision in orphans {
        let path = rest::object::<ControllerRevision>(&owner.key.namespace, revision.name());
        let body = json!({"metadata": {"uid": revision.meta.uid,
            "ownerReferences": [owner.reference()]}});
        let patched =
            rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Strategic, &body);
        rest::found(patched.await)?;
    }
    Ok(true)
}

/// Makes a revision of `template`. The number of collisions is raised where another template has
/// the same hash.
///
/// # Errors
/// What the server answered.
pub async fn create(
    context: &Context,
    owner: &Owner,
    parent: &ObjectMeta,
    template: &PodTemplateSpec,
    number: i64,
    collisions: &mut Option<i32>,
) -> Result<Revision, kube::Error> {
    let path = rest::collection::<ControllerRevision>(&owner.key.namespace);
    loop {
        let hash = hash::hash(template, *collisions);
        let name = format!("{}-{hash}", owner.key.name);
        let mut labels =
            template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let label = if owner.reference().kind == "DaemonSet" { REVISION_HASH } else { HASH };
        labels.insert(label.to_owned(), hash);
        let mut annotations = parent.annotations.clone().unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        let made = ControllerRevision {
            metadata: ObjectMeta {
                namespace: Some(owner.key.namespace.clone()),
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(annotations).filter(|all| !all.is_empty()),
                owner_references: Some(vec![owner.reference()]),
                ..ObjectMeta::default()
            },
            data: RawExtension(data(template)),
            revision: Some(number),
        };
        match rest::create::<ControllerRevision>(&context.client, &path, &made).await {
            Ok(made) => return Ok(revision(made).expect("every revision has a projection")),
            Err(error) if rest::is_already_exists(&error) => {
                let there = rest::object::<ControllerRevision>(&owner.key.namespace, &name);
                let there: ControllerRevision = rest::get(&context.client, &there).await?;
                let ours = controller_of(&there.metadata).is_some_and(|o| o.uid == owner.uid);
                let there = revision(there).expect("every revision has a projection");
                if ours && there.digest == view::digest(template) {
                    return Ok(there);
                }
                *collisions = Some(collisions.unwrap_or(0) + 1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Gives a revision another number.
///
/// # Errors
/// What the server answered.
pub async fn renumber(
    context: &Context,
    revision: &Revision,
    number: i64,
) -> Result<(), kube::Error> {
    let key = Key::of(&revision.meta);
    let path = rest::object::<ControllerRevision>(&key.namespace, &key.name);
    let body = json!({"metadata": {"uid": revision.meta.uid}, "revision": number});
    let patched = rest::patch::<rest::Ignored>(&context.client, &path, rest::Patch::Merge, &body);
    patched.await.map(|_| ())
}

/// Deletes a revision.
///
/// # Errors
/// What the server answered.
pub async fn forget(context: &Context, revision: &Revision) -> Result<(), kube::Error> {
    let key = Key::of(&revision.meta);
    let path = rest::object::<ControllerRevision>(&key.namespace, &key.name);
    let options = rest::Delete::uid(revision.meta.uid.clone().unwrap_or_default());
    rest::found(rest::delete(&context.client, &path, &options).await).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision_of(name: &str, number: i64, digest: &str) -> Arc<Revision> {
        let meta = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Arc::new(Revision { meta, number, digest: digest.to_owned() })
    }

    #[test]
    fn a_template_that_was_there_before_gets_its_revision_again() {
        let all = [revision_of("a", 1, "x"), revision_of("b", 2, "y")];
        assert!(matches!(newest(&all, "y"), Newest::Is(r) if r.name() == "b"));
        assert!(matches!(newest(&all, "x"), Newest::Again(r, 3) if r.name() == "a"));
        assert!(matches!(newest(&all, "z"), Newest::New(3)));
        assert!(matches!(newest(&[], "z"), Newest::New(1)));
    }

    #[test]
    fn the_oldest_unused_revisions_go() {
        let all: Vec<_> =
            (1..=5).map(|n| revision_of(&format!("r{n}"), n, &n.to_string())).collect();
        let used = ["r1".to_owned(), "r5".to_owned()].into();
        let names = |limit| -> Vec<String> {
            surplus(&all, &used, Some(limit)).iter().map(|r| r.name().to_owned()).collect()
        };
        assert_eq!(names(2), ["r2"]);
        assert_eq!(names(0), ["r2", "r3", "r4"]);
        assert!(names(10).is_empty());
    }

    #[test]
    fn a_template_survives_the_way_through_its_revision() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}))
        .expect("a template");
        let data = RawExtension(data(&template));
        assert_eq!(data.0["spec"]["template"]["$patch"], "replace");
        assert_eq!(super::template(&data), template);
    }
}
