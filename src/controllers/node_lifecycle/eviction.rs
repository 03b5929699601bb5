//! When a pod must leave a node that has NoExecute taints (`pkg/controller/tainteviction`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::client::meta::timestamp;

/// How long a pod may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    Forever,
    /// It must leave at this time, which may have passed.
    Until(Timestamp),
}

/// Whether the toleration tolerates the taint (`v1.Toleration.ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let told = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (told(&toleration.key), told(&toleration.effect));
    let same_effect = effect.is_empty() || effect == taint.effect;
    let same_key = key.is_empty() || key == taint.key;
    let value_fits = match told(&toleration.operator).as_str() {
        "" | "Equal" => {
            !key.is_empty() && told(&toleration.value) == taint.value.clone().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    };
    same_effect && same_key && value_fits
}

/// How long a pod with `tolerations` may stay under `taints`. A taint counts from the time that it
/// carries, else from `now`.
pub fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Stay::Until(now);
        }
        // The shortest of those that match counts; one without seconds is forever.
        let Some(seconds) = matching.filter_map(|toleration| toleration.toleration_seconds).min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, timestamp);
        let until = since
            .checked_add(jiff::SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX))))
            .unwrap_or(Timestamp::MAX);
        earliest = Some(earliest.map_or(until, |earlier| earlier.min(until)));
    }
    earliest.map_or(Stay::Forever, Stay::Until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::meta::time;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    fn taint(key: &str, added: i64) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            value: None,
            time_added: Some(time(at(added))),
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.to_owned()).filter(|key| !key.is_empty()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: seconds,
            value: None,
        }
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        let cases = [
            (vec![], vec![], Stay::Forever),
            (vec![taint("a", 0)], vec![], Stay::Until(at(50))),
            (vec![taint("a", 10)], vec![toleration("a", Some(300))], Stay::Until(at(310))),
            (vec![taint("a", 10)], vec![toleration("a", None)], Stay::Forever),
            (vec![taint("a", 10)], vec![toleration("", None)], Stay::Forever),
            (
                vec![taint("a", 10), taint("b", 20)],
                vec![toleration("a", Some(300)), toleration("b", Some(5))],
                Stay::Until(at(25)),
            ),
            (
                vec![taint("a", 10), taint("b", 20)],
                vec![toleration("a", Some(300))],
                Stay::Until(at(50)),
            ),
        ];
        for (taints, tolerations, expected) in cases {
            let got = stay(&taints, &tolerations, at(50));
            assert_eq!(got, expected, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn values_and_effects_must_fit() {
        let mut equal = toleration("a", None);
        equal.operator = Some("Equal".to_owned());
        equal.value = Some("x".to_owned());
        assert!(!tolerates(&equal, &taint("a", 0)));
        let with_value = Taint { value: Some("x".to_owned()), ..taint("a", 0) };
        assert!(tolerates(&equal, &with_value));
        equal.effect = Some("NoSchedule".to_owned());
        assert!(!tolerates(&equal, &with_value));
    }
}
