//! The cluster roles and bindings that Kubernetes ships (its
//! `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`), and Coracle's own few.
//!
//! A rule is written `verbs | groups | resources`, each a comma-separated list; `core` stands for
//! the core group; a fourth part names objects.

use serde_json::{Value, json};

const READ: &str = "get,list,watch";
const WRITE: &str = "create,delete,deletecollection,patch,update";
const ALL: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// A role: its name, the role that it is aggregated to (`""`: none), its rules.
type Role = (&'static str, &'static str, &'static [&'static str]);

const CORE_VIEW: &str = "configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,\
    pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,\
    services/status";
const CORE_VIEW_STATUS: &str = "bindings,events,limitranges,namespaces/status,pods/log,pods/status,\
    replicationcontrollers/status,resourcequotas,resourcequotas/status,namespaces";
const APPS_VIEW: &str = "controllerrevisions,daemonsets,daemonsets/status,deployments,\
    deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,\
    statefulsets,statefulsets/scale,statefulsets/status";
const APPS_EDIT: &str = "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,\
    replicasets/scale,statefulsets,statefulsets/scale";
const CORE_EDIT: &str = "configmaps,events,persistentvolumeclaims,replicationcontrollers,\
    replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy";

/// The group in which several kinds stood before they had groups of their own; what is written for
/// it means nothing any more, but a role that lacks it is not what `kubectl` compares with.
const EXTENSIONS_VIEW: &str = "daemonsets,daemonsets/status,deployments,deployments/scale,\
    deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,\
    replicasets/status,replicationcontrollers/scale";
const EXTENSIONS_EDIT: &str = "daemonsets,deployments,deployments/rollback,deployments/scale,\
    ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale";

/// Every cluster role but those whose rules are put together by aggregation.
fn roles() -> Vec<(&'static str, &'static str, Vec<String>)> {
    let to = |verbs: &str, groups: &str, resources: &str| format!("{verbs}|{groups}|{resources}");
    let view = vec![
        to(READ, "core", CORE_VIEW),
        to(READ, "core", CORE_VIEW_STATUS),
        to(READ, "discovery.k8s.io", "endpointslices"),
        to(READ, "apps", APPS_VIEW),
        to(READ, "autoscaling", "horizontalpodautoscalers,horizontalpodautoscalers/status"),
        to(READ, "batch", "cronjobs,cronjobs/status,jobs,jobs/status"),
        to(READ, "extensions", EXTENSIONS_VIEW),
        to(READ, "policy", "poddisruptionbudgets,poddisruptionbudgets/status"),
        to(READ, "networking.k8s.io", "ingresses,ingresses/status,networkpolicies"),
        // The registry of images knows no list and no watch.
        to("get", "coracle.dev", "images"),
    ];
    let edit = vec![
        to(
            READ,
            "core",
            "pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
        ),
        to("impersonate", "core", "serviceaccounts"),
        to(WRITE, "core", "pods,pods/attach,pods/exec,pods/portforward,pods/proxy"),
        to("create", "core", "pods/eviction,serviceaccounts/token"),
        to(WRITE, "core", CORE_EDIT),
        to("create,delete", "coracle.dev", "images"),
        to(WRITE, "apps", APPS_EDIT),
        to(WRITE, "autoscaling", "horizontalpodautoscalers"),
        to(WRITE, "batch", "cronjobs,jobs"),
        to(WRITE, "extensions", EXTENSIONS_EDIT),
        to(WRITE, "policy", "poddisruptionbudgets"),
        to(WRITE, "networking.k8s.io", "ingresses,networkpolicies"),
        to(ALL, "coordination.k8s.io", "leases"),
    ];
    let admin = vec![
        to("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        to(ALL, "rbac.authorization.k8s.io", "rolebindings,roles"),
    ];
    let mut roles = vec![
        ("system:aggregate-to-view", "view", view),
        ("system:aggregate-to-edit", "edit", edit),
        ("system:aggregate-to-admin", "admin", admin),
    ];
    let owned = |rules: &[&str]| rules.iter().map(|r| (*r).to_owned()).collect();
    roles.extend(PLAIN.iter().map(|(name, to, rules)| (*name, *to, owned(rules))));
    roles
}

/// The rest, as they stand.
const PLAIN: &[Role] = &[
    ("cluster-admin", "", &["*|*|*", "*|/|*"]),
    (
        "system:basic-user",
        "",
        &[
            "create|authorization.k8s.io|selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create|authentication.k8s.io|selfsubjectreviews",
        ],
    ),
    (
        "system:discovery",
        "",
        &["get|/|/api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,\
           /version/"],
    ),
    ("system:public-info-viewer", "", &["get|/|/healthz,/livez,/readyz,/version,/version/"]),
    (
        "system:monitoring",
        "",
        &["get|/|/healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,\
                                 /readyz,/readyz/*"],
    ),
    ("system:heapster", "", &["get,list,watch|core|events,namespaces,nodes,pods"]),
    (
        "system:node",
        "",
        &[
            "create|authentication.k8s.io|tokenreviews",
            "create|authorization.k8s.io|localsubjectaccessreviews,subjectaccessreviews",
            "get,list,watch|core|services",
            "create,get,list,watch|core|nodes",
            "patch,update|core|nodes/status",
            "patch,update|core|nodes",
            "get,list,watch|core|pods",
            "create,delete|core|pods",
            "patch,update|core|pods/status",
            "create|core|pods/eviction",
            "get,list,watch|core|configmaps,secrets",
            "get|core|persistentvolumeclaims,persistentvolumes",
            "get,patch,update|core|persistentvolumeclaims/status",
            "get|core|endpoints",
            "create,get,list,watch|certificates.k8s.io|certificatesigningrequests",
            "create,delete,get,patch,update|coordination.k8s.io|leases",
            "get|storage.k8s.io|volumeattachments",
            "create|core|serviceaccounts/token",
            "create,delete,get,patch,update|storage.k8s.io|csinodes",
            "get,list,watch|storage.k8s.io|csidrivers",
            "get,list,watch|node.k8s.io|runtimeclasses",
            "create,patch,update|core|events",
            "create,patch,update|events.k8s.io|events",
            "get,list,watch|core|serviceaccounts",
            "get|coracle.dev|images",
        ],
    ),
    (
        "system:node-bootstrapper",
        "",
        &["create,get,list,watch|certificates.k8s.io|certificatesigningrequests"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "",
        &["create|certificates.k8s.io|certificatesigningrequests/nodeclient"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "",
        &["create|certificates.k8s.io|certificatesigningrequests/selfnodeclient"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        "",
        &["approve|certificates.k8s.io|signers|kubernetes.io/kube-apiserver-client"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "",
        &["approve|certificates.k8s.io|signers|kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        "",
        &["approve|certificates.k8s.io|signers|kubernetes.io/kubelet-serving"],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        "",
        &["approve|certificates.k8s.io|signers|kubernetes.io/legacy-unknown"],
    ),
    (
        "system:kubelet-api-admin",
        "",
        &[
            "get,list,watch|core|nodes",
            "proxy|core|nodes",
            "*|core|nodes/configz,nodes/healthz,nodes/log,nodes/metrics,nodes/pods,nodes/proxy,\
             nodes/stats",
        ],
    ),
    (
        "system:auth-delegator",
        "",
        &[
            "create|authentication.k8s.io|tokenreviews",
            "create|authorization.k8s.io|subjectaccessreviews",
        ],
    ),
    (
        "system:service-account-issuer-discovery",
        "",
        &["get|/|/.well-known/openid-configuration,/.well-known/openid-configuration/,\
           /openid/v1/jwks,/openid/v1/jwks/"],
    ),
    (
        "system:persistent-volume-provisioner",
        "",
        &[
            "create,delete,get,list,watch|core|persistentvolumes",
            "get,list,update,watch|core|persistentvolumeclaims",
            "get,list,watch|storage.k8s.io|storageclasses",
            "watch|core|events",
            "create,patch,update|core|events",
        ],
    ),
    (
        "system:kube-scheduler",
        "",
        &[
            "create,patch,update|core,events.k8s.io|events",
            "create|coordination.k8s.io|leases",
            "get,update|coordination.k8s.io|leases|kube-scheduler",
            "get,list,watch|core|nodes",
            "delete,get,list,watch|core|pods",
            "create|core|bindings,pods/binding",
            "patch,update|core|pods/status",
            "get,list,watch|core|replicationcontrollers,services",
            "get,list,watch|core|namespaces",
            "get,list,watch|scheduling.x-k8s.io|podgroups",
            "get,list,watch|apps|replicasets,statefulsets",
            "get,list,watch|policy|poddisruptionbudgets",
            "get,list,watch|core|persistentvolumeclaims,persistentvolumes",
            "create|authentication.k8s.io|tokenreviews",
            "create|authorization.k8s.io|subjectaccessreviews",
            "get,list,watch|storage.k8s.io|csidrivers,csinodes,csistoragecapacities,storageclasses",
        ],
    ),
    (
        "system:kube-controller-manager",
        "",
        &[
            "create,patch,update|core,events.k8s.io|events",
            "create|coordination.k8s.io|leases",
            "get,update|coordination.k8s.io|leases|kube-controller-manager",
            "create|core|secrets,serviceaccounts",
            "delete|core|secrets",
            "get|core|configmaps,namespaces,secrets,serviceaccounts",
            "update|core|secrets,serviceaccounts",
            "create|authentication.k8s.io|tokenreviews",
            "create|authorization.k8s.io|subjectaccessreviews",
            "list,watch|*|*",
            "create|core|serviceaccounts/token",
        ],
    ),
    (
        "system:kube-dns",
        "",
        &["list,watch|core|endpoints,services", "list,watch|discovery.k8s.io|endpointslices"],
    ),
    ("system:kube-aggregator", "", &["get,list,watch|core|endpoints,services"]),
    (
        "system:node-proxier",
        "",
        &[
            "list,watch|core|endpoints,services",
            "get,list,watch|core|nodes",
            "create,patch,update|core,events.k8s.io|events",
            "list,watch|discovery.k8s.io|endpointslices",
        ],
    ),
    (
        "system:node-problem-detector",
        "",
        &[
            "get|core|nodes",
            "patch|core|nodes/status",
            "create,patch,update|core,events.k8s.io|events",
        ],
    ),
    (
        "system:volume-scheduler",
        "",
        &[
            "get,list,patch,update,watch|core|persistentvolumes",
            "get,list,watch|storage.k8s.io|storageclasses",
            "get,list,patch,update,watch|core|persistentvolumeclaims",
        ],
    ),
    // Moving pods that should be elsewhere by now.
    ("coracle:descheduler", "", &["create|core|pods/eviction"]),
    // What a node's network tables are made from.
    (
        "coracle:network",
        "",
        &[
            "get,list,watch|core|namespaces,nodes,pods,services",
            "get,list,watch|discovery.k8s.io|endpointslices",
            "get,list,watch|networking.k8s.io|networkpolicies",
        ],
    ),
];

/// Bindings: role, kind of subject, subject.
const BINDINGS: &[(&str, &str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "Group", "system:masters"),
    ("system:monitoring", "system:monitoring", "Group", "system:monitoring"),
    ("system:discovery", "system:discovery", "Group", "system:authenticated"),
    ("system:basic-user", "system:basic-user", "Group", "system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "Group", "system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "Group", "system:unauthenticated"),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "Group",
        "system:serviceaccounts",
    ),
    ("system:kube-scheduler", "system:kube-scheduler", "User", "system:kube-scheduler"),
    ("system:volume-scheduler", "system:volume-scheduler", "User", "system:kube-scheduler"),
    ("coracle:descheduler", "coracle:descheduler", "User", "system:kube-scheduler"),
    ("system:node-proxier", "system:node-proxier", "User", "system:kube-proxy"),
    ("system:kube-dns", "system:kube-dns", "ServiceAccount", "kube-system/kube-dns"),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        "User",
        "system:kube-controller-manager",
    ),
    ("coracle:node-bootstrapper", "system:node-bootstrapper", "Group", "system:bootstrappers"),
    (
        "coracle:nodes-approved",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "Group",
        "system:bootstrappers",
    ),
    (
        "coracle:nodes-renew",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "Group",
        "system:nodes",
    ),
    ("coracle:network", "coracle:network", "ServiceAccount", "kube-system/coracle-net"),
];

const RBAC: &str = "rbac.authorization.k8s.io";

/// All cluster roles, the aggregated ones included.
pub fn cluster_roles() -> Vec<Value> {
    let mut all: Vec<Value> = roles()
        .into_iter()
        .map(|(name, to, rules)| {
            let mut role = object("ClusterRole", name);
            role["rules"] = rules.iter().map(|r| rule(r)).collect();
            if !to.is_empty() {
                role["metadata"]["labels"][format!("{RBAC}/aggregate-to-{to}")] = json!("true");
            }
            role
        })
        .collect();
    for (name, parts, to) in
        [("view", "view", "edit"), ("edit", "edit", "admin"), ("admin", "admin", "")]
    {
        let mut role = object("ClusterRole", name);
        let label = format!("{RBAC}/aggregate-to-{parts}");
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        role["rules"] = json!([]);
        if !to.is_empty() {
            role["metadata"]["labels"][format!("{RBAC}/aggregate-to-{to}")] = json!("true");
        }
        all.push(role);
    }
    all
}

/// The rules of `system:node`, by which the node authorizer judges what it does not judge by the
/// pods of a node.
pub fn node_rules() -> Vec<Value> {
    let role = PLAIN.iter().find(|(name, ..)| *name == "system:node");
    let (.., rules) = role.expect("the role is in the table");
    rules.iter().map(|text| rule(text)).collect()
}

/// All cluster role bindings; bindings of one name have several subjects.
pub fn cluster_role_bindings() -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (name, role, kind, subject) in BINDINGS {
        let subject = subject_of(kind, subject);
        if let Some(known) = all.iter_mut().find(|b| b["metadata"]["name"] == *name) {
            known["subjects"].as_array_mut().expect("made below").push(subject);
            continue;
        }
        let mut binding = object("ClusterRoleBinding", name);
        binding["roleRef"] = json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": role});
        binding["subjects"] = json!([subject]);
        all.push(binding);
    }
    all
}

/// The roles and bindings of `kube-system` and `kube-public`: who may read how the server
/// authenticates, who may read where the cluster is, and that a node may have a token of
/// `coracle-net`, and of no other ServiceAccount by this way.
pub fn namespaced() -> Vec<Value> {
    let bind = |namespace: &str, name: &str, kind: &str, subject: &str| {
        let mut binding = object("RoleBinding", name);
        binding["metadata"]["namespace"] = json!(namespace);
        binding["roleRef"] = json!({"apiGroup": RBAC, "kind": "Role", "name": name});
        binding["subjects"] = json!([subject_of(kind, subject)]);
        binding
    };
    let role = |namespace: &str, name: &str, text: &str| {
        let mut role = object("Role", name);
        role["metadata"]["namespace"] = json!(namespace);
        role["rules"] = json!([rule(text)]);
        role
    };
    let reader = "extension-apiserver-authentication-reader";
    let read = "get,list,watch|core|configmaps|extension-apiserver-authentication";
    vec![
        role("kube-system", reader, read),
        bind("kube-system", reader, "User", "system:kube-controller-manager"),
        role(
            "kube-system",
            "coracle:network-token",
            "create|core|serviceaccounts/token|coracle-net",
        ),
        bind("kube-system", "coracle:network-token", "Group", "system:nodes"),
        role("kube-public", "coracle:cluster-info", "get|core|configmaps|cluster-info"),
        bind("kube-public", "coracle:cluster-info", "Group", "system:unauthenticated"),
    ]
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {format!("{RBAC}/autoupdate"): "true"},
        },
    })
}

fn subject_of(kind: &str, name: &str) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": RBAC, "kind": kind, "name": name}),
    }
}

fn rule(text: &str) -> Value {
    let mut parts = text.split('|');
    let mut next = || -> Vec<String> {
        let list = parts.next().unwrap_or_default().split(',').filter(|w| !w.is_empty());
        list.map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
    };
    let (verbs, groups, resources, names) = (next(), next(), next(), next());
    if groups == ["/"] {
        return json!({"verbs": verbs, "nonResourceURLs": resources});
    }
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_binding_names_a_role_that_there_is() {
        let names: HashSet<String> =
            cluster_roles().iter().map(|r| r["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), cluster_roles().len(), "a name is used twice");
        for binding in cluster_role_bindings() {
            assert!(names.contains(&binding["roleRef"]["name"].to_string()), "{binding}");
        }
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        assert_eq!(
            rule("get,list|core,apps|pods|one"),
            json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods"],
                   "resourceNames": ["one"]})
        );
        assert_eq!(rule("*|/|*"), json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }

    #[test]
    fn the_public_may_read_the_version_and_nothing_of_the_cluster() {
        let bindings = cluster_role_bindings();
        let public: Vec<&Value> = bindings
            .iter()
            .filter(|b| b["subjects"].to_string().contains("system:unauthenticated"))
            .map(|b| &b["roleRef"]["name"])
            .collect();
        assert_eq!(public, ["system:public-info-viewer"]);
    }
}
