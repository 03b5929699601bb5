//! Carrying out what the state machine asks for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::actions::pauses;
use super::images;
use super::kernel;
use super::launch::{Launch, LaunchError, Launched, hostname, image_failure};
use super::recover;
use super::spec::ProbeKind;
use super::state::{Effect, Event, Note, OUTLIVES, Terminated};
use super::volumes::payload::{Payload, Sources as Pieces, has_payload};
use super::worker::{Answer, Live, Worker, due_at};
use crate::net::{HostPort, Namespace, NamespaceSpec, Protocol};
use crate::node::sources;
use crate::runtime::{Exit, ExitReason, Workload, WorkloadEvent};

/// What a termination message may have.
const MESSAGE_BYTES_MAX: usize = 4096;
/// A container that may have just not opened its port yet is looked at this soon after its start,
/// silently, before its probe's own period begins.
const QUICK_LOOKS: [u64; 5] = [5, 30, 80, 200, 400];

/// Rejection reasons are few, and events keep theirs for ever.
pub(super) fn event_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "PodOSNotSupported" => "PodOSNotSupported",
        _ => "UnexpectedAdmissionError",
    }
}

pub(super) fn perform(worker: &mut Worker, effect: Effect) {
    match effect {
        Effect::SetUpNetwork => set_up_network(worker),
        Effect::MountVolumes => mount_volumes(worker, false),
        Effect::Pull { container, run } => pull(worker, container, run),
        Effect::Start { container, run } => start(worker, container, run),
        Effect::PostStart { container, run } => hook(worker, container, run, true),
        Effect::PreStop { container, run } => hook(worker, container, run, false),
        Effect::Terminate { container, run, grace } => match live(worker, container, run) {
            Some(live) => live.workload.terminate(grace),
            None => lost(worker, container, run),
        },
        Effect::Kill { container, run } => match live(worker, container, run) {
            Some(live) => live.workload.kill(),
            None => lost(worker, container, run),
        },
        Effect::Probe { container, run, kind } => probe(worker, container, run, kind),
        Effect::EndProbe { container, kind, .. } => {
            if let Some(probe) = worker.probes.remove(&(container, kind)) {
                probe.cancel();
            }
        }
        Effect::TearDown => tear_down(worker),
        Effect::Remove => worker.publisher.remove(),
        Effect::Say(note) => worker.say(note),
    }
}

fn live(worker: &Worker, container: usize, run: u32) -> Option<Live> {
    worker.live.get(container)?.clone().filter(|live| live.run == run)
}

/// A container that is to end has no workload: it has ended already, and its answer is on its way
/// or was lost with the task that would have brought it.
fn lost(worker: &Worker, container: usize, run: u32) {
    let exit = Terminated {
        code: 137,
        reason: "Error".to_owned(),
        message: String::new(),
        started_at: None,
        finished_at: worker.now().wall,
        container_id: None,
    };
    worker.soon(Event::Exited { container, run, exit });
}

// ---- network ----

/// What a pod asks for that a node without containers cannot give.
fn impossible(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let asked = |field: Option<bool>| field == Some(true);
    if asked(spec.host_network) {
        return Some(
            "hostNetwork is not possible here: pods of this node live in a virtual network; use a hostPort or a NodePort Service",
        );
    }
    if asked(spec.host_pid) || asked(spec.host_ipc) {
        return Some(
            "hostPID and hostIPC are not possible here: a wasm pod has no processes of the host",
        );
    }
    None
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
            Some(HostPort {
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: number(port.host_port?)?,
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    _ => Protocol::Tcp,
                },
                port: number(port.container_port)?,
            })
        })
        .collect()
}

fn namespace_spec(worker: &Worker, ip: std::net::IpAddr) -> NamespaceSpec {
    let plan = &worker.plan;
    let mut spec =
        NamespaceSpec::new(plan.uid.clone(), ip, plan.namespace.clone(), plan.name.clone());
    spec.hostname = hostname(&worker.pod);
    spec.host_ports = host_ports(&worker.pod);
    let Some(pod) = &worker.pod.spec else { return spec };
    spec.subdomain = pod.subdomain.clone().filter(|s| !s.is_empty());
    for alias in pod.host_aliases.iter().flatten() {
        if let Ok(ip) = alias.ip.parse() {
            spec.hosts.push((ip, alias.hostnames.clone().unwrap_or_default()));
        }
    }
    let config = pod.dns_config.as_ref();
    let own = config.and_then(|c| c.searches.clone()).unwrap_or_default();
    match pod.dns_policy.as_deref() {
        Some("None" | "Default") => spec.search = Some(own),
        _ if !own.is_empty() => {
            let domain = &worker.node.config.cluster_domain;
            let mut all = vec![
                format!("{}.svc.{domain}", plan.namespace),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            all.extend(own);
            spec.search = Some(all);
        }
        _ => {}
    }
    let options = config.and_then(|c| c.options.as_ref()).into_iter().flatten();
    let ndots = options.into_iter().find(|o| o.name.as_deref() == Some("ndots"));
    if let Some(n) = ndots.and_then(|o| o.value.as_deref()).and_then(|v| v.parse().ok()) {
        spec.ndots = n;
    }
    spec
}

fn join(worker: &mut Worker, namespace: Arc<Namespace>) {
    worker.handle.view.lock().ports = Some(Arc::clone(&namespace) as _);
    worker.network = Some(namespace);
}

fn set_up_network(worker: &mut Worker) {
    let wasm_only = worker.node.containers.is_none();
    if let Some(why) = impossible(&worker.pod).filter(|_| wasm_only) {
        return worker.soon(Event::NetworkFailed { message: why.to_owned() });
    }
    if kernel::on_host_network(&worker.pod) {
        let namespace = worker.node.host_namespace();
        join(worker, namespace);
        return worker.soon(Event::NetworkReady { ip: worker.node.config.node_ip });
    }
    let shown = worker.pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
    let wanted = worker.state.ip.or_else(|| shown.and_then(|ip| ip.parse().ok()));
    let taken = worker.node.addresses.lock().take(&worker.plan.uid, wanted);
    let ip = match taken {
        Ok(ip) => ip,
        Err(error) => return worker.soon(Event::NetworkFailed { message: error.to_string() }),
    };
    let namespace = worker.node.fabric.attach(namespace_spec(worker, ip));
    recover::network(worker, &namespace);
    join(worker, namespace);
    worker.soon(Event::NetworkReady { ip });
}

// ---- volumes ----

pub(super) fn refresh_volumes(worker: &mut Worker) {
    if worker.state.volumes == super::state::Setup::Ready && !worker.state.is_down() {
        mount_volumes(worker, true);
    }
}

/// Sets all volumes up; a refresh of what is mounted already changes no state.
fn mount_volumes(worker: &Worker, refresh: bool) {
    let node = Arc::clone(&worker.node);
    let pod = Arc::clone(&worker.pod);
    let volumes = Arc::clone(&worker.volumes);
    let facts = worker.facts();
    let tell = worker.sender();
    worker.aside(async move {
        let say = move |note: Note| {
            let _ = tell.send(Box::new(move |worker: &mut Worker| {
                worker.say(note);
                None
            }));
        };
        let result = match refresh {
            // What an image is, never changes.
            true => Ok(()),
            false => images::mount(&node, &pod, &volumes, &say).await,
        };
        let result = match result {
            Ok(()) => mount_all(&node, &pod, volumes, facts).await,
            Err(message) => Err(message),
        };
        let answer: Answer = Box::new(move |worker| {
            worker.tell_images();
            let now = worker.now();
            match result {
                Ok(renew_at) => {
                    worker.refresh_at = renew_at.map(|at| due_at(now, at));
                    (!refresh).then_some(Event::VolumesReady)
                }
                Err(message) if refresh => {
                    tracing::debug!(pod = %worker.plan.name, message, "a volume was not refreshed");
                    worker.refresh_at = Some(now.mono + Duration::from_secs(30));
                    None
                }
                Err(message) => Some(Event::VolumesFailed { message }),
            }
        });
        answer
    });
}

async fn mount_all(
    node: &Arc<crate::node::agent::Node>,
    pod: &Arc<Pod>,
    volumes: Arc<super::volumes::Volumes>,
    facts: super::fields::Facts,
) -> Result<Option<jiff::Timestamp>, String> {
    let specs = pod.spec.as_ref().and_then(|s| s.volumes.clone()).unwrap_or_default();
    let failed = |volume: &str, message: String| {
        format!("MountVolume.SetUp failed for volume \"{volume}\" : {message}")
    };
    let first = specs.first().map(|v| v.name.clone()).unwrap_or_default();
    let references = sources::of_pod(pod);
    let found = match specs.iter().any(has_payload) {
        true => node.sources.find(&references).await.map_err(|e| failed(&first, e.to_string()))?,
        false => sources::Found::default(),
    };
    let mut renew_at: Option<jiff::Timestamp> = None;
    let mut work = Vec::new();
    for volume in specs {
        let mut payload = Payload::new();
        if has_payload(&volume) {
            let tokens = node.tokens.of(pod, &volume).await;
            let tokens = tokens.map_err(|e| failed(&volume.name, e.to_string()))?;
            let earliest = [renew_at, tokens.renew_at].into_iter().flatten().min();
            renew_at = earliest;
            let pieces = Pieces { pod, facts: &facts, lookup: &found, tokens: &tokens.by_path };
            payload = pieces.payload(&volume).map_err(|e| failed(&volume.name, e.to_string()))?;
        }
        work.push((volume, payload));
    }
    let now = node.clock.now();
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = security.and_then(|s| s.fs_group).and_then(|group| u32::try_from(group).ok());
    // Only root may give files away; a wasm guest has no group that would matter.
    let group = group.filter(|_| node.containers.is_some());
    let done = tokio::task::spawn_blocking(move || {
        work.iter().try_for_each(|(volume, payload)| {
            let set_up = volumes.set_up(volume, payload, now);
            let owned = set_up.and_then(|changed| match group.filter(|_| changed) {
                Some(group) => volumes.give_to(volume, group),
                None => Ok(()),
            });
            owned.map_err(|e| e.to_string())
        })
    });
    done.await.unwrap_or_else(|e| Err(e.to_string()))?;
    Ok(renew_at)
}

fn tear_down(worker: &mut Worker) {
    let uid = worker.plan.uid.clone();
    worker.node.fabric.detach(&uid);
    worker.network = None;
    worker.handle.view.lock().ports = None;
    worker.refresh_at = None;
    worker.node.addresses.lock().release(&uid);
    worker.node.sources.set(&uid, &BTreeSet::new(), &worker.changed);
    worker.node.tokens.forget(&worker.pod);
    let volumes = Arc::clone(&worker.volumes);
    let containers = worker.node.containers.clone();
    worker.aside(async move {
        if let Some(containers) = containers
            && let Err(error) = containers.remove_sandbox(&uid).await
        {
            tracing::warn!(%error, "the sandbox of a pod could not be removed");
        }
        let removed = tokio::task::spawn_blocking(move || volumes.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "the volumes of a pod could not be removed");
        }
        let answer: Answer = Box::new(|_| Some(Event::TornDown));
        answer
    });
}

// ---- containers ----

fn pull(worker: &Worker, container: usize, run: u32) {
    let Some(spec) = worker.container(container) else { return };
    let pull = images::Pull::new(&worker.node, &worker.pod, &spec);
    let tell = worker.sender();
    worker.aside(async move {
        let say = move |note: Note| {
            let note = Note { container: Some(container), ..note };
            let _ = tell.send(Box::new(move |worker: &mut Worker| {
                worker.say(note);
                None
            }));
        };
        let result = pull.run(say).await;
        let answer: Answer = Box::new(move |worker| match result {
            Ok(image) => {
                let image_id = image.id.clone();
                worker.images[container] = Some(image);
                worker.tell_images();
                Some(Event::ImageReady { container, run, image_id })
            }
            Err(error) => {
                let (reason, message) = image_failure(error);
                Some(Event::ImageFailed { container, run, reason, message })
            }
        });
        answer
    });
}

fn start(worker: &Worker, container: usize, run: u32) {
    let parts =
        (worker.container(container), worker.network.clone(), worker.images[container].clone());
    let (Some(spec), Some(network), Some(image)) = parts else {
        let message = "the pod's network or image is not ready".to_owned();
        let reason = "CreateContainerError";
        return worker.soon(Event::StartFailed { container, run, reason, message });
    };
    let launch = Launch {
        node: Arc::clone(&worker.node),
        pod: Arc::clone(&worker.pod),
        container: Arc::clone(&spec),
        run,
        facts: worker.facts(),
        volumes: Arc::clone(&worker.volumes),
        network_spec: namespace_spec(worker, network.ip()),
        network,
        image,
        sandbox: Arc::clone(&worker.sandbox),
    };
    worker.aside(async move {
        let result = launch.start().await;
        let answer: Answer = Box::new(move |worker| match result {
            Ok(launched) => Some(started(worker, container, run, &spec, launched)),
            Err(LaunchError::Refused { reason, message }) => {
                Some(Event::StartFailed { container, run, reason, message })
            }
            Err(LaunchError::Ended { code, oom, message, container_id }) => {
                let at = worker.now().wall;
                let id = container_id.clone();
                worker.step(Event::Started { container, run, container_id });
                let exit = Terminated {
                    code,
                    reason: if oom { "OOMKilled" } else { "Error" }.to_owned(),
                    message: cut(message),
                    started_at: Some(at),
                    finished_at: at,
                    container_id: Some(id),
                };
                Some(Event::Exited { container, run, exit })
            }
        });
        answer
    });
}

/// A workload runs: it is kept, and its end is waited for.
pub(super) fn started(
    worker: &mut Worker,
    container: usize,
    run: u32,
    spec: &Arc<Container>,
    launched: Launched,
) -> Event {
    let Launched { workload, container_id, log, termination } = launched;
    let workload = Arc::new(workload);
    worker.live[container] =
        Some(Live { run, workload: Arc::clone(&workload), since: worker.now().mono });
    let name = spec.name.clone();
    {
        let mut view = worker.handle.view.lock();
        view.workloads.insert(name.clone(), Arc::clone(&workload));
        view.io.insert(name.clone(), Arc::clone(&workload) as _);
    }
    let node = Arc::clone(&worker.node);
    let (namespace, pod, uid) =
        (worker.plan.namespace.clone(), worker.plan.name.clone(), worker.plan.uid.clone());
    let fall_back = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let answers = worker.sender();
    let id = container_id.clone();
    worker.aside(async move {
        let exit = until_exit(&workload, container, &answers).await;
        if let (Some(containers), Some(id)) = (&node.containers, id.strip_prefix(OUTLIVES)) {
            containers.forget(&uid, id).await;
        }
        let ended = tokio::task::spawn_blocking(move || {
            log.finish();
            let own = termination.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
            let own = String::from_utf8_lossy(&own).into_owned();
            match (own.is_empty(), fall_back && exit.code != 0) {
                (false, _) => (own, exit),
                (true, true) => (node.logs.tail(&namespace, &pod, &uid, &name, run), exit),
                (true, false) => (exit.message.clone(), exit),
            }
        });
        let answer: Answer = match ended.await {
            Ok((message, exit)) => Box::new(move |worker| {
                worker.forget_live(container, run);
                Some(Event::Exited { container, run, exit: terminated(exit, message, id) })
            }),
            Err(error) => Box::new(move |worker| {
                tracing::error!(%error, "the end of a container could not be told");
                worker.forget_live(container, run);
                lost(worker, container, run);
                None
            }),
        };
        answer
    });
    Event::Started { container, run, container_id }
}

/// Waits for the end of a workload and tells what it says meanwhile.
async fn until_exit(
    workload: &Workload,
    container: usize,
    answers: &mpsc::UnboundedSender<Answer>,
) -> Exit {
    let mut told = workload.events();
    loop {
        tokio::select! {
            biased;
            exit = workload.wait() => return exit,
            event = told.recv() => match event {
                Ok(WorkloadEvent::RequestTrapped { message }) => {
                    let note = Note {
                        warning: true,
                        reason: "RequestTrapped",
                        message: format!("A request was answered 500: {}", cut(message)),
                        container: Some(container),
                    };
                    let _ = answers.send(Box::new(move |worker| {
                        worker.say(note);
                        None
                    }));
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return workload.wait().await,
            },
        }
    }
}

fn terminated(exit: Exit, message: String, container_id: String) -> Terminated {
    let reason = match exit.reason {
        ExitReason::Completed => "Completed",
        ExitReason::Error => "Error",
        ExitReason::OomKilled => "OOMKilled",
    };
    Terminated {
        code: exit.code,
        reason: reason.to_owned(),
        message: cut(message),
        started_at: Some(exit.started_at),
        finished_at: exit.finished_at,
        container_id: Some(container_id),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|i| message.is_char_boundary(*i));
        message.truncate(end.unwrap_or(0));
    }
    message
}

fn hook(worker: &Worker, container: usize, run: u32, post_start: bool) {
    let done = move |result: Result<(), String>| match post_start {
        true => Event::PostStartDone { container, run, result },
        false => Event::PreStopDone { container, run, result },
    };
    let target = worker.target(container, run);
    let lifecycle = worker.container(container).and_then(|c| c.lifecycle.clone());
    let handler = lifecycle.and_then(|l| if post_start { l.post_start } else { l.pre_stop });
    let (Some(target), Some(handler)) = (target, handler) else {
        return worker.soon(done(Ok(())));
    };
    let word = if post_start { "PostStartHook" } else { "PreStopHook" };
    worker.aside(async move {
        let result = target.hook(&handler).await.map_err(|e| format!("{word} failed: {e}"));
        let answer: Answer = Box::new(move |_| Some(done(result)));
        answer
    });
}

fn probe(worker: &mut Worker, container: usize, run: u32, kind: ProbeKind) {
    let Some(target) = worker.target(container, run) else { return };
    let Some(probe) = kind.of(&target.container).cloned() else { return };
    let since = worker.live[container].as_ref().map_or(Duration::ZERO, |live| live.since);
    let up = worker.now().mono.saturating_sub(since);
    let token = worker.stop_token().child_token();
    if let Some(old) = worker.probes.insert((container, kind), token.clone()) {
        old.cancel();
    }
    let answers = worker.sender();
    let tell = move |result: Result<(), String>| {
        let event = Event::Probed { container, run, kind, result };
        answers.send(Box::new(move |_| Some(event))).is_ok()
    };
    let probing = async move {
        let (initial, period) = pauses(&probe);
        tokio::time::sleep(initial.saturating_sub(up)).await;
        if kind != ProbeKind::Liveness && period > Duration::from_secs(1) {
            for look in QUICK_LOOKS {
                tokio::time::sleep(Duration::from_millis(look)).await;
                let found = target.probe(&probe).await;
                if found.is_ok() {
                    tell(found);
                    tokio::time::sleep(period).await;
                    break;
                }
            }
        }
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !tell(target.probe(&probe).await) {
                return;
            }
        }
    };
    tokio::spawn(async move { token.run_until_cancelled(probing).await });
}
