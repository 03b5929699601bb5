//! What admission refuses, through the router, so that what authorizes stands in front of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::apiserver::auth::UserInfo;
use crate::apiserver::auth::tests::{Cluster, Who, admin, node, user};
use crate::link::identity::CertificateRequest;

async fn send(
    cluster: &Cluster,
    who: &UserInfo,
    method: &Method,
    path: &str,
    body: &Value,
) -> (u16, String) {
    let who = Who::User(who.clone());
    let (code, answer) = cluster.send(who, method.clone(), path, body).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_node_registers_itself_and_nobody_else() {
    let cluster = Cluster::bootstrapped().await;
    let named = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let own = json!({"kubernetes.io/hostname": "a", "coracle.dev/runtime": "wasm",
        "node.kubernetes.io/x": "y"});
    let a = node("a");
    let create = |body: Value| {
        let (cluster, a) = (&cluster, &a);
        async move { send(cluster, a, &POST, "/api/v1/nodes", &body).await }
    };
    let (code, message) = create(named("b", json!({}))).await;
    let words = "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"";
    assert_eq!((code, message.as_str()), (403, words));
    let steered = json!({"team.node-restriction.kubernetes.io/x": "y",
        "node-role.kubernetes.io/master": ""});
    let (code, message) = create(named("a", steered)).await;
    let words = "node \"a\" is not allowed to set the following labels: \
                 node-role.kubernetes.io/master, team.node-restriction.kubernetes.io/x";
    assert!(code == 403 && message.ends_with(words), "{message}");
    let (code, message) = create(named("a", own)).await;
    assert_eq!(code, 201, "{message}");

    let patch = |body: Value| {
        let (cluster, a) = (&cluster, &a);
        async move { send(cluster, a, &PATCH, "/api/v1/nodes/a", &body).await }
    };
    for (body, words) in [
        (
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}),
            "is not allowed to modify labels: node-restriction.kubernetes.io/x",
        ),
        (
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            "node \"a\" is not allowed to modify taints",
        ),
        (
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u"}]}}),
            "node \"a\" is not allowed to modify ownerReferences",
        ),
    ] {
        let (code, message) = patch(body).await;
        assert!(code == 403 && message.ends_with(words), "{code} {message}");
    }
    let (code, message) = patch(json!({"metadata": {"labels": {"mine": "x"}}})).await;
    assert_eq!(code, 200, "{message}");
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, message) = send(&cluster, &a, &PATCH, "/api/v1/nodes/a/status", &status).await;
    assert_eq!(code, 200, "{message}");
    let (code, _) = send(&cluster, &node("b"), &PATCH, "/api/v1/nodes/a/status", &status).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn a_node_writes_the_status_of_its_pods_and_ends_them() {
    let cluster = Cluster::bootstrapped().await;
    cluster.pod("mine", "a").await;
    cluster.pod("theirs", "b").await;
    let (a, status) = (node("a"), json!({"status": {"phase": "Running"}}));
    let (code, message) = send(&cluster, &a, &PATCH, &format!("{PODS}/mine/status"), &status).await;
    assert_eq!(code, 200, "{message}");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "theirs", "namespace": "default"}});
    let labels = json!({"metadata": {"labels": {"app": "x"}}});
    for (method, path, body, words) in [
        (
            PATCH,
            "theirs/status",
            status.clone(),
            "node \"a\" can only update pod status for pods with spec.nodeName set to itself",
        ),
        (PATCH, "mine/status", labels, "node \"a\" cannot update labels through pod status"),
        (
            DELETE,
            "theirs",
            Value::Null,
            "node \"a\" can only delete pods with spec.nodeName set to itself",
        ),
        (
            POST,
            "theirs/eviction",
            eviction,
            "node a can only evict pods with spec.nodeName set to itself",
        ),
    ] {
        let (code, message) = send(&cluster, &a, &method, &format!("{PODS}/{path}"), &body).await;
        assert!(code == 403 && message.ends_with(words), "{path} {code} {message}");
    }
    let options = json!({"gracePeriodSeconds": 0});
    let (code, message) = send(&cluster, &a, &DELETE, &format!("{PODS}/mine"), &options).await;
    assert_eq!(code, 200, "{message}");
}

#[tokio::test]
async fn a_node_tells_of_pods_that_it_runs_by_itself_and_makes_no_others() {
    let cluster = Cluster::bootstrapped().await;
    let n =
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    let a = node("a");
    let mirror = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "static-a", "namespace": "default",
            "annotations": {"kubernetes.io/config.mirror": "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a",
                "uid": n["metadata"]["uid"], "controller": true}],
        },
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
    });
    let changed = |path: &[&str], value: Value| {
        let mut pod = mirror.clone();
        let (last, parents) = path.split_last().expect("a path");
        let at = parents.iter().fold(&mut pod, |at, key| &mut at[*key]);
        at[*last] = value;
        pod
    };
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        for (key, value) in source.as_object().expect("a source") {
            volume[key] = value.clone();
        }
        changed(&["spec", "volumes"], json!([volume]))
    };
    for (pod, words) in [
        (
            changed(&["metadata", "annotations"], json!({})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only \
             create mirror pods",
        ),
        (
            changed(&["spec", "nodeName"], json!("b")),
            "node \"a\" can only create pods with spec.nodeName set to itself",
        ),
        (
            changed(&["metadata", "ownerReferences"], json!([])),
            "node \"a\" can only create pods with an owner reference set to itself",
        ),
        (
            changed(&["spec", "serviceAccountName"], json!("robot")),
            "node \"a\" can not create pods that reference a service account",
        ),
        (
            volume(json!({"secret": {"secretName": "s"}})),
            "node \"a\" can not create pods that reference secrets",
        ),
        (
            volume(json!({"configMap": {"name": "m"}})),
            "node \"a\" can not create pods that reference configmaps",
        ),
        (
            volume(json!({"persistentVolumeClaim": {"claimName": "d"}})),
            "node \"a\" can not create pods that reference persistentvolumeclaims",
        ),
    ] {
        let (code, message) = send(&cluster, &a, &POST, PODS, &pod).await;
        assert!(code == 403 && message.ends_with(words), "{code} {message}");
    }
    let (code, message) = send(&cluster, &a, &POST, PODS, &mirror).await;
    assert_eq!(code, 201, "{message}");
}

#[tokio::test]
async fn a_node_has_tokens_for_its_pods_and_for_its_network() {
    let cluster = Cluster::bootstrapped().await;
    cluster.account("default", "default").await;
    let mine = cluster.pod("mine", "a").await;
    let other = cluster
        .put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "other", "namespace": "default"},
            "spec": {"nodeName": "b", "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i"}]}}))
        .await;
    let asks = cluster
        .put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "asks", "namespace": "default"},
            "spec": {"nodeName": "a", "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "t", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"serviceAccountToken": {"path": "vault", "audience": "vault"}}]}}]}}))
        .await;
    let request = |pod: &Value, audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod",
                "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}}})
    };
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let mut unbound = request(&mine, json!([]));
    unbound["spec"].as_object_mut().expect("a spec").remove("boundObjectRef");
    let mut without_uid = request(&mine, json!([]));
    without_uid["spec"]["boundObjectRef"]["uid"] = json!("");
    let a = node("a");
    for (body, words) in [
        (unbound.clone(), "node requested token not bound to a pod"),
        (without_uid, "node requested token with a pod binding without a uid"),
        (
            request(&other, json!([])),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (request(&asks, json!(["x"])), "audience \"x\" not found in pod spec volume"),
        (request(&asks, json!(["x", "y"])), "node may only request 0 or 1 audiences"),
    ] {
        let (code, message) = send(&cluster, &a, &POST, path, &body).await;
        assert!(code == 403 && message.ends_with(words), "{code} {message}");
    }
    for audiences in [json!([]), json!(["vault"])] {
        let (code, message) =
            send(&cluster, &a, &POST, path, &request(&asks, audiences.clone())).await;
        assert_eq!(code, 201, "{audiences} {message}");
    }
    let network = "/api/v1/namespaces/kube-system/serviceaccounts/coracle-net/token";
    let (code, message) = send(&cluster, &a, &POST, network, &unbound).await;
    assert_eq!(code, 201, "{message}");
    let (code, _) = send(&cluster, &user("eve", &[]), &POST, network, &unbound).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn a_node_creates_its_own_lease() {
    let cluster = Cluster::bootstrapped().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name}, "spec": {"holderIdentity": name,
                "leaseDurationSeconds": 40}})
    };
    let (code, message) = send(&cluster, &node("a"), &POST, path, &lease("a")).await;
    assert_eq!(code, 201, "{message}");
    let (code, message) = send(&cluster, &node("a"), &POST, path, &lease("b")).await;
    let words = "can only access node lease with the same name as the requesting node";
    assert!(code == 403 && message.ends_with(words), "{code} {message}");
}

/// A request for a certificate, as `kubectl` sends it.
fn signing_request(name: &str, signer: &str, organization: &str) -> Value {
    let made = CertificateRequest::new("eve", &[organization], &[]).expect("a request");
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(made.request_pem), "signerName": signer,
            "usages": ["client auth"], "username": "somebody-else", "groups": ["system:masters"],
        },
    })
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

#[tokio::test]
async fn who_asks_for_a_certificate_is_written_down_by_the_server() {
    let cluster = Cluster::bootstrapped().await;
    let subject = json!({"kind": "User", "name": "alice"});
    cluster.bind("system:node-bootstrapper", "", subject).await;
    let request = signing_request("a", CLIENT, "dev");
    let who = Who::User(user("alice", &["dev"]));
    let (code, answer) = cluster.send(who, POST, REQUESTS, &request).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["username"], "alice");
    assert_eq!(answer["spec"]["groups"], json!(["dev", "system:authenticated"]));
    let masters = signing_request("b", CLIENT, "system:masters");
    let (code, message) = send(&cluster, &admin(), &POST, REQUESTS, &masters).await;
    let words = "certificatesigningrequests.certificates.k8s.io \"b\" is forbidden: use of \
                 kubernetes.io/kube-apiserver-client signer with system:masters group is not \
                 allowed";
    assert_eq!((code, message.as_str()), (403, words));
}

#[tokio::test]
async fn approving_and_signing_need_leave_for_the_signer() {
    let cluster = Cluster::bootstrapped().await;
    let group = "rbac.authorization.k8s.io";
    let role = |name: &str, rules: Value| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": rules})
    };
    let writes = json!([{"verbs": ["*"], "apiGroups": ["certificates.k8s.io"], "resources": [
        "certificatesigningrequests/approval", "certificatesigningrequests/status"]}]);
    cluster.put(role("writer", writes)).await;
    let signers = |verb: &str, name: &str| {
        json!([{"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
            "resourceNames": [name]}])
    };
    cluster.put(role("approver", signers("approve", CLIENT))).await;
    cluster.put(role("signer", signers("sign", "kubernetes.io/*"))).await;
    let alice = json!({"kind": "User", "name": "alice"});
    cluster.bind("writer", "", alice.clone()).await;
    cluster.put(signing_request("a", CLIENT, "dev")).await;
    let approve = json!({"status": {"conditions": [{"type": "Approved", "status": "True",
        "reason": "r", "message": "m"}]}});
    let sign = json!({"status": {"certificate": STANDARD.encode("PEM")}});
    let who = user("alice", &[]);
    let (approval, status) = (format!("{REQUESTS}/a/approval"), format!("{REQUESTS}/a/status"));
    for (path, body, role, words) in [
        (&approval, &approve, "approver", "user not permitted to approve requests with signerName"),
        (&status, &sign, "signer", "user not permitted to sign requests with signerName"),
    ] {
        let (code, message) = send(&cluster, &who, &PATCH, path, body).await;
        assert!(code == 403 && message.contains(words), "{code} {message}");
        cluster.bind(role, "", alice.clone()).await;
        let (code, message) = send(&cluster, &who, &PATCH, path, body).await;
        assert_eq!(code, 200, "{message}");
    }
}

fn rbac_path(namespace: &str, plural: &str) -> String {
    let group = "/apis/rbac.authorization.k8s.io/v1";
    match namespace {
        "" => format!("{group}/{plural}"),
        namespace => format!("{group}/namespaces/{namespace}/{plural}"),
    }
}

#[tokio::test]
async fn nobody_gives_out_more_than_they_hold() {
    let cluster = Cluster::bootstrapped().await;
    cluster.bind("admin", "default", json!({"kind": "User", "name": "alice"})).await;
    let alice = user("alice", &["dev"]);
    let group = "rbac.authorization.k8s.io";
    let role = |name: &str, resources: &[&str], verbs: &[&str]| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}]})
    };
    let roles = rbac_path("default", "roles");
    let (code, message) =
        send(&cluster, &alice, &POST, &roles, &role("fits", &["pods"], &["get"])).await;
    assert_eq!(code, 201, "{message}");
    let wide = role("wide", &["pods", "nodes"], &["get", "list"]);
    let (code, message) = send(&cluster, &alice, &POST, &roles, &wide).await;
    let words = "roles.rbac.authorization.k8s.io \"wide\" is forbidden: user \"alice\" \
                 (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC \
                 permissions not currently held:\n\
                 {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!((code, message.as_str()), (403, words));
    let wider = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let (code, _) = send(&cluster, &alice, &PATCH, &format!("{roles}/fits"), &wider).await;
    assert_eq!(code, 403, "an update gives out as well");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    cluster
        .put({
            let mut given = wide.clone();
            given["metadata"]["namespace"] = json!("default");
            given
        })
        .await;
    let (code, message) = send(&cluster, &alice, &PATCH, &format!("{roles}/wide"), &labels).await;
    assert_eq!(code, 200, "who leaves the rules alone gives nothing out: {message}");

    let binding = |role: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
            "metadata": {"name": format!("to-{role}").replace(':', "-")},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": group, "name": "bob"}]})
    };
    let bindings = rbac_path("default", "rolebindings");
    let (code, message) = send(&cluster, &alice, &POST, &bindings, &binding("edit")).await;
    assert_eq!(code, 201, "{message}");
    let (code, message) = send(&cluster, &alice, &POST, &bindings, &binding("cluster-admin")).await;
    assert!(code == 403 && message.contains("not currently held"), "{code} {message}");
    let (code, message) = send(&cluster, &alice, &POST, &bindings, &binding("nothing")).await;
    let words = "clusterrole.rbac.authorization.k8s.io \"nothing\" not found";
    assert_eq!((code, message.as_str()), (404, words));
    let (code, message) =
        send(&cluster, &admin(), &POST, &bindings, &binding("cluster-admin")).await;
    assert_eq!(code, 201, "{message}");
}

#[tokio::test]
async fn escalate_and_bind_give_leave_to_give_out_more() {
    let cluster = Cluster::bootstrapped().await;
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"verbs": ["create", "escalate"], "apiGroups": [group], "resources": ["clusterroles"]},
        {"verbs": ["create"], "apiGroups": [group], "resources": ["clusterrolebindings"]},
        {"verbs": ["bind"], "apiGroups": [group], "resources": ["clusterroles"],
         "resourceNames": ["cluster-admin"]},
    ]);
    cluster
        .put(json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
            "metadata": {"name": "giver"}, "rules": rules}))
        .await;
    cluster.bind("giver", "", json!({"kind": "User", "name": "carol"})).await;
    let carol = user("carol", &[]);
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
        "metadata": {"name": "all"},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let (code, message) =
        send(&cluster, &carol, &POST, &rbac_path("", "clusterroles"), &role).await;
    assert_eq!(code, 201, "{message}");
    let binding = |role: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("to-{role}")},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": group, "name": "bob"}]})
    };
    let bindings = rbac_path("", "clusterrolebindings");
    let (code, message) = send(&cluster, &carol, &POST, &bindings, &binding("cluster-admin")).await;
    assert_eq!(code, 201, "{message}");
    let (code, _) = send(&cluster, &carol, &POST, &bindings, &binding("view")).await;
    assert_eq!(code, 403, "she may bind that one role");
}

#[tokio::test]
async fn a_role_that_gathers_others_is_for_who_holds_everything() {
    let cluster = Cluster::bootstrapped().await;
    let group = "rbac.authorization.k8s.io";
    cluster
        .put(json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
            "metadata": {"name": "writes-roles"},
            "rules": [{"verbs": ["create"], "apiGroups": [group], "resources": ["clusterroles"]}]}))
        .await;
    cluster.bind("writes-roles", "", json!({"kind": "User", "name": "dave"})).await;
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
        "metadata": {"name": "gathers"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let path = rbac_path("", "clusterroles");
    let (code, message) = send(&cluster, &user("dave", &[]), &POST, &path, &role).await;
    let words = "must have cluster-admin privileges to use an aggregationRule";
    assert!(code == 403 && message.ends_with(words), "{code} {message}");
    let subject = json!({"kind": "User", "name": "dave"});
    cluster.bind("cluster-admin", "", subject).await;
    let (code, message) = send(&cluster, &user("dave", &[]), &POST, &path, &role).await;
    assert_eq!(code, 201, "{message}");
}
