//! sig-apps: what its API tests see of controllers; sig-cli: what kubectl asks of the server.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, kubectl, unique};

fn template(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "nginx:latest"}]}})
}

#[tokio::test]
async fn disruption_budgets_are_listed_everywhere_and_deleted_together() {
    let api = Api::connect().await;
    let label = unique("pdb");
    let budget = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"special": label}},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"foo": "bar"}}}})
    };
    let mut paths = Vec::new();
    for names in [&["foo", "foo2"][..], &["foo3"]] {
        let namespace = api.namespace("disruption").await;
        let path = format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets");
        for name in names {
            api.post(&path, &budget(name)).await.is(201);
            let observed =
                |answer: &super::harness::Answer| answer.body["status"]["observedGeneration"] == 1;
            api.eventually(&format!("{path}/{name}"), observed).await;
        }
        paths.push(path);
    }
    let everywhere =
        format!("/apis/policy/v1/poddisruptionbudgets?labelSelector=special%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 3);
    assert_eq!(api.items(&paths[0]).await.len(), 2);
    api.delete(&format!("{}?labelSelector=special%3D{label}", paths[0])).await.is(200);
    assert_eq!(api.items(&paths[0]).await.len(), 0);
    assert_eq!(api.items(&everywhere).await.len(), 1);
}

#[tokio::test]
async fn a_replication_controller_releases_pods_that_match_no_more() {
    let api = Api::connect().await;
    let namespace = api.namespace("rc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let labels = json!({"name": "pod-release"});
    let controller = json!({"metadata": {"name": "pod-release"},
        "spec": {"replicas": 1, "selector": labels, "template": template(&labels)}});
    api.post(&format!("{core}/replicationcontrollers"), &controller).await.is(201);
    let pods = format!("{core}/pods?labelSelector=name%3Dpod-release");
    let found = api
        .eventually(&pods, |a| a.body["items"].as_array().is_some_and(|items| items.len() == 1))
        .await;
    let name = found["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let relabel = json!({"metadata": {"labels": {"name": "not-matching-name"}}});
    api.patch(&format!("{core}/pods/{name}"), MERGE, &relabel).await.is(200);
    api.eventually(&format!("{core}/pods/{name}"), |answer| {
        let owners = answer.body["metadata"]["ownerReferences"].as_array();
        owners.is_none_or(|owners| owners.iter().all(|owner| owner["controller"] != true))
    })
    .await;
    api.eventually(&pods, |a| a.body["items"].as_array().is_some_and(|items| items.len() == 1))
        .await;
}

#[tokio::test]
async fn a_replication_controller_tells_that_a_quota_stops_it() {
    let api = Api::connect().await;
    let namespace = api.namespace("rc").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let quota = json!({"metadata": {"name": "condition-test"}, "spec": {"hard": {"pods": "2"}}});
    api.post(&format!("{core}/resourcequotas"), &quota).await.is(201);
    api.eventually(&format!("{core}/resourcequotas/condition-test"), |answer| {
        answer.body["status"]["hard"]["pods"] == "2"
    })
    .await;
    let labels = json!({"name": "condition-test"});
    let controller = json!({"metadata": {"name": "condition-test"},
        "spec": {"replicas": 3, "selector": labels, "template": template(&labels)}});
    let path = format!("{core}/replicationcontrollers/condition-test");
    api.post(&format!("{core}/replicationcontrollers"), &controller).await.is(201);
    let failed = |answer: &super::harness::Answer| {
        let conditions = answer.body["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "ReplicaFailure")
    };
    api.eventually(&path, failed).await;
    let fewer = json!({"spec": {"replicas": 2}});
    api.patch(&path, MERGE, &fewer).await.is(200);
    api.eventually(&path, |answer| answer.code == 200 && !failed(answer)).await;
}

#[tokio::test]
async fn workloads_support_the_api_operations() {
    let api = Api::connect().await;
    let namespace = api.namespace("workloads").await;
    let labels = json!({"app": "x"});
    let selector = json!({"matchLabels": labels});
    let pods = template(&labels);
    let mut once = pods.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    let workload = json!({"spec": {"replicas": 0, "selector": selector, "template": pods}});
    let stateful = json!({"spec": {"replicas": 0, "selector": selector, "template": pods,
        "serviceName": "s"}});
    let daemon = json!({"spec": {"selector": selector, "template": pods}});
    let cron =
        json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": once}}}});
    for (group, plural, kind, template) in [
        ("apps/v1", "deployments", "Deployment", workload.clone()),
        ("apps/v1", "replicasets", "ReplicaSet", workload),
        ("apps/v1", "statefulsets", "StatefulSet", stateful),
        ("apps/v1", "daemonsets", "DaemonSet", daemon),
        ("batch/v1", "cronjobs", "CronJob", cron),
    ] {
        let label = unique("special");
        let mut object = template;
        object["metadata"] = json!({"name": label, "labels": {"special": label}});
        let all = format!("/apis/{group}/namespaces/{namespace}/{plural}");
        let made = api.post(&all, &object).await.is(201);
        assert_eq!(made["kind"], kind);
        let one = format!("{all}/{label}");
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        api.patch(&one, MERGE, &patch).await.is(200);
        let status = api.get(&format!("{one}/status")).await.is(200);
        assert_eq!(status["kind"], kind);
        let selected = format!("{all}?labelSelector=special%3D{label}");
        assert_eq!(api.items(&selected).await.len(), 1);
        api.delete(&selected).await.is(200);
        api.eventually(&one, |answer| answer.code == 404).await;
    }
}

async fn run(args: &'static [&'static str], input: String) -> (bool, String) {
    tokio::task::spawn_blocking(move || kubectl(args, &input)).await.expect("kubectl runs")
}

#[tokio::test]
async fn kubectl_finds_versions_and_the_control_plane() {
    Api::connect().await;
    let (ok, text) = run(&["api-versions"], String::new()).await;
    assert!(ok && text.lines().any(|line| line == "v1"), "{text}");
    let (ok, text) = run(&["cluster-info"], String::new()).await;
    assert!(ok && text.contains("Kubernetes control plane"), "{text}");
}

#[tokio::test]
async fn kubectl_diff_finds_a_difference_of_deployments() {
    let api = Api::connect().await;
    let name = unique("httpd-deployment");
    let labels = json!({"app": "httpd"});
    let deployment = |image: &str| {
        let mut pods = template(&labels);
        pods["spec"]["containers"][0]["image"] = image.into();
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name,
            "namespace": "default"}, "spec": {"replicas": 0,
            "selector": {"matchLabels": labels}, "template": pods}})
    };
    api.post("/apis/apps/v1/namespaces/default/deployments", &deployment("httpd:1")).await.is(201);
    let (_, text) = run(&["diff", "-f", "-"], deployment("busybox:1").to_string()).await;
    assert!(text.contains("busybox:1") && text.contains("httpd:1"), "{text}");
    api.delete(&format!("/apis/apps/v1/namespaces/default/deployments/{name}")).await.is(200);
}
