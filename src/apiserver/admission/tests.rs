//! What each plugin makes of a write, over a registry in memory.

use std::sync::Arc;

use serde_json::{Value, json};

use super::default_tolerations::DefaultTolerationSeconds;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::priority::Priority;
use super::service_account::{MOUNT_PATH, ServiceAccount};
use super::taint_nodes::TaintNodesByCondition;
use super::*;
use crate::api::kinds::KindTable;
use crate::apiserver::registry::{Registry, RegistryConfig};
use crate::apiserver::strategy::Strategy;
use crate::base::clock::SystemClock;
use crate::base::rng::Rng;
use crate::store::memory::MemoryStore;

/// A kind that says nothing else.
struct Plain;

impl Strategy for Plain {}

async fn registry() -> Arc<Registry> {
    let registry = Registry::new(RegistryConfig {
        store: Arc::new(MemoryStore::new()),
        kinds: KindTable::builtin(),
        strategies: Arc::new(|_| Arc::new(Plain)),
        clock: SystemClock::shared(),
        rng: Rng::seeded(1),
    });
    for name in ["default", "ending"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "finalizers": ["example.com/held"]}});
        registry.create(("", "namespaces"), "", namespace).await.expect("created");
    }
    registry.delete(("", "namespaces"), "", "ending").await.expect("its finalizer holds it");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default"},
        "imagePullSecrets": [{"name": "pull"}]});
    registry.create(("", "serviceaccounts"), "default", account).await.expect("created");
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 1000});
    registry.create(("scheduling.k8s.io", "priorityclasses"), "", class).await.expect("created");
    registry
}

async fn run(
    plugin: &dyn Plugin,
    (operation, kind, resource): (Operation, &str, &str),
    (namespace, name): (&str, &str),
    object: &mut Value,
) -> Result<(), ApiError> {
    let attributes = Attributes {
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let user = UserInfo::default();
    let plain: crate::apiserver::catalog::Strategies = Arc::new(|_| Arc::new(Plain));
    let catalog = crate::apiserver::catalog::Catalog::new(KindTable::builtin(), &plain);
    let told = Told::default();
    let request = Request {
        operation,
        attributes: &attributes,
        user: &user,
        kind,
        resource: catalog.resource("", "v1", resource).expect("a core resource"),
        old: None,
        dry_run: false,
        again: false,
        told: &told,
    };
    plugin.admit(&request, object).await?;
    plugin.validate(&request, object).await
}

const NEW_POD: (Operation, &str, &str) = (Operation::Create, "Pod", "pods");

fn pod(spec: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn nothing_is_created_where_there_is_no_namespace() {
    let plugin = NamespaceLifecycle::new(registry().await);
    let mut object = pod(&json!({}));
    run(&plugin, NEW_POD, ("default", "p"), &mut object).await.expect("let through");
    let missing = run(&plugin, NEW_POD, ("nowhere", "p"), &mut object).await.unwrap_err();
    assert_eq!(missing.message, "namespaces \"nowhere\" not found");
    let ending = run(&plugin, NEW_POD, ("ending", "p"), &mut object).await.unwrap_err();
    assert!(ending.message.contains("because it is being terminated"), "{}", ending.message);
    assert!(ending.to_status().to_string().contains("NamespaceTerminating"));
    let delete = (Operation::Delete, "Namespace", "namespaces");
    let kept = run(&plugin, delete, ("default", "default"), &mut object).await.unwrap_err();
    assert_eq!(
        kept.message,
        "namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn a_pod_gets_its_account_and_the_accounts_token() {
    let plugin = ServiceAccount::new(registry().await, Rng::seeded(1));
    let mut object = pod(&json!({}));
    run(&plugin, NEW_POD, ("default", "p"), &mut object).await.expect("let through");
    let spec = &object["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["imagePullSecrets"][0]["name"], "pull");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
    assert!(spec.get("initContainers").is_none(), "a list that is not there stays away");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], spec["volumes"][0]["name"]);

    let mut declined = pod(&json!({"automountServiceAccountToken": false}));
    run(&plugin, NEW_POD, ("default", "p"), &mut declined).await.expect("let through");
    assert!(declined["spec"]["volumes"].is_null());

    let mut own = pod(&json!({}));
    own["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "x", "mountPath": MOUNT_PATH}]);
    run(&plugin, NEW_POD, ("default", "p"), &mut own).await.expect("let through");
    assert!(own["spec"]["volumes"].is_null());

    let mut nobody = pod(&json!({"serviceAccountName": "nobody"}));
    let error = run(&plugin, NEW_POD, ("default", "p"), &mut nobody).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: error looking up service account default/nobody: \
         serviceaccount \"nobody\" not found"
    );
}

#[tokio::test]
async fn a_priority_is_that_of_the_class() {
    let plugin = Priority::new(registry().await);
    let mut object = pod(&json!({"priorityClassName": "high"}));
    run(&plugin, NEW_POD, ("default", "p"), &mut object).await.expect("let through");
    assert_eq!(object["spec"]["priority"], 1000);
    assert_eq!(object["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    let mut plain = pod(&json!({}));
    run(&plugin, NEW_POD, ("default", "p"), &mut plain).await.expect("let through");
    assert_eq!(plain["spec"]["priority"], 0);
    for wrong in [json!({"priorityClassName": "none"}), json!({"priority": 7})] {
        let refused = run(&plugin, NEW_POD, ("default", "p"), &mut pod(&wrong)).await;
        assert!(refused.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn tolerations_are_added_where_none_is_said() {
    let plugin = DefaultTolerationSeconds { not_ready_seconds: 7, unreachable_seconds: 8 };
    let said = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]);
    let mut object = pod(&json!({"tolerations": said}));
    run(&plugin, NEW_POD, ("default", "p"), &mut object).await.expect("let through");
    let all = object["spec"]["tolerations"].as_array().expect("a list");
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["key"], "node.kubernetes.io/not-ready");
    assert_eq!(all[1]["tolerationSeconds"], 7);
}

#[tokio::test]
async fn a_new_node_is_tainted_once() {
    let mut node = json!({"metadata": {"name": "n"}});
    for _ in 0..2 {
        let new = (Operation::Create, "Node", "nodes");
        run(&TaintNodesByCondition, new, ("", "n"), &mut node).await.expect("let through");
    }
    assert_eq!(node["spec"]["taints"].as_array().map(Vec::len), Some(1));
}
