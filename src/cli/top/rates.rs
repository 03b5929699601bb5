//! Requests a second, from what the nodes have counted since they started.

use std::collections::BTreeMap;

use crate::client::Key;

/// Requests (where they are seen; else connections) a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

/// The metric that nodes count calls of Services in.
const METRIC: &str = "coracle_service_calls_total{";
/// What a new reading counts; the rest is what was: a number that jumps cannot be read.
const WEIGHT: f64 = 0.5;
/// Below this the rate is shown as none.
const NOTHING: f64 = 0.05;

/// The calls of every Service on one node, from the text of its `/metrics`.
pub fn parse(text: &str) -> BTreeMap<Key, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(METRIC));
    let counts = lines.filter_map(|line| {
        let (labels, value) = line.split_once("} ")?;
        let label = |name: &str| {
            let from = labels.split(&format!("{name}=\"")).nth(1)?;
            from.split('"').next().map(str::to_owned)
        };
        Some((Key::new(label("namespace")?, label("service")?), value.trim().parse().ok()?))
    });
    counts.collect()
}

/// What the nodes have counted, and how fast it grows.
#[derive(Debug, Default)]
pub struct Rates {
    counted: BTreeMap<String, BTreeMap<Key, u64>>,
    rates: BTreeMap<Key, Rate>,
}

impl Rates {
    /// Takes the readings of all nodes that answered, `seconds` after the last ones.
    pub fn take(&mut self, readings: BTreeMap<String, BTreeMap<Key, u64>>, seconds: f64) {
        let mut grown: BTreeMap<Key, u64> = BTreeMap::new();
        for (node, counts) in &readings {
            let before = self.counted.get(node);
            for (service, count) in counts {
                let sum = grown.entry(service.clone()).or_default();
                // A node that is new here tells no growth; one that started again begins at 0.
                if let Some(before) = before {
                    let last = before.get(service).copied().unwrap_or(0);
                    *sum += if *count >= last { count - last } else { *count };
                }
            }
        }
        self.rates = grown
            .into_iter()
            .map(|(service, calls)| {
                let now = calls as f64 / seconds.max(0.001);
                let before = self.rates.get(&service).map_or(now, |rate| rate.0);
                let smooth = WEIGHT * now + (1.0 - WEIGHT) * before;
                (service, Rate(if smooth < NOTHING { 0.0 } else { smooth }))
            })
            .collect();
        self.counted = readings;
    }

    /// By Service.
    pub fn all(&self) -> &BTreeMap<Key, Rate> {
        &self.rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(node: &str, calls: u64) -> (String, BTreeMap<Key, u64>) {
        (node.to_owned(), BTreeMap::from([(Key::new("default", "web"), calls)]))
    }

    fn rate(rates: &Rates) -> Option<f64> {
        rates.all().get(&Key::new("default", "web")).map(|rate| rate.0)
    }

    #[test]
    fn calls_are_read_from_the_metrics() {
        let text = "# TYPE coracle_service_calls_total counter\n\
            coracle_service_calls_total{namespace=\"default\",service=\"web\"} 7\n\
            coracle_service_requests_total{namespace=\"default\",service=\"web\"} 3\n";
        assert_eq!(parse(text), BTreeMap::from([(Key::new("default", "web"), 7)]));
    }

    #[test]
    fn the_rate_is_the_growth_over_all_nodes() {
        let mut rates = Rates::default();
        rates.take(BTreeMap::from([reading("one", 100), reading("two", 50)]), 1.0);
        assert_eq!(rate(&rates), Some(0.0));
        rates.take(BTreeMap::from([reading("one", 130), reading("two", 60)]), 2.0);
        assert_eq!(rate(&rates), Some(10.0));
    }

    #[test]
    fn a_node_that_started_again_does_not_count_backwards() {
        let mut rates = Rates::default();
        rates.take(BTreeMap::from([reading("one", 100)]), 1.0);
        rates.take(BTreeMap::from([reading("one", 10)]), 1.0);
        assert_eq!(rate(&rates), Some(5.0));
    }
}
