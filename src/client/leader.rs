//! One of several processes acts, by a `coordination.k8s.io/v1` Lease.
//!
//! Every candidate reads the Lease every `retry`. It takes the Lease, by compare-and-swap on its
//! resourceVersion, when nobody holds it or when it has not changed for its duration. That time is
//! counted on the candidate's own monotonic clock since *it* last saw the Lease change: the times
//! written in it are for people, so clocks that disagree cannot make two leaders.
//!
//! ```text
//!   Following ──took the Lease──▶ Leading ──could not renew in time──▶ Following
//!                                    │ shutdown
//!                                    ▼
//!                          stop acting, then release
//! ```
//!
//! **Invariant:** who leads stops acting (`renew_deadline` after its last renewal at the latest)
//! before anyone else may take the Lease (`duration` after it).

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::meta::micro_time;
use super::rest;
use crate::base::clock::SharedClock;
use crate::base::shutdown::Shutdown;

/// Which Lease, in whose name, and how patient.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    pub namespace: String,
    /// Name of the Lease, as `coracle-controllers`.
    pub name: String,
    /// Who this candidate is; unique among the candidates.
    pub identity: String,
    /// How long the others wait for a silent leader.
    pub duration: Duration,
    /// How long a leader acts without having renewed; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often to look and to renew.
    pub retry: Duration,
}

impl LeaderConfig {
    /// Kubernetes' times: 15 s, 10 s, 2 s; in `kube-system`.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The Lease as this candidate last saw it change.
#[derive(Debug, Clone, Default)]
struct Observed {
    lease: Option<Lease>,
    /// Monotonic time of the change.
    at: Duration,
}

/// What to do about the Lease that was read.
#[derive(Debug, Clone, PartialEq)]
enum Move {
    /// Write this spec; `true` when the Lease changes hands.
    Write(Box<LeaseSpec>, bool),
    /// Somebody else leads.
    Wait,
}

impl Observed {
    fn see(&mut self, lease: Option<Lease>, now: Duration) {
        let version = |lease: &Option<Lease>| {
            lease.as_ref().map(|l| (l.metadata.uid.clone(), l.metadata.resource_version.clone()))
        };
        if version(&self.lease) != version(&lease) {
            self.at = now;
        }
        self.lease = lease;
    }

    fn next(&self, config: &LeaderConfig, now: Duration, wall: jiff::Timestamp) -> Move {
        let spec = self.lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.unwrap_or_default().max(0);
        let duration = Duration::from_secs(u64::from(seconds.unsigned_abs()));
        let mine = holder == config.identity;
        let free = holder.is_empty() || now.saturating_sub(self.at) >= duration;
        if !mine && !free {
            return Move::Wait;
        }
        let at = micro_time(wall);
        let transitions = spec.lease_transitions.unwrap_or_default();
        let changes_hands = !mine && self.lease.is_some();
        Move::Write(
            Box::new(LeaseSpec {
                holder_identity: Some(config.identity.clone()),
                lease_duration_seconds: Some(
                    i32::try_from(config.duration.as_secs().max(1)).unwrap_or(i32::MAX),
                ),
                acquire_time: if mine { spec.acquire_time } else { Some(at.clone()) },
                renew_time: Some(at),
                lease_transitions: Some(transitions + i32::from(changes_hands)),
                ..LeaseSpec::default()
            }),
            !mine,
        )
    }
}

struct Elector {
    client: kube::Client,
    config: LeaderConfig,
    clock: SharedClock,
    observed: Observed,
}

/// Runs `act` whenever this candidate leads, until `shutdown`. `act` gets a token that is cancelled
/// when it must stop; the Lease is released only once it has returned.
pub async fn run<F, Fut>(
    client: kube::Client,
    config: LeaderConfig,
    clock: SharedClock,
    shutdown: Shutdown,
    act: F,
) where
    F: Fn(Shutdown) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut elector = Elector { client, config, clock, observed: Observed::default() };
    while !shutdown.is_cancelled() {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return,
            tried = elector.try_lead() => tried,
        };
        if !matches!(tried, Ok(true)) {
            if let Err(error) = tried {
                tracing::info!(lease = %elector.config.name, %error, "the Lease could not be taken");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(elector.config.retry) => {}
            }
            continue;
        }
        tracing::info!(lease = %elector.config.name, identity = %elector.config.identity, "leading");
        let stop = shutdown.child_token();
        let mut acting = tokio::spawn(act(stop.clone()));
        tokio::select! {
            () = elector.keep() => tracing::warn!(lease = %elector.config.name, "lost the Lease"),
            _ = &mut acting => {}
            () = shutdown.cancelled() => {}
        }
        stop.cancel();
        if !acting.is_finished() {
            let _ = acting.await;
        }
        elector.release().await;
    }
}

impl Elector {
    fn path(&self) -> String {
        rest::object::<Lease>(&self.config.namespace, &self.config.name)
    }

    /// Whether this candidate leads after one try.
    async fn try_lead(&mut self) -> Result<bool, kube::Error> {
        let read = rest::found(rest::get::<Lease>(&self.client, &self.path()).await)?;
        let now = self.clock.monotonic();
        self.observed.see(read, now);
        let Move::Write(spec, _) = self.observed.next(&self.config, now, self.clock.now()) else {
            return Ok(false);
        };
        let written = match &self.observed.lease {
            Some(lease) => {
                let lease = Lease { spec: Some(*spec), ..lease.clone() };
                rest::replace::<Lease>(&self.client, &self.path(), &lease).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        namespace: Some(self.config.namespace.clone()),
                        name: Some(self.config.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(*spec),
                };
                let path = rest::collection::<Lease>(&self.config.namespace);
                rest::create::<Lease>(&self.client, &path, &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observed.see(Some(lease), self.clock.monotonic());
                Ok(true)
            }
            Err(error) if rest::is_conflict(&error) || rest::is_already_exists(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews until it fails for too long, or somebody else took the Lease.
    async fn keep(&mut self) {
        let mut renewed = self.clock.monotonic();
        loop {
            tokio::time::sleep(self.config.retry).await;
            let started = self.clock.monotonic();
            let left = self.config.renew_deadline.saturating_sub(started.saturating_sub(renewed));
            let deadline = left.max(Duration::from_millis(1));
            match tokio::time::timeout(deadline, self.try_lead()).await {
                // The time before the request, since the server may have written it at once.
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => {
                    let spec = self.observed.lease.as_ref().and_then(|lease| lease.spec.as_ref());
                    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
                    if holder != Some(self.config.identity.as_str()) {
                        return;
                    }
                }
                Ok(Err(error)) => {
                    tracing::info!(lease = %self.config.name, %error, "the Lease was not renewed");
                }
                Err(_) => tracing::info!(lease = %self.config.name, "renewing the Lease timed out"),
            }
            if self.clock.monotonic().saturating_sub(renewed) >= self.config.renew_deadline {
                return;
            }
        }
    }

    /// Gives the Lease up, so that the next one need not wait. Failure is harmless: it expires.
    async fn release(&mut self) {
        let Some(mut lease) = self.observed.lease.clone() else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(micro_time(self.clock.now()));
        let path = self.path();
        let replaced = rest::replace::<rest::Ignored>(&self.client, &path, &lease);
        let _ = tokio::time::timeout(Duration::from_secs(2), replaced).await;
        self.observed = Observed::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::client::testing::{self, Asked};
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::sync::Arc;

    /// Tokio's (paused) clock.
    struct TokioClock(tokio::time::Instant);

    impl Clock for TokioClock {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH + self.monotonic()
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    /// A server that holds one Lease, and can be made unreachable.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<(Option<Value>, u64, bool)>>);

    impl Server {
        fn client(&self) -> kube::Client {
            let server = self.clone();
            testing::client(move |asked| {
                let server = server.clone();
                async move { server.answer(&asked) }
            })
        }

        fn answer(&self, asked: &Asked) -> http::Response<axum::body::Body> {
            let mut state = self.0.lock();
            if state.2 {
                return testing::failure(503, "ServiceUnavailable");
            }
            match (asked.method.as_str(), state.0.clone()) {
                ("GET", Some(lease)) => testing::json(200, &lease),
                ("GET", None) => testing::failure(404, "NotFound"),
                ("POST", Some(_)) => testing::failure(409, "AlreadyExists"),
                (_, old) => {
                    let old = old.map(|old| old["metadata"]["resourceVersion"].clone());
                    let asked_version = &asked.body["metadata"]["resourceVersion"];
                    if old.is_some_and(|old| old != *asked_version) {
                        return testing::failure(409, "Conflict");
                    }
                    state.1 += 1;
                    let mut lease = asked.body.clone();
                    lease["metadata"]["resourceVersion"] = json!(state.1.to_string());
                    state.0 = Some(lease.clone());
                    testing::json(200, &lease)
                }
            }
        }

        fn holder(&self) -> String {
            let state = self.0.lock();
            let lease = state.0.as_ref().expect("the Lease was written");
            lease["spec"]["holderIdentity"].as_str().expect("a holder").to_owned()
        }
    }

    struct Candidate {
        leads: Arc<Mutex<bool>>,
        shutdown: Shutdown,
    }

    fn candidate(server: &Server, identity: &str) -> Candidate {
        let leads = Arc::new(Mutex::new(false));
        let shutdown = Shutdown::new();
        let flag = leads.clone();
        tokio::spawn(run(
            server.client(),
            LeaderConfig::new("test", identity),
            Arc::new(TokioClock(tokio::time::Instant::now())),
            shutdown.clone(),
            move |stop| {
                let flag = flag.clone();
                async move {
                    *flag.lock() = true;
                    stop.cancelled().await;
                    *flag.lock() = false;
                }
            },
        ));
        Candidate { leads, shutdown }
    }

    async fn seconds(n: u64) {
        tokio::time::sleep(Duration::from_secs(n)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_other_follows_when_it_releases() {
        let server = Server::default();
        let one = candidate(&server, "one");
        seconds(1).await;
        let two = candidate(&server, "two");
        seconds(60).await;
        assert!(*one.leads.lock() && !*two.leads.lock());
        one.shutdown.cancel();
        seconds(4).await;
        assert!(!*one.leads.lock() && *two.leads.lock());
        assert_eq!(server.holder(), "two");
        two.shutdown.cancel();
        seconds(1).await;
        assert_eq!(server.holder(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_another_may_start() {
        let server = Server::default();
        let one = candidate(&server, "one");
        seconds(5).await;
        assert!(*one.leads.lock());
        server.0.lock().2 = true;
        seconds(13).await;
        assert!(!*one.leads.lock(), "past its renew deadline");
        server.0.lock().2 = false;
        seconds(20).await;
        assert!(*one.leads.lock(), "it leads again once the server is back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_leader_is_replaced_after_its_duration_on_ones_own_clock() {
        let server = Server::default();
        // The time written in the Lease is far in the future: it must not matter.
        server.0.lock().0 = Some(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "test", "namespace": "kube-system", "resourceVersion": "77"},
            "spec": {"holderIdentity": "ghost", "leaseDurationSeconds": 15,
                "renewTime": "2999-01-01T00:00:00.000000Z", "leaseTransitions": 4}}));
        let one = candidate(&server, "one");
        seconds(14).await;
        assert!(!*one.leads.lock());
        seconds(5).await;
        assert!(*one.leads.lock());
        let state = server.0.lock();
        assert_eq!(state.0.as_ref().expect("a Lease")["spec"]["leaseTransitions"], 5);
    }
}
