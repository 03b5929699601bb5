//! The types with their descriptions, as k8s-openapi's schemas tell them. For documents
//! (OpenAPI); what the server decides by is in [`super::schema`].

use k8s_openapi::api as k;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

macro_rules! register {
    ($generator:ident: $($kind:ty),* $(,)?) => {
        $($generator.subschema_for::<$kind>();)*
    };
}

/// Every type by its name, `io.k8s.api.apps.v1.Deployment`. Built anew each time (some
/// milliseconds, a few MiB): callers keep what they make of it.
pub fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
    core(&mut generator);
    groups(&mut generator);
    machinery(&mut generator);
    generator.take_definitions(false)
}

fn core(generator: &mut SchemaGenerator) {
    use k::core::v1::*;
    register!(generator: Binding, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
        PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController,
        ResourceQuota, Secret, Service, ServiceAccount);
    register!(generator: meta::DeleteOptions, meta::Status, meta::ListMeta);
}

fn machinery(generator: &mut SchemaGenerator) {
    use k::admissionregistration::v1::*;
    use k::resource::v1::*;
    register!(generator: MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, MutatingAdmissionPolicy,
        MutatingAdmissionPolicyBinding);
    register!(generator: CustomResourceDefinition, APIService);
    register!(generator: k::flowcontrol::v1::FlowSchema,
        k::flowcontrol::v1::PriorityLevelConfiguration, k::networking::v1::IPAddress,
        k::networking::v1::ServiceCIDR, k::storage::v1::VolumeAttributesClass, DeviceClass,
        ResourceClaim, ResourceClaimTemplate, ResourceSlice);
}

fn groups(generator: &mut SchemaGenerator) {
    use k::*;
    register!(generator: apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment,
        apps::v1::ReplicaSet, apps::v1::StatefulSet, events::v1::Event);
    register!(generator: authentication::v1::SelfSubjectReview, authentication::v1::TokenReview,
        authentication::v1::TokenRequest, authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview, authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview);
    register!(generator: autoscaling::v1::HorizontalPodAutoscaler, autoscaling::v1::Scale,
        autoscaling::v2::HorizontalPodAutoscaler, batch::v1::CronJob, batch::v1::Job,
        certificates::v1::CertificateSigningRequest, coordination::v1::Lease,
        discovery::v1::EndpointSlice, networking::v1::Ingress, networking::v1::IngressClass,
        networking::v1::NetworkPolicy, node::v1::RuntimeClass, policy::v1::PodDisruptionBudget,
        policy::v1::Eviction);
    register!(generator: rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, rbac::v1::Role,
        rbac::v1::RoleBinding, scheduling::v1::PriorityClass, storage::v1::CSIDriver,
        storage::v1::CSINode, storage::v1::CSIStorageCapacity, storage::v1::StorageClass,
        storage::v1::VolumeAttachment);
}
