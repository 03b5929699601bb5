//! sig-node: what its API tests ask, of pods that no node runs.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, Operations, STRATEGIC, unique};

#[tokio::test]
async fn a_config_map_lives() {
    let api = Api::connect().await;
    let namespace = api.namespace("configmap").await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let label = unique("test-configmap");
    let selected = format!("{maps}?labelSelector=test-configmap-static%3D{label}");
    let mut watch = api.watch(&selected).await;
    let map = json!({"metadata": {"name": label, "labels": {"test-configmap-static": label}},
        "data": {"valueName": "value"}});
    api.post(&maps, &map).await.is(201);
    watch.until(|kind, _| kind == "ADDED").await;
    let one = format!("{maps}/{label}");
    let patch = json!({"metadata": {"labels": {"test-configmap": "patched"}},
        "data": {"valueName": "value1"}});
    api.patch(&one, STRATEGIC, &patch).await.is(200);
    watch.until(|kind, _| kind == "MODIFIED").await;
    let read = api.get(&one).await.is(200);
    assert_eq!(read["data"]["valueName"], "value1");
    assert_eq!(read["metadata"]["labels"]["test-configmap"], "patched");
    let everywhere = format!("/api/v1/configmaps?labelSelector=test-configmap-static%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    api.delete(&selected).await.is(200);
    watch.until(|kind, _| kind == "DELETED").await;
    assert_eq!(api.items(&selected).await.len(), 0);
}

#[tokio::test]
async fn a_secret_is_patched() {
    let api = Api::connect().await;
    let namespace = api.namespace("secrets").await;
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    let label = unique("test-secret");
    let secret = json!({"metadata": {"name": label, "labels": {"testsecret-constant": label}},
        "data": {"key": "dmFsdWU="}, "type": "Opaque"});
    api.post(&secrets, &secret).await.is(201);
    let patch =
        json!({"metadata": {"labels": {"testsecret": "true"}}, "data": {"key": "dmFsdWUx"}});
    api.patch(&format!("{secrets}/{label}"), STRATEGIC, &patch).await.is(200);
    let everywhere = format!("/api/v1/secrets?labelSelector=testsecret-constant%3D{label}");
    let found = api.items(&everywhere).await;
    assert_eq!(found[0]["data"]["key"], "dmFsdWUx");
    assert_eq!(found[0]["metadata"]["labels"]["testsecret"], "true");
    api.delete(&format!("{secrets}?labelSelector=testsecret-constant%3D{label}")).await.is(200);
    assert_eq!(api.items(&everywhere).await.len(), 0);
}

#[tokio::test]
async fn pod_templates_are_replaced_and_deleted_together() {
    let api = Api::connect().await;
    let namespace = api.namespace("podtemplate").await;
    let template = json!({"template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}});
    Operations {
        api: "/api/v1",
        plural: "podtemplates",
        kind: "PodTemplate",
        namespace: Some(&namespace),
        template,
        has_status: false,
        status_list: "",
    }
    .walk(&api)
    .await;
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "agnhost", "image": "agnhost"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

#[tokio::test]
async fn the_quality_of_service_of_a_pod_follows_from_its_resources() {
    let api = Api::connect().await;
    let namespace = api.namespace("pods").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let amounts = json!({"cpu": "100m", "memory": "100Mi"});
    let guaranteed = json!({"requests": amounts, "limits": amounts});
    for (name, resources, class) in [
        ("guaranteed", guaranteed, "Guaranteed"),
        ("burstable", json!({"requests": amounts}), "Burstable"),
        ("besteffort", json!({}), "BestEffort"),
    ] {
        let containers = json!({"containers": [{"name": "agnhost", "image": "agnhost", "resources": resources}]});
        api.post(&pods, &pod(name, containers)).await.is(201);
        let read = api.get(&format!("{pods}/{name}")).await.is(200);
        assert_eq!(read["status"]["qosClass"], class);
    }
}

#[tokio::test]
async fn a_pod_of_a_runtime_class_that_is_not_there_is_rejected() {
    let api = Api::connect().await;
    let namespace = api.namespace("runtimeclass").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let named = |class: &str| pod("test-runtimeclass", json!({"runtimeClassName": class}));
    let refused = api.post(&pods, &named("nonexistent")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert_eq!(
        refused.message(),
        "pods \"test-runtimeclass\" is forbidden: pod rejected: RuntimeClass \"nonexistent\" not \
         found"
    );
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = unique("delete-me");
    let object = json!({"metadata": {"name": class}, "handler": "delete-me-handler"});
    api.post(classes, &object).await.is(201);
    api.delete(&format!("{classes}/{class}")).await.is(200);
    assert_eq!(api.post(&pods, &named(&class)).await.code, 403);
}

#[tokio::test]
async fn runtime_classes_support_the_api_operations_and_give_overhead() {
    let api = Api::connect().await;
    Operations {
        api: "/apis/node.k8s.io/v1",
        plural: "runtimeclasses",
        kind: "RuntimeClass",
        namespace: None,
        template: json!({"handler": "e2e-example"}),
        has_status: false,
        status_list: "",
    }
    .walk(&api)
    .await;
    let class = unique("overhead");
    let object = json!({"metadata": {"name": class}, "handler": "x",
        "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
        "scheduling": {"nodeSelector": {"foo": "bar"}}});
    api.post("/apis/node.k8s.io/v1/runtimeclasses", &object).await.is(201);
    let namespace = api.namespace("runtimeclass").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let made = api.post(&pods, &pod("p", json!({"runtimeClassName": class}))).await.is(201);
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"foo": "bar"}));
}

#[tokio::test]
async fn sysctls_that_are_none_are_rejected() {
    let api = Api::connect().await;
    let namespace = api.namespace("sysctl").await;
    let sysctls = json!([
        {"name": "foo-", "value": "bar"},
        {"name": "kernel.shmmax", "value": "100000000"},
        {"name": "safe-and-unsafe", "value": "100000000"},
        {"name": "bar..", "value": "42"}]);
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let bad = pod("sysctl", json!({"securityContext": {"sysctls": sysctls}}));
    let refused = api.post(&pods, &bad).await;
    assert_eq!(refused.code, 422);
    for says in ["Invalid value: \"foo-\"", "Invalid value: \"bar..\""] {
        assert!(refused.message().contains(says), "{says}: {}", refused.message());
    }
    for says_not in ["safe-and-unsafe", "kernel.shmmax"] {
        assert!(!refused.message().contains(says_not), "{}", refused.message());
    }
}

#[tokio::test]
async fn the_level_of_a_namespace_keeps_pods_within_it() {
    let api = Api::connect().await;
    let namespace = api.namespace("podsecurity").await;
    let level = |mode: &str, word: &str| json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): word}}});
    let path = format!("/api/v1/namespaces/{namespace}");
    let odd = api.patch(&path, MERGE, &level("enforce", "strict")).await;
    assert_eq!(odd.code, 422, "{}", odd.body);
    api.patch(&path, MERGE, &level("enforce", "baseline")).await.is(200);
    api.patch(&path, MERGE, &level("warn", "restricted")).await.is(200);
    let pods = format!("{path}/pods");
    let refused = api.post(&pods, &pod("p", json!({"hostNetwork": true}))).await;
    assert_eq!(
        refused.message(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
         (hostNetwork=true)"
    );
    let made = api.post(&pods, &pod("p", json!({}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let warnings = made.warnings();
    assert!(
        warnings.iter().any(|w| w.contains("would violate PodSecurity")
            && w.contains("allowPrivilegeEscalation != false")),
        "{warnings:?}"
    );
    let raised = api.patch(&path, MERGE, &level("enforce", "restricted")).await;
    let warnings = raised.warnings().join("\n");
    assert!(warnings.contains("existing pods in namespace"), "{warnings}");
}
