//! Exponential backoff with a ceiling.

use std::time::Duration;

use super::rng::Rng;

/// Delays that double from `first` up to `max`, each with up to a tenth of jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff whose first delay is `first` and whose longest is `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The delay before the next try, and count a failure.
    pub fn next_delay(&mut self, rng: &mut Rng) -> Duration {
        let plain = self.peek();
        self.failures = self.failures.saturating_add(1);
        plain.mul_f64(1.0 + rng.fraction() / 10.0).min(self.max)
    }

    /// The delay that [`Self::next_delay`] would give, without jitter and without counting.
    pub fn peek(&self) -> Duration {
        self.first.saturating_mul(1u32 << self.failures.min(20)).min(self.max)
    }

    /// Forget the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures were counted since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_ceiling() {
        let mut rng = Rng::seeded(1);
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let plain: Vec<u64> = (0..7)
            .map(|_| {
                let secs = backoff.peek().as_secs();
                backoff.next_delay(&mut rng);
                secs
            })
            .collect();
        assert_eq!(plain, [10, 20, 40, 80, 160, 300, 300]);
    }
}
