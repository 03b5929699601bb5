//! sig-api-machinery: ResourceQuota; sig-scheduling: LimitRange.

use serde_json::{Value, json};

use super::harness::{Api, MERGE, unique};

fn quota(name: &str, hard: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

struct Charged {
    api: Api,
    core: String,
}

impl Charged {
    async fn start(hard: Value) -> Self {
        let api = Api::connect().await;
        let namespace = api.namespace("resourcequota").await;
        let core = format!("/api/v1/namespaces/{namespace}");
        api.post(&format!("{core}/resourcequotas"), &quota("test-quota", hard)).await.is(201);
        Self { api, core }
    }

    /// Waits until so much is used.
    async fn used(&self, wanted: &[(&str, &str)]) {
        let path = format!("{}/resourcequotas/test-quota", self.core);
        self.api
            .eventually(&path, |answer| {
                let used = &answer.body["status"]["used"];
                wanted.iter().all(|(name, amount)| used[*name] == *amount)
            })
            .await;
    }
}

#[tokio::test]
async fn the_status_of_a_quota_is_calculated_promptly() {
    let charged = Charged::start(json!({"pods": "5", "services": "10", "secrets": "10"})).await;
    charged.used(&[("pods", "0"), ("services", "0"), ("secrets", "0")]).await;
}

#[tokio::test]
async fn a_quota_captures_the_life_of_a_service() {
    let charged = Charged::start(json!({
        "services": "10", "services.nodeports": "1", "services.loadbalancers": "1"}))
    .await;
    charged.used(&[("services", "0"), ("services.nodeports", "0")]).await;
    let services = format!("{}/services", charged.core);
    let service = |name: &str, kind: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": kind,
            "selector": {"a": "b"}, "ports": [{"port": 80}]}})
    };
    charged.api.post(&services, &service("one", "ClusterIP")).await.is(201);
    charged.api.post(&services, &service("two", "NodePort")).await.is(201);
    let refused = charged.api.post(&services, &service("three", "LoadBalancer")).await;
    assert_eq!(refused.code, 403, "node ports are used up: {}", refused.body);
    assert!(refused.message().contains("exceeded quota: test-quota"), "{}", refused.message());
    charged.used(&[("services", "2"), ("services.nodeports", "1")]).await;
    for name in ["one", "two"] {
        charged.api.delete(&format!("{services}/{name}")).await.is(200);
    }
    charged.used(&[("services", "0"), ("services.nodeports", "0")]).await;
}

#[tokio::test]
async fn a_quota_captures_the_life_of_secrets_and_config_maps() {
    let charged = Charged::start(json!({"count/secrets": "5", "configmaps": "10"})).await;
    for (plural, name) in [("secrets", "count/secrets"), ("configmaps", "configmaps")] {
        let path = format!("{}/resourcequotas/test-quota", charged.core);
        let quota = charged
            .api
            .eventually(&path, |answer| answer.body["status"]["used"][name].is_string())
            .await;
        let before: i64 =
            quota["status"]["used"][name].as_str().and_then(|n| n.parse().ok()).expect("a number");
        let objects = format!("{}/{plural}", charged.core);
        charged.api.post(&objects, &json!({"metadata": {"name": "one"}})).await.is(201);
        charged.used(&[(name, &(before + 1).to_string())]).await;
        charged.api.delete(&format!("{objects}/one")).await.is(200);
        charged.used(&[(name, &before.to_string())]).await;
    }
}

fn pod(name: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu, "memory": "1Mi"},
        "limits": {"cpu": cpu, "memory": "1Mi"}});
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "pause", "image": "pause", "resources": resources}]}})
}

#[tokio::test]
async fn a_quota_captures_the_life_of_a_pod() {
    let charged = Charged::start(json!({"pods": "5", "cpu": "1", "memory": "500Mi"})).await;
    charged.used(&[("pods", "0"), ("cpu", "0")]).await;
    let pods = format!("{}/pods", charged.core);
    let made = charged.api.post(&pods, &pod("test-pod", "500m")).await.is(201);
    charged.used(&[("pods", "1"), ("cpu", "500m")]).await;
    let refused = charged.api.post(&pods, &pod("fail-pod", "600m")).await;
    assert_eq!(refused.code, 403, "more than is left: {}", refused.body);
    let mut without = pod("no-requests", "0");
    without["spec"]["containers"][0]["resources"] = json!({});
    let refused = charged.api.post(&pods, &without).await;
    assert!(refused.message().contains("must specify"), "{}", refused.message());
    let mut larger = made;
    larger["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "600m".into();
    let refused = charged.api.put(&format!("{pods}/test-pod"), &larger).await;
    assert_ne!(refused.code, 200, "requests of a pod do not change");
    charged.used(&[("pods", "1"), ("cpu", "500m")]).await;
    let now = json!({"gracePeriodSeconds": 0});
    charged.api.delete_with(&format!("{pods}/test-pod"), &now).await.is(200);
    charged.used(&[("pods", "0"), ("cpu", "0")]).await;
}

#[tokio::test]
async fn a_quota_captures_the_life_of_controllers() {
    let hard = json!({"replicationcontrollers": "10", "count/replicasets.apps": "5"});
    let charged = Charged::start(hard).await;
    let names = ["replicationcontrollers", "count/replicasets.apps"];
    charged.used(&names.map(|name| (name, "0"))).await;
    let namespace = charged.core.rsplit('/').next().expect("a namespace").to_owned();
    let labels = json!({"name": "test"});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "pause"}]}});
    let controller = json!({"metadata": {"name": "one"},
        "spec": {"replicas": 0, "selector": labels, "template": template}});
    let set = json!({"metadata": {"name": "one"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": labels}, "template": template}});
    let paths = [
        format!("{}/replicationcontrollers", charged.core),
        format!("/apis/apps/v1/namespaces/{namespace}/replicasets"),
    ];
    charged.api.post(&paths[0], &controller).await.is(201);
    charged.api.post(&paths[1], &set).await.is(201);
    charged.used(&names.map(|name| (name, "1"))).await;
    for path in paths {
        charged.api.delete(&format!("{path}/one")).await.is(200);
    }
    charged.used(&names.map(|name| (name, "0"))).await;
}

#[tokio::test]
async fn scopes_say_which_pods_a_quota_is_about() {
    let api = Api::connect().await;
    let namespace = api.namespace("resourcequota").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let quotas = format!("{core}/resourcequotas");
    for scope in ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating"] {
        let object = json!({"metadata": {"name": scope.to_lowercase()},
            "spec": {"hard": {"pods": "5"}, "scopes": [scope]}});
        api.post(&quotas, &object).await.is(201);
    }
    let used = async |scope: &str, wanted: &str| {
        let path = format!("{quotas}/{}", scope.to_lowercase());
        api.eventually(&path, |answer| answer.body["status"]["used"]["pods"] == wanted).await;
    };
    let pods = format!("{core}/pods");
    for scope in ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating"] {
        used(scope, "0").await;
    }
    let mut best_effort = pod("besteffort-pod", "0");
    best_effort["spec"]["containers"][0]["resources"] = json!({});
    api.post(&pods, &best_effort).await.is(201);
    used("BestEffort", "1").await;
    used("NotBestEffort", "0").await;
    used("NotTerminating", "1").await;
    let mut ending = pod("terminating-pod", "100m");
    ending["spec"]["activeDeadlineSeconds"] = 3600.into();
    api.post(&pods, &ending).await.is(201);
    used("NotBestEffort", "1").await;
    used("Terminating", "1").await;
    used("NotTerminating", "1").await;
    let now = json!({"gracePeriodSeconds": 0});
    for name in ["besteffort-pod", "terminating-pod"] {
        api.delete_with(&format!("{pods}/{name}"), &now).await.is(200);
    }
    for scope in ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating"] {
        used(scope, "0").await;
    }
}

#[tokio::test]
async fn a_quota_is_changed_and_its_status_is_a_part_of_its_own() {
    let charged = Charged::start(json!({"cpu": "1", "memory": "500Mi"})).await;
    let path = format!("{}/resourcequotas/test-quota", charged.core);
    let mut quota = charged.api.get(&path).await.is(200);
    quota["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
    let updated = charged.api.put(&path, &quota).await;
    // The controller may have written the status in between.
    if updated.code == 409 {
        let patch = json!({"spec": {"hard": {"cpu": "2", "memory": "1Gi"}}});
        charged.api.patch(&path, MERGE, &patch).await.is(200);
    }
    let hard = json!({"cpu": "2", "memory": "1Gi"});
    charged.api.eventually(&path, |answer| answer.body["status"]["hard"] == hard).await;
    let patch =
        json!({"metadata": {"labels": {"test": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}});
    let patched = charged.api.patch(&path, MERGE, &patch).await.is(200);
    assert_eq!(patched["spec"]["hard"]["memory"], "750Mi");
    let status = json!({"status": {"hard": {"memory": "10Gi"}}});
    let patched = charged.api.patch(&format!("{path}/status"), MERGE, &status).await.is(200);
    assert_eq!(patched["status"]["hard"]["memory"], "10Gi");
    assert_eq!(patched["spec"]["hard"]["memory"], "750Mi", "the spec is another part");
    charged
        .api
        .eventually(&path, |answer| answer.body["status"]["hard"]["memory"] == "750Mi")
        .await;
    let all = format!("{}/resourcequotas?labelSelector=test%3Dpatched", charged.core);
    assert_eq!(charged.api.items(&all).await.len(), 1);
    charged.api.delete(&all).await.is(200);
    assert_eq!(charged.api.get(&path).await.code, 404);
}

fn range(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"e2e-test": label}}, "spec": {"limits": [{
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"}}]}})
}

#[tokio::test]
async fn a_limit_range_gives_pods_its_defaults_and_keeps_its_bounds() {
    let api = Api::connect().await;
    let namespace = api.namespace("limitrange").await;
    let core = format!("/api/v1/namespaces/{namespace}");
    let ranges = format!("{core}/limitranges");
    let mut watch = api.watch(&ranges).await;
    api.post(&ranges, &range("limit-range", "x")).await.is(201);
    watch.until(|kind, _| kind == "ADDED").await;
    let pods = format!("{core}/pods");
    let pod = |name: &str, resources: Value| {
        json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "pause", "image": "pause", "resources": resources}]}})
    };
    let made = api.post(&pods, &pod("none", json!({}))).await.is(201);
    let found = &made["spec"]["containers"][0]["resources"];
    let wanted = json!({
        "requests": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
        "limits": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"}});
    assert_eq!(found, &wanted);
    let partial =
        json!({"requests": {"cpu": "300m", "memory": "150Mi"}, "limits": {"cpu": "300m"}});
    let made = api.post(&pods, &pod("partial", partial)).await.is(201);
    let found = &made["spec"]["containers"][0]["resources"];
    assert_eq!(found["requests"]["cpu"], "300m");
    assert_eq!(found["requests"]["ephemeral-storage"], "200Gi");
    assert_eq!(found["limits"]["memory"], "500Mi");
    let low = json!({"requests": {"cpu": "10m", "memory": "50Mi", "ephemeral-storage": "50Gi"}});
    let refused = api.post(&pods, &pod("low", low)).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    let high = json!({"limits": {"cpu": "600m", "memory": "600Mi"}});
    assert_eq!(api.post(&pods, &pod("high", high)).await.code, 403);
    let mut object = api.get(&format!("{ranges}/limit-range")).await.is(200);
    object["spec"]["limits"][0]["min"] =
        json!({"cpu": "9m", "memory": "49Mi", "ephemeral-storage": "49Gi"});
    api.put(&format!("{ranges}/limit-range"), &object).await.is(200);
    let low = json!({"requests": {"cpu": "10m", "memory": "50Mi", "ephemeral-storage": "50Gi"}});
    api.post(&pods, &pod("low", low)).await.is(201);
    api.delete(&format!("{ranges}/limit-range")).await.is(200);
    let high = json!({"limits": {"cpu": "600m", "memory": "600Mi"}});
    api.post(&pods, &pod("high", high)).await.is(201);
}

#[tokio::test]
async fn limit_ranges_are_listed_patched_and_deleted_together() {
    let api = Api::connect().await;
    let label = unique("limits");
    let mut namespaces = Vec::new();
    for _ in 0..2 {
        let namespace = api.namespace("limitrange").await;
        let path = format!("/api/v1/namespaces/{namespace}/limitranges");
        api.post(&path, &range("e2e-limitrange", &label)).await.is(201);
        namespaces.push(path);
    }
    let everywhere = format!("/api/v1/limitranges?labelSelector=e2e-test%3D{label}");
    assert_eq!(api.items(&everywhere).await.len(), 2);
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"limits": [{
        "type": "Container", "min": {"cpu": "40m", "memory": "100Mi"}}]}});
    let path = format!("{}/e2e-limitrange", namespaces[0]);
    let patched = api.patch(&path, super::harness::STRATEGIC, &patch).await.is(200);
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    let selected = format!("{}?labelSelector=patched%3Dyes", namespaces[0]);
    api.delete(&selected).await.is(200);
    assert_eq!(api.items(&everywhere).await.len(), 1);
}
