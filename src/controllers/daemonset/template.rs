//! The pod of a node: pinned to it by affinity, and tolerant of what is wrong with it.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Toleration,
};

use crate::controllers::history::REVISION_HASH;

/// What every daemon tolerates: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And those that use the host's network besides.
const WITH_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Adds the tolerations of daemons.
pub fn tolerate(spec: &mut PodSpec) {
    let on_host = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(on_host.then_some(WITH_HOST_NETWORK)) {
        let is_same = |t: &Toleration| {
            t.key.as_deref() == Some(key)
                && t.effect.as_deref() == Some(effect)
                && t.operator.as_deref() == Some("Exists")
        };
        if tolerations.iter().any(is_same) {
            continue;
        }
        tolerations.push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        });
    }
}

/// The template as the pod on `node` gets it, of the revision with this hash.
pub fn for_node(mut template: PodTemplateSpec, hash: &str, node: &str) -> PodTemplateSpec {
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(REVISION_HASH.to_owned(), hash.to_owned());
    let spec = template.spec.get_or_insert_default();
    tolerate(spec);
    let affinity = spec.affinity.get_or_insert_default();
    let of_node = affinity.node_affinity.get_or_insert_default();
    // The controller has looked at the template's own terms, so only the node is left of them.
    of_node.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_pinned_to_its_node_and_tolerates_its_troubles_once() {
        let mut template = PodTemplateSpec::default();
        template.spec.get_or_insert_default().host_network = Some(true);
        let once = for_node(template, "abc", "one");
        let twice = for_node(once.clone(), "abc", "one");
        assert_eq!(once, twice);
        let pod = serde_json::to_value(&once).expect("a template is valid JSON");
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(7));
        assert_eq!(pod["metadata"]["labels"][REVISION_HASH], "abc");
        let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"][0], "one");
    }
}
