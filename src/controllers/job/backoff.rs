//! When a failed pod may be replaced: after 10 s, doubling with every failure, up to 10 minutes.

use std::time::Duration;

use jiff::Timestamp;

const FIRST_SECONDS: i64 = 10;
const MAX_SECONDS: i64 = 600;

/// The failures of a Job since its last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    count: u32,
    last: Option<Timestamp>,
}

impl Failures {
    /// What is known once pods ended at these times.
    #[must_use]
    pub fn after(self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let last_success = succeeded.iter().max();
        let start = if last_success.is_some() { Self::default() } else { self };
        failed.iter().filter(|at| last_success.is_none_or(|success| *at > success)).fold(
            start,
            |known, at| Self { count: known.count + 1, last: known.last.max(Some(*at)) },
        )
    }

    /// How long no pod may be created yet.
    pub fn wait(self, now: Timestamp) -> Duration {
        wait(self.count, self.last, now)
    }
}

/// How long to wait after the last of `failures` failures, which was `last`.
pub fn wait(failures: u32, last: Option<Timestamp>, now: Timestamp) -> Duration {
    let (Some(last), 1..) = (last, failures) else { return Duration::ZERO };
    let delay = (FIRST_SECONDS << (failures - 1).min(10)).min(MAX_SECONDS);
    let left = last.as_millisecond() + delay * 1000 - now.as_millisecond();
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a timestamp")
    }

    #[test]
    fn the_wait_doubles_with_every_failure_and_a_success_ends_it() {
        let known = Failures::default();
        assert_eq!(known.wait(at(100)), Duration::ZERO);
        let one = known.after(&[], &[at(100)]);
        assert_eq!(one.wait(at(104)), Duration::from_secs(6));
        let three = one.after(&[], &[at(120), at(115)]);
        assert_eq!(three.wait(at(120)), Duration::from_secs(40));
        assert_eq!(three.after(&[at(130)], &[]).wait(at(131)), Duration::ZERO);
        let again = three.after(&[at(130)], &[at(125), at(140)]);
        assert_eq!(again.wait(at(140)), Duration::from_secs(10));
        let many = known.after(&[], &[at(100); 30]);
        assert_eq!(many.wait(at(100)), Duration::from_secs(600));
    }
}
