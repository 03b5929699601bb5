//! The loop: informers feed the state, its steps become requests, many in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument as _;

use super::effects::{Done, Effects};
use super::informers::{self, Informers};
use super::pod::GROUP_LABEL;
use super::state::{State, Step};
use super::{Descheduling, SchedulerConfig, deschedule};
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;
use crate::client::events::Recorder;
use crate::client::informer::{Changes, Informer};
use crate::client::leader::{self, LeaderConfig};

/// How many requests may be in flight.
const IN_FLIGHT: usize = 512;
/// How many pods may wait for their volumes besides.
const VOLUMES_IN_FLIGHT: usize = 4096;
/// How many pods are decided for before news is heard again.
const BATCH: usize = 64;

/// Schedules, whenever this process leads, until `shutdown`.
pub async fn run(
    client: kube::Client,
    config: SchedulerConfig,
    clock: SharedClock,
    shutdown: Shutdown,
) {
    let lease = LeaderConfig::new("kube-scheduler", config.identity.clone());
    let act = {
        let (client, clock) = (client.clone(), clock.clone());
        move |stop: Shutdown| lead(client.clone(), config.clone(), clock.clone(), stop)
    };
    leader::run(client, lease, clock, shutdown, act).await;
}

/// Requests in flight. Those that wait for volumes are counted apart, since that may take minutes.
#[derive(Default)]
struct InFlight {
    quick: JoinSet<Done>,
    volumes: JoinSet<Done>,
}

impl InFlight {
    fn has_room(&self) -> bool {
        self.quick.len() < IN_FLIGHT && self.volumes.len() < VOLUMES_IN_FLIGHT
    }

    fn start(&mut self, effects: Effects, step: Step) {
        let (pod, slow) = match &step {
            Step::Bind { pod, volumes, .. } => (pod, !volumes.is_empty()),
            Step::Refuse { pod, .. } => (pod, false),
        };
        let span = tracing::info_span!("schedule", ns = pod.key.namespace, pod = pod.key.name);
        let into = if slow { &mut self.volumes } else { &mut self.quick };
        into.spawn(effects.carry_out(step).instrument(span));
    }

    async fn next(&mut self) -> Result<Done, tokio::task::JoinError> {
        tokio::select! {
            Some(done) = self.quick.join_next() => done,
            Some(done) = self.volumes.join_next() => done,
            else => std::future::pending().await,
        }
    }

    fn try_next(&mut self) -> Option<Result<Done, tokio::task::JoinError>> {
        self.quick.try_join_next().or_else(|| self.volumes.try_join_next())
    }
}

/// Pod groups, which are listened for once a pod names one.
struct Groups {
    client: kube::Client,
    stop: Shutdown,
    heard: Option<(Informer<usize>, Changes)>,
}

impl Groups {
    fn are_named(&mut self) {
        if self.heard.is_none() {
            let informer = informers::pod_groups(&self.client, &self.stop);
            let changes = informer.changes();
            self.heard = Some((informer, changes));
        }
    }

    async fn next(&mut self) -> Vec<(crate::client::Key, Option<usize>)> {
        let Some((informer, changes)) = &mut self.heard else {
            return std::future::pending().await;
        };
        let keys = changes.next().await.into_iter();
        keys.map(|key| {
            let min = informer.get(&key).map(|min| *min);
            (key, min)
        })
        .collect()
    }
}

/// Schedules until `stop`.
async fn lead(client: kube::Client, config: SchedulerConfig, clock: SharedClock, stop: Shutdown) {
    let informers = Arc::new(Informers::start(&client, &stop));
    let named = Arc::new(tokio::sync::Notify::new());
    let tell = named.clone();
    informers.pods.on_change(move |change| {
        if change.new.is_some_and(|pod| pod.labels.get(GROUP_LABEL).is_some()) {
            tell.notify_one();
        }
    });
    let name = config.configuration.profiles.first().map_or("default-scheduler", |p| &p.name);
    let recorder = Recorder::start(client.clone(), name, "", clock.clone(), stop.clone());
    let effects = Effects {
        client: client.clone(),
        recorder,
        clock: clock.clone(),
        informers: informers.clone(),
    };
    let mut groups = Groups { client, stop: stop.clone(), heard: None };
    let descheduling = config.descheduling;
    let mut round = Round::new(descheduling.as_ref());
    let mut state = State::new(config.configuration);
    let mut news = informers.news();
    tokio::select! {
        () = stop.cancelled() => return,
        () = informers.synced() => {}
    }
    let mut in_flight = InFlight::default();
    loop {
        let room = in_flight.has_room();
        let wait = state.due().filter(|_| room).map(|at| at.saturating_sub(clock.monotonic()));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            heard = news.next() => informers.tell(heard, &mut state, clock.monotonic()),
            () = named.notified() => groups.are_named(),
            wanted = groups.next() => for (key, min) in wanted {
                state.group(key, min, clock.monotonic());
            },
            () = round.due() => deschedule(&state, descheduling, &effects),
            done = in_flight.next() => settle(&mut state, done, clock.monotonic()),
            () = sleep(wait) => {}
        }
        while let Some(done) = in_flight.try_next() {
            settle(&mut state, done, clock.monotonic());
        }
        for _ in 0..BATCH {
            if !in_flight.has_room() {
                break;
            }
            let Some(step) = state.next(clock.monotonic()) else { break };
            in_flight.start(effects.clone(), step);
        }
    }
}

/// When the descheduler has its turn.
struct Round(Option<tokio::time::Interval>);

impl Round {
    fn new(descheduling: Option<&Descheduling>) -> Self {
        Self(descheduling.map(|how| {
            let mut every = tokio::time::interval_at(Instant::now() + how.every, how.every);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        }))
    }

    async fn due(&mut self) {
        match &mut self.0 {
            Some(every) => {
                every.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// One round: what is decided is evicted behind the loop's back.
fn deschedule(state: &State, descheduling: Option<Descheduling>, effects: &Effects) {
    let (Some(how), Some(profile)) = (descheduling, state.first_profile()) else { return };
    let moves = deschedule::plan(state.snapshot(), how.goal, how.limits, profile);
    if !moves.is_empty() {
        tracing::info!(goal = ?how.goal, moves = moves.len(), "pods are moved");
        tokio::spawn(effects.clone().move_all(moves));
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn settle(state: &mut State, done: Result<Done, tokio::task::JoinError>, now: Duration) {
    match done {
        Ok(Done::Bound(pod)) => state.bound(&pod),
        Ok(Done::NotBound { pod, node, again }) => state.not_bound(&pod, &node, again, now),
        Ok(Done::Spared(victims)) => state.spared(&victims),
        Ok(Done::Told) => {}
        Err(error) => tracing::error!(%error, "a request of the scheduler panicked"),
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
