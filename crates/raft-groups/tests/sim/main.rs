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
//! Some promises need more than chance, and have a story of their own:
//!
//! | file | promise |
//! | --- | --- |
//! | `leases.rs` | reads stay linearizable in the ways in which a lease could turn out too long |
//! | `snapshots.rs` | a replica that was away for long gets a snapshot, whatever happens on the way |
//! | `quiet.rs` | hundreds of groups that nobody uses say nothing |
//! | `trimming.rs` | the log stays within its bound |
//!
//! `SKERRY_SIM_SEEDS=50` runs more seeds, `SKERRY_SIM_SEED=7` replays one. What is not simulated: clocks that run at
//! different speeds, disks that fail without a crash, and a process that doesn't run at all: one that stands still has
//! neither disk nor network, but its timers go on.

mod client;
mod counters;
mod disk;
mod journal;
mod leases;
mod ledgers;
mod machine;
mod node;
mod numbers;
mod panics;
mod plan;
mod quiet;
mod replicas;
mod revisions;
mod run;
mod site;
mod snapshots;
mod tickets;
mod trimming;
mod watchers;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use leases::Squeeze;
use node::Shape;
use run::{Options, Report};
use snapshots::Trouble;
use testkit::sim::Trace;
use testkit::suites;

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
    passed(test, seed, judge(seed, options))
}

fn passed<T>(test: &str, seed: u64, outcome: Result<T, String>) -> T {
    outcome.unwrap_or_else(|why| {
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

#[test]
fn reads_are_linearizable_whatever_becomes_of_a_lease() {
    let seed = seeds()[0];
    let squeezes = [Squeeze::CutOff, Squeeze::Pause, Squeeze::ForgetfulVoter];
    let outcome = run::simulate(seed, leases::run(seed, Shape::default(), &squeezes));
    let test = "reads_are_linearizable_whatever_becomes_of_a_lease";
    let report = passed(test, seed, outcome);
    assert!(report.stale.is_empty(), "seed {seed}: {:#?}", report.stale);
    let leases::Report { reads, writes, .. } = report;
    assert!(
        reads >= 200 && writes >= 200,
        "seed {seed} shows little: {reads} reads and {writes} writes were answered"
    );
}

/// Whether readers notice a bug while leaders are squeezed in one way.
#[cfg(debug_assertions)]
fn notice(bug: raft_groups::Bug, squeeze: Squeeze) -> bool {
    (1..=SEEDS_PLANTED).any(|seed| {
        let shape = Shape {
            planted: Some(bug),
            ..Shape::default()
        };
        let outcome = run::simulate(seed, leases::run(seed, shape, &[squeeze]));
        // A site that does not come to rest is no proof.
        outcome.is_ok_and(|report| !report.stale.is_empty())
    })
}

#[cfg(debug_assertions)]
#[test]
fn a_lease_that_is_three_times_too_long_is_found_out() {
    for squeeze in [Squeeze::CutOff, Squeeze::Pause] {
        assert!(
            notice(raft_groups::Bug::LongLease, squeeze),
            "{squeeze:?}: leaders that count on too long a lease passed {SEEDS_PLANTED} seeds: the checks are blind"
        );
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_node_that_votes_right_after_its_start_is_found_out() {
    assert!(
        notice(raft_groups::Bug::VotesAtOnce, Squeeze::ForgetfulVoter),
        "nodes that forget that they confirmed a leader passed {SEEDS_PLANTED} seeds: the checks are blind"
    );
}

#[test]
fn a_replica_that_was_away_for_long_gets_a_snapshot() {
    let seed = seeds()[0];
    for trouble in [Trouble::None, Trouble::CutThenCrash, Trouble::Standstill] {
        let outcome = run::simulate(seed, snapshots::run(seed, trouble));
        let outcome = outcome.map_err(|why| format!("{trouble:?}: {why}"));
        passed(
            "a_replica_that_was_away_for_long_gets_a_snapshot",
            seed,
            outcome,
        );
    }
}

#[test]
fn idle_groups_say_nothing() {
    let seed = seeds()[0];
    let outcome = run::simulate(seed, quiet::run(seed));
    passed("idle_groups_say_nothing", seed, outcome);
}

#[test]
fn an_idle_group_never_pins_the_log() {
    let seed = seeds()[0];
    let outcome = run::simulate(seed, trimming::run(seed));
    passed("an_idle_group_never_pins_the_log", seed, outcome);
}

#[test]
fn the_groups_of_every_node_are_groups() {
    let seed = seeds()[0];
    let outcome = run::simulate(seed, async {
        let shape = Shape {
            ledgers: 0,
            suite: true,
            ..Shape::default()
        };
        let site = site::Site::new(seed, shape, Trace::new());
        site.found().await?;
        for (round, node) in (0..).zip(site.nodes()) {
            suites::groups::run(&*node.groups, round).await;
        }
        replicas::agree(&site).await
    });
    passed("the_groups_of_every_node_are_groups", seed, outcome);
}
