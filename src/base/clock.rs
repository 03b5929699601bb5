//! Time as an argument.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

/// Where components get the time from.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for what is written into objects.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start that never runs backwards, for measuring intervals.
    fn monotonic(&self) -> Duration;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::monotonic`] starts at zero now.
    pub fn shared() -> SharedClock {
        Arc::new(Self { start: std::time::Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct FakeClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl FakeClock {
    /// A clock standing at `now`.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((now, Duration::ZERO)) })
    }

    /// Moves both readings forward by `by`.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.0 += by;
        state.1 += by;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.state.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().1
    }
}

/// `now` as Kubernetes writes `metav1.Time`: RFC 3339 in UTC with whole seconds.
pub fn rfc3339_seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `now` as Kubernetes writes `metav1.MicroTime`: RFC 3339 in UTC with six decimals.
pub fn rfc3339_micros(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        let at: Timestamp = "2026-03-04T05:06:07.089Z".parse().expect("a valid timestamp");
        assert_eq!(rfc3339_seconds(at), "2026-03-04T05:06:07Z");
        assert_eq!(rfc3339_micros(at), "2026-03-04T05:06:07.089000Z");
    }
}
