//! sig-network: Services, endpoints, ingresses, addresses.

use serde_json::{Value, json};

use super::harness::{Answer, Api, MERGE, Operations, STRATEGIC, names, unique};

#[tokio::test]
async fn the_api_is_a_service_of_the_cluster() {
    let api = Api::connect().await;
    let service = api.get("/api/v1/namespaces/default/services/kubernetes").await.is(200);
    assert_eq!(service["spec"]["ports"][0]["name"], "https");
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.is(200);
    assert!(!endpoints["subsets"][0]["addresses"].as_array().expect("addresses").is_empty());
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                  ?labelSelector=kubernetes.io/service-name%3Dkubernetes";
    assert!(!api.items(slices).await.is_empty());
}

#[tokio::test]
async fn a_service_is_found_among_all_namespaces() {
    let api = Api::connect().await;
    let all = api.items("/api/v1/services").await;
    let found = all.iter().any(|service| {
        service["metadata"]["name"] == "kubernetes" && service["metadata"]["namespace"] == "default"
    });
    assert!(found);
}

#[tokio::test]
async fn the_status_of_a_service_lives() {
    let api = Api::connect().await;
    let namespace = api.namespace("services").await;
    let services = format!("/api/v1/namespaces/{namespace}/services");
    let label = unique("test-service");
    let service = json!({"metadata": {"name": label, "labels": {"test-service-static": label}},
        "spec": {"type": "LoadBalancer", "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]}});
    let mut watch = api.watch(&services).await;
    api.post(&services, &service).await.is(201);
    watch.until(|kind, _| kind == "ADDED").await;
    let one = format!("{services}/{label}");
    let status = format!("{one}/status");
    assert_eq!(api.get(&status).await.is(200)["kind"], "Service");
    let ingress = json!({"ip": "203.0.113.1"});
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"loadBalancer": {"ingress": [ingress]}}});
    let patched = api.patch(&status, MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    watch.until(|_, object| object["metadata"]["annotations"]["patchedstatus"] == "true").await;
    let mut update = api.get(&one).await.is(200);
    update["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True",
        "reason": "E2E", "message": "Set from e2e test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let updated = api.put(&status, &update).await.is(200);
    assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdate");
    let patch = json!({"metadata": {"labels": {"test-service": "patched"}}});
    api.patch(&one, STRATEGIC, &patch).await.is(200);
    watch.until(|_, object| object["metadata"]["labels"]["test-service"] == "patched").await;
    api.delete(&one).await.is(200);
    watch.until(|kind, _| kind == "DELETED").await;
}

#[tokio::test]
async fn an_endpoints_object_lives_and_is_mirrored() {
    let api = Api::connect().await;
    let namespace = api.namespace("services").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let service = json!({"metadata": {"name": "example"}, "spec": {
        "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    api.post(&format!("{core}/services"), &service).await.is(201);
    let endpoints = format!("{core}/endpoints");
    let subsets = |ip: &str| {
        json!([{"addresses": [{"ip": ip}],
            "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}])
    };
    let object = json!({"metadata": {"name": "example",
        "labels": {"test-endpoint-static": namespace}}, "subsets": subsets("10.1.2.3")});
    api.post(&endpoints, &object).await.is(201);
    let everywhere = format!("/api/v1/endpoints?labelSelector=test-endpoint-static%3D{namespace}");
    assert_eq!(api.items(&everywhere).await.len(), 1);
    let slices = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
         ?labelSelector=kubernetes.io/service-name%3Dexample"
    );
    let shows = |ip: &'static str| {
        move |answer: &Answer| {
            let items = answer.body["items"].as_array().cloned().unwrap_or_default();
            items.len() == 1 && items[0]["endpoints"][0]["addresses"] == json!([ip])
        }
    };
    let found = api.eventually(&slices, shows("10.1.2.3")).await;
    let by = &found["items"][0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(by, "endpointslicemirroring-controller.k8s.io");
    let one = format!("{endpoints}/example");
    let mut update = api.get(&one).await.is(200);
    update["metadata"]["labels"]["test-service"] = "updated".into();
    update["subsets"] = subsets("10.2.3.4");
    api.put(&one, &update).await.is(200);
    api.eventually(&slices, shows("10.2.3.4")).await;
    let patch = json!({"metadata": {"labels": {"test-service": "patched"}}});
    let patched = api.patch(&one, STRATEGIC, &patch).await.is(200);
    assert_eq!(patched["metadata"]["labels"]["test-service"], "patched");
    api.delete(&format!("{endpoints}?labelSelector=test-endpoint-static%3D{namespace}"))
        .await
        .is(200);
    assert_eq!(api.get(&one).await.code, 404);
    api.eventually(&slices, |answer| answer.body["items"].as_array().is_some_and(Vec::is_empty))
        .await;
}

#[tokio::test]
async fn a_service_with_a_selector_has_endpoints_and_slices_until_it_is_gone() {
    let api = Api::connect().await;
    let namespace = api.namespace("endpointslice").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let service = json!({"metadata": {"name": "example-empty-selector"}, "spec": {
        "selector": {"does-not-match-anything": "endpoints-and-endpoint-slices-should-still-be-created"},
        "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    api.post(&format!("{core}/services"), &service).await.is(201);
    let endpoints = format!("{core}/endpoints/example-empty-selector");
    api.eventually(&endpoints, |answer| answer.code == 200).await;
    let slices = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
         ?labelSelector=kubernetes.io/service-name%3Dexample-empty-selector"
    );
    let many = |wanted: bool| {
        move |answer: &Answer| {
            answer.body["items"].as_array().is_some_and(|items| items.is_empty() != wanted)
        }
    };
    let found = api.eventually(&slices, many(true)).await;
    let by = &found["items"][0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(by, "endpointslice-controller.k8s.io");
    api.delete(&format!("{core}/services/example-empty-selector")).await.is(200);
    api.eventually(&endpoints, |answer| answer.code == 404).await;
    api.eventually(&slices, many(false)).await;
}

#[tokio::test]
async fn endpoint_slices_ingresses_and_their_classes_support_the_api_operations() {
    let api = Api::connect().await;
    let namespace = api.namespace("network").await;
    let slice =
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}]});
    let path = json!({"path": "/", "pathType": "ImplementationSpecific",
        "backend": {"service": {"name": "test-backend", "port": {"number": 80}}}});
    let ingress = json!({"spec": {
        "defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}},
        "rules": [{"host": "foo.bar.com", "http": {"paths": [path]}}]}});
    let class = json!({"spec": {"controller": "example.com/controller"}});
    let policy = json!({"spec": {"podSelector": {}, "ingress": [{}]}});
    for (group, plural, kind, namespaced, template, has_status) in [
        ("discovery.k8s.io", "endpointslices", "EndpointSlice", true, slice, false),
        ("networking.k8s.io", "ingresses", "Ingress", true, ingress, true),
        ("networking.k8s.io", "ingressclasses", "IngressClass", false, class, false),
        ("networking.k8s.io", "networkpolicies", "NetworkPolicy", true, policy, false),
    ] {
        // An ingress has no conditions: its status is walked below.
        let walked = has_status && plural != "ingresses";
        let operations = Operations {
            api: &format!("/apis/{group}/v1"),
            plural,
            kind,
            namespace: namespaced.then_some(namespace.as_str()),
            template,
            has_status: walked,
            status_list: "conditions",
        };
        if plural == "ingresses" {
            ingress_status(&api, &namespace, &operations.template).await;
        } else {
            operations.walk(&api).await;
        }
    }
}

async fn ingress_status(api: &Api, namespace: &str, template: &Value) {
    let all = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses");
    let mut object = template.clone();
    object["metadata"] =
        json!({"generateName": "e2e-example-ing", "labels": {"special": namespace}});
    for _ in 0..2 {
        api.post(&all, &object).await.is(201);
    }
    let made = api.post(&all, &object).await.is(201);
    let one = format!("{all}/{}", made["metadata"]["name"].as_str().expect("a name"));
    let selected = format!("{all}?labelSelector=special%3D{namespace}");
    assert_eq!(api.items(&selected).await.len(), 3);
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let mut patched = api.patch(&one, MERGE, &patch).await.is(200);
    patched["metadata"]["annotations"]["updated"] = "true".into();
    patched["spec"]["rules"] = json!([{"host": "host.bar.com", "http": {"paths": [{"path": "/foo",
        "pathType": "Prefix",
        "backend": {"service": {"name": "test-backend", "port": {"number": 8080}}}}]}}]);
    let updated = api.put(&one, &patched).await.is(200);
    assert_eq!(updated["spec"]["rules"][0]["host"], "host.bar.com");
    let status = format!("{one}/status");
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}});
    let patched = api.patch(&status, MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["loadBalancer"]["ingress"][0]["ip"], "169.1.1.1");
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let mut update = api.get(&one).await.is(200);
    update["status"]["loadBalancer"] = json!({"ingress": [{"ip": "169.1.1.2"}]});
    let updated = api.put(&status, &update).await.is(200);
    assert_eq!(updated["status"]["loadBalancer"]["ingress"][0]["ip"], "169.1.1.2");
    assert_eq!(api.get(&status).await.is(200)["kind"], "Ingress");
    api.delete(&one).await.is(200);
    assert_eq!(api.items(&selected).await.len(), 2);
    api.delete(&selected).await.is(200);
    assert_eq!(api.items(&selected).await.len(), 0);
}

#[tokio::test]
async fn service_ranges_and_addresses_are_objects() {
    let api = Api::connect().await;
    let root = "/apis/networking.k8s.io/v1";
    let range = json!({"metadata": {"name": "e2e-range"}, "spec": {"cidrs": ["10.199.0.0/16"]}});
    api.post(&format!("{root}/servicecidrs"), &range).await.is(201);
    let condition = json!({"status": {"conditions": [{"type": "E2E", "status": "True",
        "reason": "E2E", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let path = format!("{root}/servicecidrs/e2e-range");
    api.patch(&format!("{path}/status"), MERGE, &condition).await.is(200);
    let change = json!({"spec": {"cidrs": ["10.198.0.0/16"]}});
    assert_eq!(api.patch(&path, MERGE, &change).await.code, 422, "its ranges do not change");
    let address = json!({"metadata": {"name": "10.199.0.7"}, "spec": {"parentRef": {
        "group": "", "resource": "services", "namespace": "default", "name": "none"}}});
    api.post(&format!("{root}/ipaddresses"), &address).await.is(201);
    let odd = json!({"metadata": {"name": "010.199.0.7"}, "spec": address["spec"]});
    assert_eq!(api.post(&format!("{root}/ipaddresses"), &odd).await.code, 422);
    let all = api.items(&format!("{root}/ipaddresses")).await;
    assert!(names(&all).contains(&"10.199.0.7".to_owned()));
    api.delete(&format!("{root}/ipaddresses/10.199.0.7")).await.is(200);
    api.delete(&path).await.is(200);
}
