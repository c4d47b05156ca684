//! One run: found a site, work and break it, heal it, and hold it to what it promised.

use std::sync::Arc;
use std::time::Duration;

use testkit::sim::{Trace, block_on};
use tokio::time::{Instant, sleep_until, timeout};

use crate::journal::Journal;
use crate::node::Shape;
use crate::plan::Plan;
use crate::site::Site;
use crate::workload::Workload;
use crate::{panics, replicas};

/// No run takes longer, on its own clock.
const RUN_MAX: Duration = Duration::from_secs(600);

/// What a run is like.
pub struct Options {
    /// How long clients work while faults happen.
    pub load: Duration,
    /// Plants a bug: the logs' disks confirm syncs that they don't carry out.
    pub lying_disks: bool,
    /// How many of the last events are kept as text.
    pub trace_lines: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            load: Duration::from_secs(40),
            lying_disks: false,
            trace_lines: 0,
        }
    }
}

/// What a run has shown, when all promises held.
pub struct Report {
    /// Of all events.
    pub hash: u64,
    /// The last events.
    pub lines: Vec<String>,
    /// Writes that were promised.
    pub acknowledged: u64,
    /// Faults that happened.
    pub faults: u64,
}

/// Runs a seed. The error says which promise was broken.
pub fn run(seed: u64, options: &Options) -> Result<Report, String> {
    simulate(seed, story(seed, options))
}

/// Runs a simulation to its end, which must come within [`RUN_MAX`]. A panic in any of its tasks is an error.
pub fn simulate<T>(
    seed: u64,
    simulation: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    panics::listen();
    raft_groups::seed_elections(Some(seed));
    let outcome = block_on(async {
        match timeout(RUN_MAX, simulation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("the run did not end in {RUN_MAX:?}")),
        }
    });
    raft_groups::seed_elections(None);
    let outcome = outcome?;
    match panics::heard().first() {
        None => Ok(outcome),
        Some(panic) => Err(format!("all promises held, but a task {panic}")),
    }
}

async fn story(seed: u64, options: &Options) -> Result<Report, String> {
    let trace = Trace::with_lines(options.trace_lines);
    let journal = Arc::new(Journal::new(trace.clone()));
    let outcome = tell(seed, options, &trace, &journal).await;
    // What a client saw first is nearer to the cause than what came of it in the end.
    let wrong = journal.all_wrong();
    if let Some(first) = wrong.first() {
        return Err(format!("{first} (and {} more)", wrong.len() - 1));
    }
    Ok(Report {
        faults: outcome?,
        hash: trace.hash(),
        lines: trace.lines(),
        acknowledged: journal.acknowledged_total(),
    })
}

/// The story of a run; returns how many faults there were.
async fn tell(
    seed: u64,
    options: &Options,
    trace: &Trace,
    journal: &Arc<Journal>,
) -> Result<u64, String> {
    let site = Arc::new(Site::new(seed, Shape::default(), trace.clone()));
    site.found().await?;
    let mut workload = Workload::prepare(&site, journal, seed).await?;
    if options.lying_disks {
        site.let_disks_lie();
    }
    let faults = work_and_break(&site, &mut workload, seed, options.load).await?;
    workload.prove_alive().await?;
    workload.end().await?;
    replicas::agree(&site).await?;
    workload.verify().await?;
    site.bury_all().await?;
    Ok(faults)
}

async fn work_and_break(
    site: &Site,
    workload: &mut Workload,
    seed: u64,
    load: Duration,
) -> Result<u64, String> {
    let end = Instant::now() + load;
    workload.begin();
    let faults = Plan::draw(seed, load).carry_out(site).await?;
    sleep_until(end).await;
    site.heal().await?;
    Ok(faults)
}
