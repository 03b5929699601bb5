//! Which rules a built-in kind follows.

use std::sync::Arc;

use super::custom::{self, CustomKind};
use super::rules::{BuiltIn, PLAIN, Rules};
use super::{Strategy, cluster, config, event, machinery, network, pod, workload};
use crate::api::kinds::Kind;
use crate::apiserver::catalog::Strategies;

/// Finds the strategy of every built-in kind; any other kind is a plain one.
pub fn strategies() -> Strategies {
    Arc::new(|kind: &Kind| match &kind.custom {
        Some(custom) => Arc::new(CustomKind::new(kind, custom.clone())) as Arc<dyn Strategy>,
        None => Arc::new(BuiltIn::new(kind, rules(kind))),
    })
}

fn rules(kind: &Kind) -> Rules {
    match (&*kind.group, &*kind.kind) {
        ("", "ConfigMap") => config::CONFIG_MAP,
        ("", "Endpoints") => network::ENDPOINTS,
        ("", "Event") => event::CORE,
        ("", "LimitRange") => cluster::WITH_CREATED,
        ("", "Namespace") => cluster::NAMESPACE,
        ("", "Node") => cluster::NODE,
        ("", "PersistentVolume") => config::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => config::CLAIM,
        ("", "Pod") => pod::POD,
        ("", "PodTemplate") => pod::TEMPLATE,
        ("", "ReplicationController") => workload::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => cluster::RESOURCE_QUOTA,
        ("", "Secret") => config::SECRET,
        ("", "Service") => network::SERVICE,
        ("", "ServiceAccount") => config::SERVICE_ACCOUNT,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            machinery::VALIDATING_POLICY
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => machinery::MUTATING_POLICY,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => machinery::POLICY_BINDING,
        ("admissionregistration.k8s.io", _) => machinery::WEBHOOKS,
        ("apiregistration.k8s.io", _) => machinery::API_SERVICE,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => machinery::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", _) => machinery::PRIORITY_LEVEL,
        ("networking.k8s.io", "IPAddress") => machinery::IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => machinery::SERVICE_CIDR,
        ("storage.k8s.io", "VolumeAttributesClass") => machinery::ATTRIBUTES_CLASS,
        ("resource.k8s.io", "ResourceClaim") => machinery::CLAIM,
        ("resource.k8s.io", "ResourceSlice") => machinery::SLICE,
        ("resource.k8s.io", _) => machinery::DEVICE_CLASS,
        ("apiextensions.k8s.io", _) => custom::DEFINITION,
        ("apps", "ControllerRevision") => workload::CONTROLLER_REVISION,
        ("apps", "DaemonSet") => workload::DAEMON_SET,
        ("apps", "Deployment") => workload::DEPLOYMENT,
        ("apps", "ReplicaSet") => workload::REPLICA_SET,
        ("apps", "StatefulSet") => workload::STATEFUL_SET,
        ("autoscaling", _) if kind.version == "v1" => workload::AUTOSCALER_V1,
        ("autoscaling", _) => workload::AUTOSCALER_V2,
        ("batch", "Job") => workload::JOB,
        ("batch", "CronJob") => workload::CRON_JOB,
        ("certificates.k8s.io", _) => cluster::SIGNING_REQUEST,
        ("coordination.k8s.io", "Lease") => cluster::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("events.k8s.io", "Event") => event::NEWER,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICY,
        ("node.k8s.io", "RuntimeClass") => cluster::RUNTIME_CLASS,
        ("policy", "PodDisruptionBudget") => workload::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            cluster::ROLE_BINDING
        }
        ("rbac.authorization.k8s.io", _) => cluster::ROLE,
        ("scheduling.k8s.io", "PriorityClass") => cluster::PRIORITY_CLASS,
        ("storage.k8s.io", "CSIDriver") => config::CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => config::CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => config::CSI_CAPACITY,
        ("storage.k8s.io", "StorageClass") => config::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => config::ATTACHMENT,
        _ => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds::KindTable;
    use crate::apiserver::strategy::Part;

    #[test]
    fn every_kind_fills_every_column_of_its_table() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        for kind in KindTable::builtin().rows() {
            let strategy = strategies()(kind);
            for object in [json!({}), json!({"metadata": {"name": "a"}, "spec": {}, "status": {}})]
            {
                let cells = strategy.cells(&object, now);
                assert_eq!(cells.len(), strategy.columns().len(), "{}", kind.schema);
            }
        }
    }

    #[test]
    fn a_write_to_the_status_leaves_the_spec_alone_and_the_other_way_round() {
        let table = KindTable::builtin();
        let kind = table.of("apps/v1", "Deployment").expect("a row");
        let strategy = strategies()(kind);
        let old = json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let both = json!({"metadata": {"name": "a", "labels": {"l": "2"}}, "spec": {"replicas": 2}, "status": {"replicas": 2}});
        let mut main = both.clone();
        strategy.prepare_update(Part::Main, &mut main, &old);
        assert_eq!(
            (&main["spec"]["replicas"], &main["status"]["replicas"]),
            (&json!(2), &json!(1))
        );
        let mut status = both;
        strategy.prepare_update(Part::Status, &mut status, &old);
        assert_eq!(
            (&status["spec"]["replicas"], &status["status"]["replicas"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(status["metadata"]["labels"]["l"], "1");
        assert_eq!(strategy.generation_changes(&main, &old), Some(true));
        assert_eq!(strategy.generation_changes(&status, &old), Some(false));
    }

    #[test]
    fn nothing_a_client_may_send_makes_a_strategy_panic() {
        let odd = [
            json!({}),
            json!({"spec": 1, "status": [], "metadata": "x"}),
            json!({"spec": {"ports": {"a": 1}, "template": []}}),
        ];
        for kind in KindTable::builtin().rows() {
            let strategy = strategies()(kind);
            for object in &odd {
                let mut new = object.clone();
                strategy.default(&mut new);
                strategy.prepare_create(&mut new);
                strategy.validate(&new);
                strategy.prepare_update(Part::Main, &mut new, object);
                strategy.prepare_update(Part::Status, &mut new, object);
                strategy.validate_update(Part::Main, &new, object);
                strategy.generation_changes(&new, object);
                strategy.grace(&new, None);
                strategy.warnings(&new);
            }
        }
    }
}
