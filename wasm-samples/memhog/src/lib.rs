//! Takes memory, a MiB at a time, and touches it.
//!
//! `MEMHOG_MIB` is how much (without it, all there is); `MEMHOG_HOLD_SECONDS` how long it keeps it
//! before it ends with 0.

use wasip2::clocks::monotonic_clock::subscribe_duration;

struct Memhog;

wasip2::cli::command::export!(Memhog);

impl wasip2::exports::cli::run::Guest for Memhog {
    fn run() -> Result<(), ()> {
        let number = |name| kit::env(name).and_then(|value| value.parse::<u64>().ok());
        let goal = number("MEMHOG_MIB").unwrap_or(u64::MAX);
        let mut held: Vec<Vec<u8>> = Vec::new();
        while (held.len() as u64) < goal {
            held.push(core::hint::black_box(vec![1; 1 << 20]));
            if held.len() % 16 == 0 {
                kit::print(&format!("holding {} MiB\n", held.len()));
            }
        }
        kit::print(&format!("done, holding {} MiB\n", held.len()));
        if let Some(seconds) = number("MEMHOG_HOLD_SECONDS") {
            subscribe_duration(seconds.saturating_mul(1_000_000_000)).block();
        }
        core::hint::black_box(&held);
        Ok(())
    }
}
