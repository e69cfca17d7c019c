//! The simulator as a test: seeds that once showed a fault, fresh ones, and that a seed is a run.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use varve_cluster::raft::Bug;
use varve_tests::sim::{cluster, quorum};

/// A line of `tests/src/sim/corpus.txt`: a scenario, a seed, and what it once found.
fn corpus(scenario: &str) -> Vec<u64> {
    let lines = include_str!("../src/sim/corpus.txt").lines();
    let words = lines
        .filter(|line| !line.starts_with('#'))
        .map(str::split_whitespace);
    let of_scenario = words.filter_map(|mut words| (words.next()? == scenario).then(|| words.next())?);
    of_scenario.map(|seed| seed.parse().unwrap()).collect()
}

fn quorum_holds(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        let (outcome, _) = quorum::run(seed, None, false);
        assert_eq!(outcome.failure, None, "seed {seed}: sim --seed {seed} --trace");
        assert!(outcome.commands > 0, "seed {seed} got nothing done");
    }
}

#[test]
fn the_quorum_holds_in_every_seed_that_once_showed_a_fault() {
    let seeds = corpus("quorum");
    assert!(!seeds.is_empty());
    quorum_holds(seeds);
}

#[test]
fn the_quorum_holds_in_two_hundred_seeds() {
    quorum_holds(1..=200);
}

fn cluster_holds(seeds: impl IntoIterator<Item = u64>) -> cluster::Tally {
    let mut sum = cluster::Tally::default();
    for seed in seeds {
        let (outcome, tally, _) = cluster::run(seed, None, false);
        let again = "sim --scenario cluster --seed";
        assert_eq!(outcome.failure, None, "seed {seed}: {again} {seed} --trace");
        assert!(tally.acked > 0, "seed {seed} got nothing done");
        sum.add(&tally);
    }
    sum
}

#[test]
fn the_cluster_holds_in_every_seed_that_once_showed_a_fault() {
    let seeds = corpus("cluster");
    assert!(!seeds.is_empty());
    cluster_holds(seeds);
}

#[test]
fn the_cluster_holds_in_two_hundred_seeds() {
    let sum = cluster_holds(1..=200);
    // A world in which nothing happens would hold too.
    let happened = [sum.elections, sum.cuts, sum.rebuilds, sum.tiered];
    assert!(happened.iter().all(|count| *count > 10), "{sum:?}");
}

#[test]
fn a_seed_of_the_cluster_is_a_run() {
    for seed in [3, 17, 99] {
        let (first, _, trace) = cluster::run(seed, None, true);
        let (second, _, again) = cluster::run(seed, None, true);
        assert!(trace.len() > 10_000, "the trace of seed {seed} is short");
        assert!(trace == again, "two traces of seed {seed} differ");
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

/// Of the cluster's; `sim --catalogue` takes all.
const SOON_FOUND: [cluster::Bug; 12] = [
    cluster::Bug::NoDivergenceCheck,
    cluster::Bug::AckBeforeCommitted,
    cluster::Bug::DuplicateAckedUncommitted,
    cluster::Bug::CommitTwice,
    cluster::Bug::StaleManifest,
    cluster::Bug::ReadUncommitted,
    cluster::Bug::DurableBeforeSync,
    cluster::Bug::RetentionBeforeCommit,
    cluster::Bug::RetentionIgnoresTier,
    cluster::Bug::ObjectNamesReused,
    cluster::Bug::CommitBeforeStored,
    cluster::Bug::CollectUnreferenced,
];

#[test]
fn bugs_that_are_put_back_into_the_cluster_are_found() {
    for bug in SOON_FOUND {
        let found = (1..=40).any(|seed| cluster::run(seed, Some(bug), false).0.failure.is_some());
        assert!(found, "{bug:?} is not found in 40 seeds");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in [3, 17, 99] {
        let (first, trace) = quorum::run(seed, None, true);
        let (second, again) = quorum::run(seed, None, true);
        assert!(trace.len() > 10_000, "the trace of seed {seed} is short");
        assert!(trace == again, "two traces of seed {seed} differ");
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

#[test]
fn bugs_that_are_put_back_are_found() {
    // Those that show soon; `sim --catalogue` takes all. What a broken node panics with is part of the finding.
    for bug in [
        Bug::CommitUnsorted,
        Bug::AckUnsynced,
        Bug::NoDivergenceCheck,
        Bug::TruncateToHighWatermark,
        Bug::VoteWithoutLogCheck,
        Bug::PreVoteIgnored,
        Bug::NoLeaderChangeEntry,
    ] {
        let found = (1..=50).any(|seed| quorum::run(seed, Some(bug), false).0.failure.is_some());
        assert!(found, "{bug:?} is not found in 50 seeds");
    }
}
