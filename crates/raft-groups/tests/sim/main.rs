//! Whole nodes in a simulation: one seed decides the work, the faults, every delay and every torn write.
//!
//! Three nodes run the production code of `raft-groups`, `raft-wal` and `registry` on simulated disks, a simulated
//! network and a clock that jumps ([`testkit::sim`]). Clients work while a plan of faults cuts power, kills processes and
//! breaks the network; then everything heals, and what the clients were promised must hold:
//!
//! | file | promise |
//! | --- | --- |
//! | `counters.rs` | an acknowledged change is there, once; a refused one is not; a read sees all that was acknowledged |
//! | `tickets.rs` | a name belongs to one creator |
//! | `numbers.rs` | a pool gives a value once, and a repeated proposal takes no second one |
//! | `ledgers.rs` | the same of groups without a registry: order, repeats, linearizable reads |
//! | `revisions.rs` | revisions grow with real time |
//! | `watchers.rs` | watches give every change, in order, once, over crashes |
//! | `replicas.rs` | the replicas come to rest and hold the same bytes |
//!
//! `SKERRY_SIM_SEEDS=50` runs more seeds, `SKERRY_SIM_SEED=7` replays one. What is not simulated: clocks that run at
//! different speeds, and disks that fail without a crash.

mod client;
mod counters;
mod disk;
mod journal;
mod ledgers;
mod machine;
mod node;
mod numbers;
mod panics;
mod plan;
mod replicas;
mod revisions;
mod run;
mod site;
mod tickets;
mod watchers;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use run::{Options, Report};

const SEEDS: u64 = 2;
/// How many seeds a planted bug may take to be found.
const SEEDS_PLANTED: u64 = 5;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is `{text}`: give a number")))
}

fn seeds() -> Vec<u64> {
    match number("SKERRY_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SKERRY_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

/// Runs a seed; a panic is a failure like any other.
fn judge(seed: u64, options: &Options) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run::run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without words")))
    })
}

fn must_pass(test: &str, seed: u64, options: &Options) -> Report {
    judge(seed, options).unwrap_or_else(|why| {
        panic!(
            "seed {seed}: {why}\nreplay: SKERRY_SIM_SEED={seed} cargo test -p raft-groups --test sim {test}"
        )
    })
}

#[test]
fn promises_hold_under_every_seed() {
    for seed in seeds() {
        let report = must_pass("promises_hold_under_every_seed", seed, &Options::default());
        let Report {
            acknowledged,
            faults,
            ..
        } = report;
        assert!(
            acknowledged >= 200 && faults >= 5,
            "seed {seed} shows little: {acknowledged} writes were acknowledged under {faults} faults"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options {
        load: Duration::from_secs(15),
        trace_lines: 2_000_000,
        ..Options::default()
    };
    let seed = seeds()[0];
    let runs = [(); 2].map(|()| must_pass("the_same_seed_gives_the_same_trace", seed, &options));
    let [first, second] = &runs;
    if first.hash == second.hash {
        return;
    }
    let differs = |at: &usize| first.lines.get(*at) != second.lines.get(*at);
    let longer = first.lines.len().max(second.lines.len());
    let at = (0..longer).find(differs).unwrap_or(longer);
    let around = |report: &Report| {
        let lines = report.lines.iter().skip(at.saturating_sub(10)).take(20);
        lines.cloned().collect::<Vec<_>>().join("\n")
    };
    panic!(
        "two runs of seed {seed} part at event {at} of {} and {}:\n{}\n--- the other:\n{}",
        first.lines.len(),
        second.lines.len(),
        around(first),
        around(second)
    );
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let options = Options {
        load: Duration::from_secs(20),
        lying_disks: true,
        ..Options::default()
    };
    let found = (1..=SEEDS_PLANTED).any(|seed| judge(seed, &options).is_err());
    assert!(
        found,
        "logs that forget what they confirmed passed {SEEDS_PLANTED} seeds: the checks are blind"
    );
}
