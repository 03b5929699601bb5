//! The rules that objects must keep, by Kubernetes' own paths and wording
//! (`pkg/apis/*/validation`).
//!
//! Functions take an object that was decoded by its schema and defaulted; on anything else they
//! find fewer rules to break, and never panic.

mod config;
mod container;
pub mod machinery;
mod network;
mod pod;
pub mod policy;
mod storage;
mod volume;
mod workload;

use serde_json::Value;

use super::Object;
use super::field::Path;
use super::status::FieldError;

pub use config::{
    claim_update, config_map, config_map_update, lease, node, node_update, priority_class, role,
    role_binding, secret, secret_update, signing_request,
};
pub use network::{
    endpoint_slice, ingress, ingress_class, ingress_class_update, network_policy, service,
    service_update,
};
pub use pod::{pod, pod_update};
pub use storage::{attachment, csi_capacity, csi_driver, csi_node, storage_class};
pub use workload::{
    autoscaler, cron_job, daemon_set, deployment, disruption_budget, job, job_update, replica_set,
    replication_controller, selector_update, stateful_set, stateful_set_update,
};

type Errors = Vec<FieldError>;

const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// A top-level field that may not change.
pub fn immutable(new: &Object, old: &Object, field: &str) -> Errors {
    match new[field] == old[field] {
        true => Vec::new(),
        false => vec![Path::new(field).invalid(new[field].clone(), IMMUTABLE)],
    }
}

/// A top-level field whose change is forbidden with these words.
pub fn forbidden_change(new: &Object, old: &Object, field: &str, why: &str) -> Errors {
    match new[field] == old[field] {
        true => Vec::new(),
        false => vec![Path::new(field).forbidden(why)],
    }
}

/// The text of a field; empty where there is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text that must be one of a few, where it is said.
fn one_of(errors: &mut Errors, path: &Path, value: &Value, supported: &[&str]) {
    let said = text(value);
    if !said.is_empty() && !supported.contains(&said) {
        errors.push(path.not_supported(said, supported));
    }
}

/// A number that must not be negative, where it is said.
fn not_negative(errors: &mut Errors, path: &Path, value: &Value) {
    if let Some(number) = value.as_i64().filter(|n| *n < 0) {
        errors.push(path.invalid(number, NOT_NEGATIVE));
    }
}

/// What a rule for names says is wrong with a text.
fn judged(errors: &mut Errors, path: &Path, value: &str, rule: fn(&str) -> Vec<String>) {
    errors.extend(rule(value).iter().map(|why| path.invalid(value, why)));
}

/// A text that must be there, and must keep a rule for names.
fn required_name(errors: &mut Errors, path: &Path, value: &Value, rule: fn(&str) -> Vec<String>) {
    match text(value) {
        "" => errors.push(path.required("")),
        said => judged(errors, path, said, rule),
    }
}

/// A text that must be there.
fn required(errors: &mut Errors, path: &Path, value: &Value) {
    if text(value).is_empty() {
        errors.push(path.required(""));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::defaults;
    use crate::api::kinds::KindTable;

    fn told(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
    }

    fn check(
        api_version: &str,
        kind: &str,
        rule: fn(&Object) -> Errors,
        mut object: Value,
    ) -> Vec<String> {
        let table = KindTable::builtin();
        defaults::of(table.of(api_version, kind).expect("a kind"))(&mut object);
        told(&rule(&object))
    }

    fn good_pod() -> Value {
        json!({"spec": {"containers": [{"name": "a", "image": "i"}]}})
    }

    #[test]
    fn pods_are_judged_in_the_words_of_kubernetes() {
        let change = |change: fn(&mut Value)| {
            let mut pod = good_pod();
            change(&mut pod["spec"]);
            check("v1", "Pod", super::pod, pod)
        };
        assert!(change(|_| {}).is_empty(), "{:?}", change(|_| {}));
        type Change = fn(&mut Value);
        let table: [(Change, &str); 16] = [
            (|s| s["containers"] = json!([]), "spec.containers: Required value"),
            (|s| s["containers"][0]["name"] = json!(""), "spec.containers[0].name: Required value"),
            (
                |s| s["containers"][0]["image"] = json!(""),
                "spec.containers[0].image: Required value",
            ),
            (
                |s| {
                    s["containers"] =
                        json!([{"name": "a", "image": "i"}, {"name": "a", "image": "i"}])
                },
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                |s| s["containers"][0]["ports"] = json!([{"containerPort": 70000}]),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                |s| s["containers"][0]["ports"] = json!([{"containerPort": 1, "protocol": "X"}]),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                |s| s["containers"][0]["env"] = json!([{"value": "x"}]),
                "spec.containers[0].env[0].name: Required value",
            ),
            (
                |s| s["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                |s| {
                    s["volumes"] =
                        json!([{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}])
                },
                "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            ),
            (
                |s| s["containers"][0]["livenessProbe"] = json!({"timeoutSeconds": 1}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                |s| {
                    s["containers"][0]["livenessProbe"] =
                        json!({"tcpSocket": {"port": 1}, "successThreshold": 2})
                },
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                |s| {
                    s["containers"][0]["resources"] =
                        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
                },
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                |s| s["restartPolicy"] = json!("Sometimes"),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                |s| s["terminationGracePeriodSeconds"] = json!(-1),
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |s| s["nodeSelector"] = json!({"a b": "c"}),
                "spec.nodeSelector: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
            (
                |s| s["initContainers"] = json!([{"name": "i", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}}}]),
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
        ];
        for (wrong, want) in table {
            assert_eq!(change(wrong), [want]);
        }
    }

    #[test]
    fn most_of_a_pods_spec_may_not_change() {
        let mut old = good_pod();
        defaults::pod(&mut old);
        let change = |change: fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new["spec"]);
            told(&pod_update(&new, &old))
        };
        assert!(change(|s| s["containers"][0]["image"] = json!("other")).is_empty());
        assert!(change(|s| s["activeDeadlineSeconds"] = json!(5)).is_empty());
        assert!(
            change(|s| s["tolerations"] = json!([{"key": "a", "operator": "Exists"}])).is_empty()
        );
        assert!(change(|s| s["nodeName"] = json!("n")).is_empty());
        let told = change(|s| s["hostNetwork"] = json!(true));
        assert!(
            told[0].starts_with("spec: Forbidden: pod updates may not change fields other than")
        );
        assert_eq!(
            change(|s| s["containers"] = json!([])),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }

    #[test]
    fn a_workloads_selector_must_fit_its_template_and_stay() {
        let deployment = |selector: Value, labels: Value| {
            json!({"spec": {"selector": selector, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "a", "image": "i"}]}}}})
        };
        let check = |o| check("apps/v1", "Deployment", super::deployment, o);
        let fits = json!({"matchLabels": {"a": "b"}});
        assert!(check(deployment(fits.clone(), json!({"a": "b"}))).is_empty());
        assert_eq!(
            check(deployment(fits.clone(), json!({"a": "c"}))),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
            ]
        );
        assert!(
            check(deployment(Value::Null, json!({})))[0]
                .starts_with("spec.selector: Required value")
        );
        let old = deployment(fits, json!({"a": "b"}));
        let new = deployment(json!({"matchLabels": {"a": "c"}}), json!({"a": "c"}));
        assert_eq!(
            told(&selector_update(true, &new, &old)),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
        );
    }

    #[test]
    fn services_are_judged_in_the_words_of_kubernetes() {
        let check = |spec: Value| check("v1", "Service", super::service, json!({"spec": spec}));
        assert!(check(json!({"ports": [{"port": 80}]})).is_empty());
        assert!(check(json!({"clusterIP": "None"})).is_empty());
        assert_eq!(check(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            check(json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]})),
            ["spec.ports[0].name: Required value"]
        );
        assert_eq!(
            check(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
        assert_eq!(check(json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.2", "clusterIPs": ["10.43.0.2"]}});
        let new = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.3", "clusterIPs": ["10.43.0.3"]}});
        assert_eq!(
            told(&service_update(&new, &old)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.3\"]: may not change once set"]
        );
    }

    #[test]
    fn immutable_configuration_stays() {
        let old = json!({"immutable": true, "data": {"a": "YQ=="}, "type": "Opaque"});
        let mut new = old.clone();
        new["data"]["a"] = json!("Yg==");
        assert_eq!(
            told(&secret_update(&new, &old)),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert_eq!(told(&config_map_update(&new, &old)).len(), 1);
        new = json!({"type": "Other"});
        let open = json!({"type": "Opaque"});
        assert_eq!(
            told(&secret_update(&new, &open)),
            ["type: Invalid value: \"Other\": field is immutable"]
        );
        let keys = config_map(&json!({"data": {"a b": ""}, "binaryData": {"c": ""}}));
        assert!(
            told(&keys)[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
        );
    }
}
