//! A node's watchers: each follows all items by itself, checks their order as they come and notes when they came.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ids::Revision;
use registry::{Event, Registry, Watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::control::{Digest, Truth, Verdict};
use crate::item::Item;
use crate::latencies::Latencies;
use crate::machine::now_ns;

/// A watcher that hears nothing for so long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Complaints that are worth printing.
const WRONG_MAX: usize = 5;

/// Watchers at work.
pub struct Watching {
    started_ns: u64,
    tasks: Vec<JoinHandle<Result<Seen>>>,
}

/// Watchers that have ended.
pub struct Watched {
    started_ns: u64,
    seen: Vec<Result<Seen>>,
}

/// What a watcher saw.
#[derive(Default)]
struct Seen {
    digest: Digest,
    /// For each change, microseconds after the watchers' start.
    at_micros: Vec<u32>,
}

impl Watching {
    /// Starts `watchers` that each wait for `changes` after `from`.
    pub fn start(registry: &Registry, from: Revision, watchers: u32, changes: u32) -> Watching {
        let started_ns = now_ns();
        let start = |_| {
            let watch = registry.watch::<Item>(from);
            tokio::spawn(follow(watch, from, changes, started_ns))
        };
        let tasks = (0..watchers).map(start).collect();
        Watching { started_ns, tasks }
    }

    /// Waits until all have ended.
    pub async fn finish(self) -> Watched {
        let mut seen = Vec::new();
        for task in self.tasks {
            let ended = task.await.context("a watcher panicked");
            seen.push(ended.and_then(|seen| seen));
        }
        Watched {
            started_ns: self.started_ns,
            seen,
        }
    }
}

async fn follow(
    mut watch: Watch<Item>,
    from: Revision,
    changes: u32,
    started_ns: u64,
) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut last = from;
    while seen.at_micros.len() < changes as usize {
        let event = match timeout(SILENCE_MAX, watch.next()).await {
            Ok(event) => event?,
            Err(_) => bail!("silence after {} changes", seen.at_micros.len()),
        };
        let at_ns = now_ns();
        let revision = event.revision;
        ensure!(revision > last, "revision {revision} came after {last}");
        let Event::Added(item) = event.event else {
            bail!("revision {revision} is not a new item");
        };
        last = revision;
        seen.digest = seen.digest.then(revision, item.spec.number);
        seen.at_micros
            .push(u32::try_from((at_ns - started_ns) / 1_000)?);
    }
    Ok(seen)
}

impl Watched {
    /// Compares with what was.
    pub fn judge(&self, truth: &Truth) -> Verdict {
        let (mut from_commit, mut from_send) = (Latencies::new(), Latencies::new());
        let mut wrong = Vec::new();
        let mut complete = 0;
        for seen in &self.seen {
            match seen {
                Ok(seen) if seen.digest == truth.digest => {
                    complete += 1;
                    self.measure(seen, &truth.committed_ns, &mut from_commit);
                    self.measure(seen, &truth.sent_ns, &mut from_send);
                }
                Ok(_) => wrong.push("other changes than there were, or in another order".into()),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        wrong.truncate(WRONG_MAX);
        Verdict {
            complete,
            wrong,
            from_commit: from_commit.pairs(),
            from_send: from_send.pairs(),
        }
    }

    fn measure(&self, seen: &Seen, since_ns: &[u64], latencies: &mut Latencies) {
        for (at_micros, since_ns) in seen.at_micros.iter().zip(since_ns) {
            let at_ns = self.started_ns + u64::from(*at_micros) * 1_000;
            latencies.record(Duration::from_nanos(at_ns.saturating_sub(*since_ns)));
        }
    }
}
