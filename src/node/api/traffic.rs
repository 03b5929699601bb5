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
    text.push_str("# HELP coracle_service_calls_total Requests of a Service where they are seen, else its connections.\n");
    text.push_str("# TYPE coracle_service_calls_total counter\n");
    for service in services {
        let _ = writeln!(
            text,
            "coracle_service_calls_total{{namespace=\"{}\",service=\"{}\"}} {}",
            service.namespace,
            service.name,
            calls(service)
        );
    }
    text
}

/// What people would call the Service's requests. A connection to a handler of this node is seen
/// request by request, one that goes on to another node or to a socket counts once; so the larger
/// figure counts, endpoint by endpoint.
fn calls(service: &ServiceCounters) -> u64 {
    let larger = |c: &Counters| c.requests.max(c.connections);
    let present: u64 = service.endpoints.iter().map(|e| larger(&e.counters)).sum();
    let sum = |reading: Reading| service.endpoints.iter().map(|e| reading(&e.counters)).sum();
    let gone = Counters {
        connections: service.total.connections.saturating_sub(sum(|c| c.connections)),
        requests: service.total.requests.saturating_sub(sum(|c| c.requests)),
        ..Counters::default()
    };
    present + larger(&gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::EndpointCounters;

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
        let calls = "coracle_service_calls_total{namespace=\"default\",service=\"web\"} 7\n";
        assert!(text.contains(calls), "{text}");
        assert_eq!(text.lines().filter(|l| !l.starts_with('#')).count(), METRICS.len() + 1);
    }

    #[test]
    fn calls_count_a_request_once_whether_or_not_its_connection_is_seen() {
        let endpoint = |port: u16, connections: u64, requests: u64| EndpointCounters {
            port_name: String::new(),
            address: ([10, 0, 0, 1], port).into(),
            ready: true,
            counters: Counters { connections, requests, ..Counters::default() },
        };
        let service = ServiceCounters {
            namespace: "default".into(),
            name: "web".into(),
            // Endpoints that have gone took 3 connections.
            total: Counters { connections: 2 + 5 + 3, requests: 7, ..Counters::default() },
            endpoints: vec![endpoint(1, 2, 7), endpoint(2, 5, 0)],
        };
        assert_eq!(calls(&service), 7 + 5 + 3);
    }
}
