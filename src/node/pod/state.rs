//! A pod on a node, as a pure state machine: [`step`]`(plan, state, event, now)` gives the next
//! state and what is to be done. It awaits nothing and reads no clock; the worker carries the
//! effects out and reports back with events.
//!
//! ```text
//!  pod:   preparing ──network and volumes ready──▶ running ──all containers done──▶ stopping
//!             │                                       │  deleted, deadline, evicted    │
//!             └───────────────────────────────────────┴────────────▶ stopping ◀────────┘
//!         stopping ──no container runs──▶ tearing down ──▶ down ──if deleted──▶ removed
//!
//!  container:
//!     Waiting ──its turn──▶ Pulling ──image ready──▶ Starting ──▶ Running ──▶ Exited
//!        ▲                     │ failed                 │ failed     │           │ due
//!        └──── back-off ───────┴────────────────────────┘            │           ▼
//!                                                                    │        Pulling
//!     Running.stop:   (none) ──▶ PreStop ──▶ Terminating ──▶ Killed ─┴─▶ Exited
//! ```
//!
//! **Invariants** (held by the property tests): restart counts never fall; no container of the pod
//! proper starts before every init container has finished and every sidecar has started; a pod
//! that is stopping starts nothing; a container that ended for good never runs again; the effects
//! of an older run are never taken for those of a newer one (`run` is in every one of them).

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::spec::{ContainerPlan, PodPlan, ProbeKind, RestartPolicy, Role};
pub use super::step::step;

/// What the ids of containers begin with that may outlive the agent.
pub const OUTLIVES: &str = "runc://";

/// The two readings of the clock that a step is made at.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For what is written into objects.
    pub wall: Timestamp,
    /// For what is waited for.
    pub mono: Duration,
}

/// How a run of a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub container_id: Option<String>,
}

/// Why a container does not run yet, where there is more to say than that its turn has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    pub message: String,
    /// When it is tried again.
    pub until: Duration,
    /// When `ErrImagePull` begins to be told as `ImagePullBackOff`, as the kubelet does on the
    /// sync after the failure.
    pub back_off_from: Option<Duration>,
}

/// How far the end of a running container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStage {
    PreStop,
    Terminating,
    Killed,
}

/// Why a running container is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The whole pod stops.
    Pod,
    Liveness,
    Startup,
    PostStart,
    /// Its image was changed.
    Changed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopping {
    pub cause: StopCause,
    pub stage: StopStage,
    pub deadline: Duration,
}

/// Results in a row of one probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    pub good: u32,
    pub bad: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub container_id: String,
    pub started_at: Timestamp,
    pub since: Duration,
    /// Whether the postStart hook is still under way.
    pub in_post_start: bool,
    /// postStart is done and the startup probe has passed.
    pub started: bool,
    pub ready: bool,
    /// By [`ProbeKind`].
    pub streaks: [Streak; 3],
    pub stop: Option<Stopping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Its turn has not come, or it failed to start and waits to be tried again.
    Waiting(Option<Box<Trouble>>),
    Pulling,
    Starting,
    Running(Box<Running>),
    /// Ended; `due` is when it starts again, none where it has ended for good.
    Exited {
        due: Option<Duration>,
        /// The delay that it waits for, zero where it restarts at once.
        delay: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Counts the tries to start it; effects and their answers carry it.
    pub run: u32,
    pub restart_count: u32,
    /// Restarts in a row, the exponent of the back-off.
    pub crashes: u32,
    /// Failures to start in a row, likewise.
    pub failures: u32,
    pub image_id: String,
    /// The newest end of a run, and the one before.
    pub exit: Option<Terminated>,
    pub exit_before: Option<Terminated>,
    pub life: Life,
}

impl ContainerState {
    fn fresh() -> Self {
        Self {
            run: 0,
            restart_count: 0,
            crashes: 0,
            failures: 0,
            image_id: String::new(),
            exit: None,
            exit_before: None,
            life: Life::Waiting(None),
        }
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.life {
            Life::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Ended, and it will not run again.
    pub fn done(&self) -> bool {
        matches!(self.life, Life::Exited { due: None, .. })
    }

    /// Nothing of it runs or is about to.
    pub fn is_down(&self) -> bool {
        !matches!(self.life, Life::Running(_) | Life::Starting)
    }

    pub fn succeeded(&self) -> bool {
        self.done() && self.exit.as_ref().is_some_and(|exit| exit.code == 0)
    }
}

/// Network or volumes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    No,
    /// After so many failures.
    UnderWay {
        failures: u32,
    },
    /// Failed; tried again at this time, `failures` so far.
    Failed {
        until: Duration,
        failures: u32,
    },
    Ready,
}

/// Why the pod as a whole is `Failed`, where its containers alone do not say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}

/// The end of the pod, once it has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStop {
    pub deadline: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TearDown {
    No,
    UnderWay,
    Done,
}

/// Whether the Pod is to disappear from the API, and who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    No,
    /// It has a deletionTimestamp: once it is down, the node deletes it.
    Asked,
    /// The node's delete is under way.
    UnderWay,
    /// It is no longer in the API.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    pub start_time: Timestamp,
    pub ip: Option<IpAddr>,
    pub network: Setup,
    pub volumes: Setup,
    /// Every init container has finished and every sidecar has started, once.
    pub initialized: bool,
    pub containers: Vec<ContainerState>,
    /// When `activeDeadlineSeconds` is over.
    pub deadline: Option<Duration>,
    pub stop: Option<PodStop>,
    pub verdict: Option<Verdict>,
    pub tear_down: TearDown,
    pub deletion: Deletion,
}

impl PodState {
    /// A pod that the node has just accepted.
    pub fn fresh(plan: &PodPlan, now: Now) -> Self {
        Self {
            start_time: now.wall,
            ip: None,
            network: Setup::No,
            volumes: Setup::No,
            initialized: false,
            containers: plan.containers.iter().map(|_| ContainerState::fresh()).collect(),
            deadline: plan.active_deadline.map(|allowed| now.mono + allowed),
            stop: None,
            verdict: None,
            tear_down: TearDown::No,
            deletion: Deletion::No,
        }
    }

    /// Makes room for containers that were added.
    pub fn grow(&mut self, count: usize) {
        while self.containers.len() < count {
            self.containers.push(ContainerState::fresh());
        }
    }

    /// A pod that the node refuses: it is `Failed` from the start.
    pub fn rejected(plan: &PodPlan, verdict: Verdict, now: Now) -> Self {
        let mut state = Self::fresh(plan, now);
        state.stop = Some(PodStop { deadline: now.mono });
        state.verdict = Some(verdict);
        state.tear_down = TearDown::Done;
        state
    }

    /// All containers have ended for good and nothing of the pod is left on the node.
    pub fn is_down(&self) -> bool {
        self.tear_down == TearDown::Done
    }

    /// Nothing more will happen: the worker may end.
    pub fn is_gone(&self) -> bool {
        self.is_down() && self.deletion == Deletion::Gone
    }

    /// The next time at which [`Event::Tick`] is due, if any.
    pub fn wake_at(&self) -> Option<Duration> {
        let mut due: Vec<Duration> = Vec::new();
        if self.stop.is_none() {
            due.extend(self.deadline);
            for setup in [&self.network, &self.volumes] {
                if let Setup::Failed { until, .. } = setup {
                    due.push(*until);
                }
            }
        }
        for container in &self.containers {
            match &container.life {
                Life::Waiting(Some(trouble)) if self.stop.is_none() => {
                    due.push(trouble.until);
                    due.extend(trouble.back_off_from);
                }
                Life::Exited { due: Some(at), .. } if self.stop.is_none() => due.push(*at),
                Life::Running(running) => {
                    let stop = running.stop.as_ref();
                    due.extend(
                        stop.filter(|s| s.stage != StopStage::Killed).map(|stop| stop.deadline),
                    );
                }
                _ => {}
            }
        }
        due.into_iter().min()
    }
}

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed, or the worker has just begun.
    Tick,
    /// The Pod was changed; the plan handed in is the new one.
    Changed {
        /// Containers whose image is another one now.
        images: Vec<usize>,
    },
    /// The Pod has a deletionTimestamp; `grace` is its deletionGracePeriodSeconds.
    Deleted {
        grace: Duration,
    },
    /// The Pod is no longer in the API.
    Vanished,
    /// The node ends the pod on its own account.
    Evicted(Verdict),
    NetworkReady {
        ip: IpAddr,
    },
    NetworkFailed {
        message: String,
    },
    VolumesReady,
    VolumesFailed {
        message: String,
    },
    ImageReady {
        container: usize,
        run: u32,
        image_id: String,
    },
    /// It could not be fetched: `reason` is ErrImagePull, InvalidImageName or ErrImageNeverPull.
    ImageFailed {
        container: usize,
        run: u32,
        reason: &'static str,
        message: String,
    },
    Started {
        container: usize,
        run: u32,
        container_id: String,
    },
    /// It was not started: `reason` is CreateContainerConfigError, CreateContainerError or
    /// RunContainerError.
    StartFailed {
        container: usize,
        run: u32,
        reason: &'static str,
        message: String,
    },
    /// It was running before the agent was started anew, and runs still.
    Recovered {
        container: usize,
        run: u32,
    },
    PostStartDone {
        container: usize,
        run: u32,
        result: Result<(), String>,
    },
    PreStopDone {
        container: usize,
        run: u32,
        result: Result<(), String>,
    },
    Exited {
        container: usize,
        run: u32,
        exit: Terminated,
    },
    Probed {
        container: usize,
        run: u32,
        kind: ProbeKind,
        result: Result<(), String>,
    },
    TornDown,
}

/// What the worker is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answered by NetworkReady or NetworkFailed.
    SetUpNetwork,
    /// Answered by VolumesReady or VolumesFailed.
    MountVolumes,
    /// Answered by ImageReady or ImageFailed.
    Pull {
        container: usize,
        run: u32,
    },
    /// Answered by Started or StartFailed.
    Start {
        container: usize,
        run: u32,
    },
    /// Answered by PostStartDone.
    PostStart {
        container: usize,
        run: u32,
    },
    /// Answered by PreStopDone.
    PreStop {
        container: usize,
        run: u32,
    },
    /// End it as SIGTERM does; answered by Exited.
    Terminate {
        container: usize,
        run: u32,
        grace: Duration,
    },
    /// End it now; answered by Exited.
    Kill {
        container: usize,
        run: u32,
    },
    /// Probe it until EndProbe or its exit; answered by Probed each time.
    Probe {
        container: usize,
        run: u32,
        kind: ProbeKind,
    },
    EndProbe {
        container: usize,
        run: u32,
        kind: ProbeKind,
    },
    /// Free network and volumes; answered by TornDown.
    TearDown,
    /// Delete the Pod from the API, after its last status was written; answered by Vanished.
    Remove,
    Say(Note),
}

/// An Event to be told about the pod or one of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    pub container: Option<usize>,
}

/// What of a state outlives the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub start_time: Timestamp,
    pub ip: Option<IpAddr>,
    pub initialized: bool,
    pub verdict: Option<Verdict>,
    /// The pod had begun to stop: it starts nothing more.
    pub stopping: bool,
    pub down: bool,
    pub containers: Vec<SavedContainer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedContainer {
    pub run: u32,
    pub restart_count: u32,
    pub crashes: u32,
    pub image_id: String,
    pub exit: Option<Terminated>,
    pub exit_before: Option<Terminated>,
    /// The run that was under way: its id and start.
    pub running: Option<(String, Timestamp)>,
    /// What its probes had said.
    #[serde(default)]
    pub started: bool,
    #[serde(default)]
    pub ready: bool,
    /// `exit` is final.
    pub done: bool,
}

impl PodState {
    /// What is written to the node's store.
    pub fn save(&self) -> Saved {
        Saved {
            start_time: self.start_time,
            ip: self.ip,
            initialized: self.initialized,
            verdict: self.verdict.clone(),
            stopping: self.stop.is_some(),
            down: self.is_down(),
            containers: self.containers.iter().map(SavedContainer::of).collect(),
        }
    }

    /// The state of a pod whose worker died with the agent: its guests died too, and that is what
    /// it says (exit 137), each to be started again at once where its policy has it so. Containers
    /// of the kernel may run still: until the worker has looked, they count as running.
    pub fn restore(plan: &PodPlan, saved: Saved, now: Now) -> Self {
        let mut state = Self::fresh(plan, now);
        state.start_time = saved.start_time;
        state.ip = saved.ip;
        state.initialized = saved.initialized;
        state.verdict = saved.verdict;
        state.deadline = plan.active_deadline.map(|allowed| {
            let used = now.wall.duration_since(saved.start_time);
            now.mono + allowed.saturating_sub(used.try_into().unwrap_or(Duration::ZERO))
        });
        if saved.stopping {
            state.stop = Some(PodStop { deadline: now.mono });
        }
        if saved.down {
            state.tear_down = TearDown::Done;
        }
        let stopping = saved.stopping;
        for (i, old) in saved.containers.into_iter().enumerate().take(plan.containers.len()) {
            state.containers[i] = old.restore(&plan.containers[i], stopping, now);
        }
        state
    }
}

impl SavedContainer {
    fn of(state: &ContainerState) -> Self {
        Self {
            run: state.run,
            restart_count: state.restart_count,
            crashes: state.crashes,
            image_id: state.image_id.clone(),
            exit: state.exit.clone(),
            exit_before: state.exit_before.clone(),
            running: state.running().map(|r| (r.container_id.clone(), r.started_at)),
            started: state.running().is_some_and(|r| r.started),
            ready: state.running().is_some_and(|r| r.ready),
            done: state.done(),
        }
    }

    fn restore(self, plan: &ContainerPlan, stopping: bool, now: Now) -> ContainerState {
        if let Some((container_id, started_at)) = &self.running
            && container_id.starts_with(OUTLIVES)
        {
            let running = Running {
                container_id: container_id.clone(),
                started_at: *started_at,
                since: now.mono,
                in_post_start: false,
                started: self.started,
                ready: self.ready,
                streaks: [Streak::default(); 3],
                stop: None,
            };
            return ContainerState {
                run: self.run,
                restart_count: self.restart_count,
                crashes: self.crashes,
                failures: 0,
                image_id: self.image_id,
                exit: self.exit,
                exit_before: self.exit_before,
                life: Life::Running(Box::new(running)),
            };
        }
        let mut exit = self.exit;
        let mut exit_before = self.exit_before;
        let mut again = !self.done && exit.is_some();
        if let Some((container_id, started_at)) = self.running {
            exit_before = exit.replace(Terminated {
                code: 137,
                reason: "Error".to_owned(),
                message: String::new(),
                started_at: Some(started_at),
                finished_at: now.wall,
                container_id: Some(container_id),
            });
            again = plan.restarts_after(137);
        }
        let life = match (&exit, again && !stopping) {
            (None, _) => Life::Waiting(None),
            (Some(_), true) => Life::Exited { due: Some(now.mono), delay: Duration::ZERO },
            (Some(_), false) => Life::Exited { due: None, delay: Duration::ZERO },
        };
        ContainerState {
            // The answers of the dead agent's last start must not be taken for this one's.
            run: self.run.saturating_add(1),
            restart_count: self.restart_count,
            crashes: self.crashes,
            failures: 0,
            image_id: self.image_id,
            exit,
            exit_before,
            life,
        }
    }
}
