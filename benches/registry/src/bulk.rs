//! Many resources in transactions of a few hundred each, several transactions under way at a time.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use registry::{ListOptions, New, Registry};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::item::{Item, ItemSpec};
use crate::plan::Plan;
use crate::report::{Report, Row, median};
use crate::site::Site;

const PER_S_MIN: f64 = 30_000.0;

/// Measures all rounds and judges them.
pub async fn measure(site: &mut Site, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut samples = Vec::new();
    for round in 0..plan.bulk_rounds {
        let prefix: Arc<str> = format!("bulk-{round}/").into();
        let registry = &site.client.registry;
        let started = Instant::now();
        write_all(registry, &prefix, plan).await?;
        let seconds = started.elapsed().as_secs_f64();
        let per_s = plan.bulk_resources as f64 / seconds;
        eprintln!("bulk {}: {per_s:.0} resources/s", round + 1);
        samples.push(per_s);
        check(registry, &prefix, plan).await?;
        site.settle().await?;
    }
    let per_s = median(&samples);
    report.add(Row {
        measure: format!(
            "{} resources in transactions of {}",
            plan.bulk_resources, plan.bulk_ops
        ),
        figure: format!("{per_s:.0}/s"),
        against: format!("at least {PER_S_MIN:.0}/s"),
        ratio: Some(per_s / PER_S_MIN),
        met: Some(per_s >= PER_S_MIN),
        samples,
        samples_of_peer: Vec::new(),
    });
    Ok(())
}

async fn write_all(registry: &Registry, prefix: &Arc<str>, plan: &Plan) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..plan.bulk_flight {
        let (registry, prefix, next) = (registry.clone(), prefix.clone(), next.clone());
        let (resources, ops) = (plan.bulk_resources, plan.bulk_ops);
        writers.spawn(async move {
            loop {
                let first = next.fetch_add(ops, Ordering::Relaxed);
                if first >= resources {
                    return Ok::<(), anyhow::Error>(());
                }
                commit(&registry, &prefix, first..(first + ops).min(resources)).await?;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

/// All or none.
async fn commit(registry: &Registry, prefix: &str, numbers: Range<usize>) -> Result<()> {
    let len = numbers.len();
    let mut transaction = registry.transaction();
    for number in numbers {
        let spec = ItemSpec::new(number as u64);
        transaction = transaction.create(&New::<Item>::named(format!("{prefix}{number}"), spec));
    }
    let committed = transaction.commit().await?;
    let made = committed.results.iter().filter(|result| result.is_ok());
    ensure!(made.count() == len, "a transaction took effect by half");
    Ok(())
}

/// All that was acknowledged must be listed.
async fn check(registry: &Registry, prefix: &str, plan: &Plan) -> Result<()> {
    let options = ListOptions {
        prefix: prefix.to_string(),
        ..ListOptions::default()
    };
    let found = registry.list_all::<Item>(&options).await?.items.len();
    let wanted = plan.bulk_resources;
    ensure!(found == wanted, "{found} of {wanted} resources are there");
    Ok(())
}
