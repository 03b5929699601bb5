//! The rows of the kinds that are built in: the stable kinds of Kubernetes 1.37 that Coracle
//! serves. Of two versions of a kind the one that objects are stored in comes first.
//!
//! Short names, categories and selectable fields are those of Kubernetes' own registries.

use std::borrow::Cow;

use super::{Access, Kind, Scope, Subresource};

/// Every row.
pub(super) fn rows() -> Vec<Kind> {
    [core(), apps_and_batch(), questions(), cluster(), machinery(), devices()].concat()
}

fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    let package = match group {
        "" => "core",
        _ => group.split('.').next().unwrap_or(group),
    };
    let schema = match group {
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        _ => format!("io.k8s.api.{package}.{version}.{kind}"),
    };
    let storage = if group.is_empty() { plural.to_owned() } else { format!("{group}/{plural}") };
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        scope: Scope::Namespaced,
        access: Access::Stored,
        subresources: Cow::Borrowed(&[]),
        selectable: Cow::Borrowed(&[]),
        schema: schema.into(),
        storage: storage.into(),
        list: Cow::Borrowed(""),
        custom: None,
    }
}

impl Kind {
    fn short(mut self, name: &'static str) -> Self {
        self.short_names = Cow::Owned(vec![name.into()]);
        self
    }

    fn shorts(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names.iter().map(|name| Cow::Borrowed(*name)).collect();
        self
    }

    /// In the category `all`.
    fn all(mut self) -> Self {
        self.categories = Cow::Borrowed(&[Cow::Borrowed("all")]);
        self
    }

    fn cluster(mut self) -> Self {
        self.scope = Scope::Cluster;
        self
    }

    fn asked(mut self) -> Self {
        self.access = Access::Asked;
        self
    }

    fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = Cow::Borrowed(subresources);
        self
    }

    fn selectable(mut self, paths: &'static [&'static str]) -> Self {
        self.selectable = paths.iter().map(|path| Cow::Borrowed(*path)).collect();
        self
    }

    fn stored_in(mut self, storage: &'static str) -> Self {
        self.storage = storage.into();
        self
    }
}

/// The core group, and events in their newer form.
fn core() -> Vec<Kind> {
    use Subresource::*;
    vec![
        row("", "v1", "Binding", "bindings").asked(),
        row("", "v1", "ConfigMap", "configmaps").short("cm"),
        row("", "v1", "Endpoints", "endpoints").short("ep"),
        row("", "v1", "Event", "events").short("ev").selectable(&[
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        row("", "v1", "LimitRange", "limitranges").short("limits"),
        row("", "v1", "Namespace", "namespaces")
            .short("ns")
            .cluster()
            .subresources(&[Status, Finalize])
            .selectable(&["status.phase"]),
        row("", "v1", "Node", "nodes")
            .short("no")
            .cluster()
            .subresources(&[Status, Proxy])
            .selectable(&["spec.unschedulable"]),
        row("", "v1", "PersistentVolume", "persistentvolumes")
            .short("pv")
            .cluster()
            .subresources(&[Status]),
        row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short("pvc")
            .subresources(&[Status]),
        row("", "v1", "Pod", "pods")
            .short("po")
            .all()
            .subresources(&[
                Status,
                Attach,
                Binding,
                EphemeralContainers,
                Eviction,
                Exec,
                Log,
                PortForward,
                Proxy,
                Resize,
            ])
            .selectable(&[
                "spec.hostNetwork",
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.nominatedNodeName",
                "status.phase",
                "status.podIP",
                "status.podIPs",
            ]),
        row("", "v1", "PodTemplate", "podtemplates"),
        row("", "v1", "ReplicationController", "replicationcontrollers")
            .short("rc")
            .all()
            .subresources(&[Status, Scale])
            .selectable(&["status.replicas"]),
        row("", "v1", "ResourceQuota", "resourcequotas").short("quota").subresources(&[Status]),
        row("", "v1", "Secret", "secrets").selectable(&["type"]),
        row("", "v1", "Service", "services")
            .short("svc")
            .all()
            .subresources(&[Status, Proxy])
            .selectable(&["spec.clusterIP", "spec.type"]),
        row("", "v1", "ServiceAccount", "serviceaccounts").short("sa").subresources(&[Token]),
        row("events.k8s.io", "v1", "Event", "events")
            .short("ev")
            .selectable(&[
                "regarding.apiVersion",
                "regarding.fieldPath",
                "regarding.kind",
                "regarding.name",
                "regarding.namespace",
                "regarding.resourceVersion",
                "regarding.uid",
                "reason",
                "reportingController",
                "source",
                "type",
            ])
            .stored_in("events"),
    ]
}

/// Workloads and what is about them.
fn apps_and_batch() -> Vec<Kind> {
    use Subresource::*;
    vec![
        row("apps", "v1", "ControllerRevision", "controllerrevisions"),
        row("apps", "v1", "DaemonSet", "daemonsets").short("ds").all().subresources(&[Status]),
        row("apps", "v1", "Deployment", "deployments")
            .short("deploy")
            .all()
            .subresources(&[Status, Scale]),
        row("apps", "v1", "ReplicaSet", "replicasets")
            .short("rs")
            .all()
            .subresources(&[Status, Scale])
            .selectable(&["status.replicas"]),
        row("apps", "v1", "StatefulSet", "statefulsets")
            .short("sts")
            .all()
            .subresources(&[Status, Scale]),
        row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short("hpa")
            .all()
            .subresources(&[Status]),
        row("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short("hpa")
            .all()
            .subresources(&[Status]),
        row("batch", "v1", "CronJob", "cronjobs").short("cj").all().subresources(&[Status]),
        row("batch", "v1", "Job", "jobs")
            .all()
            .subresources(&[Status])
            .selectable(&["status.successful"]),
        row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short("pdb")
            .subresources(&[Status]),
    ]
}

/// What is asked and not stored.
fn questions() -> Vec<Kind> {
    vec![
        row("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews")
            .cluster()
            .asked(),
        row("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").cluster().asked(),
        row("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
            .asked(),
        row("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
            .cluster()
            .asked(),
        row("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
            .cluster()
            .asked(),
        row("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews")
            .cluster()
            .asked(),
    ]
}

/// Access, certificates, network, storage and scheduling.
fn cluster() -> Vec<Kind> {
    use Subresource::*;
    vec![
        row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .short("csr")
            .cluster()
            .subresources(&[Status, Approval])
            .selectable(&["spec.signerName"]),
        row("networking.k8s.io", "v1", "Ingress", "ingresses").short("ing").subresources(&[Status]),
        row("networking.k8s.io", "v1", "IngressClass", "ingressclasses").cluster(),
        row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies").short("netpol"),
        row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles").cluster(),
        row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
            .cluster(),
        row("rbac.authorization.k8s.io", "v1", "Role", "roles"),
        row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
        row("storage.k8s.io", "v1", "CSIDriver", "csidrivers").cluster(),
        row("storage.k8s.io", "v1", "CSINode", "csinodes").cluster(),
        row("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities"),
        row("storage.k8s.io", "v1", "StorageClass", "storageclasses").short("sc").cluster(),
        row("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments")
            .cluster()
            .subresources(&[Status]),
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short("pc").cluster(),
        row("coordination.k8s.io", "v1", "Lease", "leases"),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster(),
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    ]
}

/// What extends and steers the API itself.
fn machinery() -> Vec<Kind> {
    use Subresource::*;
    let configuration = |mut kind: Kind| {
        kind.categories = Cow::Borrowed(&[Cow::Borrowed("api-extensions")]);
        kind.cluster()
    };
    vec![
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
        )),
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        )),
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
        ))
        .subresources(&[Status]),
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        )),
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
        )),
        configuration(row(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
        )),
        configuration(row(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ))
        .shorts(&["crd", "crds"])
        .subresources(&[Status]),
        configuration(row("apiregistration.k8s.io", "v1", "APIService", "apiservices"))
            .subresources(&[Status]),
        row("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
            .cluster()
            .subresources(&[Status]),
        row(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
        )
        .cluster()
        .subresources(&[Status]),
    ]
}

/// Addresses, and devices that pods claim.
fn devices() -> Vec<Kind> {
    use Subresource::*;
    vec![
        row("networking.k8s.io", "v1", "IPAddress", "ipaddresses").short("ip").cluster(),
        row("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
            .cluster()
            .subresources(&[Status]),
        row("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses")
            .short("vac")
            .cluster(),
        row("resource.k8s.io", "v1", "DeviceClass", "deviceclasses").cluster(),
        row("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims").subresources(&[Status]),
        row("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
        row("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
            .cluster()
            .selectable(&["spec.driver", "spec.nodeName"]),
    ]
}
