//! What Kubernetes sets when a field is left out: its `SetDefaults_*` functions, a function a kind.
//!
//! **Invariant:** every function is idempotent, and never changes what was said.

mod machinery;
mod network;
mod pod;
mod storage;
mod workload;

use serde_json::{Map, Value, json};

use super::Object;
use super::kinds::Kind;
use super::meta::entry;

pub use pod::{pod, pod_spec};

type JsonMap = Map<String, Value>;

/// The defaults of a kind; nothing for kinds that have none.
pub fn of(kind: &Kind) -> fn(&mut Object) {
    match (&*kind.group, &*kind.version, &*kind.kind) {
        ("", _, "Pod") => pod::pod,
        ("", _, "PodTemplate") => |o| pod::template(o),
        ("", _, "Service") => network::service,
        ("", _, "Endpoints") => network::endpoints,
        ("", _, "Namespace") => namespace,
        ("", _, "Node") => node,
        ("", _, "Secret") => secret,
        ("", _, "LimitRange") => storage::limit_range,
        ("", _, "PersistentVolume") => storage::persistent_volume,
        ("", _, "PersistentVolumeClaim") => storage::claim,
        ("", _, "ReplicationController") => workload::replication_controller,
        ("admissionregistration.k8s.io", _, kind) => match kind {
            "ValidatingWebhookConfiguration" => machinery::validating_webhooks,
            "MutatingWebhookConfiguration" => machinery::mutating_webhooks,
            "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => machinery::policy,
            _ => machinery::policy_binding,
        },
        ("apiregistration.k8s.io", _, _) => machinery::api_service,
        ("flowcontrol.apiserver.k8s.io", _, "FlowSchema") => machinery::flow_schema,
        ("flowcontrol.apiserver.k8s.io", _, _) => machinery::priority_level,
        ("apiextensions.k8s.io", _, _) => super::custom::definition::default,
        ("apps", _, "Deployment") => workload::deployment,
        ("apps", _, "ReplicaSet") => workload::replica_set,
        ("apps", _, "StatefulSet") => workload::stateful_set,
        ("apps", _, "DaemonSet") => workload::daemon_set,
        ("batch", _, "Job") => workload::job,
        ("batch", _, "CronJob") => workload::cron_job,
        ("autoscaling", "v1", _) => workload::autoscaler_v1,
        ("autoscaling", _, _) => workload::autoscaler_v2,
        ("discovery.k8s.io", _, "EndpointSlice") => network::endpoint_slice,
        ("networking.k8s.io", _, "NetworkPolicy") => network::network_policy,
        ("rbac.authorization.k8s.io", _, "RoleBinding" | "ClusterRoleBinding") => binding,
        ("scheduling.k8s.io", _, "PriorityClass") => priority_class,
        ("storage.k8s.io", _, "StorageClass") => storage::class,
        ("storage.k8s.io", _, "CSIDriver") => storage::csi_driver,
        _ => |_| {},
    }
}

/// Set a field that is missing (or an empty string).
fn set(map: &mut JsonMap, field: &str, value: impl Into<Value>) {
    match map.get(field) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(_) => return,
    }
    map.insert(field.to_owned(), value.into());
}

/// The objects of a list field.
fn each<'a>(map: &'a mut JsonMap, field: &str) -> impl Iterator<Item = &'a mut JsonMap> {
    let list = map.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object of a field, where it is there.
fn inside<'a>(map: &'a mut JsonMap, field: &str) -> Option<&'a mut JsonMap> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

fn namespace(object: &mut Object) {
    let name = super::meta::name(object).to_owned();
    if name.is_empty() {
        return;
    }
    let metadata = entry(object, "metadata");
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.entry("kubernetes.io/metadata.name").or_insert(Value::String(name));
    }
}

fn node(object: &mut Object) {
    let status = entry(object, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        status.entry("allocatable").or_insert(capacity);
    }
}

/// `stringData` goes into `data`, as base64.
fn secret(object: &mut Object) {
    use base64::Engine;
    let Some(map) = object.as_object_mut() else { return };
    set(map, "type", "Opaque");
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    let data = entry(object, "data");
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        data.insert(key, Value::String(encoded));
    }
}

fn binding(object: &mut Object) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let Some(map) = object.as_object_mut() else { return };
    if let Some(role) = inside(map, "roleRef") {
        set(role, "apiGroup", GROUP);
    }
    for subject in each(map, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set(subject, "apiGroup", GROUP);
        }
    }
}

fn priority_class(object: &mut Object) {
    if let Some(map) = object.as_object_mut() {
        set(map, "preemptionPolicy", "PreemptLowerPriority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KindTable;
    use crate::api::schema::{FieldValidation, normalize};

    fn defaulted(api_version: &str, kind: &str, mut object: Value) -> Value {
        let table = KindTable::builtin();
        let kind = table.of(api_version, kind).expect("a built-in kind");
        let defaults = of(kind);
        defaults(&mut object);
        let once = object.clone();
        defaults(&mut object);
        assert_eq!(object, once, "defaults are idempotent");
        let told = normalize(&**kind, object.clone(), FieldValidation::Strict);
        assert!(told.is_ok(), "defaults fit the schema: {told:?}");
        once
    }

    #[test]
    fn a_pod_gets_what_kubernetes_gives_it() {
        let pod = json!({"spec": {
            "containers": [{
                "name": "a", "image": "repo:5000/x", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}],
        }});
        let spec = defaulted("v1", "Pod", pod)["spec"].take();
        let want = json!({
            "containers": [{
                "name": "a", "image": "repo:5000/x", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "livenessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                    "failureThreshold": 3,
                },
                "env": [{"name": "N", "valueFrom": {
                    "fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
            ],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
        });
        assert_eq!(spec, want);
    }

    #[test]
    fn images_without_a_tag_or_with_latest_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("r:5000/nginx", "Always"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("file:/a/b.wasm", "IfNotPresent"),
            ("oci:/a/b:latest", "Always"),
        ] {
            let pod = json!({"spec": {"containers": [{"name": "a", "image": image}]}});
            let pod = defaulted("v1", "Pod", pod);
            assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
        }
    }

    #[test]
    fn workloads_and_services_get_their_defaults() {
        let spec = defaulted("apps/v1", "Deployment", json!({"spec": {"template": {"spec": {}}}}));
        assert_eq!(spec["spec"]["replicas"], 1);
        assert_eq!(
            spec["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert!(spec["spec"]["template"]["spec"]["enableServiceLinks"].is_null());
        let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let service = defaulted("v1", "Service", service);
        let port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
        assert_eq!(service["spec"]["ports"], json!([port]));
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(service["spec"]["internalTrafficPolicy"], "Cluster");
        let secret = defaulted("v1", "Secret", json!({"stringData": {"a": "b"}}));
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }

    #[test]
    fn defaults_of_every_kind_bear_an_empty_object() {
        for kind in KindTable::builtin().rows() {
            for mut object in [json!({}), json!({"spec": {}, "status": {}, "metadata": {}})] {
                of(kind)(&mut object);
            }
        }
    }
}
