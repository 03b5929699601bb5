//! The pod of an ordinal: its name, labels, hostname and volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    self as core, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};

use super::claims;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::pods::{self, Owner};

/// The label with the pod's name, for Services of one pod.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the pod's ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod of `ordinal`, of the template of `revision`.
pub fn pod(
    set: &StatefulSet,
    owner: &Owner,
    template: PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> core::Pod {
    let mut pod = pods::from_template(owner, template);
    let name = format!("{}-{ordinal}", owner.key.name);
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION_HASH.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
    let templates = claims::templates(set);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| !templates.contains(&volume.name.as_str()));
    volumes.extend(templates.into_iter().map(|template| Volume {
        name: template.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claims::name(template, &owner.key.name, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    }));
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_the_name_the_hostname_and_the_claims_of_its_ordinal() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "u"},
            "spec": {"serviceName": "peers", "selector": {}, "template": {},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}}))
        .expect("a StatefulSet");
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [], "volumes": [{"name": "data"}, {"name": "tmp"}]}}))
        .expect("a template");
        let owner = Owner::of::<StatefulSet>(&set.metadata);
        let pod = pod(&set, &owner, template, "db-abc", 2);
        let labels = pod.metadata.labels.expect("labels");
        assert_eq!((&*labels[POD_NAME], &*labels[POD_INDEX]), ("db-2", "2"));
        assert_eq!((&*labels[REVISION_HASH], &*labels["app"]), ("db-abc", "db"));
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.hostname.as_deref(), Some("db-2"));
        assert_eq!(spec.subdomain.as_deref(), Some("peers"));
        let volumes = spec.volumes.expect("volumes");
        let names: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["tmp", "data"]);
        let claim = volumes[1].persistent_volume_claim.as_ref().expect("a claim");
        assert_eq!(claim.claim_name, "data-db-2");
    }
}
