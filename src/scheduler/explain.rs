//! Why a pod is where it is not: node by node what refuses it, and what change would admit it.
//!
//! The same rules are asked as for a decision, all of them rather than up to the first that refuses;
//! what they say is put beside the facts that they looked at.

use std::fmt::Write as _;

use super::config::{Plugin, Profile};
use super::filter::{Reason, taints};
use super::node::NodeInfo;
use super::plan::{self, NodeName};
use super::pod::Pod;
use super::score;
use super::snapshot::Snapshot;
use crate::api::selector::{Operator, Requirement};

/// One thing that keeps a pod from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub plugin: Plugin,
    /// In Kubernetes' words.
    pub reason: String,
    /// The facts.
    pub detail: String,
    /// What would take it away.
    pub remedy: String,
}

/// What is told of one node.
#[derive(Debug, Clone)]
pub struct NodeVerdict {
    pub node: NodeName,
    pub obstacles: Vec<Obstacle>,
    /// How good the node is, where it would take the pod.
    pub score: Option<i64>,
}

/// What is told of a pod.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// As the pod's condition says it; `None`: a node would take it.
    pub summary: Option<String>,
    /// What keeps it from all nodes alike.
    pub everywhere: Option<String>,
    /// The nearest nodes first.
    pub nodes: Vec<NodeVerdict>,
}

/// Asks every rule about every node.
pub fn explain(snapshot: &Snapshot, pod: &Pod, profile: &Profile) -> Verdict {
    let summary = plan::decide(snapshot, pod, profile, 0).err().map(|why| why.to_string());
    let told = match plan::explain(snapshot, pod, profile) {
        Ok(told) => told,
        Err(stop) => {
            return Verdict { summary, everywhere: Some(stop.message), nodes: Vec::new() };
        }
    };
    let infos = told.iter().filter(|(_, reasons)| reasons.is_empty());
    let feasible: Vec<&NodeInfo> = infos.filter_map(|(node, _)| snapshot.node(node)).collect();
    let scores = score::total(pod, &feasible, snapshot, profile);
    let score_of = |node: &str| {
        let at = feasible.iter().position(|info| *info.node.name == *node)?;
        Some(scores[at])
    };
    let mut nodes: Vec<NodeVerdict> = told
        .into_iter()
        .filter_map(|(node, reasons)| {
            let info = snapshot.node(&node)?;
            let obstacles = reasons.iter().map(|reason| obstacle(reason, pod, info, snapshot));
            let obstacles = obstacles.collect();
            Some(NodeVerdict { score: score_of(&node), node, obstacles })
        })
        .collect();
    nodes.sort_by_key(|told| (told.obstacles.len(), std::cmp::Reverse(told.score)));
    Verdict { summary, everywhere: None, nodes }
}

fn obstacle(reason: &Reason, pod: &Pod, info: &NodeInfo, snapshot: &Snapshot) -> Obstacle {
    let (detail, remedy) = facts(reason, pod, info, snapshot);
    Obstacle { plugin: reason.plugin(), reason: reason.to_string(), detail, remedy }
}

fn facts(reason: &Reason, pod: &Pod, info: &NodeInfo, snapshot: &Snapshot) -> (String, String) {
    let node = &info.node.name;
    match reason {
        Reason::Unschedulable => {
            ("it is cordoned".to_owned(), format!("uncordon it: kubectl uncordon {node}"))
        }
        Reason::Name | Reason::NotPinned => (
            "the pod names another node".to_owned(),
            "take the node's name out of the pod's spec".to_owned(),
        ),
        Reason::Taint { .. } => taint(pod, info),
        Reason::Affinity => labels(pod, info),
        Reason::AddedAffinity => (
            "the scheduler's profile keeps its pods to other nodes".to_owned(),
            "give the node the labels of addedAffinity in the scheduler's configuration".to_owned(),
        ),
        Reason::Ports => port(pod, info),
        Reason::TooManyPods => (
            format!("{} of {} pods are there", info.used.pods, info.node.allocatable.pods),
            "move or delete a pod there, or let the node hold more".to_owned(),
        ),
        Reason::Insufficient { resource, never } => resource_facts(resource, *never, pod, info),
        Reason::Spread => (
            "one more pod there would make the spread more uneven than maxSkew allows".to_owned(),
            "add pods elsewhere first (more room in the domains with few), raise maxSkew, or say \
             whenUnsatisfiable: ScheduleAnyway"
                .to_owned(),
        ),
        Reason::SpreadLabel => {
            let missing = pod.spread.iter().map(|constraint| constraint.topology_key.as_str());
            let missing: Vec<&str> = missing.filter(|key| info.node.label(key).is_none()).collect();
            (
                format!("it has no label {}", missing.join(", ")),
                format!("label it: kubectl label node {node} {}=VALUE", missing.join("=VALUE ")),
            )
        }
        Reason::PodAffinity => (
            "no pod that it has to be near is in the node's topology domain".to_owned(),
            "start such a pod there, or make the affinity preferred".to_owned(),
        ),
        Reason::PodAntiAffinity | Reason::ExistingAntiAffinity => far(reason, pod, info, snapshot),
        Reason::Disk => (
            "a pod there has attached the same disk".to_owned(),
            "mount the disk read-only in both, or delete the other pod".to_owned(),
        ),
        Reason::Exclusive => (
            "another pod uses the ReadWriteOncePod claim".to_owned(),
            "delete the other pod, or use a claim of its own".to_owned(),
        ),
        Reason::VolumeCount => (
            "it has attached as many volumes as its driver allows".to_owned(),
            "move a pod with volumes away from it".to_owned(),
        ),
        Reason::VolumeToBind => (
            "no free volume that fits reaches it, and none can be made there".to_owned(),
            "make a PersistentVolume of the claim's class, size and access mode that reaches it"
                .to_owned(),
        ),
        Reason::VolumeReach | Reason::VolumeZone => (
            "a volume of the pod does not reach it".to_owned(),
            "run the pod where the volume is, or copy the data into a volume here".to_owned(),
        ),
        Reason::VolumeGone => (
            "a claim is bound to a volume that is gone".to_owned(),
            "delete the claim and make it anew".to_owned(),
        ),
    }
}

fn taint(pod: &Pod, info: &NodeInfo) -> (String, String) {
    let mut untolerated = info.node.taints.iter().filter(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !taints::tolerated(&pod.tolerations, taint)
    });
    let shown = |taint: &super::node::Taint| match taint.value.as_deref() {
        Some(value) if !value.is_empty() => format!("{}={value}:{}", taint.key, taint.effect),
        _ => format!("{}:{}", taint.key, taint.effect),
    };
    let all: Vec<String> = untolerated.by_ref().map(shown).collect();
    let told = all.join(", ");
    let remedy = format!("let the pod tolerate {told}, or take the taint off the node");
    (format!("it has the taint {told}"), remedy)
}

/// Which label differs: of the node selector, else of the term that is nearest.
fn labels(pod: &Pod, info: &NodeInfo) -> (String, String) {
    let node = &info.node;
    let differs = pod.node_selector.iter().filter(|(k, v)| node.label(k) != Some(v));
    let differs: Vec<&(String, String)> = differs.collect();
    if !differs.is_empty() {
        let mut detail = Vec::new();
        let mut wanted = String::new();
        for (key, value) in differs {
            detail.push(match node.label(key) {
                Some(has) => format!("its label {key} is {has}, not {value}"),
                None => format!("it has no label {key}={value}"),
            });
            let _ = write!(wanted, " {key}={value}");
        }
        let remedy = format!("kubectl label --overwrite node {}{wanted}", node.name);
        return (detail.join(", "), remedy);
    }
    let terms = pod.required.iter().flatten().filter(|term| !term.never);
    let failing = |requirements: &[Requirement]| -> Vec<String> {
        let fails = |r: &&Requirement| !r.fits(node.label(&r.key));
        requirements.iter().filter(fails).map(told_requirement).collect()
    };
    let nearest = terms.map(|term| failing(&term.labels)).min_by_key(Vec::len);
    let Some(nearest) = nearest.filter(|failing| !failing.is_empty()) else {
        let detail = "its node affinity holds for no node".to_owned();
        return (detail, "correct the pod's node affinity".to_owned());
    };
    let all = nearest.join(" and ");
    (format!("it lacks: {all}"), format!("label the node so that {all}, or relax the affinity"))
}

fn told_requirement(requirement: &Requirement) -> String {
    let (key, values) = (&requirement.key, requirement.values.join(", "));
    match requirement.operator {
        Operator::In => format!("{key} in ({values})"),
        Operator::NotIn => format!("{key} not in ({values})"),
        Operator::Exists => format!("{key} exists"),
        Operator::DoesNotExist => format!("{key} does not exist"),
        Operator::GreaterThan => format!("{key} > {values}"),
        Operator::LessThan => format!("{key} < {values}"),
    }
}

fn port(pod: &Pod, info: &NodeInfo) -> (String, String) {
    for other in &info.pods {
        let meets = |port: &&super::pod::HostPort| pod.host_ports.iter().any(|w| w.meets(port));
        if let Some(port) = other.host_ports.iter().find(meets) {
            let (number, protocol) = (port.port, &port.protocol);
            return (
                format!("hostPort {number}/{protocol} is taken by {}", other.key),
                format!("choose another hostPort, or move {}", other.key),
            );
        }
    }
    ("a hostPort is taken".to_owned(), "choose another hostPort".to_owned())
}

/// As people write amounts of a resource.
fn amount(resource: &str, number: i64) -> String {
    let binary = |number: i64| {
        let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        let unit = units.into_iter().find(|(size, _)| number != 0 && number % size == 0);
        let unit = unit.or_else(|| units.into_iter().find(|(size, _)| number.abs() >= *size * 10));
        match unit {
            Some((size, name)) => format!("{}{name}", number / size),
            None => number.to_string(),
        }
    };
    match resource {
        "cpu" if number % 1000 == 0 => (number / 1000).to_string(),
        "cpu" => format!("{number}m"),
        "memory" | "ephemeral-storage" => binary(number),
        _ => number.to_string(),
    }
}

fn resource_facts(resource: &str, never: bool, pod: &Pod, info: &NodeInfo) -> (String, String) {
    let (has, used) = (info.node.allocatable.get(resource), info.used.get(resource));
    let wants = pod.requests.get(resource);
    let free = (has - used).max(0);
    let told = |number| amount(resource, number);
    let detail = format!("it asks for {}, {} of {} are free", told(wants), told(free), told(has));
    if never {
        let least = format!("ask for at most {}, or use a larger node", told(has));
        return (detail, if has == 0 { "use a node that has it".to_owned() } else { least });
    }
    let lower = info.pods.iter().filter(|other| other.priority < pod.priority).count();
    let mut remedy = format!("ask for {} less, or free as much there", told(wants - free));
    if lower > 0 {
        let _ = write!(remedy, " ({lower} pods there have a lower priority)");
    }
    (detail, remedy)
}

/// Which pod is in the way.
fn far(reason: &Reason, pod: &Pod, info: &NodeInfo, snapshot: &Snapshot) -> (String, String) {
    let speaks = |term: &super::terms::PodTerm, of: &Pod| {
        term.matches(&of.labels, snapshot.namespace(&of.labels.namespace))
    };
    let near = |key: &str, other: &NodeInfo| {
        info.node.label(key).is_some() && info.node.label(key) == other.node.label(key)
    };
    for other_node in snapshot.nodes() {
        for other in &other_node.pods {
            let own = *reason == Reason::PodAntiAffinity;
            let (terms, of): (_, &Pod) = if own {
                (&pod.ask.terms.anti_required, other)
            } else {
                (&other.ask.terms.anti_required, pod)
            };
            let hit = terms.iter().find(|t| speaks(t, of) && near(&t.topology_key, other_node));
            if let Some(term) = hit {
                let key = &term.topology_key;
                let value = info.node.label(key).unwrap_or_default();
                return (
                    format!("{} is in the same domain ({key}={value})", other.key),
                    format!("move {}, or make the anti-affinity preferred", other.key),
                );
            }
        }
    }
    let detail = "a pod that it must be far from is in the same domain".to_owned();
    (detail, "make the anti-affinity preferred".to_owned())
}
