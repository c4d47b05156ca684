//! Watches: many watchers on all nodes, changes at an even rate; every watcher must see each change once and in order.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ids::Revision;
use registry::{Freshness, Registry};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::control::{Ask, Digest, Told, Truth};
use crate::item::{Item, ItemSpec};
use crate::latencies::Latencies;
use crate::machine::now_ns;
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::site::Site;

const P99_MS_MAX: f64 = 50.0;

/// A change that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    revision: Revision,
    number: u64,
    sent_ns: u64,
}

/// Measures and judges.
pub async fn measure(site: &mut Site, plan: &Plan, report: &mut Report) -> Result<()> {
    start_watchers(site, plan).await?;
    let changes = write_at_rate(&site.client.registry, plan).await?;
    let truth = truth(&changes, &commits(site).await?)?;
    report.note(format!(
        "watch: the changes were sent at {:.1}/s",
        rate(&changes)
    ));
    let ask = Ask::Judge(truth);
    let (mut from_commit, mut from_send) = (Latencies::new(), Latencies::new());
    let mut complete = 0;
    for node in &mut site.nodes {
        let Told::Verdict(verdict) = node.ask(&ask).await? else {
            bail!("a node gave no verdict");
        };
        for wrong in &verdict.wrong {
            eprintln!("a watcher: {wrong}");
        }
        complete += verdict.complete;
        from_commit.add(&Latencies::from_pairs(&verdict.from_commit));
        from_send.add(&Latencies::from_pairs(&verdict.from_send));
    }
    judge(complete, &from_commit, &from_send, plan, report);
    Ok(())
}

async fn start_watchers(site: &mut Site, plan: &Plan) -> Result<()> {
    let from = site
        .client
        .registry
        .revision(Freshness::Linearizable)
        .await?;
    let nodes = site.nodes.len() as u32;
    for (at, node) in (0..).zip(&mut site.nodes) {
        let watchers = plan.watchers / nodes + u32::from(at < plan.watchers % nodes);
        let changes = plan.changes;
        node.command(&Ask::Watch {
            from,
            watchers,
            changes,
        })
        .await?;
    }
    Ok(())
}

/// Sends each change when its time has come, whether or not those before it are answered. In the order of revisions.
async fn write_at_rate(registry: &Registry, plan: &Plan) -> Result<Vec<Change>> {
    let mut beat = interval(Duration::from_secs_f64(1.0 / plan.changes_per_s));
    let mut writing = JoinSet::new();
    for number in 0..u64::from(plan.changes) {
        beat.tick().await;
        writing.spawn(write(registry.clone(), number));
    }
    let mut changes = Vec::new();
    while let Some(written) = writing.join_next().await {
        changes.push(written??);
    }
    changes.sort();
    Ok(changes)
}

async fn write(registry: Registry, number: u64) -> Result<Change> {
    let name = format!("watched/{number}");
    let spec = ItemSpec::new(number);
    let sent_ns = now_ns();
    let item = registry.create::<Item>(&name, spec).await?;
    Ok(Change {
        revision: item.metadata.revision,
        number,
        sent_ns,
    })
}

/// The earliest moment at which any replica saw a revision committed; waits for the watchers of all nodes.
async fn commits(site: &mut Site) -> Result<BTreeMap<Revision, u64>> {
    let mut earliest = BTreeMap::new();
    for node in &mut site.nodes {
        let Told::Commits(commits) = node.ask(&Ask::AwaitWatchers).await? else {
            bail!("a node did not wait for its watchers");
        };
        for (revision, at_ns) in commits {
            let known = earliest.entry(revision).or_insert(at_ns);
            *known = at_ns.min(*known);
        }
    }
    Ok(earliest)
}

fn truth(changes: &[Change], commits: &BTreeMap<Revision, u64>) -> Result<Truth> {
    let mut truth = Truth {
        sent_ns: Vec::new(),
        committed_ns: Vec::new(),
        digest: Digest::default(),
    };
    for change in changes {
        let revision = change.revision;
        let committed_ns = commits.get(&revision).copied();
        let committed_ns = committed_ns.with_context(|| format!("nobody applied {revision}"))?;
        ensure!(
            committed_ns >= change.sent_ns,
            "revision {revision} was committed before it was sent: the clock is not one for all"
        );
        truth.sent_ns.push(change.sent_ns);
        truth.committed_ns.push(committed_ns);
        truth.digest = truth.digest.then(revision, change.number);
    }
    Ok(truth)
}

fn rate(changes: &[Change]) -> f64 {
    let sent = changes.iter().map(|change| change.sent_ns);
    let (first, last) = (sent.clone().min(), sent.max());
    let ns = last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
    changes.len().saturating_sub(1) as f64 * 1e9 / ns.max(1) as f64
}

fn judge(
    complete: u32,
    from_commit: &Latencies,
    from_send: &Latencies,
    plan: &Plan,
    report: &mut Report,
) {
    let what = format!("{} changes at {}/s", plan.changes, plan.changes_per_s);
    let watchers = plan.watchers;
    report.add(Row {
        measure: format!("watchers that saw {what}, in order, each once"),
        figure: complete.to_string(),
        against: format!("all {watchers}"),
        ratio: Some(f64::from(complete) / f64::from(watchers)),
        met: Some(complete == watchers),
        samples: vec![f64::from(complete)],
        samples_of_peer: Vec::new(),
    });
    let p99 = from_commit.quantile_ms(0.99);
    report.add(Row {
        measure: format!("{watchers} watchers, from commit to delivery, p99"),
        figure: format!("{p99:.1} ms"),
        against: format!("less than {P99_MS_MAX} ms"),
        ratio: Some(p99 / P99_MS_MAX),
        met: Some(p99 < P99_MS_MAX && complete == watchers),
        samples: vec![p99],
        samples_of_peer: Vec::new(),
    });
    let beside = [
        ("from commit to delivery, p50", from_commit, 0.5),
        ("from commit to delivery, p99.9", from_commit, 0.999),
        ("from sending to delivery, p99", from_send, 0.99),
    ];
    for (measure, latencies, quantile) in beside {
        let ms = latencies.quantile_ms(quantile);
        report.add(Row {
            measure: format!("{watchers} watchers, {measure}"),
            figure: format!("{ms:.1} ms"),
            against: String::new(),
            ratio: None,
            met: None,
            samples: vec![ms],
            samples_of_peer: Vec::new(),
        });
    }
}
