//! What this node's network has carried, per Service: `/metrics` in Prometheus' text form.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::net::{Counters, ServiceCounters};
use crate::node::agent::Node;

type Reading = fn(&Counters) -> u64;

const METRICS: [(&str, &str, Reading); 5] = [
    ("connections", "TCP connections and UDP flows to a Service.", |c| c.connections),
    ("requests", "Http requests handed to a handler as values.", |c| c.requests),
    ("received_bytes", "Bytes carried towards the endpoints.", |c| c.bytes_in),
    ("sent_bytes", "Bytes carried back from the endpoints.", |c| c.bytes_out),
    ("refused", "Connections that no endpoint took.", |c| c.refused),
];

pub async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let text = render(&node.fabric.counters());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn render(services: &[ServiceCounters]) -> String {
    let mut text = String::new();
    for (name, help, reading) in METRICS {
        let _ = writeln!(text, "# HELP coracle_service_{name}_total {help}");
        let _ = writeln!(text, "# TYPE coracle_service_{name}_total counter");
        for service in services {
            let _ = writeln!(
                text,
                "coracle_service_{name}_total{{namespace=\"{}\",service=\"{}\"}} {}",
                service.namespace,
                service.name,
                reading(&service.total)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_line_a_metric() {
        let service = ServiceCounters {
            namespace: "default".into(),
            name: "web".into(),
            total: Counters { requests: 7, ..Counters::default() },
            endpoints: Vec::new(),
        };
        let text = render(&[service]);
        let line = "coracle_service_requests_total{namespace=\"default\",service=\"web\"} 7\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.lines().filter(|l| !l.starts_with('#')).count(), METRICS.len());
    }
}
