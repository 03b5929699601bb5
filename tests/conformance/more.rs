//! Tests of the suite that need no node either, of which the list names no names.

use http::Method;
use serde_json::{Value, json};

use super::harness::{API_SERVICES, Answer, Api, MERGE, Operations, STRATEGIC, unique};

fn count(wanted: usize) -> impl Fn(&Answer) -> bool {
    move |answer| answer.body["items"].as_array().is_some_and(|items| items.len() == wanted)
}

#[tokio::test]
async fn a_watch_starts_from_a_version_and_all_watches_see_one_order() {
    let api = Api::connect().await;
    let namespace = api.namespace("watch").await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let selected = format!("{maps}?labelSelector=watch-this-configmap%3Dfrom-version");
    let map = json!({"metadata": {"name": "m",
        "labels": {"watch-this-configmap": "from-version"}}});
    api.post(&maps, &map).await.is(201);
    let change = |n: u32| json!({"data": {"mutation": n.to_string()}});
    let one = format!("{maps}/m");
    let first = api.patch(&one, MERGE, &change(1)).await.is(200);
    api.patch(&one, MERGE, &change(2)).await.is(200);
    api.delete(&one).await.is(200);
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version");
    let mut watch = api.watch(&format!("{selected}&resourceVersion={version}")).await;
    let second = watch.next().await;
    assert_eq!(
        (&second["type"], &second["object"]["data"]["mutation"]),
        (&json!("MODIFIED"), &json!("2"))
    );
    assert_eq!(watch.next().await["type"], "DELETED");

    let list = api.get(&maps).await.is(200);
    let from = list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    for n in 0..20 {
        let map = json!({"metadata": {"name": format!("n{n}")}});
        api.post(&maps, &map).await.is(201);
    }
    let mut orders: Vec<Vec<String>> = Vec::new();
    for _ in 0..3 {
        let mut watch = api.watch(&format!("{maps}?resourceVersion={from}")).await;
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let event = watch.next().await;
            seen.push(event["object"]["metadata"]["resourceVersion"].to_string());
        }
        orders.push(seen);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "{orders:?}");
}

#[tokio::test]
async fn what_has_another_owner_that_stays_is_not_collected() {
    let api = Api::connect().await;
    let namespace = api.namespace("gc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let owner = |name: &str| json!({"metadata": {"name": name}});
    let maps = format!("{core}/configmaps");
    let gone = api.post(&maps, &owner("to-be-deleted")).await.is(201);
    let stays = api.post(&maps, &owner("to-stay")).await.is(201);
    let reference = |of: &Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": of["metadata"]["name"],
            "uid": of["metadata"]["uid"]})
    };
    for (name, owners) in
        [("one", json!([reference(&gone)])), ("both", json!([reference(&gone), reference(&stays)]))]
    {
        let dependent = json!({"metadata": {"name": name, "ownerReferences": owners}});
        api.post(&maps, &dependent).await.is(201);
    }
    let foreground = json!({"propagationPolicy": "Background"});
    api.delete_with(&format!("{maps}/to-be-deleted"), &foreground).await.is(200);
    api.eventually(&format!("{maps}/one"), |answer| answer.code == 404).await;
    assert_eq!(api.get(&format!("{maps}/both")).await.code, 200);
}

#[tokio::test]
async fn an_owner_stays_until_its_pods_are_gone_where_that_is_asked() {
    let api = Api::connect().await;
    let namespace = api.namespace("gc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let labels = json!({"gc": "foreground"});
    let controller = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 2, "selector": labels,
        "template": {"metadata": {"labels": labels, "finalizers": ["example.com/wait"]},
            "spec": {"containers": [{"name": "c", "image": "c"}]}}}});
    api.post(&format!("{core}/replicationcontrollers"), &controller).await.is(201);
    let pods = format!("{core}/pods");
    let found = api.eventually(&pods, count(2)).await;
    let path = format!("{core}/replicationcontrollers/rc");
    let foreground = json!({"propagationPolicy": "Foreground"});
    api.delete_with(&path, &foreground).await.is(200);
    let read = api.get(&path).await.is(200);
    assert_eq!(read["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    for pod in found["items"].as_array().expect("pods") {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let free = json!({"metadata": {"finalizers": null}});
        api.patch(&format!("{pods}/{name}"), MERGE, &free).await.is(200);
    }
    api.eventually(&path, |answer| answer.code == 404).await;
    api.eventually(&pods, count(0)).await;
}

#[tokio::test]
async fn namespaces_are_deleted_one_by_one_and_their_pods_with_them() {
    let _whole = API_SERVICES.read().await;
    let api = Api::connect().await;
    let namespace = api.namespace("nsdeletetest").await;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = json!({"metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "nginx", "image": "pause"}]}});
    api.post(&pods, &pod).await.is(201);
    let deleted = api.delete(&format!("/api/v1/namespaces/{namespace}")).await.is(200);
    assert_eq!(deleted["status"]["phase"], "Terminating");
    let late = json!({"metadata": {"name": "late"},
        "spec": {"containers": [{"name": "nginx", "image": "pause"}]}});
    let refused = api.post(&pods, &late).await;
    assert!(matches!(refused.code, 403 | 404), "{}", refused.body);
    api.eventually(&format!("/api/v1/namespaces/{namespace}"), |answer| answer.code == 404).await;
    assert_eq!(api.delete("/api/v1/namespaces").await.code, 405, "never all of them");
}

#[tokio::test]
async fn what_has_no_metadata_is_no_table() {
    let api = Api::connect().await;
    let accept = [
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("content-type", "application/json"),
    ];
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = api.send(Method::POST, path, &accept, review.to_string()).await;
    assert_eq!(answer.code, 406, "{}", answer.body);
}

#[tokio::test]
async fn leases_priority_classes_and_capacities_support_the_api_operations() {
    let api = Api::connect().await;
    let namespace = api.namespace("operations").await;
    let lease = json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 30,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 0}});
    let capacity = json!({"storageClassName": "example", "capacity": "100Gi"});
    for (group, plural, kind, namespaced, template) in [
        ("coordination.k8s.io", "leases", "Lease", true, lease),
        ("scheduling.k8s.io", "priorityclasses", "PriorityClass", false, json!({"value": 10})),
        ("storage.k8s.io", "csistoragecapacities", "CSIStorageCapacity", true, capacity),
        ("resource.k8s.io", "deviceclasses", "DeviceClass", false, json!({"spec": {}})),
    ] {
        Operations {
            api: &format!("/apis/{group}/v1"),
            plural,
            kind,
            namespace: namespaced.then_some(namespace.as_str()),
            template,
            has_status: false,
            status_list: "",
        }
        .walk(&api)
        .await;
    }
}

#[tokio::test]
async fn a_priority_does_not_change() {
    let api = Api::connect().await;
    let name = unique("p");
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = json!({"metadata": {"name": name}, "value": 1});
    api.post(classes, &class).await.is(201);
    let one = format!("{classes}/{name}");
    for patch in [json!({"value": 2}), json!({"preemptionPolicy": "Never"})] {
        let refused = api.patch(&one, MERGE, &patch).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
    }
    let described = json!({"description": "updated"});
    api.patch(&one, STRATEGIC, &described).await.is(200);
    api.delete(&one).await.is(200);
}

#[tokio::test]
async fn keys_of_secrets_and_config_maps_are_judged_and_immutable_ones_stay() {
    let api = Api::connect().await;
    let namespace = api.namespace("keys").await;
    for (plural, value) in [("secrets", "dmFsdWU="), ("configmaps", "value")] {
        let path = format!("/api/v1/namespaces/{namespace}/{plural}");
        let empty = json!({"metadata": {"name": "empty"}, "data": {"": value}});
        assert_eq!(api.post(&path, &empty).await.code, 422);
        let fixed = json!({"metadata": {"name": "fixed"}, "data": {"a": value}, "immutable": true});
        api.post(&path, &fixed).await.is(201);
        let one = format!("{path}/fixed");
        for patch in [json!({"data": {"b": value}}), json!({"immutable": false})] {
            let refused = api.patch(&one, MERGE, &patch).await;
            assert_eq!(refused.code, 422, "{}", refused.body);
        }
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        api.patch(&one, MERGE, &label).await.is(200);
        api.delete(&one).await.is(200);
    }
}

#[tokio::test]
async fn the_scale_of_a_replication_controller_is_a_part_of_its_own() {
    let api = Api::connect().await;
    let namespace = api.namespace("rc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let labels = json!({"name": "scale"});
    let controller = json!({"metadata": {"name": "e2e"}, "spec": {"replicas": 1, "selector": labels,
        "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "c"}]}}}});
    api.post(&format!("{core}/replicationcontrollers"), &controller).await.is(201);
    let path = format!("{core}/replicationcontrollers/e2e");
    let mut scale = api.get(&format!("{path}/scale")).await.is(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    scale["spec"]["replicas"] = 2.into();
    // The controller writes its status meanwhile; the version that was read is old then.
    scale["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    assert_eq!(api.put(&format!("{path}/scale"), &scale).await.is(200)["spec"]["replicas"], 2);
    api.eventually(&path, |answer| answer.body["status"]["replicas"] == 2).await;
    let zero = json!({"spec": {"replicas": 0}});
    api.patch(&format!("{path}/scale"), MERGE, &zero).await.is(200);
    api.eventually(&path, |answer| answer.body["status"]["replicas"] == 0).await;
}

#[tokio::test]
async fn the_status_of_a_disruption_budget_is_a_part_of_its_own() {
    let api = Api::connect().await;
    let namespace = api.namespace("disruption").await;
    let path = format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets");
    let budget = json!({"metadata": {"name": "foo"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"foo": "bar"}}}});
    api.post(&path, &budget).await.is(201);
    let one = format!("{path}/foo");
    api.eventually(&one, |answer| answer.body["status"]["observedGeneration"] == 1).await;
    let patch = json!({"status": {"disruptedPods": {"pod-0": "2026-01-01T00:00:00Z"}}});
    let patched = api.patch(&format!("{one}/status"), MERGE, &patch).await.is(200);
    assert_eq!(patched["status"]["disruptedPods"]["pod-0"], "2026-01-01T00:00:00Z");
    let change = json!({"spec": {"minAvailable": 2}});
    let changed = api.patch(&one, MERGE, &change).await.is(200);
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn services_are_deleted_together() {
    let api = Api::connect().await;
    let namespace = api.namespace("services").await;
    let services = format!("/api/v1/namespaces/{namespace}/services");
    for (name, label) in [("a", "yes"), ("b", "yes"), ("c", "no")] {
        let service = json!({"metadata": {"name": name, "labels": {"e2e": label}},
            "spec": {"ports": [{"port": 80}]}});
        api.post(&services, &service).await.is(201);
    }
    api.delete(&format!("{services}?labelSelector=e2e%3Dyes")).await.is(200);
    assert_eq!(super::harness::names(&api.items(&services).await), ["c"]);
}
