//! Which seeds are run: `ONCEGATE_SIM_SEED=7` replays one, `ONCEGATE_SIM_SEEDS=10000` runs more.

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs each seed, and says which one failed.
pub fn each_seed(name: &str, seeds: u64, run: impl Fn(u64)) {
    let seeds = match number("ONCEGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ONCEGATE_SIM_SEEDS").unwrap_or(seeds),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = result {
            eprintln!("{name}: replay with ONCEGATE_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
