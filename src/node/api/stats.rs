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

/// One family of samples in the Prometheus text format.
fn family(
    text: &mut String,
    (name, kind, help): (&str, &str, &str),
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

fn pod_labels(pod: &PodStats) -> String {
    format!("namespace=\"{}\",pod=\"{}\"", escaped(&pod.namespace), escaped(&pod.name))
}

/// A sample for every container of every pod.
fn by_container(
    pods: &[PodStats],
    value: impl Fn(&Stats) -> f64 + Copy,
) -> impl Iterator<Item = (String, f64)> {
    pods.iter().flat_map(move |pod| {
        pod.containers.iter().map(move |(name, stats)| {
            let labels = format!("{{container=\"{}\",{}}}", escaped(name), pod_labels(pod));
            (labels, value(stats))
        })
    })
}

/// A sample for every pod.
fn by_pod(
    pods: &[PodStats],
    value: impl Fn((u64, u64)) -> f64,
) -> impl Iterator<Item = (String, f64)> {
    pods.iter().map(move |pod| (format!("{{{}}}", pod_labels(pod)), value(pod.total())))
}

pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let pods = collect(&node);
    let (cpu, memory) = own_use();
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut text = String::new();
    let cpu_of = "[STABLE] Cumulative cpu time consumed in core-seconds";
    let memory_of = "[STABLE] Current working set in bytes";
    let name = "container_cpu_usage_seconds_total";
    family(&mut text, (name, "counter", cpu_of), by_container(&pods, |s| seconds(nanos(s))));
    let name = "container_memory_working_set_bytes";
    family(&mut text, (name, "gauge", memory_of), by_container(&pods, |s| s.memory_bytes as f64));
    let name = "node_cpu_usage_seconds_total";
    family(&mut text, (name, "counter", cpu_of), [(String::new(), cpu)]);
    let name = "node_memory_working_set_bytes";
    family(&mut text, (name, "gauge", memory_of), [(String::new(), memory as f64)]);
    let name = "pod_cpu_usage_seconds_total";
    family(&mut text, (name, "counter", cpu_of), by_pod(&pods, |(cpu, _)| seconds(cpu)));
    let name = "pod_memory_working_set_bytes";
    family(&mut text, (name, "gauge", memory_of), by_pod(&pods, |(_, bytes)| bytes as f64));
    let help = "[ALPHA] 1 if there was an error while getting container metrics, 0 otherwise";
    family(&mut text, ("scrape_error", "gauge", help), [(String::new(), 0.0)]);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
