//! From the state of a pod to the PodStatus that the API shows: phase, conditions, container
//! statuses, as the kubelet derives them. Pure; `now` is an argument.
//!
//! **Invariant:** the same state gives the same status, apart from `lastTransitionTime`, which is
//! carried over from the status before wherever a condition did not change.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiContainerState, ContainerStateRunning,
    ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition,
    PodIP, PodStatus,
};
use serde_json::{Value, json};

use super::spec::ephemeral;
use super::state::{
    ContainerState, Life, PodPlan, PodState, RestartPolicy, Role, Setup, Terminated,
};
use crate::client::meta::time;
use crate::node::resources::qos_class;

/// The condition types that a node writes; all others belong to somebody else.
pub const OWN_CONDITIONS: [&str; 4] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The phase of a pod, as the kubelet computes it from the containers.
pub fn phase(plan: &PodPlan, state: &PodState) -> &'static str {
    if state.verdict.is_some() {
        return "Failed";
    }
    let mut init_pending = false;
    let mut init_failed = false;
    for i in plan.of_role(Role::Init) {
        let container = &state.containers[i];
        match (&container.life, &container.exit) {
            (Life::Exited { .. }, Some(exit)) if exit.code == 0 => {}
            (Life::Exited { .. }, _) => init_failed = true,
            (Life::Waiting(_), Some(exit)) if exit.code != 0 => init_failed = true,
            _ => init_pending = true,
        }
    }
    init_pending |= !state.initialized && plan.of_role(Role::Sidecar).next().is_some();
    if init_failed && plan.restart == RestartPolicy::Never {
        return "Failed";
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for i in plan.of_role(Role::Main) {
        let container = &state.containers[i];
        match (&container.life, &container.exit) {
            (Life::Running(_), _) => running += 1,
            (_, Some(exit)) => {
                stopped += 1;
                succeeded += usize::from(exit.code == 0);
            }
            (_, None) => waiting += 1,
        }
    }
    let over = state.is_down();
    if over && state.initialized && waiting > 0 {
        return "Failed";
    }
    if (init_pending || init_failed) && !state.initialized || waiting > 0 {
        return "Pending";
    }
    let sidecars_run = plan.of_role(Role::Sidecar).any(|i| !state.containers[i].is_down());
    if running > 0 || (stopped > 0 && sidecars_run && !over) {
        return "Running";
    }
    let all_done = plan.of_role(Role::Main).all(|i| state.containers[i].done());
    match (all_done, succeeded == stopped) {
        (true, true) => "Succeeded",
        (true, false) => "Failed",
        (false, _) => "Running",
    }
}

fn terminated(exit: &Terminated) -> ApiContainerState {
    ApiContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: exit.container_id.clone(),
            exit_code: exit.code,
            finished_at: Some(time(exit.finished_at)),
            message: Some(exit.message.clone()).filter(|m| !m.is_empty()),
            reason: Some(exit.reason.clone()),
            signal: None,
            started_at: exit.started_at.map(time),
        }),
        ..ApiContainerState::default()
    }
}

fn waiting(reason: &str, message: Option<String>) -> ApiContainerState {
    ApiContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ApiContainerState::default()
    }
}

/// `state` and `lastState` of one container.
fn states(
    plan: &PodPlan,
    state: &PodState,
    index: usize,
) -> (ApiContainerState, Option<ApiContainerState>) {
    let container = &state.containers[index];
    let exit = container.exit.as_ref().map(terminated);
    let before = container.exit_before.as_ref().map(terminated);
    match &container.life {
        Life::Running(running) => {
            let now = ApiContainerState {
                running: Some(ContainerStateRunning { started_at: Some(time(running.started_at)) }),
                ..ApiContainerState::default()
            };
            (now, exit)
        }
        Life::Waiting(Some(trouble)) => {
            (waiting(&trouble.reason, Some(trouble.message.clone())), exit)
        }
        Life::Exited { due: Some(_), delay } if !delay.is_zero() => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(delay.as_secs()),
                plan.containers[index].name,
                plan.full_name()
            );
            (waiting("CrashLoopBackOff", Some(message)), exit)
        }
        Life::Exited { .. } | Life::Pulling | Life::Starting | Life::Waiting(None) => match exit {
            Some(exit) => (exit, before),
            None if state.is_down() && state.initialized => (never_ran(), None),
            None if plan.containers[index].role == Role::Main
                && plan.has_init()
                && !state.initialized =>
            {
                (waiting("PodInitializing", None), None)
            }
            None if index > 0
                && matches!(plan.containers[index].role, Role::Init | Role::Sidecar)
                && container.run == 0 =>
            {
                (waiting("PodInitializing", None), None)
            }
            None => (waiting("ContainerCreating", None), None),
        },
    }
}

/// What the kubelet says of a container that it cannot find when its pod is over.
fn never_ran() -> ApiContainerState {
    ApiContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(
                "The container could not be located when the pod was terminated".to_owned(),
            ),
            ..ContainerStateTerminated::default()
        }),
        ..ApiContainerState::default()
    }
}

/// Seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
fn go_duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

fn container_status(
    plan: &PodPlan,
    state: &PodState,
    index: usize,
    spec: &Container,
) -> ContainerStatus {
    let container = &state.containers[index];
    let (now, last) = states(plan, state, index);
    let running = container.running();
    let ready = match plan.containers[index].role {
        Role::Init => container.succeeded(),
        Role::Main | Role::Sidecar => running.is_some_and(|r| r.ready),
        // As the kubelet: it is nobody's endpoint.
        Role::Ephemeral => false,
    };
    let id = match (running, &container.exit) {
        (Some(running), _) => Some(running.container_id.clone()),
        (None, Some(exit)) => exit.container_id.clone(),
        (None, None) => None,
    };
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        image_id: container.image_id.clone(),
        container_id: id,
        state: Some(now),
        last_state: Some(last.unwrap_or_default()),
        ready,
        started: Some(running.is_some_and(|r| r.started)),
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        allocated_resources: running
            .and_then(|_| spec.resources.as_ref().and_then(|r| r.requests.clone())),
        resources: running.and_then(|_| spec.resources.clone()),
        ..ContainerStatus::default()
    }
}

fn condition(kind: &str, verdict: Result<(), (&str, String)>) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(()) => ("True", None, None),
        Err((reason, message)) => (
            "False",
            Some(reason.to_owned()).filter(|r| !r.is_empty()),
            Some(message).filter(|m| !m.is_empty()),
        ),
    };
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        ..PodCondition::default()
    }
}

fn names_where(
    plan: &PodPlan,
    state: &PodState,
    pick: impl Fn(Role, &ContainerState) -> bool,
) -> Vec<String> {
    let pairs = plan.containers.iter().zip(&state.containers);
    pairs.filter(|(p, s)| pick(p.role, s)).map(|(p, _)| p.name.clone()).collect()
}

/// The pod's own conditions; `gates` are the conditions that others have set.
fn conditions(
    pod: &Pod,
    plan: &PodPlan,
    state: &PodState,
    phase: &str,
    gates: &[PodCondition],
) -> Vec<PodCondition> {
    let sandbox = state.network == Setup::Ready && !state.is_down();
    let completed = |reason: &str| (reason.to_owned(), String::new());
    let initialized = match phase {
        "Succeeded" => Err(completed("PodCompleted")),
        _ if state.initialized || !plan.has_init() => Ok(()),
        _ => {
            let open = names_where(plan, state, |role, s| match role {
                Role::Init => !s.succeeded(),
                Role::Sidecar => !s.running().is_some_and(|r| r.started),
                Role::Main | Role::Ephemeral => false,
            });
            let message = format!("containers with incomplete status: [{}]", open.join(" "));
            Err(("ContainersNotInitialized".to_owned(), message))
        }
    };
    let unready = names_where(plan, state, |role, s| {
        matches!(role, Role::Main | Role::Sidecar) && !s.running().is_some_and(|r| r.ready)
    });
    let containers_ready = match phase {
        "Succeeded" => Err(completed("PodCompleted")),
        "Failed" => Err(completed("PodFailed")),
        _ if unready.is_empty() => Ok(()),
        _ => Err((
            "ContainersNotReady".to_owned(),
            format!("containers with unready status: [{}]", unready.join(" ")),
        )),
    };
    let ready = containers_ready.clone().and_then(|()| gates_pass(pod, gates));
    let as_condition = |kind: &str, verdict: Result<(), (String, String)>| match &verdict {
        Ok(()) => condition(kind, Ok(())),
        Err((reason, message)) => condition(kind, Err((reason, message.clone()))),
    };
    let mut init = as_condition("Initialized", initialized);
    if phase == "Succeeded" {
        // The one condition that stays true on a pod that has completed, with the reason said.
        init.status = "True".to_owned();
    }
    let sandbox = if sandbox { Ok(()) } else { Err(("", String::new())) };
    vec![
        condition("PodReadyToStartContainers", sandbox),
        init,
        as_condition("Ready", ready),
        as_condition("ContainersReady", containers_ready),
    ]
}

fn gates_pass(pod: &Pod, set: &[PodCondition]) -> Result<(), (String, String)> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let mut said = Vec::new();
    for gate in gates {
        let kind = &gate.condition_type;
        match set.iter().find(|c| c.type_ == *kind) {
            None => said.push(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(found) if found.status != "True" => said.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    match said.is_empty() {
        true => Ok(()),
        false => Err(("ReadinessGatesNotReady".to_owned(), said.join(", "))),
    }
}

/// The whole status. `before` is what the node last wrote, for the transition times; the pod's own
/// `status` is where other people's conditions are looked up.
pub fn status(
    pod: &Pod,
    plan: &PodPlan,
    state: &PodState,
    before: Option<&PodStatus>,
    host_ip: &str,
    now: Timestamp,
) -> PodStatus {
    let phase = phase(plan, state);
    let generation = pod.metadata.generation;
    let base = PodStatus {
        phase: Some(phase.to_owned()),
        qos_class: Some(qos_class(pod).to_owned()),
        observed_generation: generation,
        reason: state.verdict.as_ref().map(|v| v.reason.clone()),
        message: state.verdict.as_ref().map(|v| v.message.clone()),
        ..PodStatus::default()
    };
    let never_accepted =
        state.verdict.is_some() && state.network == Setup::No && state.ip.is_none();
    if never_accepted && state.containers.iter().all(|c| c.run == 0) {
        return PodStatus { start_time: Some(time(state.start_time)), ..base };
    }
    let others: Vec<PodCondition> = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    let mut own = conditions(pod, plan, state, phase, &others);
    let old: Vec<PodCondition> = before.and_then(|b| b.conditions.clone()).unwrap_or_default();
    for condition in &mut own {
        let same = old.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        condition.last_transition_time =
            same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now)));
        condition.observed_generation = generation;
    }
    let spec = pod.spec.as_ref();
    let inits = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let mains = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    let added = spec.map(ephemeral).unwrap_or_default();
    let statuses = |list: &[Container], offset: usize| -> Vec<ContainerStatus> {
        let indexed = list.iter().enumerate().filter(|(i, _)| offset + i < state.containers.len());
        indexed.map(|(i, c)| container_status(plan, state, offset + i, c)).collect()
    };
    let ip = state.ip.map(|ip| ip.to_string());
    PodStatus {
        conditions: Some(own),
        container_statuses: Some(statuses(mains, inits.len())),
        init_container_statuses: Some(statuses(inits, 0)).filter(|list| !list.is_empty()),
        ephemeral_container_statuses: Some(statuses(&added, inits.len() + mains.len()))
            .filter(|list| !list.is_empty()),
        host_ip: Some(host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: host_ip.to_owned() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(time(state.start_time)),
        ..base
    }
}

/// The strategic merge patch that turns the status that the node last wrote into `new`: conditions
/// merge by type, so other people's stay; a field that is gone is nulled.
pub fn patch(uid: &str, before: Option<&PodStatus>, new: &PodStatus) -> Value {
    let mut status = serde_json::to_value(new).expect("a PodStatus is plain data");
    let old = before.map(|b| serde_json::to_value(b).expect("a PodStatus is plain data"));
    if let (Some(Value::Object(old)), Value::Object(new)) = (&old, &mut status) {
        for key in old.keys() {
            new.entry(key.clone()).or_insert(Value::Null);
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}
