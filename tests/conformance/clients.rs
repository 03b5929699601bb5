//! What everyday clients do: an operator with the habits of controller-runtime, and Helm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::harness::{Api, MERGE, unique};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FINALIZER: &str = "echoes.example.com/cleanup";

struct Operator {
    client: kube::Client,
    echo: ApiResource,
    namespace: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl Operator {
    fn echoes(&self) -> kube::Api<DynamicObject> {
        kube::Api::namespaced_with(self.client.clone(), &self.namespace, &self.echo)
    }

    /// A ConfigMap of the echo's own that says what it says, and a status that tells of it.
    async fn apply(&self, echo: &DynamicObject) -> Result<Action, kube::Error> {
        let name = echo.name_any();
        let owner = echo.controller_owner_ref(&self.echo).expect("a stored object has a uid");
        let text = echo.data["spec"]["text"].as_str().unwrap_or_default().to_owned();
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![owner]),
                ..Default::default()
            },
            data: Some(BTreeMap::from([("text".to_owned(), text)])),
            ..Default::default()
        };
        let maps: kube::Api<ConfigMap> =
            kube::Api::namespaced(self.client.clone(), &self.namespace);
        let by = PatchParams::apply("echo-operator").force();
        maps.patch(&name, &by, &Patch::Apply(&map)).await?;
        let status = json!({
            "apiVersion": self.echo.api_version, "kind": self.echo.kind,
            "status": {"observedGeneration": echo.metadata.generation, "ready": true}});
        self.echoes().patch_status(&name, &by, &Patch::Apply(&status)).await?;
        Ok(Action::requeue(Duration::from_secs(300)))
    }

    /// What the echo has left elsewhere goes with it.
    async fn cleanup(&self, echo: &DynamicObject) -> Result<Action, kube::Error> {
        let maps: kube::Api<ConfigMap> =
            kube::Api::namespaced(self.client.clone(), &self.namespace);
        let left = json!({"data": {echo.name_any(): "gone"}});
        maps.patch("log", &PatchParams::default(), &Patch::Merge(&left)).await?;
        Ok(Action::await_change())
    }
}

async fn reconcile(echo: Arc<DynamicObject>, operator: Arc<Operator>) -> Result<Action, Failed> {
    let echoes = operator.echoes();
    let done = finalizer(&echoes, FINALIZER, echo, |event| {
        let operator = operator.clone();
        async move {
            match event {
                Event::Apply(echo) => operator.apply(&echo).await,
                Event::Cleanup(echo) => operator.cleanup(&echo).await,
            }
        }
    })
    .await;
    done.map_err(|error| Failed(error.to_string()))
}

async fn define(api: &Api) -> String {
    let group = format!("{}.example.com", unique("operator"));
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["text"],
            "properties": {"text": {"type": "string", "maxLength": 20}}},
        "status": {"type": "object", "properties": {
            "observedGeneration": {"type": "integer"}, "ready": {"type": "boolean"}}}}});
    let definition = json!({"metadata": {"name": format!("echoes.{group}")}, "spec": {
        "group": group, "scope": "Namespaced", "names": {"plural": "echoes", "singular": "echo",
            "kind": "Echo", "listKind": "EchoList"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]}});
    api.post(DEFINITIONS, &definition).await.is(201);
    group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_keeps_its_objects_and_cleans_up_behind_them() {
    let api = Api::connect().await;
    let namespace = api.namespace("operator").await;
    let group = define(&api).await;
    let gvk = GroupVersionKind::gvk(&group, "v1", "Echo");
    let echo = ApiResource::from_gvk_with_plural(&gvk, "echoes");
    let client = api.client();
    let operator = Arc::new(Operator {
        client: client.clone(),
        echo: echo.clone(),
        namespace: namespace.clone(),
    });
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, &namespace);
    let controller =
        Controller::new_with(operator.echoes(), watcher::Config::default(), echo.clone())
            .owns(maps, watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), operator.clone())
            .for_each(|_| async {});
    let running = tokio::spawn(controller);

    let core = format!("/api/v1/namespaces/{namespace}/configmaps");
    api.post(&core, &json!({"metadata": {"name": "log"}})).await.is(201);
    let echoes = format!("/apis/{group}/v1/namespaces/{namespace}/echoes");
    let object = |text: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "Echo", "metadata": {"name": "one"},
            "spec": {"text": text}})
    };
    assert_eq!(api.post(&echoes, &object(&"x".repeat(21))).await.code, 422);
    api.post(&echoes, &object("hello")).await.is(201);
    let child = format!("{core}/one");
    let made = api.eventually(&child, |answer| answer.body["data"]["text"] == "hello").await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "Echo");
    let one = format!("{echoes}/one");
    let observed = |generation: i64| {
        move |answer: &super::harness::Answer| {
            answer.body["status"]["observedGeneration"] == generation
        }
    };
    let read = api.eventually(&one, observed(1)).await;
    assert_eq!(read["metadata"]["finalizers"], json!([FINALIZER]));
    api.patch(&one, MERGE, &json!({"spec": {"text": "bye"}})).await.is(200);
    api.eventually(&child, |answer| answer.body["data"]["text"] == "bye").await;
    api.eventually(&one, observed(2)).await;
    api.delete(&child).await.is(200);
    api.eventually(&child, |answer| answer.body["data"]["text"] == "bye").await;
    let ending = api.delete(&one).await.is(200);
    assert!(ending["metadata"]["deletionTimestamp"].is_string(), "its finalizer holds it");
    api.eventually(&one, |answer| answer.code == 404).await;
    api.eventually(&child, |answer| answer.code == 404).await;
    let log = api.get(&format!("{core}/log")).await.is(200);
    assert_eq!(log["data"]["one"], "gone");
    running.abort();
}

#[tokio::test]
async fn one_of_two_operators_leads_by_its_lease() {
    let api = Api::connect().await;
    let namespace = api.namespace("leader").await;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let lease = |holder: &str, transitions: i64| {
        json!({"metadata": {"name": "lock"}, "spec": {"holderIdentity": holder,
            "leaseDurationSeconds": 15, "leaseTransitions": transitions,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:00.000000Z"}})
    };
    let made = api.post(&leases, &lease("a", 0)).await.is(201);
    assert_eq!(api.post(&leases, &lease("b", 0)).await.code, 409, "the other one was first");
    let one = format!("{leases}/lock");
    let (mut first, mut second) = (made.clone(), made);
    first["spec"]["renewTime"] = "2026-01-01T00:00:10.000000Z".into();
    second["spec"]["holderIdentity"] = "b".into();
    api.put(&one, &first).await.is(200);
    let lost = api.put(&one, &second).await;
    assert_eq!((lost.code, lost.body["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(api.get(&one).await.is(200)["spec"]["holderIdentity"], "a");
}

/// A release as Helm stores it.
fn release(name: &str, version: u32, status: &str) -> Value {
    let label = version.to_string();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": format!("sh.helm.release.v1.{name}.v{version}"), "labels": {
            "name": name, "owner": "helm", "status": status, "version": label,
            "modifiedAt": "1700000000"}},
        "data": {"release": "SDRzSUFBQUFBQUFB".repeat(20_000)}})
}

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls_a_release() {
    let api = Api::connect().await;
    let namespace = api.namespace("helm").await;
    let name = "demo";
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    let selected =
        |status: &str| format!("{secrets}?labelSelector=name%3D{name}%2Cowner%3Dhelm{status}");
    // Is there a release of that name, and is the cluster one that it knows?
    assert!(api.items(&selected("")).await.is_empty());
    api.get("/version").await.is(200);
    api.get("/openapi/v3").await.is(200);
    api.post(&secrets, &release(name, 1, "pending-install")).await.is(201);
    let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let manifest = |image: &str| {
        let labels = json!({"app.kubernetes.io/name": name});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name,
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": name,
                "meta.helm.sh/release-namespace": namespace}},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    assert_eq!(api.get(&format!("{deployments}/{name}")).await.code, 404);
    let by = format!("{deployments}?fieldManager=helm&fieldValidation=Warn");
    api.post(&by, &manifest("demo:1")).await.is(201);
    let first = format!("{secrets}/sh.helm.release.v1.{name}.v1");
    let ready = |answer: &super::harness::Answer| {
        let (status, metadata) = (&answer.body["status"], &answer.body["metadata"]);
        status["observedGeneration"] == metadata["generation"]
    };
    api.eventually(&format!("{deployments}/{name}"), ready).await;
    api.put(&first, &release(name, 1, "deployed")).await.is(200);
    assert_eq!(api.items(&selected("%2Cstatus%3Ddeployed")).await.len(), 1);

    // An upgrade: a strategic merge patch of what changed, and a release more.
    api.post(&secrets, &release(name, 2, "pending-upgrade")).await.is(201);
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "c"}],
        "containers": [{"name": "c", "image": "demo:2"}]}}}});
    let path = format!("{deployments}/{name}?fieldManager=helm");
    let upgraded = api.patch(&path, super::harness::STRATEGIC, &patch).await.is(200);
    assert_eq!(upgraded["spec"]["template"]["spec"]["containers"][0]["image"], "demo:2");
    api.put(&first, &release(name, 1, "superseded")).await.is(200);
    let second = format!("{secrets}/sh.helm.release.v1.{name}.v2");
    api.put(&second, &release(name, 2, "deployed")).await.is(200);
    let found = api.items(&selected("%2Cstatus%3Ddeployed")).await;
    assert_eq!(found[0]["metadata"]["labels"]["version"], "2");

    // Helm 4 applies on the server.
    let yaml = manifest("demo:3").to_string();
    let path = format!("{deployments}/{name}?fieldManager=helm&force=true");
    let headers = [("content-type", super::harness::APPLY)];
    let applied = api.send(http::Method::PATCH, &path, &headers, yaml).await.is(200);
    assert_eq!(applied["spec"]["template"]["spec"]["containers"][0]["image"], "demo:3");

    let foreground = json!({"propagationPolicy": "Background"});
    api.delete_with(&format!("{deployments}/{name}"), &foreground).await.is(200);
    for one in [first, second] {
        api.delete(&one).await.is(200);
    }
    assert!(api.items(&selected("")).await.is_empty());
}
