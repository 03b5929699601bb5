//! Tables over the state machine, and its invariants under random events.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use proptest::prelude::*;
use serde_json::json;

use super::spec::{PodPlan, ProbeKind, Role};
use super::state::*;
use super::status;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 128, 0, 7));

fn start() -> Timestamp {
    Timestamp::from_second(1_772_600_000).expect("a valid time")
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": spec,
    }))
    .expect("a pod")
}

/// Drives one pod and keeps what it asked for.
struct Drive {
    pod: Pod,
    plan: PodPlan,
    state: PodState,
    mono: Duration,
    effects: Vec<Effect>,
}

impl Drive {
    fn new(spec: serde_json::Value) -> Self {
        let pod = pod(spec);
        let plan = PodPlan::of(&pod);
        let now = Now { wall: start(), mono: Duration::ZERO };
        let state = PodState::fresh(&plan, now);
        Self { pod, plan, state, mono: Duration::ZERO, effects: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { wall: start() + self.mono, mono: self.mono }
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let (state, effects) = step(&self.plan, self.state.clone(), event, self.now());
        self.state = state;
        self.effects.extend(effects.clone());
        effects
    }

    fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.mono += Duration::from_secs(seconds);
        self.event(Event::Tick)
    }

    fn prepare(&mut self) -> &mut Self {
        self.event(Event::Tick);
        self.event(Event::NetworkReady { ip: IP });
        self.event(Event::VolumesReady);
        self
    }

    fn run(&self, container: usize) -> u32 {
        self.state.containers[container].run
    }

    /// Answers the pull and the start of `container`.
    fn up(&mut self, container: usize) -> &mut Self {
        let run = self.run(container);
        self.event(Event::ImageReady { container, run, image_id: "sha256:a".to_owned() });
        self.event(Event::Started {
            container,
            run,
            container_id: format!("wasm://{container}-{run}"),
        });
        self
    }

    fn exit(&mut self, container: usize, code: i32) -> Vec<Effect> {
        let exit = Terminated {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: String::new(),
            started_at: Some(start()),
            finished_at: self.now().wall,
            container_id: None,
        };
        self.event(Event::Exited { container, run: self.run(container), exit })
    }

    fn probe(&mut self, kind: ProbeKind, good: bool) -> Vec<Effect> {
        let result = if good { Ok(()) } else { Err("refused".to_owned()) };
        self.event(Event::Probed { container: 0, run: self.run(0), kind, result })
    }

    fn status(&self) -> PodStatus {
        status::status(&self.pod, &self.plan, &self.state, None, "127.0.0.1", self.now().wall)
    }

    fn phase(&self) -> String {
        self.status().phase.expect("a phase")
    }

    fn waiting_reason(&self, container: usize) -> Option<String> {
        let status = self.status();
        let mut all = status.init_container_statuses.unwrap_or_default();
        all.extend(status.container_statuses.unwrap_or_default());
        all[container].state.clone()?.waiting?.reason
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.status().conditions.expect("conditions");
        let found = conditions.into_iter().find(|c| c.type_ == kind).expect("the condition");
        (found.status, found.reason.unwrap_or_default())
    }

    fn said(&self, reason: &str) -> Vec<String> {
        let notes = self.effects.iter().filter_map(|e| match e {
            Effect::Say(note) if note.reason == reason => Some(note.message.clone()),
            _ => None,
        });
        notes.collect()
    }
}

fn one(extra: serde_json::Value) -> serde_json::Value {
    let mut container = json!({"name": "app", "image": "x"});
    container
        .as_object_mut()
        .expect("an object")
        .extend(extra.as_object().expect("an object").clone());
    json!({"containers": [container]})
}

#[test]
fn a_plain_pod_becomes_ready_and_says_so() {
    let mut d = Drive::new(one(json!({})));
    assert_eq!(d.event(Event::Tick), [Effect::SetUpNetwork, Effect::MountVolumes]);
    assert_eq!(d.phase(), "Pending");
    assert_eq!(d.waiting_reason(0).as_deref(), Some("ContainerCreating"));
    d.event(Event::NetworkReady { ip: IP });
    assert_eq!(d.event(Event::VolumesReady), [Effect::Pull { container: 0, run: 1 }]);
    d.up(0);
    assert_eq!(d.phase(), "Running");
    assert_eq!(d.condition("Ready").0, "True");
    let status = d.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.128.0.7"));
    let container = &status.container_statuses.expect("statuses")[0];
    assert!(container.ready);
    assert_eq!(container.container_id.as_deref(), Some("wasm://0-1"));
    assert_eq!(d.said("Started"), ["Container started"]);
}

#[test]
fn init_containers_run_in_order_and_before_the_others() {
    let mut d = Drive::new(json!({
        "initContainers": [
            {"name": "a", "image": "x"},
            {"name": "s", "image": "x", "restartPolicy": "Always",
             "startupProbe": {"tcpSocket": {"port": 1}}},
        ],
        "containers": [{"name": "app", "image": "x"}],
    }));
    d.prepare();
    assert_eq!((d.run(0), d.run(1), d.run(2)), (1, 0, 0));
    assert_eq!(d.waiting_reason(2).as_deref(), Some("PodInitializing"));
    d.up(0);
    assert_eq!(d.run(1), 0);
    assert_eq!(d.phase(), "Pending");
    d.exit(0, 0);
    assert_eq!(d.run(1), 1);
    d.up(1);
    assert_eq!(d.run(2), 0, "the sidecar has not started before its startup probe passes");
    assert_eq!(
        d.condition("Initialized"),
        ("False".to_owned(), "ContainersNotInitialized".to_owned())
    );
    d.event(Event::Probed { container: 1, run: 1, kind: ProbeKind::Startup, result: Ok(()) });
    assert_eq!(d.run(2), 1);
    d.up(2);
    assert_eq!(d.phase(), "Running");
    assert_eq!(d.condition("Initialized").0, "True");
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut d = Drive::new(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": "x"}],
        "containers": [{"name": "app", "image": "x"}],
    }));
    d.prepare().up(0);
    assert_eq!(d.exit(0, 3), [Effect::TearDown]);
    d.event(Event::TornDown);
    assert_eq!(d.phase(), "Failed");
    assert_eq!(d.run(1), 0);
    assert_eq!(d.waiting_reason(1).as_deref(), Some("PodInitializing"));
}

#[test]
fn a_container_that_keeps_ending_is_restarted_ever_later() {
    let mut d = Drive::new(one(json!({})));
    d.prepare().up(0);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let before = d.mono;
        d.exit(0, 1);
        while d.state.containers[0].running().is_none() {
            match d.state.containers[0].life {
                Life::Pulling => drop(d.up(0)),
                _ => drop(d.wait(1)),
            }
        }
        delays.push((d.mono - before).as_secs());
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(d.state.containers[0].restart_count, 8);
    d.wait(600);
    assert_eq!(
        d.exit(0, 1),
        [Effect::Pull { container: 0, run: d.run(0) }],
        "ten quiet minutes forgive"
    );
}

#[test]
fn crash_loop_back_off_reads_as_the_kubelet_writes_it() {
    let mut d = Drive::new(one(json!({})));
    d.prepare().up(0);
    d.exit(0, 7);
    d.up(0);
    d.exit(0, 8);
    let status = d.status().container_statuses.expect("statuses").remove(0);
    let waiting = status.state.expect("a state").waiting.expect("it waits");
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=app pod=web_default(u-1)")
    );
    let last = status.last_state.expect("a last state").terminated.expect("it ended");
    assert_eq!((last.exit_code, status.restart_count), (8, 1));
    assert_eq!(d.phase(), "Running");
    assert_eq!(
        d.said("BackOff"),
        ["Back-off restarting failed container app in pod web_default(u-1)"]
    );
}

#[test]
fn restart_policies_decide_what_an_exit_means() {
    let table = [
        ("Always", 0, "Running", true),
        ("OnFailure", 0, "Succeeded", false),
        ("OnFailure", 1, "Running", true),
        ("Never", 0, "Succeeded", false),
        ("Never", 1, "Failed", false),
    ];
    for (policy, code, phase, again) in table {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = json!(policy);
        let mut d = Drive::new(spec);
        d.prepare().up(0);
        d.exit(0, code);
        if !again {
            d.event(Event::TornDown);
        }
        assert_eq!((d.phase().as_str(), d.run(0) == 2), (phase, again), "{policy} {code}");
    }
}

#[test]
fn exit_code_rules_restart_what_the_policy_would_not() {
    let mut spec = one(json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
    }));
    spec["restartPolicy"] = json!("Never");
    let mut d = Drive::new(spec);
    d.prepare().up(0);
    assert_eq!(d.exit(0, 42), [Effect::Pull { container: 0, run: 2 }]);
    d.up(0);
    d.exit(0, 41);
    assert!(d.state.stop.is_some());
}

#[test]
fn a_pull_that_fails_is_an_error_first_and_a_back_off_then() {
    let mut d = Drive::new(one(json!({})));
    d.prepare();
    let fail = |d: &mut Drive| {
        let run = d.run(0);
        d.event(Event::ImageFailed {
            container: 0,
            run,
            reason: "ErrImagePull",
            message: "no such file".to_owned(),
        });
    };
    fail(&mut d);
    assert_eq!(d.waiting_reason(0).as_deref(), Some("ErrImagePull"));
    d.wait(2);
    assert_eq!(d.waiting_reason(0).as_deref(), Some("ImagePullBackOff"));
    assert_eq!(d.said("BackOff"), ["Back-off pulling image \"x\""]);
    assert_eq!(d.wait(8), [Effect::Pull { container: 0, run: 2 }]);
    fail(&mut d);
    d.wait(19);
    assert_eq!(d.run(0), 2);
    d.wait(1);
    assert_eq!(d.run(0), 3);
    d.up(0);
    assert_eq!(d.state.containers[0].restart_count, 0, "a pull is no restart");
}

#[test]
fn readiness_follows_its_probe_and_its_thresholds() {
    let mut d = Drive::new(one(json!({
        "readinessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2, "failureThreshold": 2}
    })));
    d.prepare().up(0);
    assert_eq!(d.condition("Ready"), ("False".to_owned(), "ContainersNotReady".to_owned()));
    d.probe(ProbeKind::Readiness, true);
    assert_eq!(d.condition("Ready").0, "False");
    d.probe(ProbeKind::Readiness, true);
    assert_eq!(d.condition("Ready").0, "True");
    d.probe(ProbeKind::Readiness, false);
    assert_eq!(d.condition("Ready").0, "True");
    d.probe(ProbeKind::Readiness, false);
    assert_eq!(d.condition("Ready").0, "False");
    assert_eq!(d.said("Unhealthy")[0], "Readiness probe failed: refused");
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let mut d = Drive::new(one(json!({
        "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 2,
                          "terminationGracePeriodSeconds": 5}
    })));
    d.prepare().up(0);
    d.probe(ProbeKind::Liveness, false);
    d.probe(ProbeKind::Liveness, true);
    d.probe(ProbeKind::Liveness, false);
    let effects = d.probe(ProbeKind::Liveness, false);
    let grace = Duration::from_secs(5);
    assert!(effects.contains(&Effect::Terminate { container: 0, run: 1, grace }));
    assert_eq!(d.said("Killing"), ["Container app failed liveness probe, will be restarted"]);
    d.exit(0, 137);
    assert_eq!(d.run(0), 2);
}

#[test]
fn liveness_waits_for_the_startup_probe() {
    let mut d = Drive::new(one(json!({
        "startupProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 3},
        "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 1},
    })));
    d.prepare().up(0);
    assert!(!d.effects.contains(&Effect::Probe {
        container: 0,
        run: 1,
        kind: ProbeKind::Liveness
    }));
    assert!(d.probe(ProbeKind::Liveness, false).is_empty(), "out of turn");
    let effects = d.probe(ProbeKind::Startup, true);
    assert!(effects.contains(&Effect::Probe { container: 0, run: 1, kind: ProbeKind::Liveness }));
    assert_eq!(d.condition("Ready").0, "True");
}

#[test]
fn deleting_runs_pre_stop_then_terminates_with_what_is_left() {
    let mut d = Drive::new(one(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}})));
    d.prepare().up(0);
    let effects = d.event(Event::Deleted { grace: Duration::from_secs(30) });
    assert!(effects.contains(&Effect::PreStop { container: 0, run: 1 }));
    d.mono += Duration::from_secs(10);
    let effects = d.event(Event::PreStopDone { container: 0, run: 1, result: Ok(()) });
    assert_eq!(
        effects,
        [Effect::Terminate { container: 0, run: 1, grace: Duration::from_secs(20) }]
    );
    assert_eq!(d.wait(20), [Effect::Kill { container: 0, run: 1 }]);
    assert_eq!(d.exit(0, 137), [Effect::TearDown]);
    assert_eq!(d.event(Event::TornDown), [Effect::Remove]);
    d.event(Event::Vanished);
    assert!(d.state.is_gone());
}

#[test]
fn a_shorter_grace_period_shortens_the_end() {
    let mut d = Drive::new(one(json!({})));
    d.prepare().up(0);
    d.event(Event::Deleted { grace: Duration::from_secs(300) });
    d.event(Event::Deleted { grace: Duration::ZERO });
    assert_eq!(d.wait(2), [Effect::Kill { container: 0, run: 1 }]);
}

#[test]
fn sidecars_end_after_the_others_and_backwards() {
    let sidecar = |name: &str| json!({"name": name, "image": "x", "restartPolicy": "Always"});
    let mut d = Drive::new(json!({
        "initContainers": [sidecar("s1"), sidecar("s2")],
        "containers": [{"name": "app", "image": "x"}],
    }));
    d.prepare().up(0).up(1).up(2);
    d.event(Event::Deleted { grace: Duration::from_secs(30) });
    assert!(d.state.containers[0].running().is_some_and(|r| r.stop.is_none()));
    d.exit(2, 143);
    assert!(d.state.containers[1].running().is_some_and(|r| r.stop.is_some()));
    assert!(d.state.containers[0].running().is_some_and(|r| r.stop.is_none()));
    d.exit(1, 143);
    assert!(d.state.containers[0].running().is_some_and(|r| r.stop.is_some()));
    assert_eq!(d.exit(0, 143), [Effect::TearDown]);
}

#[test]
fn a_job_pod_with_a_sidecar_completes_once_its_containers_did() {
    let mut d = Drive::new(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "image": "x", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "x"}],
    }));
    d.prepare().up(0).up(1);
    d.exit(1, 0);
    assert_eq!(d.phase(), "Running");
    d.exit(0, 143);
    d.event(Event::TornDown);
    assert_eq!(d.phase(), "Succeeded");
    assert_eq!(d.condition("Ready"), ("False".to_owned(), "PodCompleted".to_owned()));
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = json!(60);
    let mut d = Drive::new(spec);
    d.prepare().up(0);
    assert_eq!(d.state.wake_at(), Some(Duration::from_secs(60)));
    d.wait(60);
    d.exit(0, 143);
    d.event(Event::TornDown);
    let status = d.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn what_died_with_the_agent_is_told_and_brought_back() {
    let mut d = Drive::new(one(json!({})));
    d.prepare().up(0);
    let saved = serde_json::to_string(&d.state.save()).expect("plain data");
    d.mono += Duration::from_secs(5);
    d.state = PodState::restore(&d.plan, serde_json::from_str(&saved).expect("readable"), d.now());
    d.prepare();
    let exit = d.state.containers[0].exit.clone().expect("it ended");
    assert_eq!((exit.code, exit.reason.as_str()), (137, "Error"));
    d.up(0);
    let status = d.status().container_statuses.expect("statuses").remove(0);
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.expect("a last").terminated.expect("ended").exit_code, 137);
    assert_eq!(d.state.ip, Some(IP));
}

#[test]
fn a_finished_pod_stays_finished_over_a_restart_of_the_agent() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = json!("Never");
    let mut d = Drive::new(spec);
    d.prepare().up(0);
    d.exit(0, 0);
    d.event(Event::TornDown);
    d.state = PodState::restore(&d.plan, d.state.save(), d.now());
    assert!(d.event(Event::Tick).is_empty());
    assert_eq!(d.phase(), "Succeeded");
}

#[test]
fn a_new_image_restarts_the_container_whatever_its_policy() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = json!("Never");
    let mut d = Drive::new(spec);
    d.prepare().up(0);
    d.event(Event::Changed { images: vec![0] });
    assert_eq!(d.said("Killing"), ["Container app definition changed, will be restarted"]);
    d.exit(0, 143);
    assert_eq!(d.run(0), 2);
}

#[test]
fn volumes_that_cannot_be_mounted_are_tried_again_ever_later() {
    let mut d = Drive::new(one(json!({})));
    d.event(Event::Tick);
    d.event(Event::NetworkReady { ip: IP });
    let mut delays = Vec::new();
    for _ in 0..4 {
        d.event(Event::VolumesFailed { message: "configmap \"c\" not found".to_owned() });
        let at = d.state.wake_at().expect("it is tried again");
        delays.push((at - d.mono).as_millis());
        d.mono = at;
        assert_eq!(d.event(Event::Tick), [Effect::MountVolumes]);
    }
    assert_eq!(delays, [500, 1000, 2000, 4000]);
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let mut spec = one(json!({}));
    spec["readinessGates"] = json!([{"conditionType": "example.com/lb"}]);
    let mut d = Drive::new(spec);
    d.prepare().up(0);
    assert_eq!(d.condition("ContainersReady").0, "True");
    assert_eq!(d.condition("Ready"), ("False".to_owned(), "ReadinessGatesNotReady".to_owned()));
    d.pod.status = serde_json::from_value(
        json!({"conditions": [{"type": "example.com/lb", "status": "True"}]}),
    )
    .expect("a status");
    assert_eq!(d.condition("Ready").0, "True");
}

// ---- random events ----

fn container_strategy() -> impl Strategy<Value = serde_json::Value> {
    let policy = prop_oneof![Just(None), Just(Some("Always"))];
    (policy, any::<[bool; 5]>()).prop_map(|(policy, has)| {
        let mut c = json!({"name": "c", "image": "x"});
        if let Some(policy) = policy {
            c["restartPolicy"] = json!(policy);
        }
        for (i, name) in ["startupProbe", "readinessProbe", "livenessProbe"].into_iter().enumerate()
        {
            if has[i] {
                c[name] = json!({"tcpSocket": {"port": 1}, "failureThreshold": 2});
            }
        }
        if has[3] {
            c["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
        }
        if has[4] {
            c["lifecycle"]["preStop"] = json!({"sleep": {"seconds": 1}});
        }
        c
    })
}

fn spec_strategy() -> impl Strategy<Value = serde_json::Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let inits = prop::collection::vec(container_strategy(), 0..3);
    let mains = prop::collection::vec(container_strategy(), 1..3);
    (policy, inits, mains, any::<bool>()).prop_map(|(policy, inits, mut mains, deadline)| {
        for main in &mut mains {
            main.as_object_mut().expect("an object").remove("restartPolicy");
        }
        let mut spec =
            json!({"restartPolicy": policy, "initContainers": inits, "containers": mains});
        if deadline {
            spec["activeDeadlineSeconds"] = json!(900);
        }
        spec
    })
}

/// A random event about a random container, mostly about its newest run.
fn random_event(d: &Drive, dice: (u8, u8, u8)) -> Event {
    let (what, which, how) = dice;
    let container = usize::from(which) % d.plan.containers.len();
    let run = d.run(container).saturating_sub(u32::from(how % 16 == 0));
    let good = how % 3 != 0;
    let result = || if good { Ok(()) } else { Err("no".to_owned()) };
    match what % 18 {
        0 | 1 => Event::ImageReady { container, run, image_id: "sha256:a".to_owned() },
        2 => {
            Event::ImageFailed { container, run, reason: "ErrImagePull", message: "no".to_owned() }
        }
        3 | 4 => Event::Started { container, run, container_id: "wasm://x".to_owned() },
        5 => Event::StartFailed {
            container,
            run,
            reason: "RunContainerError",
            message: "no".to_owned(),
        },
        6 => Event::PostStartDone { container, run, result: result() },
        7 => Event::PreStopDone { container, run, result: result() },
        8 | 9 => {
            let code = if good { 0 } else { 137 };
            let exit = Terminated {
                code,
                reason: String::new(),
                message: String::new(),
                started_at: None,
                finished_at: d.now().wall,
                container_id: None,
            };
            Event::Exited { container, run, exit }
        }
        10 | 11 => {
            let kind = ProbeKind::ALL[usize::from(how) % 3];
            Event::Probed { container, run, kind, result: result() }
        }
        12 => Event::NetworkReady { ip: IP },
        13 => Event::VolumesReady,
        14 if how % 8 == 0 => Event::Deleted { grace: Duration::from_secs(u64::from(how)) },
        15 if how % 8 == 0 => Event::Vanished,
        16 if how % 4 == 0 => Event::Changed { images: vec![container] },
        17 => Event::TornDown,
        _ => Event::Tick,
    }
}

fn check(
    d: &Drive,
    before: &PodState,
    event: &Event,
    effects: &[Effect],
) -> Result<(), TestCaseError> {
    let about = format!("{event:?} -> {effects:?}\nfrom {before:?}");
    for (old, new) in before.containers.iter().zip(&d.state.containers) {
        prop_assert!(new.restart_count >= old.restart_count, "a restart count fell: {about}");
        prop_assert!(new.run >= old.run, "a run fell: {about}");
    }
    for effect in effects {
        let (Effect::Pull { container, run } | Effect::Start { container, run }) = effect else {
            continue;
        };
        let plan = &d.plan.containers[*container];
        prop_assert_eq!(*run, d.state.containers[*container].run);
        prop_assert!(d.state.stop.is_none(), "a stopping pod starts something: {about}");
        prop_assert!(
            !before.containers[*container].done(),
            "a finished container runs again: {about}"
        );
        if plan.role == Role::Main {
            for i in d.plan.of_role(Role::Init) {
                prop_assert!(d.state.containers[i].succeeded(), "started before init: {about}");
            }
        }
        if plan.role == Role::Init {
            let earlier = d.plan.of_role(Role::Init).filter(|i| i < container);
            for i in earlier {
                prop_assert!(d.state.containers[i].succeeded(), "init out of order: {about}");
            }
        }
    }
    if before.is_down() {
        let starts = effects.iter().any(|e| !matches!(e, Effect::Remove | Effect::Say(_)));
        prop_assert!(!starts, "a pod that is down acts: {about}");
        prop_assert_eq!(status::phase(&d.plan, before), status::phase(&d.plan, &d.state));
    }
    if d.state.tear_down != TearDown::No {
        let down = d.state.containers.iter().all(ContainerState::is_down);
        prop_assert!(down, "torn down under a running container: {about}");
    }
    let _ = d.status();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_invariants(
        spec in spec_strategy(),
        dice in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), 0u64..40), 1..120),
        restart_at in 0usize..200,
    ) {
        let mut d = Drive::new(spec);
        d.prepare();
        for (i, (what, which, how, pause)) in dice.into_iter().enumerate() {
            d.mono += Duration::from_secs(pause);
            if i == restart_at {
                let saved = d.state.save();
                let old = d.state.clone();
                d.state = PodState::restore(&d.plan, saved, d.now());
                prop_assert_eq!(old.stop.is_some(), d.state.stop.is_some());
                continue;
            }
            let mut event = random_event(&d, (what, which, how));
            // A TornDown that nobody asked for is not something that happens.
            if event == Event::TornDown && d.state.tear_down != TearDown::UnderWay {
                event = Event::Tick;
            }
            let before = d.state.clone();
            let effects = d.event(event.clone());
            check(&d, &before, &event, &effects)?;
        }
    }

    /// Whatever happened before, a deleted pod whose effects are answered goes away.
    #[test]
    fn a_deleted_pod_always_goes_away(
        spec in spec_strategy(),
        dice in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..60),
    ) {
        let mut d = Drive::new(spec);
        d.prepare();
        for dice in dice {
            let event = random_event(&d, dice);
            if event != Event::TornDown {
                d.event(event);
            }
        }
        d.event(Event::Deleted { grace: Duration::from_secs(30) });
        for _ in 0..200 {
            for i in 0..d.plan.containers.len() {
                if matches!(d.state.containers[i].life, Life::Starting) {
                    let run = d.run(i);
                    d.event(Event::Started { container: i, run, container_id: "wasm://x".to_owned() });
                }
                let stage = d.state.containers[i].running().and_then(|r| r.stop.clone()).map(|s| s.stage);
                if stage.is_some_and(|s| s != StopStage::PreStop) {
                    d.exit(i, 143);
                }
            }
            if d.state.tear_down == TearDown::UnderWay {
                d.event(Event::TornDown);
            }
            if d.state.deletion == Deletion::UnderWay {
                d.event(Event::Vanished);
            }
            d.wait(1);
        }
        prop_assert!(d.state.is_gone(), "{:?}", d.state);
    }
}
