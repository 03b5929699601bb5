//! What the pods of the node have used: `/stats/summary` and `/metrics/resource`.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};

use crate::base::clock::rfc3339_seconds;
use crate::node::agent::Node;
use crate::node::machine::Machine;
use crate::runtime::Stats;

/// The containers of one pod that run.
struct PodStats {
    namespace: String,
    name: String,
    uid: String,
    containers: Vec<(String, Stats)>,
}

impl PodStats {
    /// CPU nanoseconds and memory bytes of all containers.
    fn total(&self) -> (u64, u64) {
        let each = self.containers.iter().map(|(_, s)| (nanos(s), s.memory_bytes));
        each.fold((0, 0), |(cpu, memory), (c, m)| (cpu + c, memory + m))
    }
}

fn nanos(stats: &Stats) -> u64 {
    u64::try_from(stats.cpu.as_nanos()).unwrap_or(u64::MAX)
}

fn collect(node: &Node) -> Vec<PodStats> {
    let handles: Vec<_> = node.workers.lock().values().cloned().collect();
    let mut all: Vec<PodStats> = handles
        .iter()
        .map(|handle| {
            let view = handle.view.lock();
            let meta = &view.pod.metadata;
            let mut containers: Vec<(String, Stats)> =
                view.workloads.iter().map(|(name, w)| (name.clone(), w.stats())).collect();
            containers.sort_by(|a, b| a.0.cmp(&b.0));
            PodStats {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
                containers,
            }
        })
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

/// What the agent itself has used: its processor time in seconds and its resident memory.
fn own_use() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let cpu = (field(11) + field(12)) as f64 / ticks as f64;
    (cpu, field(21) * rustix::param::page_size() as u64)
}

pub(super) async fn summary(State(node): State<Arc<Node>>) -> Json<Value> {
    let time = rfc3339_seconds(node.clock.now());
    let usage = |cpu: u64, memory: u64| {
        json!({
            "cpu": {"time": time, "usageCoreNanoSeconds": cpu},
            "memory": {"time": time, "usageBytes": memory, "workingSetBytes": memory},
        })
    };
    let pods: Vec<Value> = collect(&node)
        .iter()
        .map(|pod| {
            let containers = pod.containers.iter().map(|(name, stats)| {
                let mut one = usage(nanos(stats), stats.memory_bytes);
                one["name"] = json!(name);
                one
            });
            let containers: Vec<Value> = containers.collect();
            let (cpu, memory) = pod.total();
            let mut value = usage(cpu, memory);
            value["podRef"] = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
            value["containers"] = json!(containers);
            value
        })
        .collect();
    let machine = Machine::read(&node.config.data_dir);
    let (cpu, memory) = own_use();
    let mut own = usage((cpu * 1e9) as u64, memory);
    own["nodeName"] = json!(node.config.node_name);
    own["fs"] = json!({
        "time": time, "capacityBytes": machine.disk_bytes, "availableBytes": machine.disk_available,
    });
    own["memory"]["availableBytes"] = json!(machine.memory_available);
    Json(json!({"node": own, "pods": pods}))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let pods = collect(&node);
    let (cpu, memory) = own_use();
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let label = |pod: &PodStats| {
        format!("namespace=\"{}\",pod=\"{}\"", escaped(&pod.namespace), escaped(&pod.name))
    };
    head(
        &mut text,
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for pod in &pods {
        for (name, stats) in &pod.containers {
            let (name, cpu) = (escaped(name), seconds(nanos(stats)));
            let _ = writeln!(
                text,
                "container_cpu_usage_seconds_total{{container=\"{name}\",{}}} {cpu}",
                label(pod)
            );
        }
    }
    head(
        &mut text,
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for pod in &pods {
        for (name, stats) in &pod.containers {
            let (name, bytes) = (escaped(name), stats.memory_bytes);
            let _ = writeln!(
                text,
                "container_memory_working_set_bytes{{container=\"{name}\",{}}} {bytes}",
                label(pod)
            );
        }
    }
    head(
        &mut text,
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(text, "node_cpu_usage_seconds_total {cpu}");
    head(
        &mut text,
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    let _ = writeln!(text, "node_memory_working_set_bytes {memory}");
    head(
        &mut text,
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &pods {
        let _ = writeln!(
            text,
            "pod_cpu_usage_seconds_total{{{}}} {}",
            label(pod),
            seconds(pod.total().0)
        );
    }
    head(
        &mut text,
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
    );
    for pod in &pods {
        let _ = writeln!(text, "pod_memory_working_set_bytes{{{}}} {}", label(pod), pod.total().1);
    }
    head(
        &mut text,
        "scrape_error",
        "gauge",
        "[ALPHA] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.push_str("scrape_error 0\n");
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
