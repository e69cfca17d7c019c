//! Replication as a whole: three to five brokers with real logs on simulated disks, the real metadata, and a
//! scheduler that delays, loses, repeats and reorders everything, kills processes and cuts the power.
//!
//! One seed gives one history. A failing seed is run again alone with `VARVE_SEED=<seed>`; `VARVE_SEEDS=<count>`
//! runs more of them.
//!
//! What is checked all along (letters of research/reliability.md 2.9): a leader has everything that was ever
//! committed (R2), and below the high watermark all replicas hold the same bytes for ever (R3, R6, R12); the
//! epoch chain is what a scan of the log says (R9); sealed segments are the same files everywhere (R11); the tier
//! has no gap and no other bytes than the log (T1, T10). At the end everything heals, and must converge.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod checks;
mod node;
mod world;

use world::{Faults, World};

const STEPS: usize = 4000;

fn run(seed: u64, faults: Faults) -> world::Tally {
    let mut world = World::new(seed, faults);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
    world.tally
}

fn run_all(seeds: std::ops::Range<u64>, faults: Faults) {
    if let Some(seed) = std::env::var("VARVE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        println!("{:?}", run(seed, faults));
        return;
    }
    let more = std::env::var("VARVE_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    let seeds = seeds.start..more.unwrap_or(seeds.end);
    let mut sum = world::Tally::default();
    for seed in seeds.clone() {
        // What panics names its seed.
        let guard = Named(seed);
        sum.add(&run(seed, faults));
        std::mem::forget(guard);
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    // A harness in which nothing happens would pass too.
    assert!(sum.committed > 0 && sum.elections > 0 && sum.cuts > 0 && sum.rebuilds > 0 && sum.tiered > 0);
}

struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("seed {}: run it alone with VARVE_SEED={}", self.0, self.0);
    }
}

#[test]
fn nothing_committed_is_lost_to_power_failures_when_brokers_flush() {
    run_all(0..120, Faults::PowerFailures);
}

#[test]
fn nothing_committed_is_lost_to_kills_when_they_do_not() {
    run_all(0..120, Faults::Kills);
}

#[test]
fn a_seed_gives_one_history() {
    assert_eq!(run(7, Faults::PowerFailures), run(7, Faults::PowerFailures));
}
