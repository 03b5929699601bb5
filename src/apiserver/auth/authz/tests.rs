//! Who may do what, decision by decision.

use std::time::Instant;

use serde_json::{Value, json};

use crate::apiserver::auth::tests::{Cluster, admin, node, user};
use crate::apiserver::auth::{Attributes, Decision, UserInfo};

/// `VERB GROUP/RESOURCE[/SUBRESOURCE] [NAMESPACE:]NAME`, the core group being empty.
fn ask(text: &str) -> Attributes {
    let mut words = text.split(' ');
    let (verb, resource) = (words.next().expect("a verb"), words.next().expect("a resource"));
    let name = words.next().unwrap_or_default();
    let mut parts = resource.split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (group, resource, subresource) = (next(), next(), next());
    let (namespace, name) = name.split_once(':').unwrap_or(("", name));
    Attributes {
        verb: verb.to_owned(),
        group,
        version: "v1".to_owned(),
        resource,
        subresource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

async fn decide(cluster: &Cluster, user: &UserInfo, asked: &Attributes) -> Result<(), String> {
    match cluster.auth.authorizer.authorize(user, asked).await {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(reason.unwrap_or_default()),
    }
}

const UNRELATED: &str = "no relationship found between node 'a' and this object";

/// A node `a` with a pod that needs things, and things that it does not need.
async fn node_cluster() -> Cluster {
    let cluster = Cluster::bootstrapped().await;
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    let volume = |name: &str, claim: &str, secret: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": claim},
            "csi": {"driver": "d", "volumeHandle": name,
                "nodeStageSecretRef": {"namespace": "kube-system", "name": secret}},
        }})
    };
    cluster.put(volume("pv-mine", "data", "stage")).await;
    cluster.put(volume("pv-other", "elsewhere", "hidden")).await;
    cluster
        .put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta("data"),
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv-mine",
                "resources": {"requests": {"storage": "1Gi"}}}}))
        .await;
    for (name, on) in [("va-mine", "a"), ("va-other", "b")] {
        cluster
            .put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
                "metadata": {"name": name},
                "spec": {"attacher": "d", "nodeName": on,
                    "source": {"persistentVolumeName": "pv-mine"}}}))
            .await;
    }
    cluster
        .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("mine"), "spec": {
            "nodeName": "a", "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "image": "i",
                "envFrom": [{"configMapRef": {"name": "env"}}]}],
            "volumes": [
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "s", "secret": {"secretName": "mounted"}},
            ],
        }}))
        .await;
    cluster
        .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("theirs"), "spec": {
            "nodeName": "b", "serviceAccountName": "other",
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "s", "secret": {"secretName": "hidden"}}],
        }}))
        .await;
    cluster
}

#[tokio::test]
async fn a_node_may_do_what_its_pods_need() {
    let cluster = node_cluster().await;
    for asked in [
        "get /secrets default:mounted",
        "watch /secrets default:mounted",
        "list /secrets default:pull",
        "get /secrets kube-system:stage",
        "get /configmaps default:env",
        "get /persistentvolumeclaims default:data",
        "patch /persistentvolumeclaims/status default:data",
        "get /persistentvolumes pv-mine",
        "get storage.k8s.io/volumeattachments va-mine",
        "create /serviceaccounts/token default:robot",
        "get /serviceaccounts default:robot",
        "get /pods default:mine",
        "create /pods default:",
        "delete /pods default:mine",
        "patch /pods/status default:mine",
        "create /pods/eviction default:mine",
        "create /nodes ",
        "get /nodes a",
        "watch /nodes a",
        "patch /nodes/status a",
        "create coordination.k8s.io/leases kube-node-lease:",
        "update coordination.k8s.io/leases kube-node-lease:a",
        "update storage.k8s.io/csinodes a",
        "create certificates.k8s.io/certificatesigningrequests ",
        "get certificates.k8s.io/certificatesigningrequests csr-1",
        "create /events default:",
        "list /services ",
        "list node.k8s.io/runtimeclasses ",
        "create authentication.k8s.io/tokenreviews ",
        "create authorization.k8s.io/subjectaccessreviews ",
        "create /serviceaccounts/token kube-system:coracle-net",
    ] {
        assert_eq!(decide(&cluster, &node("a"), &ask(asked)).await, Ok(()), "{asked}");
    }
}

#[tokio::test]
async fn a_node_may_do_nothing_else() {
    let cluster = node_cluster().await;
    let one = "can only get individual resources of this type";
    let lease = "can only access node lease with the same name as the requesting node";
    for (asked, reason) in [
        ("get /secrets default:hidden", UNRELATED),
        ("get /secrets other:mounted", UNRELATED),
        ("get /secrets kube-system:hidden", UNRELATED),
        ("list /secrets default:", "No Object name found"),
        ("list /secrets ", "can only read namespaced object of this type"),
        ("update /secrets default:mounted", "can only read resources of this type"),
        ("get /configmaps default:other", UNRELATED),
        ("list /persistentvolumeclaims default:data", one),
        ("get /persistentvolumes pv-other", UNRELATED),
        ("get storage.k8s.io/volumeattachments va-other", UNRELATED),
        ("create /serviceaccounts/token default:other", UNRELATED),
        ("create /serviceaccounts/token kube-system:default", UNRELATED),
        (
            "list /serviceaccounts default:",
            "can only create tokens for individual service accounts",
        ),
        ("get /pods default:theirs", UNRELATED),
        ("list /pods ", "can only list/watch pods with spec.nodeName field selector"),
        ("update /pods default:mine", ""),
        ("get /nodes b", "node 'a' cannot read 'b', only its own Node object"),
        ("list /nodes ", "node 'a' cannot read all nodes, only its own Node object"),
        ("delete /nodes a", ""),
        ("update coordination.k8s.io/leases kube-node-lease:b", lease),
        (
            "update coordination.k8s.io/leases kube-system:a",
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            "get storage.k8s.io/csinodes b",
            "can only access CSINode with the same name as the requesting node",
        ),
        ("delete certificates.k8s.io/certificatesigningrequests csr-1", ""),
        ("create apps/deployments default:", ""),
        ("get /namespaces default", ""),
    ] {
        let told = decide(&cluster, &node("a"), &ask(asked)).await;
        assert_eq!(told, Err(reason.to_owned()), "{asked}");
    }
    let mut pods = ask("list /pods ");
    pods.field_selector = vec![("spec.nodeName".to_owned(), "a".to_owned())];
    assert_eq!(decide(&cluster, &node("a"), &pods).await, Ok(()));
    pods.field_selector[0].1 = "b".to_owned();
    assert!(decide(&cluster, &node("a"), &pods).await.is_err());
}

#[tokio::test]
async fn a_user_that_only_calls_itself_a_node_is_none() {
    let cluster = node_cluster().await;
    let asked = ask("get /secrets default:mounted");
    assert!(decide(&cluster, &user("system:node:a", &[]), &asked).await.is_err());
    assert!(decide(&cluster, &user("a", &["system:nodes"]), &asked).await.is_err());
    let nameless = user("system:node:", &["system:nodes"]);
    let told = decide(&cluster, &nameless, &asked).await;
    assert_eq!(told, Err("unknown node for user \"system:node:\"".to_owned()));
}

#[tokio::test]
async fn what_a_pod_needed_goes_with_it() {
    let cluster = node_cluster().await;
    let asked = ask("get /secrets default:mounted");
    assert_eq!(decide(&cluster, &node("a"), &asked).await, Ok(()));
    assert!(cluster.registry.delete(("", "pods"), "default", "mine").await.expect("deleted"));
    for _ in 0..100 {
        if decide(&cluster, &node("a"), &asked).await.is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the node of a pod that is gone still reads its secret");
}

#[tokio::test]
async fn roles_give_what_they_say_to_whom_they_are_bound() {
    let cluster = Cluster::bootstrapped().await;
    let alice = json!({"kind": "User", "name": "alice"});
    cluster.bind("edit", "default", alice).await;
    cluster.bind("view", "", json!({"kind": "Group", "name": "auditors"})).await;
    // An account of the binding's own namespace may be named without it.
    cluster.bind("admin", "team", json!({"kind": "ServiceAccount", "name": "robot"})).await;
    let alice = user("alice", &[]);
    let auditor = user("bob", &["auditors"]);
    let robot = user("system:serviceaccount:team:robot", &["system:serviceaccounts"]);
    let other = user("system:serviceaccount:default:robot", &["system:serviceaccounts"]);
    for (who, asked, expected) in [
        (&alice, "create /pods default:", true),
        (&alice, "get /secrets default:s", true),
        (&alice, "update apps/deployments/scale default:web", true),
        (&alice, "create /pods/exec default:p", true),
        (&alice, "create rbac.authorization.k8s.io/roles default:", false),
        (&alice, "create /pods other:", false),
        (&alice, "list /pods ", false),
        (&alice, "update /resourcequotas default:q", false),
        (&auditor, "list /pods ", true),
        (&auditor, "get /pods/log default:p", true),
        (&auditor, "list /secrets ", false),
        (&auditor, "create /pods default:", false),
        (&auditor, "list /nodes ", false),
        (&robot, "create rbac.authorization.k8s.io/rolebindings team:", true),
        (&robot, "create rbac.authorization.k8s.io/rolebindings default:", false),
        (&other, "get /pods team:p", false),
        (&admin(), "delete /nodes a", true),
        (&user("system:serviceaccount:kube-system:coracle-net", &[]), "watch /services ", true),
        (&user("x", &[]), "create authorization.k8s.io/selfsubjectaccessreviews ", true),
    ] {
        let told = decide(&cluster, who, &ask(asked)).await;
        assert_eq!(told.is_ok(), expected, "{} {asked}: {told:?}", who.name);
    }
}

#[tokio::test]
async fn a_role_and_a_binding_that_change_decide_anew() {
    let cluster = Cluster::empty().await;
    let group = "rbac.authorization.k8s.io";
    let role = |verb: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role",
            "metadata": {"name": "r", "namespace": "default"},
            "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    };
    let binding = |subject: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
            "metadata": {"name": "b", "namespace": "default"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": subject}]})
    };
    let (alice, bob) = (user("alice", &[]), user("bob", &[]));
    let (get, list) = (ask("get /pods default:p"), ask("list /pods default:"));
    cluster.put(binding("alice")).await;
    let missing = "RBAC: role.rbac.authorization.k8s.io \"r\" not found";
    assert_eq!(decide(&cluster, &alice, &get).await, Err(missing.to_owned()));
    cluster.put(role("get")).await;
    assert_eq!(decide(&cluster, &alice, &get).await, Ok(()));
    let update = |object: Value| {
        let plural = if object["kind"] == "Role" { "roles" } else { "rolebindings" };
        let part = crate::apiserver::strategy::Part::Main;
        let registry = cluster.registry.clone();
        async move { registry.update((group, plural), part, object).await.expect("updated") }
    };
    update(role("list")).await;
    assert_eq!(decide(&cluster, &alice, &list).await, Ok(()));
    assert!(decide(&cluster, &alice, &get).await.is_err());
    update(binding("bob")).await;
    assert_eq!(decide(&cluster, &bob, &list).await, Ok(()));
    assert!(decide(&cluster, &alice, &list).await.is_err());
}

#[tokio::test]
async fn the_parts_of_the_cluster_may_do_what_they_do() {
    let cluster = node_cluster().await;
    let scheduler = user("system:kube-scheduler", &[]);
    let network = user("system:serviceaccount:kube-system:coracle-net", &[]);
    let joining = user("system:bootstrap:abcdef", &["system:bootstrappers"]);
    for (who, all) in [
        (
            &scheduler,
            &[
                "watch /pods ",
                "watch /nodes ",
                "watch /services ",
                "create /pods/binding default:p",
                "patch /pods/status default:p",
                "delete /pods default:p",
                "create /events default:",
                "patch /events default:e",
                "create coordination.k8s.io/leases kube-system:",
                "get coordination.k8s.io/leases kube-system:kube-scheduler",
                "update coordination.k8s.io/leases kube-system:kube-scheduler",
            ][..],
        ),
        (
            &network,
            &[
                "watch /services ",
                "watch /pods ",
                "watch /nodes ",
                "watch /namespaces ",
                "watch discovery.k8s.io/endpointslices ",
                "watch networking.k8s.io/networkpolicies ",
            ][..],
        ),
        (
            &joining,
            &[
                "create certificates.k8s.io/certificatesigningrequests ",
                "get certificates.k8s.io/certificatesigningrequests csr",
            ][..],
        ),
    ] {
        for asked in all {
            assert_eq!(decide(&cluster, who, &ask(asked)).await, Ok(()), "{} {asked}", who.name);
        }
        let secrets = decide(&cluster, who, &ask("list /secrets kube-system:")).await;
        assert!(secrets.is_err(), "{} reads secrets", who.name);
    }
}

/// Among thousands of bindings of others, a decision is a few lookups.
#[tokio::test]
async fn a_decision_costs_no_more_for_the_bindings_of_others() {
    let cluster = Cluster::bootstrapped().await;
    for at in 0..2_000 {
        let subject = json!({"kind": "User", "name": format!("user-{at}")});
        cluster.bind("view", if at % 2 == 0 { "default" } else { "" }, subject).await;
    }
    let (who, asked) = (user("user-7", &["a", "b"]), ask("list /pods default:"));
    for _ in 0..1_000 {
        if decide(&cluster, &who, &asked).await.is_ok() {
            break;
        }
    }
    let (started, count) = (Instant::now(), 2_000);
    for _ in 0..count {
        assert_eq!(decide(&cluster, &who, &asked).await, Ok(()));
    }
    // Some microseconds without optimisation; the bound leaves room for a machine under load.
    let each = started.elapsed() / count;
    assert!(each < std::time::Duration::from_millis(1), "{each:?} a decision");
}
