//! Pods that do their work and end.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::{DeleteParams, LogParams};
use serde_json::json;

use super::{Checked, Ground, until};
use crate::cli::demo::manifests;

/// What the manifest's orders come to.
const RESULT: &str = "9592 primes up to 100000";
const CHOSEN: i32 = 7;

/// The end of the pod's container (an init container or not), once the pod is over.
async fn end_of(
    ground: &Ground,
    pod: &str,
    container: &str,
) -> anyhow::Result<(String, ContainerStateTerminated)> {
    until(|| async {
        let pod = ground.pods_api().get(pod).await?;
        let Some(status) = pod.status else { return Ok(None) };
        let phase = status.phase.unwrap_or_default();
        if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            return Ok(None);
        }
        let init = status.init_container_statuses.unwrap_or_default();
        let main = status.container_statuses.unwrap_or_default();
        let ended = init
            .into_iter()
            .chain(main)
            .find(|c| c.name == container)
            .and_then(|c| c.state?.terminated);
        let ended = ended.with_context(|| format!("{phase}, but {container} has not ended"))?;
        Ok(Some((phase, ended)))
    })
    .await
}

/// One container computes into a volume, another prints what it finds there.
pub async fn result_is_logged(ground: &Ground) -> Checked {
    ground.asks("GET pods/batch and pods/batch/log");
    let (phase, ended) = end_of(ground, "batch", "compute").await?;
    ensure!(phase == "Succeeded", "{phase}: {ended:?}");
    ensure!(ended.exit_code == 0, "compute ended with {}", ended.exit_code);
    let text = ground.pods_api().logs("batch", &LogParams::default()).await?;
    ensure!(text.trim() == RESULT, "{text:?}");
    Ok(format!("{phase}, exit code 0, log: {text}"))
}

/// A pod whose program was told to end with 7.
pub async fn exit_code_is_told(ground: &Ground) -> Checked {
    let name = "chosen-exit";
    ground.asks(format!("a pod whose config says exit={CHOSEN}"));
    let config = format!("limit=10\noutput=/out/result\nexit={CHOSEN}\n");
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"config": config},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "compute", "image": "coracle.dev/samples/batch:v1",
                "volumeMounts": [
                    {"name": "orders", "mountPath": "/etc/batch"},
                    {"name": "result", "mountPath": "/out"},
                ],
            }],
            "volumes": [
                {"name": "orders", "configMap": {"name": name}},
                {"name": "result", "emptyDir": {}},
            ],
        },
    });
    manifests::apply(&ground.client, &map).await?;
    manifests::apply(&ground.client, &pod).await?;
    let (phase, ended) = end_of(ground, name, "compute").await?;
    ensure!(phase == "Failed" && ended.exit_code == CHOSEN, "{phase}: {ended:?}");
    let pods: kube::Api<Pod> = ground.pods_api();
    pods.delete(name, &DeleteParams::default()).await?;
    until(|| async { Ok(pods.get_opt(name).await?.is_none().then_some(())) }).await?;
    Ok(format!("{phase}, exit code {}; then it was deleted", ended.exit_code))
}
