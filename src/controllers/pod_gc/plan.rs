//! Which pods are garbage (`pkg/controller/podgc`): over and too many, on nodes that are gone,
//! being deleted without ever having had a node, or on nodes that were taken out of service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::controllers::view::Pod;

/// How long a node must be gone before its pods are removed.
pub const QUARANTINE: Duration = Duration::from_secs(40);

/// Why a pod is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Too many pods that are over; the oldest go.
    Terminated,
    /// Its node is gone, which must be asked once more before it goes.
    Orphaned,
    /// It was deleted before it got a node.
    Unscheduled,
    /// Its node is out of service.
    OutOfService,
}

/// What was observed.
pub struct Observed<'a> {
    pub pods: &'a [Arc<Pod>],
    /// Whether there is a node of that name.
    pub node_exists: &'a dyn Fn(&str) -> bool,
    /// Whether the node is not ready and tainted out-of-service.
    pub out_of_service: &'a dyn Fn(&str) -> bool,
    /// How many pods that are over may stay.
    pub terminated_max: usize,
}

/// Since when nodes that pods name are missing.
#[derive(Debug, Default)]
pub struct Missing(HashMap<String, Duration>);

/// The pods to remove.
pub fn plan(observed: &Observed<'_>, missing: &mut Missing, now: Duration) -> Vec<(Arc<Pod>, Why)> {
    let mut garbage = Vec::new();
    let mut still_missing = HashMap::new();
    let mut over = Vec::new();
    for pod in observed.pods {
        if pod.node.is_empty() {
            if pod.deleting.is_some() {
                garbage.push((pod.clone(), Why::Unscheduled));
                continue;
            }
        } else if !(observed.node_exists)(&pod.node) {
            let since = missing.0.get(&pod.node).copied().unwrap_or(now);
            still_missing.insert(pod.node.clone(), since);
            if now.saturating_sub(since) >= QUARANTINE {
                garbage.push((pod.clone(), Why::Orphaned));
                continue;
            }
        } else if pod.deleting.is_some() && (observed.out_of_service)(&pod.node) {
            garbage.push((pod.clone(), Why::OutOfService));
            continue;
        }
        if pod.is_terminal() && pod.deleting.is_none() {
            over.push(pod);
        }
    }
    missing.0 = still_missing;
    let surplus = over.len().saturating_sub(observed.terminated_max);
    if surplus > 0 {
        over.sort_by_key(|pod| (pod.created, pod.key.clone()));
        garbage.extend(over.into_iter().take(surplus).map(|pod| (pod.clone(), Why::Terminated)));
    }
    garbage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::Key;
    use crate::controllers::view::Phase;
    use jiff::Timestamp;

    fn pod(name: &str, node: &str) -> Pod {
        Pod { key: Key::new("default", name), node: node.to_owned(), ..Pod::default() }
    }

    fn planned(pods: Vec<Pod>, missing: &mut Missing, second: u64) -> Vec<(String, Why)> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let observed = Observed {
            pods: &pods,
            node_exists: &|node| node != "gone",
            out_of_service: &|node| node == "broken",
            terminated_max: 1,
        };
        let garbage = plan(&observed, missing, Duration::from_secs(second));
        garbage.into_iter().map(|(pod, why)| (pod.key.name.clone(), why)).collect()
    }

    #[test]
    fn each_kind_of_garbage_is_found() {
        let at = |second| Some(Timestamp::from_second(second).expect("a timestamp"));
        let pods = vec![
            pod("fine", "one"),
            Pod { deleting: at(1), ..pod("unscheduled", "") },
            Pod { deleting: at(1), ..pod("lost", "broken") },
            pod("waits", "broken"),
            Pod { phase: Phase::Failed, created: at(1), ..pod("old", "one") },
            Pod { phase: Phase::Succeeded, created: at(2), ..pod("new", "one") },
        ];
        let garbage = planned(pods, &mut Missing::default(), 0);
        assert_eq!(
            garbage,
            [
                ("unscheduled".to_owned(), Why::Unscheduled),
                ("lost".to_owned(), Why::OutOfService),
                ("old".to_owned(), Why::Terminated)
            ]
        );
    }

    #[test]
    fn orphans_wait_for_their_node_to_come_back() {
        let mut missing = Missing::default();
        let orphan = || vec![pod("a", "gone")];
        assert!(planned(orphan(), &mut missing, 10).is_empty());
        assert!(planned(orphan(), &mut missing, 49).is_empty());
        assert_eq!(planned(orphan(), &mut missing, 50).len(), 1);
        assert!(planned(vec![], &mut missing, 60).is_empty());
        assert!(planned(orphan(), &mut missing, 70).is_empty(), "it was forgotten meanwhile");
    }
}
