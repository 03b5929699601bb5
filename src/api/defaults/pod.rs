//! Defaults of pods and of the pod templates in workloads.

use serde_json::{Value, json};

use super::{JsonMap, each, inside, set};
use crate::api::Object;
use crate::api::meta::entry;

/// A Pod: those of its spec, and what only pods get.
pub fn pod(object: &mut Object) {
    let spec = entry(object, "spec");
    pod_spec(spec);
    spec.entry("enableServiceLinks").or_insert(Value::Bool(true));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// The pod template below `template` of a spec (or of a PodTemplate).
pub fn template(holder: &mut Value) {
    if !holder.is_object() {
        return;
    }
    let template = entry(holder, "template");
    let spec = template.entry("spec").or_insert_with(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        pod_spec(spec);
    }
}

/// `SetDefaults_PodSpec` and what lies below it.
pub fn pod_spec(spec: &mut JsonMap) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "securityContext", json!({}));
    service_account(spec);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(host_ports);
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
}

/// `serviceAccount` is the older name of `serviceAccountName`; both are always told.
fn service_account(spec: &mut JsonMap) {
    let named = |spec: &JsonMap, field: &str| {
        spec.get(field).and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned)
    };
    let name = named(spec, "serviceAccountName").or_else(|| named(spec, "serviceAccount"));
    if let Some(name) = name {
        spec.insert("serviceAccountName".into(), Value::String(name.clone()));
        spec.insert("serviceAccount".into(), Value::String(name));
    }
}

fn container(container: &mut JsonMap) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    for port in each(container, "ports") {
        set(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(from) = inside(variable, "valueFrom") {
            field_ref(from);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inside(container, probe) {
            handler(probe);
            set(probe, "timeoutSeconds", 1);
            set(probe, "periodSeconds", 10);
            set(probe, "successThreshold", 1);
            set(probe, "failureThreshold", 3);
        }
    }
    if let Some(lifecycle) = inside(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = inside(lifecycle, hook) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut JsonMap) {
    if let Some(http) = inside(handler, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
    if let Some(grpc) = inside(handler, "grpc") {
        grpc.entry("service").or_insert(Value::String(String::new()));
    }
}

fn field_ref(holder: &mut JsonMap) {
    if let Some(field) = inside(holder, "fieldRef") {
        set(field, "apiVersion", "v1");
    }
}

/// Whether the tag of an image, said or not, is `latest`.
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.starts_with("file:") {
        return false;
    }
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

fn requests_from_limits(container: &mut JsonMap) {
    let Some(resources) = inside(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn host_ports(container: &mut JsonMap) {
    for port in each(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            set(port, "hostPort", number);
        }
    }
}

fn volume(volume: &mut JsonMap) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = inside(volume, source) {
            set(source, "defaultMode", 420);
            each(source, "items").for_each(field_ref);
            for projection in each(source, "sources") {
                if let Some(token) = inside(projection, "serviceAccountToken") {
                    set(token, "expirationSeconds", 3600);
                }
                if let Some(downward) = inside(projection, "downwardAPI") {
                    each(downward, "items").for_each(field_ref);
                }
            }
        }
    }
    if let Some(path) = inside(volume, "hostPath") {
        path.entry("type").or_insert(Value::String(String::new()));
    }
    if let Some(claim) = inside(volume, "ephemeral").and_then(|e| inside(e, "volumeClaimTemplate"))
        && let Some(spec) = inside(claim, "spec")
    {
        set(spec, "volumeMode", "Filesystem");
    }
}
