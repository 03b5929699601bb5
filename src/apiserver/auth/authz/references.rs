//! What a pod needs of other objects, as Kubernetes' node authorizer counts it: an object that is
//! not here is none of its node's business.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::Object;
use crate::api::meta::{annotation, list};

/// The annotation of a pod that stands for one that its node runs by itself.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The names of objects in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub account: String,
    pub secrets: HashSet<String>,
    pub config_maps: HashSet<String>,
    pub claims: HashSet<String>,
}

impl References {
    /// Of a pod. A node makes the objects of its mirror pods itself: those refer to nothing.
    pub fn of(pod: &Object) -> Self {
        if annotation(pod, MIRROR).is_some() {
            return Self::default();
        }
        Self::all_of(pod)
    }

    /// Of any pod.
    pub fn all_of(pod: &Object) -> Self {
        let spec = &pod["spec"];
        let account = text(&spec["serviceAccountName"]).to_owned();
        let mut found = Self { account, ..Self::default() };
        for secret in list(&spec["imagePullSecrets"]) {
            add(&mut found.secrets, &secret["name"]);
        }
        let kinds = ["initContainers", "containers", "ephemeralContainers"];
        for container in kinds.iter().flat_map(|kind| list(&spec[*kind])) {
            found.read_environment(container);
        }
        let pod_name = text(&pod["metadata"]["name"]);
        for volume in list(&spec["volumes"]) {
            found.read_volume(volume, pod_name);
        }
        found
    }

    fn read_environment(&mut self, container: &Value) {
        for source in list(&container["envFrom"]) {
            add(&mut self.secrets, &source["secretRef"]["name"]);
            add(&mut self.config_maps, &source["configMapRef"]["name"]);
        }
        for variable in list(&container["env"]) {
            let from = &variable["valueFrom"];
            add(&mut self.secrets, &from["secretKeyRef"]["name"]);
            add(&mut self.config_maps, &from["configMapKeyRef"]["name"]);
        }
    }

    fn read_volume(&mut self, volume: &Value, pod: &str) {
        add(&mut self.secrets, &volume["secret"]["secretName"]);
        add(&mut self.secrets, &volume["azureFile"]["secretName"]);
        for driver in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(&mut self.secrets, &volume[driver]["secretRef"]["name"]);
        }
        add(&mut self.secrets, &volume["csi"]["nodePublishSecretRef"]["name"]);
        add(&mut self.config_maps, &volume["configMap"]["name"]);
        add(&mut self.claims, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            self.claims.insert(format!("{pod}-{}", text(&volume["name"])));
        }
        for source in list(&volume["projected"]["sources"]) {
            add(&mut self.secrets, &source["secret"]["name"]);
            add(&mut self.config_maps, &source["configMap"]["name"]);
        }
    }
}

/// The secrets that a PersistentVolume names, as `(namespace, name)`. `claim`: the namespace of
/// its claim, where those are that name none.
pub fn volume_secrets(volume: &Object, claim: &str) -> HashSet<(String, String)> {
    let spec = &volume["spec"];
    let references = [
        &spec["csi"]["controllerPublishSecretRef"],
        &spec["csi"]["nodePublishSecretRef"],
        &spec["csi"]["nodeStageSecretRef"],
        &spec["csi"]["nodeExpandSecretRef"],
        &spec["cephfs"]["secretRef"],
        &spec["cinder"]["secretRef"],
        &spec["flexVolume"]["secretRef"],
        &spec["rbd"]["secretRef"],
        &spec["scaleIO"]["secretRef"],
        &spec["iscsi"]["secretRef"],
        &spec["storageos"]["secretRef"],
    ];
    let mut all: HashSet<(String, String)> = HashSet::new();
    let mut add = |namespace: &str, name: &str| {
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { claim } else { namespace };
            all.insert((namespace.to_owned(), name.to_owned()));
        }
    };
    for reference in references {
        add(text(&reference["namespace"]), text(&reference["name"]));
    }
    let azure = &spec["azureFile"];
    add(text(&azure["secretNamespace"]), text(&azure["secretName"]));
    all
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn add(to: &mut HashSet<String>, name: &Value) {
    if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
        to.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(set: &HashSet<String>) -> Vec<&str> {
        let mut all: Vec<&str> = set.iter().map(String::as_str).collect();
        all.sort_unstable();
        all
    }

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {
                "serviceAccountName": "robot",
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "from"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "a"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "a"}}},
                ]}],
                "ephemeralContainers": [
                    {"name": "e", "envFrom": [{"configMapRef": {"name": "late"}}]},
                ],
                "volumes": [
                    {"name": "s", "secret": {"secretName": "mounted"}},
                    {"name": "k", "configMap": {"name": "files"}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "a", "projected": {"sources": [
                        {"secret": {"name": "projected"}}, {"configMap": {"name": "ca"}},
                    ]}},
                    {"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                ],
            },
        })
    }

    #[test]
    fn everything_that_a_pod_names_is_found() {
        let found = References::of(&pod());
        assert_eq!(found.account, "robot");
        let secrets = ["csi", "from", "key", "mounted", "projected", "pull"];
        assert_eq!(names(&found.secrets), secrets);
        assert_eq!(names(&found.config_maps), ["ca", "files", "late", "map"]);
        assert_eq!(names(&found.claims), ["data", "p-tmp"]);
    }

    #[test]
    fn a_mirror_pod_gives_its_node_nothing() {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(References::of(&pod), References::default());
    }

    #[test]
    fn a_volume_names_secrets_of_its_own() {
        let volume = json!({"spec": {
            "csi": {"nodeStageSecretRef": {"name": "stage", "namespace": "kube-system"}},
            "azureFile": {"secretName": "share"},
        }});
        let mut found: Vec<_> = volume_secrets(&volume, "default").into_iter().collect();
        found.sort();
        let expected = [("default", "share"), ("kube-system", "stage")];
        assert_eq!(found, expected.map(|(ns, name)| (ns.to_owned(), name.to_owned())));
    }
}
