//! Runs the simulator: many seeds, one with its trace, or the catalogue of known bugs that it must find.
//!
//! ```text
//! sim --seeds 10000 --json       seeds 1 … 10000; the last line says what they came to
//! sim --seed 17 --trace          what happened in one of them, event by event
//! sim --catalogue --json         how many seeds each known bug survives when it is put back
//! ```
//! Two scenarios: `quorum` (the metadata quorum) and `cluster` (brokers, their logs, the bucket, clients). All of it is for
//! both, unless `--scenario` names one; a single seed needs to be told which.
//!
//! The exit code is 1 when a seed failed or a bug was not found.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use varve_cluster::raft;
use varve_tests::sim::{Failure, Outcome, cluster, quorum};

/// What is not found in so many seeds is a fault of the simulator.
const CATALOGUE_SEEDS: u64 = 5_000;
/// Failing seeds that are shown in words.
const SHOWN_MAX: usize = 20;

#[derive(Parser)]
struct Arguments {
    /// How many seeds to run; with `--catalogue`, how many to try for each bug.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this scenario. A single seed is one of the quorum's if nothing is said.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// One seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Prints every event of that seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Puts known bugs back, one after the other.
    #[arg(long, conflicts_with = "seed")]
    catalogue: bool,
    /// Only the bug of this name; with `--seed`, that seed with this bug.
    #[arg(long)]
    bug: Option<String>,
    /// Ends with one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Seeds side by side; as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Quorum,
    Cluster,
}

/// A known bug of one of the scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    Quorum(raft::Bug),
    Cluster(cluster::Bug),
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Cluster => "cluster",
        }
    }

    fn run(self, seed: u64, bug: Option<Bug>, traced: bool) -> (Outcome, String) {
        match (self, bug) {
            (Self::Quorum, Some(Bug::Quorum(bug))) => quorum::run(seed, Some(bug), traced),
            (Self::Quorum, _) => quorum::run(seed, None, traced),
            (Self::Cluster, bug) => {
                let bug = match bug {
                    Some(Bug::Cluster(bug)) => Some(bug),
                    Some(Bug::Quorum(_)) | None => None,
                };
                let (outcome, _, trace) = cluster::run(seed, bug, traced);
                (outcome, trace)
            }
        }
    }

    fn bugs(self) -> Vec<Bug> {
        match self {
            Self::Quorum => raft::Bug::ALL.into_iter().map(Bug::Quorum).collect(),
            Self::Cluster => cluster::Bug::ALL.into_iter().map(Bug::Cluster).collect(),
        }
    }
}

impl Bug {
    fn name(self) -> String {
        match self {
            Self::Quorum(bug) => format!("{bug:?}"),
            Self::Cluster(bug) => format!("{bug:?}"),
        }
    }
}

impl Arguments {
    fn scenarios(&self) -> Vec<Scenario> {
        self.scenario
            .map_or_else(|| vec![Scenario::Quorum, Scenario::Cluster], |only| vec![only])
    }

    fn wants(&self, bug: Bug) -> bool {
        self.bug.as_ref().is_none_or(|only| *only == bug.name())
    }
}

/// Of one scenario, or the sum over all that ran.
#[derive(Clone, Default, Serialize)]
struct Summary {
    seeds: u64,
    simulated_hours: f64,
    violations: usize,
    stuck: usize,
    first_failing_seed: Option<u64>,
    events: u64,
    commands: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scenarios: BTreeMap<&'static str, Self>,
}

#[derive(Serialize)]
struct Catalogue {
    bugs: usize,
    caught: usize,
    /// The seeds it took to find each; `null` if it was not found.
    seeds: BTreeMap<String, Option<u64>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic of a simulated node is a finding, reported like any other.
    std::panic::set_hook(Box::new(|_| {}));
    let sound = if let Some(seed) = arguments.seed {
        show(&arguments, seed)
    } else if arguments.catalogue {
        catalogue(&arguments)
    } else {
        run(&arguments)
    };
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show(arguments: &Arguments, seed: u64) -> bool {
    let scenario = arguments.scenario.unwrap_or(Scenario::Quorum);
    let bug = scenario.bugs().into_iter();
    let bug = bug
        .filter(|_| arguments.bug.is_some())
        .find(|bug| arguments.wants(*bug));
    let (outcome, trace) = scenario.run(seed, bug, arguments.trace);
    print!("{trace}");
    println!("{outcome:?}");
    outcome.failure.is_none()
}

fn run(arguments: &Arguments) -> bool {
    let mut sum = Summary::default();
    for scenario in arguments.scenarios() {
        let summary = run_one(arguments, scenario);
        sum.seeds += summary.seeds;
        sum.simulated_hours += summary.simulated_hours;
        sum.violations += summary.violations;
        sum.stuck += summary.stuck;
        sum.first_failing_seed = match (sum.first_failing_seed, summary.first_failing_seed) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        sum.events += summary.events;
        sum.commands += summary.commands;
        sum.seconds += summary.seconds;
        sum.scenarios.insert(scenario.name(), summary);
    }
    print_json(arguments, &sum);
    sum.violations + sum.stuck == 0
}

fn run_one(arguments: &Arguments, scenario: Scenario) -> Summary {
    let began = Instant::now();
    let seeds = arguments.seeds.unwrap_or(1_000);
    let outcomes = side_by_side(arguments, seeds, (scenario, None), false);
    let failed: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .collect();
    for outcome in failed.iter().take(SHOWN_MAX) {
        println!("{} seed {}: {:?}", scenario.name(), outcome.seed, outcome.failure);
    }
    let violation = |outcome: &&&Outcome| matches!(outcome.failure, Some(Failure::Violation(_)));
    let violations = failed.iter().filter(violation).count();
    let microseconds: i64 = outcomes.iter().map(|outcome| outcome.simulated).sum();
    let summary = Summary {
        seeds,
        simulated_hours: hours(microseconds),
        violations,
        stuck: failed.len() - violations,
        first_failing_seed: failed.first().map(|outcome| outcome.seed),
        events: outcomes.iter().map(|outcome| outcome.events).sum(),
        commands: outcomes.iter().map(|outcome| outcome.commands).sum(),
        seconds: began.elapsed().as_secs_f64(),
        scenarios: BTreeMap::new(),
    };
    println!(
        "{}: {} seeds, {:.1} simulated hours, {} events in {:.1} s: {} violations, {} stuck",
        scenario.name(),
        seeds,
        summary.simulated_hours,
        summary.events,
        summary.seconds,
        summary.violations,
        summary.stuck
    );
    summary
}

fn catalogue(arguments: &Arguments) -> bool {
    let seeds = arguments.seeds.unwrap_or(CATALOGUE_SEEDS);
    let mut found = BTreeMap::new();
    for scenario in arguments.scenarios() {
        for bug in scenario.bugs() {
            if !arguments.wants(bug) {
                continue;
            }
            let outcomes = side_by_side(arguments, seeds, (scenario, Some(bug)), true);
            let first = outcomes.iter().find(|outcome| outcome.failure.is_some());
            let took = first.map(|outcome| outcome.seed - arguments.from + 1);
            println!(
                "{} {}: {:?} {:?}",
                scenario.name(),
                bug.name(),
                took,
                first.and_then(|outcome| outcome.failure.clone())
            );
            found.insert(format!("{}.{}", scenario.name(), bug.name()), took);
        }
    }
    let caught = found.values().flatten().count();
    let sound = caught == found.len();
    print_json(
        arguments,
        &Catalogue {
            bugs: found.len(),
            caught,
            seeds: found,
        },
    );
    sound
}

/// Runs `seeds` seeds from the first on, or until one has failed if that is all that is asked. In their order.
fn side_by_side(
    arguments: &Arguments,
    seeds: u64,
    (scenario, bug): (Scenario, Option<Bug>),
    until_failure: bool,
) -> Vec<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let next = AtomicU64::new(arguments.from);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        let mut outcomes = vec![];
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            // Seeds below the first failing one are all run, so the answer does not depend on who was faster.
            if seed >= arguments.from + seeds || (until_failure && seed > failed.load(Ordering::Relaxed)) {
                return outcomes;
            }
            let (outcome, _) = scenario.run(seed, bug, false);
            if outcome.failure.is_some() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
    };
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers
            .into_iter()
            .map(|worker| worker.join().expect("what a node panics with is caught"));
        done.flatten().collect()
    });
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

fn hours(microseconds: i64) -> f64 {
    let seconds = u32::try_from(microseconds / 1_000_000).unwrap_or(u32::MAX);
    f64::from(seconds) / 3_600.0
}

fn print_json(arguments: &Arguments, what: &impl Serialize) {
    if arguments.json {
        println!("{}", serde_json::to_string(what).expect("numbers and names"));
    }
}
