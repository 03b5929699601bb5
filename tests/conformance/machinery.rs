//! sig-api-machinery: flow control, discovery, policies, watches, chunks, namespaces, fields.

use http::Method;
use serde_json::{Value, json};

use super::harness::{API_SERVICES, Api, MERGE, Operations, names, unique};

#[tokio::test]
async fn flow_schemas_support_the_api_operations() {
    let api = Api::connect().await;
    let template = json!({"spec": {
        "matchingPrecedence": 10_000,
        "priorityLevelConfiguration": {"name": "global-default"},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    Operations {
        api: "/apis/flowcontrol.apiserver.k8s.io/v1",
        plural: "flowschemas",
        kind: "FlowSchema",
        namespace: None,
        template,
        has_status: true,
        status_list: "conditions",
    }
    .walk(&api)
    .await;
}

#[tokio::test]
async fn priority_levels_support_the_api_operations() {
    let api = Api::connect().await;
    let template = json!({"spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    Operations {
        api: "/apis/flowcontrol.apiserver.k8s.io/v1",
        plural: "prioritylevelconfigurations",
        kind: "PriorityLevelConfiguration",
        namespace: None,
        template,
        has_status: true,
        status_list: "conditions",
    }
    .walk(&api)
    .await;
}

#[tokio::test]
async fn requests_tell_by_which_flow_they_were_let_in() {
    let api = Api::connect().await;
    let level = unique("e2e-testing-prioritylevel");
    let user = unique("e2e-user");
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let spec = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}});
    let level_object = json!({"metadata": {"name": level}, "spec": spec});
    let made = api.post(&format!("{flows}/prioritylevelconfigurations"), &level_object).await;
    let level_uid = made.is(201)["metadata"]["uid"].clone();
    let schema = json!({"metadata": {"name": level}, "spec": {
        "matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    let made = api.post(&format!("{flows}/flowschemas"), &schema).await.is(201);
    let as_user =
        [("impersonate-user", user.as_str()), ("impersonate-group", "system:authenticated")];
    let answer = api.send(Method::GET, "/version", &as_user, String::new()).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
    assert_eq!(header("x-kubernetes-pf-flowschema-uid"), made["metadata"]["uid"].as_str());
    assert_eq!(header("x-kubernetes-pf-prioritylevel-uid"), level_uid.as_str());
    api.delete(&format!("{flows}/flowschemas/{level}")).await.is(200);
    api.delete(&format!("{flows}/prioritylevelconfigurations/{level}")).await.is(200);
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `GROUP/VERSION/RESOURCE` of an aggregated document.
fn resources(document: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                let group = text(&group["metadata"]["name"]);
                let version = text(&version["version"]);
                all.push(format!("{group}/{version}/{}", text(&resource["resource"])));
            }
        }
    }
    all
}

#[tokio::test]
async fn discovery_is_told_whole_to_who_asks_for_it() {
    let api = Api::connect().await;
    let accept = [("accept", AGGREGATED)];
    let all = api.send(Method::GET, "/apis", &accept, String::new()).await.is(200);
    let found = resources(&all);
    for wanted in [
        "admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "apiextensions.k8s.io/v1/customresourcedefinitions",
        "apiregistration.k8s.io/v1/apiservices",
        "apps/v1/deployments",
        "authentication.k8s.io/v1/tokenreviews",
        "authorization.k8s.io/v1/selfsubjectaccessreviews",
        "autoscaling/v1/horizontalpodautoscalers",
        "autoscaling/v2/horizontalpodautoscalers",
        "batch/v1/jobs",
        "certificates.k8s.io/v1/certificatesigningrequests",
        "coordination.k8s.io/v1/leases",
        "discovery.k8s.io/v1/endpointslices",
        "events.k8s.io/v1/events",
        "networking.k8s.io/v1/ingresses",
        "node.k8s.io/v1/runtimeclasses",
        "policy/v1/poddisruptionbudgets",
        "scheduling.k8s.io/v1/priorityclasses",
        "storage.k8s.io/v1/csinodes",
    ] {
        assert!(found.iter().any(|one| one == wanted), "{wanted}: {found:?}");
    }
    let core = api.send(Method::GET, "/api", &accept, String::new()).await.is(200);
    assert!(resources(&core).iter().any(|one| one == "/v1/namespaces"));
}

#[tokio::test]
async fn discovery_prefers_a_version_of_every_group() {
    let api = Api::connect().await;
    let groups = api.get("/apis").await.is(200);
    for group in groups["groups"].as_array().expect("groups") {
        let preferred = &group["preferredVersion"];
        let listed = group["versions"].as_array().expect("versions");
        assert!(listed.iter().any(|v| v["groupVersion"] == preferred["groupVersion"]), "{group}");
        let path = format!("/apis/{}", group["name"].as_str().expect("a name"));
        let own = api.get(&path).await.is(200);
        assert_eq!(&own["preferredVersion"], preferred);
        assert_eq!(api.get(&format!("{path}/")).await.code, 200, "with a slash behind it");
    }
}

#[tokio::test]
async fn the_server_has_a_version() {
    let api = Api::connect().await;
    let version = api.get("/version").await.is(200);
    for field in ["major", "minor"] {
        let text = version[field].as_str().expect("a text");
        assert!(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()), "{version}");
    }
}

fn policy(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {label: "true"}},
            "resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"],
                "apiVersions": ["v1"], "resources": ["deployments"]}]},
        "validations": [{"expression": "object.spec.replicas > 1",
            "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"}]}})
}

fn deployment(name: &str, replicas: i64) -> Value {
    let labels = json!({"app": "nginx"});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}}}})
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

async fn marked_namespace(api: &Api, label: &str) -> String {
    let namespace = api.namespace("validating-admission-policy").await;
    let patch = json!({"metadata": {"labels": {label: "true"}}});
    api.patch(&format!("/api/v1/namespaces/{namespace}"), MERGE, &patch).await.is(200);
    namespace
}

#[tokio::test]
async fn a_policy_validates_against_a_deployment() {
    let api = Api::connect().await;
    let label = unique("vap");
    let namespace = marked_namespace(&api, &label).await;
    let name = format!("{label}.policy.example.com");
    api.post(POLICIES, &policy(&name, &label)).await.is(201);
    let binding = json!({"metadata": {"name": format!("{label}.binding.example.com")}, "spec": {
        "policyName": name, "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {label.as_str(): "true"}}}}});
    api.post(BINDINGS, &binding).await.is(201);
    let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let denied = api.post(&deployments, &deployment("marker-deployment", 1)).await;
    assert_eq!(denied.code, 422, "{}", denied.body);
    assert_eq!(denied.body["reason"], "Invalid");
    assert_eq!(
        denied.message(),
        format!(
            "deployments.apps \"marker-deployment\" is forbidden: ValidatingAdmissionPolicy \
             '{name}' with binding '{label}.binding.example.com' denied request: wants replicas > \
             1, got 1"
        )
    );
    api.post(&deployments, &deployment("replicated", 2)).await.is(201);
    let sets = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
    api.post(&sets, &deployment("non-replicated", 1)).await.is(201);
    let scaled = json!({"spec": {"replicas": 1}});
    let denied = api.patch(&format!("{deployments}/replicated"), MERGE, &scaled).await;
    assert_eq!(denied.code, 422, "a change is judged as well");
}

#[tokio::test]
async fn the_expressions_of_a_policy_refer_to_variables() {
    let api = Api::connect().await;
    let label = unique("vap");
    let namespace = marked_namespace(&api, &label).await;
    let name = format!("{label}.policy.example.com");
    let mut object = policy(&name, &label);
    object["spec"]["variables"] = json!([
        {"name": "replicas", "expression": "object.spec.replicas"},
        {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}]);
    object["spec"]["validations"] = json!([
        {"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}]);
    api.post(POLICIES, &object).await.is(201);
    let binding = json!({"metadata": {"name": name}, "spec": {
        "policyName": name, "validationActions": ["Deny"]}});
    api.post(BINDINGS, &binding).await.is(201);
    let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    for (replicas, code) in [(1, 422), (2, 422), (3, 201)] {
        let answer = api.post(&deployments, &deployment(&format!("d{replicas}"), replicas)).await;
        assert_eq!(answer.code, code, "{replicas}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_types_of_a_policy_are_checked() {
    let api = Api::connect().await;
    let label = unique("vap");
    let sound = format!("{label}.correct-policy.example.com");
    api.post(POLICIES, &policy(&sound, &label)).await.is(201);
    let checked =
        |answer: &super::harness::Answer| answer.body["status"]["typeChecking"].is_object();
    let found = api.eventually(&format!("{POLICIES}/{sound}"), checked).await;
    assert!(found["status"]["typeChecking"]["expressionWarnings"].is_null(), "{found}");
    let confused = format!("{label}.confused-policy.example.com");
    let mut object = policy(&confused, &label);
    object["spec"]["validations"] = json!([{"expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]);
    api.post(POLICIES, &object).await.is(201);
    let found = api.eventually(&format!("{POLICIES}/{confused}"), checked).await;
    let warnings = found["status"]["typeChecking"]["expressionWarnings"].clone();
    let warnings = warnings.as_array().expect("warnings");
    assert_eq!(warnings.len(), 2);
    for (warning, field, says) in [
        (
            &warnings[0],
            "spec.validations[0].expression",
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        (
            &warnings[1],
            "spec.validations[0].messageExpression",
            "found no matching overload for '_+_' applied to '(string, int)'",
        ),
    ] {
        assert_eq!(warning["fieldRef"], field);
        assert!(warning["warning"].as_str().is_some_and(|w| w.contains(says)), "{warning}");
    }
}

#[tokio::test]
async fn policies_support_the_api_operations() {
    let api = Api::connect().await;
    let mut template = policy("x", "none");
    template.as_object_mut().expect("an object").remove("metadata");
    Operations {
        api: "/apis/admissionregistration.k8s.io/v1",
        plural: "validatingadmissionpolicies",
        kind: "ValidatingAdmissionPolicy",
        namespace: None,
        template,
        has_status: true,
        status_list: "conditions",
    }
    .walk(&api)
    .await;
}

#[tokio::test]
async fn bindings_of_policies_support_the_api_operations() {
    let api = Api::connect().await;
    let template = json!({"spec": {"policyName": "replicalimit-policy.example.com",
        "validationActions": ["Deny"]}});
    Operations {
        api: "/apis/admissionregistration.k8s.io/v1",
        plural: "validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicyBinding",
        namespace: None,
        template,
        has_status: false,
        status_list: "",
    }
    .walk(&api)
    .await;
}

#[tokio::test]
async fn a_mutating_policy_mutates_a_deployment() {
    let api = Api::connect().await;
    let label = unique("map");
    let namespace = marked_namespace(&api, &label).await;
    let root = "/apis/admissionregistration.k8s.io/v1";
    let constraints = policy("x", &label)["spec"]["matchConstraints"].clone();
    let object = json!({"metadata": {"name": label}, "spec": {
        "matchConstraints": constraints, "reinvocationPolicy": "Never",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'mutated': 'yes'}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'replace', path: '/spec/replicas', value: \
                 object.spec.replicas + 1}]"}}]}});
    api.post(&format!("{root}/mutatingadmissionpolicies"), &object).await.is(201);
    let binding = json!({"metadata": {"name": label}, "spec": {"policyName": label}});
    api.post(&format!("{root}/mutatingadmissionpolicybindings"), &binding).await.is(201);
    let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let made = api.post(&deployments, &deployment("d", 1)).await.is(201);
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["metadata"]["labels"], json!({"app": "nginx", "mutated": "yes"}));
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "nginx:latest");
}

#[tokio::test]
async fn a_watch_restarts_from_the_last_version_that_was_seen() {
    let api = Api::connect().await;
    let namespace = api.namespace("watch").await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let selected = format!("{maps}?labelSelector=watch-this-configmap%3Drestarted");
    let map = json!({"metadata": {"name": "m", "labels": {"watch-this-configmap": "restarted"}}});
    let mut watch = api.watch(&selected).await;
    api.post(&maps, &map).await.is(201);
    let change = |n: &str| json!({"data": {"mutation": n}});
    let one = format!("{maps}/m");
    api.patch(&one, MERGE, &change("1")).await.is(200);
    watch.until(|kind, _| kind == "ADDED").await;
    let seen = watch.until(|kind, _| kind == "MODIFIED").await;
    drop(watch);
    api.patch(&one, MERGE, &change("2")).await.is(200);
    let version = seen["metadata"]["resourceVersion"].as_str().expect("a version");
    let mut watch = api.watch(&format!("{selected}&resourceVersion={version}")).await;
    api.delete(&one).await.is(200);
    let second = watch.until(|kind, _| kind == "MODIFIED").await;
    assert_eq!(second["data"]["mutation"], "2");
    watch.until(|kind, _| kind == "DELETED").await;
}

#[tokio::test]
async fn watches_see_what_their_selectors_select() {
    let api = Api::connect().await;
    let namespace = api.namespace("watch").await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let select = |values: &str| format!("{maps}?labelSelector=watch-this-configmap{values}");
    let mut a = api.watch(&select("%3DA")).await;
    let mut b = api.watch(&select("%3DB")).await;
    let mut both = api.watch(&select("%20in%20(A%2CB)")).await;
    for (name, label) in [("a", "A"), ("b", "B")] {
        let map = json!({"metadata": {"name": name, "labels": {"watch-this-configmap": label}}});
        api.post(&maps, &map).await.is(201);
        let one = format!("{maps}/{name}");
        let change = json!({"data": {"mutation": "1"}});
        api.patch(&one, MERGE, &change).await.is(200);
        api.delete(&one).await.is(200);
        let own = if label == "A" { &mut a } else { &mut b };
        for expected in ["ADDED", "MODIFIED", "DELETED"] {
            assert_eq!(own.next().await["type"], expected);
            assert_eq!(both.next().await["type"], expected);
        }
    }
    assert!(a.is_silent().await && b.is_silent().await);
}

#[tokio::test]
async fn an_object_that_is_selected_no_more_is_told_as_deleted() {
    let api = Api::connect().await;
    let namespace = api.namespace("watch").await;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let selected = format!("{maps}?labelSelector=watch-this-configmap%3Dchanged");
    let mut watch = api.watch(&selected).await;
    let map = json!({"metadata": {"name": "m", "labels": {"watch-this-configmap": "changed"}}});
    api.post(&maps, &map).await.is(201);
    let one = format!("{maps}/m");
    api.patch(&one, MERGE, &json!({"data": {"mutation": "1"}})).await.is(200);
    let relabel = |value: &str| json!({"metadata": {"labels": {"watch-this-configmap": value}}});
    api.patch(&one, MERGE, &relabel("wrong-value")).await.is(200);
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.next().await["type"], expected);
    }
    api.patch(&one, MERGE, &json!({"data": {"mutation": "2"}})).await.is(200);
    assert!(watch.is_silent().await);
    api.patch(&one, MERGE, &relabel("changed")).await.is(200);
    assert_eq!(watch.next().await["type"], "ADDED");
    api.patch(&one, MERGE, &json!({"data": {"mutation": "3"}})).await.is(200);
    api.delete(&one).await.is(200);
    for expected in ["MODIFIED", "DELETED"] {
        assert_eq!(watch.next().await["type"], expected);
    }
}

#[tokio::test]
async fn a_list_comes_in_chunks_of_one_snapshot() {
    let api = Api::connect().await;
    let namespace = api.namespace("chunking").await;
    let templates = format!("/api/v1/namespaces/{namespace}/podtemplates");
    let spec = json!({"containers": [{"name": "test", "image": "test2"}]});
    for index in 0..40 {
        let object = json!({"metadata": {"name": format!("template-{index:04}")},
            "template": {"spec": spec}});
        api.post(&templates, &object).await.is(201);
    }
    let (mut found, mut token, mut version) = (Vec::new(), String::new(), Value::Null);
    loop {
        let page = api.get(&format!("{templates}?limit=17&continue={token}")).await.is(200);
        let items = page["items"].as_array().expect("items").clone();
        assert!(items.len() <= 17);
        found.extend(names(&items));
        if version.is_null() {
            version = page["metadata"]["resourceVersion"].clone();
        }
        assert_eq!(page["metadata"]["resourceVersion"], version, "one snapshot");
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        let left = page["metadata"]["remainingItemCount"].as_i64();
        match token.as_str() {
            "" => assert!(left.is_none()),
            _ => assert_eq!(left, Some(40 - i64::try_from(found.len()).expect("few"))),
        }
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..40).map(|n| format!("template-{n:04}")).collect();
    assert_eq!(found, expected);
    let whole = api.get(&format!("{templates}?limit=500")).await.is(200);
    assert_eq!(whole["items"].as_array().map(Vec::len), Some(40));
}

#[tokio::test]
async fn a_namespace_is_updated_and_finalized() {
    let api = Api::connect().await;
    let name = api.namespace("namespaces").await;
    let path = format!("/api/v1/namespaces/{name}");
    let mut namespace = api.get(&path).await.is(200);
    namespace["metadata"]["labels"][&name] = "updated".into();
    let updated = api.put(&path, &namespace).await.is(200);
    assert_eq!(updated["metadata"]["labels"][&name], "updated");
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    let patched = api.patch(&path, super::harness::STRATEGIC, &patch).await.is(200);
    assert_eq!(patched["metadata"]["labels"]["testLabel"], "testValue");
    let status = json!({"metadata": {"annotations": {"e2e": "patched-status"}}, "status": {
        "conditions": [{"type": "StatusPatch", "status": "True", "reason": "E2E",
            "message": "Patched by an e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let patched = api.patch(&format!("{path}/status"), MERGE, &status).await.is(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatch");
    let mut namespace = api.get(&path).await.is(200);
    let finalizers = namespace["spec"]["finalizers"].as_array_mut().expect("finalizers");
    finalizers.push("e2e.example.com/fakeFinalizer".into());
    let finalized = api.put(&format!("{path}/finalize"), &namespace).await.is(200);
    assert!(finalized["spec"]["finalizers"].to_string().contains("fakeFinalizer"));
    let mut namespace = api.get(&path).await.is(200);
    namespace["spec"]["finalizers"] = json!(["kubernetes"]);
    let finalized = api.put(&format!("{path}/finalize"), &namespace).await.is(200);
    assert_eq!(finalized["spec"]["finalizers"], json!(["kubernetes"]));
}

#[tokio::test]
async fn the_services_of_a_namespace_go_with_it() {
    let _whole = API_SERVICES.read().await;
    let api = Api::connect().await;
    let name = api.namespace("nsdeletetest").await;
    let services = format!("/api/v1/namespaces/{name}/services");
    let service = json!({"metadata": {"name": "test-service"},
        "spec": {"selector": {"foo": "bar"}, "ports": [{"port": 80, "targetPort": 80}]}});
    api.post(&services, &service).await.is(201);
    api.delete(&format!("/api/v1/namespaces/{name}")).await;
    api.eventually(&format!("/api/v1/namespaces/{name}"), |answer| answer.code == 404).await;
    let again = json!({"metadata": {"name": name}});
    api.post("/api/v1/namespaces", &again).await.is(201);
    assert_eq!(api.get(&format!("{services}/test-service")).await.code, 404);
}

#[tokio::test]
async fn unknown_and_doubled_fields_of_a_typed_object_are_told() {
    let api = Api::connect().await;
    let namespace = api.namespace("field-validation").await;
    let path = format!(
        "/apis/apps/v1/namespaces/{namespace}/deployments?fieldManager=mgr&fieldValidation=Strict"
    );
    let template = r#""selector":{"matchLabels":{"app":"nginx"}},"template":{"metadata":{"labels":
        {"app":"nginx"}},"spec":{"containers":[{"name":"nginx","image":"nginx:latest"}]}}"#;
    for (metadata, spec, says) in [
        (
            "",
            r#""unknownField":"foo","replicas":2,"replicas":3,"#,
            r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#,
        ),
        (
            r#","unknownMeta":"foo""#,
            "",
            r#"strict decoding error: unknown field "metadata.unknownMeta""#,
        ),
    ] {
        let body = format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"my-dep"{metadata}}},
            "spec":{{{spec}{template}}}}}"#
        );
        // Without a content type, as the suite sends it.
        let answer = api.send(Method::POST, &path, &[], body).await;
        assert_eq!(answer.code, 400);
        assert!(answer.message().contains(says), "{}", answer.message());
    }
}
