//! Events, which core/v1 and events.k8s.io/v1 tell in two forms. They are kept in the first.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::cells::{self, or, since, text, wide};
use super::rules::{PLAIN, Rules};
use super::{Column, Conversion};
use crate::api::Object;

/// How long Kubernetes keeps events.
const LIFETIME: Duration = Duration::from_secs(3600);

pub(super) const CORE: Rules = Rules {
    // The two forms judge by their own rules, which let nearly everything through.
    name: crate::api::names::dns_subdomain,
    creates_on_update: true,
    ttl: Some(LIFETIME),
    columns: &COLUMNS,
    cells: |o, now| row(o, now),
    ..PLAIN
};

pub(super) const NEWER: Rules = Rules {
    conversion: Some(&Forms),
    cells: |o, now| {
        let mut core = o.clone();
        Forms.to_stored(&mut core);
        row(&core, now)
    },
    ..CORE
};

const COLUMNS: [Column; 10] = [
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    wide("Name"),
];

fn row(o: &Object, now: Timestamp) -> Vec<Value> {
    let event_time = &o["eventTime"];
    let at = |field: &str| if o[field].is_string() { &o[field] } else { event_time };
    let series = &o["series"];
    let (last, count) = match series["count"].as_i64() {
        Some(count) => {
            let seen = &series["lastObservedTime"];
            (if seen.is_string() { seen } else { at("lastTimestamp") }, count)
        }
        None => (at("lastTimestamp"), o["count"].as_i64().filter(|c| *c > 0).unwrap_or(1)),
    };
    let about = &o["involvedObject"];
    let kind = about["kind"].as_str().unwrap_or_default().to_lowercase();
    let target = match about["name"].as_str().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = match o["source"]["component"].as_str().filter(|c| !c.is_empty()) {
        Some(component) => match o["source"]["host"].as_str().filter(|h| !h.is_empty()) {
            Some(host) => format!("{component}, {host}"),
            None => component.to_owned(),
        },
        None => o["reportingComponent"].as_str().unwrap_or_default().to_owned(),
    };
    vec![
        json!(since(last, now)),
        or(&o["type"], ""),
        or(&o["reason"], ""),
        json!(target),
        or(&about["fieldPath"], ""),
        json!(source),
        json!(o["message"].as_str().unwrap_or_default().trim()),
        json!(since(at("firstTimestamp"), now)),
        json!(count.to_string()),
        cells::name(o),
    ]
}

/// `(core/v1, events.k8s.io/v1)` names of what differs.
const NAMES: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

struct Forms;

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if from != to
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}

impl Conversion for Forms {
    fn to_served(&self, object: &mut Object) {
        let Some(map) = object.as_object_mut() else { return };
        for (core, newer) in NAMES {
            rename(map, core, newer);
        }
    }

    fn to_stored(&self, object: &mut Object) {
        let Some(map) = object.as_object_mut() else { return };
        for (core, newer) in NAMES {
            rename(map, newer, core);
        }
        map.entry("involvedObject").or_insert_with(|| json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_way_through_both_forms() {
        let stored = json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"},
            "message": "m", "reason": "Started", "count": 2, "source": {"component": "kubelet"},
            "lastTimestamp": "2026-01-01T00:00:55Z", "type": "Normal",
        });
        let mut object = stored.clone();
        Forms.to_served(&mut object);
        assert_eq!(object["note"], "m");
        assert_eq!(object["regarding"]["name"], "p");
        Forms.to_stored(&mut object);
        assert_eq!(object, stored);
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let row = row(&object, now);
        assert_eq!(json!(row[..4]), json!(["5s", "Normal", "Started", "pod/p"]));
    }
}
