//! Controllers under a seed: small models of the API server, controllers that see it late, lose
//! events and crash, nodes that do what they like, users who change things meanwhile.
//!
//! `SIMULATION_SEED=n` replays one seed.

mod jobs;
mod rollout;
mod stateful;

/// Runs `simulate` over many seeds, or over the one that the environment names.
fn over_seeds(committed: &[u64], many: u64, simulate: fn(u64)) {
    let one: Option<u64> = std::env::var("SIMULATION_SEED").ok().and_then(|s| s.parse().ok());
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => committed.iter().copied().chain(0..many).collect(),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
