//! The priority levels and flow schemas that Kubernetes ships
//! (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`). Once there, those that are not mandatory
//! are the administrator's own.

use serde_json::{Value, json};

const API: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Name, shares, what may be lent of them (percent), and queues with hand size; none: reject.
type Level = (&'static str, u32, u32, Option<(u32, u32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("node-high", 40, 25, Some((64, 6))),
    ("system", 30, 33, Some((64, 6))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
];

/// The levels.
pub(super) fn priority_levels() -> Vec<Value> {
    let object = |name: &str, spec: Value| {
        json!({
            "apiVersion": API,
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name,
                "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
            "spec": spec,
        })
    };
    let exempt = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    let mut all = vec![object("exempt", json!({"type": "Exempt", "exempt": exempt}))];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": 50}}),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": response,
        });
        object(name, json!({"type": "Limited", "limited": limited}))
    }));
    all
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount",
        "serviceAccount": {"namespace": "kube-system", "name": name}})
}

/// Everybody.
fn anybody() -> Vec<Value> {
    vec![group("system:unauthenticated"), group("system:authenticated")]
}

/// `verbs | groups | resources`, everywhere.
fn resources(rule: &str) -> Value {
    let parts: Vec<Vec<&str>> =
        rule.split('|').map(|part| part.split(',').map(str::trim).collect()).collect();
    let groups: Vec<&str> = parts[1].iter().map(|g| if *g == "core" { "" } else { g }).collect();
    json!({
        "verbs": parts[0],
        "apiGroups": groups,
        "resources": parts[2],
        "clusterScope": true,
        "namespaces": ["*"],
    })
}

/// Everything there is.
fn everything() -> (Vec<Value>, Vec<Value>) {
    let paths = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    (vec![resources("*|*|*")], vec![paths])
}

/// What is asked about one group of subjects: `(resource rules, path rules)`.
type Asked = (Vec<Value>, Vec<Value>);

/// Name, precedence, level, what tells its flows apart, subjects, and what is asked.
type Schema = (&'static str, u32, &'static str, &'static str, Vec<Value>, Asked);

fn schemas() -> Vec<Schema> {
    let leases = || (vec![resources("get,create,update|coordination.k8s.io|leases")], Vec::new());
    let probes = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
    let nodes =
        vec![resources("*|core|nodes,nodes/status"), resources("*|coordination.k8s.io|leases")];
    let endpoints = vec![
        resources("get,create,update|core|endpoints"),
        resources("get,create,update|discovery.k8s.io|endpointslices"),
    ];
    let controllers = ["kube-controller-manager", "kube-scheduler"];
    let leaders: Vec<Value> =
        controllers.iter().map(|name| user(&format!("system:{name}"))).collect();
    let manager = vec![user("system:kube-controller-manager")];
    let mut endpoint_subjects = manager.clone();
    for name in
        ["endpoint-controller", "endpointslice-controller", "endpointslicemirroring-controller"]
    {
        endpoint_subjects.push(account(name));
    }
    let masters = vec![group("system:masters")];
    let node_group = || vec![group("system:nodes")];
    vec![
        ("exempt", 1, "exempt", "", masters, everything()),
        ("probes", 2, "exempt", "", anybody(), (Vec::new(), vec![probes])),
        ("system-leader-election", 100, "leader-election", "ByUser", leaders, leases()),
        (
            "endpoint-controller",
            150,
            "workload-high",
            "ByUser",
            endpoint_subjects,
            (endpoints, Vec::new()),
        ),
        (
            "workload-leader-election",
            200,
            "leader-election",
            "ByUser",
            vec![account("*")],
            leases(),
        ),
        ("system-node-high", 400, "node-high", "ByUser", node_group(), (nodes, Vec::new())),
        ("system-nodes", 500, "system", "ByUser", node_group(), everything()),
        ("kube-controller-manager", 800, "workload-high", "ByNamespace", manager, everything()),
        (
            "kube-scheduler",
            800,
            "workload-high",
            "ByNamespace",
            vec![user("system:kube-scheduler")],
            everything(),
        ),
        (
            "kube-system-service-accounts",
            900,
            "workload-high",
            "ByNamespace",
            vec![account("*")],
            everything(),
        ),
        (
            "service-accounts",
            9000,
            "workload-low",
            "ByUser",
            vec![group("system:serviceaccounts")],
            everything(),
        ),
        ("global-default", 9900, "global-default", "ByUser", anybody(), everything()),
        ("catch-all", 10_000, "catch-all", "ByUser", anybody(), everything()),
    ]
}

/// The schemas.
pub(super) fn flow_schemas() -> Vec<Value> {
    schemas()
        .into_iter()
        .map(|(name, precedence, level, by, subjects, (resources, paths))| {
            let mut rule = json!({"subjects": subjects});
            if !resources.is_empty() {
                rule["resourceRules"] = resources.into();
            }
            if !paths.is_empty() {
                rule["nonResourceRules"] = paths.into();
            }
            let mut spec = json!({
                "matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level},
                "rules": [rule],
            });
            if !by.is_empty() {
                spec["distinguisherMethod"] = json!({"type": by});
            }
            json!({
                "apiVersion": API,
                "kind": "FlowSchema",
                "metadata": {"name": name,
                    "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
                "spec": spec,
            })
        })
        .collect()
}
