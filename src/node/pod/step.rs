//! The transition function of [`super::state`]: first the event changes what it is about, then
//! [`Step::advance`] moves everything on as far as it goes without another event.

use std::time::Duration;

use super::state::{
    ContainerState, Deletion, Effect, Event, Life, Note, Now, PodPlan, PodState, PodStop,
    ProbeKind, Role, Running, Setup, StopCause, StopStage, Stopping, Streak, TearDown, Terminated,
    Trouble, Verdict,
};

/// The first delay of a container that keeps ending, and the longest (it doubles).
const CRASH_BACK_OFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// A run this long forgives the crashes before it.
const QUIET: Duration = Duration::from_secs(600);
/// The first and the longest delay between two tries to mount or to attach to the network.
const SETUP_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// What every container gets to end in, even where its grace period is used up.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// What an evicted pod gets, whatever it asked for: the kubelet's own.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// One transition.
pub fn step(plan: &PodPlan, state: PodState, event: Event, now: Now) -> (PodState, Vec<Effect>) {
    let mut step = Step { plan, state, now, effects: Vec::new() };
    // What the clock alone decides comes first: an answer that arrives after the pod's deadline
    // must find it stopping.
    step.judge();
    step.take(event);
    step.advance();
    (step.state, step.effects)
}

fn doubled((first, max): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1u32 << times.min(16)).min(max)
}

struct Step<'a> {
    plan: &'a PodPlan,
    state: PodState,
    now: Now,
    effects: Vec<Effect>,
}

impl Step<'_> {
    fn say(&mut self, warning: bool, reason: &'static str, message: String, about: Option<usize>) {
        self.effects.push(Effect::Say(Note { warning, reason, message, container: about }));
    }

    /// The container that an answer is about, unless the answer is of an older run.
    fn current(&mut self, container: usize, run: u32) -> Option<&mut ContainerState> {
        self.state.containers.get_mut(container).filter(|state| state.run == run)
    }

    fn running(&mut self, container: usize, run: u32) -> Option<&mut Running> {
        match &mut self.current(container, run)?.life {
            Life::Running(running) => Some(running),
            _ => None,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Changed { images } => self.changed(&images),
            Event::Deleted { grace } => {
                if self.state.deletion == Deletion::No {
                    self.state.deletion = Deletion::Asked;
                }
                self.stop_pod(grace);
            }
            Event::Vanished => {
                self.state.deletion = Deletion::Gone;
                self.stop_pod(self.plan.grace);
            }
            Event::Evicted(verdict) => self.condemn(verdict, EVICTION_GRACE),
            Event::NetworkReady { ip } => {
                self.state.ip = Some(ip);
                self.state.network = Setup::Ready;
            }
            Event::VolumesReady => self.state.volumes = Setup::Ready,
            Event::NetworkFailed { message } => {
                let message = format!("Failed to create pod sandbox: {message}");
                self.say(true, "FailedCreatePodSandBox", message, None);
                self.state.network = self.try_again(&self.state.network);
            }
            Event::VolumesFailed { message } => {
                self.say(true, "FailedMount", message, None);
                self.state.volumes = self.try_again(&self.state.volumes);
            }
            Event::TornDown => self.state.tear_down = TearDown::Done,
            other => self.take_for_container(other),
        }
    }

    fn take_for_container(&mut self, event: Event) {
        match event {
            Event::ImageReady { container, run, image_id } => {
                self.image_ready(container, run, image_id);
            }
            Event::ImageFailed { container, run, reason, message }
            | Event::StartFailed { container, run, reason, message } => {
                self.start_failed(container, run, reason, message);
            }
            Event::Started { container, run, container_id } => {
                self.started(container, run, container_id);
            }
            Event::Recovered { container, run } => self.recovered(container, run),
            Event::PostStartDone { container, run, result } => {
                self.post_start_done(container, run, result);
            }
            Event::PreStopDone { container, run, result } => {
                if let Err(message) = result {
                    self.say(true, "FailedPreStopHook", message, Some(container));
                }
                self.pre_stop_done(container, run);
            }
            Event::Exited { container, run, exit } => self.exited(container, run, exit),
            Event::Probed { container, run, kind, result } => {
                self.probed(container, run, kind, result);
            }
            _ => {}
        }
    }

    fn try_again(&self, setup: &Setup) -> Setup {
        let failures = match setup {
            Setup::UnderWay { failures } | Setup::Failed { failures, .. } => failures + 1,
            _ => 1,
        };
        let delay = doubled(SETUP_BACK_OFF, failures - 1);
        Setup::Failed { until: self.now.mono + delay, failures }
    }

    // ---- what containers report ----

    fn image_ready(&mut self, container: usize, run: u32, image_id: String) {
        let stopping = self.state.stop.is_some();
        let Some(state) = self.current(container, run) else { return };
        if !matches!(state.life, Life::Pulling) {
            return;
        }
        state.image_id = image_id;
        if stopping {
            state.life = Life::Waiting(None);
            return;
        }
        state.life = Life::Starting;
        self.effects.push(Effect::Start { container, run });
    }

    fn start_failed(&mut self, container: usize, run: u32, reason: &'static str, message: String) {
        let mono = self.now.mono;
        let stopping = self.state.stop.is_some();
        let Some(state) = self.current(container, run) else { return };
        if !matches!(state.life, Life::Pulling | Life::Starting) {
            return;
        }
        if stopping {
            state.life = Life::Waiting(None);
            return;
        }
        let delay = doubled(CRASH_BACK_OFF, state.failures);
        state.failures += 1;
        state.life = Life::Waiting(Some(Box::new(Trouble {
            reason: reason.to_owned(),
            message: message.clone(),
            until: mono + delay,
            back_off_from: matches!(reason, "ErrImagePull" | "SignatureValidationFailed")
                .then_some(mono + PULL_ERROR_SHOWN),
        })));
        self.say_why(container, reason, message);
    }

    /// The events that go with a container that did not start.
    fn say_why(&mut self, container: usize, reason: &'static str, message: String) {
        let about = Some(container);
        let image = &self.plan.containers[container].image;
        let first = match reason {
            "ErrImagePull" => {
                Some(("Failed", format!("Failed to pull image \"{image}\": {message}")))
            }
            "SignatureValidationFailed" => Some(("Failed", message.clone())),
            "InvalidImageName" => Some(("InspectFailed", message.clone())),
            "ErrImageNeverPull" => Some((reason, message.clone())),
            _ => None,
        };
        let Some((event, said)) = first else {
            return self.say(true, "Failed", format!("Error: {message}"), about);
        };
        self.say(true, event, said, about);
        self.say(true, "Failed", format!("Error: {reason}"), about);
    }

    fn started(&mut self, container: usize, run: u32, container_id: String) {
        let now = self.now;
        let plan = &self.plan.containers[container.min(self.plan.containers.len() - 1)];
        let in_post_start = plan.post_start;
        let stopping = self.state.stop.is_some();
        let Some(state) = self.current(container, run) else { return };
        if !matches!(state.life, Life::Starting) {
            return;
        }
        state.failures = 0;
        if state.exit.is_some() {
            state.restart_count += 1;
        }
        state.life = Life::Running(Box::new(Running {
            container_id,
            started_at: now.wall,
            since: now.mono,
            in_post_start,
            started: false,
            ready: false,
            streaks: [Streak::default(); 3],
            stop: None,
        }));
        self.say(false, "Created", "Container created".to_owned(), Some(container));
        self.say(false, "Started", "Container started".to_owned(), Some(container));
        if stopping {
            return;
        }
        if in_post_start {
            self.effects.push(Effect::PostStart { container, run });
        } else {
            self.up(container, run);
        }
    }

    /// It runs still: its probes begin again, and say at first what they said last.
    fn recovered(&mut self, container: usize, run: u32) {
        if self.state.stop.is_some() {
            return;
        }
        let Some(running) = self.running(container, run) else { return };
        let (started, ready) = (running.started, running.ready);
        if !started {
            return self.up(container, run);
        }
        self.past_startup(container, run);
        if let Some(running) = self.running(container, run) {
            running.ready |= ready;
        }
    }

    /// The container runs and its postStart hook is done: probes begin.
    fn up(&mut self, container: usize, run: u32) {
        let plan = &self.plan.containers[container];
        if plan.probes[ProbeKind::Startup as usize].is_some() {
            self.effects.push(Effect::Probe { container, run, kind: ProbeKind::Startup });
        } else {
            self.past_startup(container, run);
        }
    }

    fn past_startup(&mut self, container: usize, run: u32) {
        let plan = &self.plan.containers[container];
        let has_readiness = plan.probes[ProbeKind::Readiness as usize].is_some();
        if let Some(running) = self.running(container, run) {
            running.started = true;
            running.ready = !has_readiness;
        }
        for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
            if plan.probes[kind as usize].is_some() {
                self.effects.push(Effect::Probe { container, run, kind });
            }
        }
    }

    fn post_start_done(&mut self, container: usize, run: u32, result: Result<(), String>) {
        let Some(running) = self.running(container, run) else { return };
        if !running.in_post_start {
            return;
        }
        running.in_post_start = false;
        let stopping = running.stop.is_some();
        match result {
            Ok(()) if !stopping => self.up(container, run),
            Ok(()) => {}
            Err(message) => {
                self.say(true, "FailedPostStartHook", message, Some(container));
                let name = &self.plan.containers[container].name;
                let message = format!("Container {name} failed its postStart hook");
                self.stop_container(container, StopCause::PostStart, self.plan.grace, message);
            }
        }
    }

    fn probed(&mut self, container: usize, run: u32, kind: ProbeKind, result: Result<(), String>) {
        let plan = self.plan;
        let Some(probe) =
            plan.containers.get(container).and_then(|c| c.probes[kind as usize].as_ref())
        else {
            return;
        };
        let Some(running) = self.running(container, run) else { return };
        let out_of_turn = (kind == ProbeKind::Startup) == running.started;
        if running.stop.is_some() || running.in_post_start || out_of_turn {
            return;
        }
        let streak = &mut running.streaks[kind as usize];
        *streak = match &result {
            Ok(()) => Streak { good: streak.good.saturating_add(1), bad: 0 },
            Err(_) => Streak { good: 0, bad: streak.bad.saturating_add(1) },
        };
        let passed = streak.good >= probe.success_threshold;
        let failed = streak.bad >= probe.failure_threshold;
        if kind == ProbeKind::Readiness {
            running.ready = (running.ready || passed) && !failed;
        }
        if let Err(output) = result {
            let message = format!("{} probe failed: {output}", kind.word());
            self.say(true, "Unhealthy", message, Some(container));
        }
        let name = &plan.containers[container].name;
        let grace = probe.grace.unwrap_or(plan.grace);
        match kind {
            ProbeKind::Startup if passed => {
                self.effects.push(Effect::EndProbe { container, run, kind });
                self.past_startup(container, run);
            }
            ProbeKind::Startup if failed => {
                let message = format!("Container {name} failed startup probe, will be restarted");
                self.stop_container(container, StopCause::Startup, grace, message);
            }
            ProbeKind::Liveness if failed => {
                let message = format!("Container {name} failed liveness probe, will be restarted");
                self.stop_container(container, StopCause::Liveness, grace, message);
            }
            _ => {}
        }
    }

    fn exited(&mut self, container: usize, run: u32, exit: Terminated) {
        let now = self.now;
        let stopping = self.state.stop.is_some();
        let plan = self.plan;
        let Some(state) = self.current(container, run) else { return };
        let Life::Running(running) = &state.life else { return };
        let changed = running.stop.as_ref().is_some_and(|s| s.cause == StopCause::Changed);
        if now.mono.saturating_sub(running.since) >= QUIET || changed {
            state.crashes = 0;
        }
        let again = !stopping && (changed || plan.containers[container].restarts_after(exit.code));
        state.exit_before = state.exit.replace(exit);
        let delay = match state.crashes {
            0 => Duration::ZERO,
            n => doubled(CRASH_BACK_OFF, n - 1),
        };
        state.life = Life::Exited { due: again.then_some(now.mono + delay), delay };
        if again {
            state.crashes = state.crashes.saturating_add(1);
            if !delay.is_zero() {
                let name = &plan.containers[container].name;
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    plan.full_name()
                );
                self.say(true, "BackOff", message, Some(container));
            }
        }
    }

    // ---- what ends ----

    fn changed(&mut self, images: &[usize]) {
        // An ephemeral container may have been added.
        self.state.grow(self.plan.containers.len());
        // The kubelet counts the deadline from startTime, whenever it was set.
        let used = self.now.wall.duration_since(self.state.start_time);
        let used: Duration = used.try_into().unwrap_or(Duration::ZERO);
        self.state.deadline =
            self.plan.active_deadline.map(|d| self.now.mono + d.saturating_sub(used));
        if self.state.stop.is_some() {
            return;
        }
        for &container in images {
            let Some(state) = self.state.containers.get_mut(container) else { continue };
            match state.life {
                Life::Pulling | Life::Waiting(_) => {
                    state.run += 1;
                    state.failures = 0;
                    state.life = Life::Waiting(None);
                }
                Life::Exited { due: Some(_), .. } => {
                    state.crashes = 0;
                    state.life = Life::Exited { due: Some(self.now.mono), delay: Duration::ZERO };
                }
                _ => {
                    let name = &self.plan.containers[container].name;
                    let message = format!("Container {name} definition changed, will be restarted");
                    self.stop_container(container, StopCause::Changed, self.plan.grace, message);
                }
            }
        }
    }

    /// Begins the end of the pod, or shortens the time that is left for it.
    fn stop_pod(&mut self, grace: Duration) {
        let deadline = self.now.mono + grace;
        match &mut self.state.stop {
            Some(stop) => stop.deadline = stop.deadline.min(deadline),
            None => self.state.stop = Some(PodStop { deadline }),
        }
    }

    fn condemn(&mut self, verdict: Verdict, grace: Duration) {
        if self.state.stop.is_none() {
            self.state.verdict = Some(verdict);
        }
        self.stop_pod(grace);
    }

    fn stop_container(
        &mut self,
        container: usize,
        cause: StopCause,
        grace: Duration,
        message: String,
    ) {
        let deadline = self.now.mono + grace;
        let pre_stop = self.plan.containers[container].pre_stop && !grace.is_zero();
        let state = &mut self.state.containers[container];
        let run = state.run;
        let Life::Running(running) = &mut state.life else { return };
        if let Some(stop) = &mut running.stop {
            stop.deadline = stop.deadline.min(deadline.max(self.now.mono + LEAST_GRACE));
            return;
        }
        running.ready = running.ready && cause == StopCause::Pod;
        let stage = if pre_stop { StopStage::PreStop } else { StopStage::Terminating };
        let deadline = if pre_stop { deadline } else { self.now.mono + grace.max(LEAST_GRACE) };
        running.stop = Some(Stopping { cause, stage, deadline });
        for kind in ProbeKind::ALL {
            // While the pod stops, only readiness is still told.
            if cause != StopCause::Pod || kind != ProbeKind::Readiness {
                self.effects.push(Effect::EndProbe { container, run, kind });
            }
        }
        self.say(false, "Killing", message, Some(container));
        if pre_stop {
            self.effects.push(Effect::PreStop { container, run });
        } else {
            self.effects.push(Effect::Terminate { container, run, grace: grace.max(LEAST_GRACE) });
        }
    }

    fn pre_stop_done(&mut self, container: usize, run: u32) {
        let now = self.now.mono;
        let Some(running) = self.running(container, run) else { return };
        let Some(stop) = running.stop.as_mut().filter(|s| s.stage == StopStage::PreStop) else {
            return;
        };
        let grace = stop.deadline.saturating_sub(now).max(LEAST_GRACE);
        stop.stage = StopStage::Terminating;
        stop.deadline = now + grace;
        self.effects.push(Effect::Terminate { container, run, grace });
    }

    // ---- as far as it goes ----

    fn advance(&mut self) {
        self.expire();
        self.judge();
        if self.state.stop.is_some() {
            self.stop_containers();
            self.finish();
            return;
        }
        self.prepare();
        if self.state.network == Setup::Ready && self.state.volumes == Setup::Ready {
            self.start_containers();
        }
    }

    /// What time alone changes.
    fn expire(&mut self) {
        let mono = self.now.mono;
        for container in 0..self.state.containers.len() {
            let state = &mut self.state.containers[container];
            let run = state.run;
            match &mut state.life {
                Life::Waiting(Some(trouble))
                    if trouble.back_off_from.is_some_and(|t| t <= mono) =>
                {
                    trouble.back_off_from = None;
                    let image = &self.plan.containers[container].image;
                    let told = format!("Back-off pulling image \"{image}\"");
                    trouble.message = format!("{told}: {}: {}", trouble.reason, trouble.message);
                    trouble.reason = "ImagePullBackOff".to_owned();
                    self.say(false, "BackOff", told, Some(container));
                    self.say(true, "Failed", "Error: ImagePullBackOff".to_owned(), Some(container));
                }
                Life::Running(running) => {
                    let Some(stop) = running.stop.as_mut().filter(|s| s.deadline <= mono) else {
                        continue;
                    };
                    match stop.stage {
                        StopStage::PreStop => self.pre_stop_done(container, run),
                        StopStage::Terminating => {
                            stop.stage = StopStage::Killed;
                            self.effects.push(Effect::Kill { container, run });
                        }
                        StopStage::Killed => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether the pod as a whole is over.
    fn judge(&mut self) {
        if self.state.stop.is_some() {
            return;
        }
        if self.state.deadline.is_some_and(|deadline| deadline <= self.now.mono) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.say(false, "DeadlineExceeded", message.to_owned(), None);
            let verdict =
                Verdict { reason: "DeadlineExceeded".to_owned(), message: message.to_owned() };
            return self.condemn(verdict, self.plan.grace);
        }
        let done = |i: usize| self.state.containers[i].done();
        let init_failed =
            self.plan.of_role(Role::Init).any(|i| done(i) && !self.state.containers[i].succeeded());
        if init_failed || self.plan.of_role(Role::Main).all(done) {
            self.stop_pod(self.plan.grace);
        }
    }

    fn prepare(&mut self) {
        let mono = self.now.mono;
        let due = |setup: &Setup| match setup {
            Setup::No => true,
            Setup::Failed { until, .. } => *until <= mono,
            Setup::UnderWay { .. } | Setup::Ready => false,
        };
        let failures = |setup: &Setup| match setup {
            Setup::Failed { failures, .. } => *failures,
            _ => 0,
        };
        if due(&self.state.network) {
            self.state.network = Setup::UnderWay { failures: failures(&self.state.network) };
            self.effects.push(Effect::SetUpNetwork);
        }
        if due(&self.state.volumes) {
            self.state.volumes = Setup::UnderWay { failures: failures(&self.state.volumes) };
            self.effects.push(Effect::MountVolumes);
        }
    }

    fn start_containers(&mut self) {
        // Whoever looks around waits for nobody, not even for init containers that hang.
        for i in self.plan.of_role(Role::Ephemeral) {
            self.pursue(i);
        }
        if !self.state.initialized {
            for i in 0..self.plan.containers.len() {
                let satisfied = match self.plan.containers[i].role {
                    Role::Main | Role::Ephemeral => break,
                    Role::Init => self.state.containers[i].succeeded(),
                    Role::Sidecar => self.state.containers[i].running().is_some_and(|r| r.started),
                };
                if !satisfied || self.plan.containers[i].role == Role::Sidecar {
                    self.pursue(i);
                }
                if !satisfied {
                    return;
                }
            }
            self.state.initialized = true;
        }
        for i in self.plan.of_role(Role::Sidecar) {
            self.pursue(i);
        }
        for i in self.plan.of_role(Role::Main) {
            self.pursue(i);
            let life = &self.state.containers[i].life;
            // One at a time and in order, as the kubelet does: a later container waits for an
            // earlier one's image and postStart hook, but not for its back-off.
            let busy = match life {
                Life::Pulling | Life::Starting => true,
                Life::Running(running) => running.in_post_start,
                Life::Waiting(_) | Life::Exited { .. } => false,
            };
            if busy {
                break;
            }
        }
    }

    /// Starts a container whose time has come.
    fn pursue(&mut self, container: usize) {
        let mono = self.now.mono;
        let state = &mut self.state.containers[container];
        let due = match &state.life {
            Life::Waiting(None) => true,
            Life::Waiting(Some(trouble)) => trouble.until <= mono,
            Life::Exited { due: Some(at), .. } => *at <= mono,
            _ => false,
        };
        if due {
            state.run += 1;
            state.life = Life::Pulling;
            self.effects.push(Effect::Pull { container, run: state.run });
        }
    }

    /// Ends what runs: init containers and the pod's own at once, then the sidecars from the last
    /// to the first, since earlier ones may serve later ones.
    fn stop_containers(&mut self) {
        let deadline = self.state.stop.as_ref().map_or(self.now.mono, |stop| stop.deadline);
        let grace = deadline.saturating_sub(self.now.mono);
        for state in &mut self.state.containers {
            match &state.life {
                Life::Pulling => {
                    state.run += 1;
                    state.life = Life::Waiting(None);
                }
                Life::Waiting(Some(_)) => state.life = Life::Waiting(None),
                Life::Exited { due: Some(_), .. } => {
                    state.life = Life::Exited { due: None, delay: Duration::ZERO };
                }
                _ => {}
            }
        }
        let others = (0..self.plan.containers.len())
            .filter(|i| self.plan.containers[*i].role != Role::Sidecar)
            .collect::<Vec<_>>();
        for &i in &others {
            self.stop_for_pod(i, grace);
        }
        if !others.iter().all(|i| self.state.containers[*i].is_down()) {
            return;
        }
        let last =
            self.plan.of_role(Role::Sidecar).rev().find(|i| !self.state.containers[*i].is_down());
        if let Some(i) = last {
            self.stop_for_pod(i, grace);
        }
    }

    fn stop_for_pod(&mut self, container: usize, grace: Duration) {
        let message = format!("Stopping container {}", self.plan.containers[container].name);
        self.stop_container(container, StopCause::Pod, grace, message);
    }

    /// Once nothing runs: free what the pod holds, then let it go from the API.
    fn finish(&mut self) {
        if !self.state.containers.iter().all(ContainerState::is_down) {
            return;
        }
        if self.state.tear_down == TearDown::No {
            self.state.tear_down = TearDown::UnderWay;
            self.effects.push(Effect::TearDown);
        }
        if self.state.tear_down == TearDown::Done && self.state.deletion == Deletion::Asked {
            self.state.deletion = Deletion::UnderWay;
            self.effects.push(Effect::Remove);
        }
    }
}
