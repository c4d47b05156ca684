//! Single durable writes: clients that each write one item, wait until it is durable, and write the next; the registry
//! and etcd by turns.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use registry::{Freshness, Kind, Registry, ResourceKey};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::etcd::Etcd;
use crate::etcd_client::EtcdWriter;
use crate::item::{Item, ItemSpec};
use crate::latencies::Latencies;
use crate::machine;
use crate::plan::Plan;
use crate::report::{Report, Row, median};
use crate::site::Site;

/// How many times as many writes as etcd's are wanted.
const RATIO_MIN: f64 = 2.0;
/// Between rounds, for what either left to do: etcd commits to its database every 100 ms.
const REST: Duration = Duration::from_millis(500);

/// Somebody who writes one item at a time.
pub trait Writer: Send + 'static {
    /// Writes an item under a name that nobody has; returns when it is durable.
    fn write(&mut self, name: String) -> impl Future<Output = Result<()>> + Send;
}

/// A client of the registry.
struct RegistryWriter(Registry);

impl Writer for RegistryWriter {
    async fn write(&mut self, name: String) -> Result<()> {
        let spec = ItemSpec::new(0);
        self.0.create::<Item>(&name, spec).await?;
        Ok(())
    }
}

/// What a round gave.
struct Round {
    per_s: f64,
    latencies: Latencies,
    /// Of all three servers.
    cpu_micros_each: f64,
}

/// Measures all rounds and judges them.
pub async fn compare(
    site: &mut Site,
    etcd: &Etcd,
    plan: &Plan,
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let stored_len = stored_len(&site.client.registry).await?;
    let value = Bytes::from(vec![b'x'; stored_len]);
    report.note(format!(
        "single writes: a resource takes {stored_len} B as it is stored; etcd's values are as long"
    ));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        report.add_sync(machine::sync_micros(folder)?);
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                let writers =
                    (0..plan.clients).map(|_| RegistryWriter(site.client.registry.clone()));
                ours.push(measure(writers.collect(), &site.processes(), round, plan).await?);
                site.settle().await?;
            } else {
                let leader = etcd.leader().await?;
                let (clients, connections) = (plan.clients, plan.etcd_connections);
                let writers =
                    EtcdWriter::open(plan.etcd_protocol, &leader, clients, connections, &value);
                theirs.push(measure(writers.await?, &etcd.processes(), round, plan).await?);
            }
            sleep(REST).await;
        }
        if let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) {
            let (ours, theirs) = (ours.per_s, theirs.per_s);
            eprintln!(
                "round {}: Skerry {ours:.0}/s, etcd {theirs:.0}/s",
                round + 1
            );
        }
    }
    judge(&ours, &theirs, report);
    Ok(())
}

/// How long an item is in the registry's database.
async fn stored_len(registry: &Registry) -> Result<usize> {
    let name = "sample/client-00/0000";
    registry.create::<Item>(name, ItemSpec::new(0)).await?;
    let key = ResourceKey::new(Item::KIND, name);
    let stored = registry.get_raw(key, Freshness::Linearizable).await?;
    Ok(stored.context("the sample is not there")?.len())
}

async fn measure<W: Writer>(
    writers: Vec<W>,
    servers: &[u32],
    round: usize,
    plan: &Plan,
) -> Result<Round> {
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.round;
    let mut clients = JoinSet::new();
    for (client, writer) in writers.into_iter().enumerate() {
        clients.spawn(write_until(
            writer,
            format!("round-{round}/{client}"),
            begin,
            end,
        ));
    }
    sleep_until(begin).await;
    let cpu = machine::cpu_of(servers)?;
    sleep_until(end).await;
    let cpu = machine::cpu_of(servers)?.saturating_sub(cpu);
    let mut latencies = Latencies::new();
    while let Some(client) = clients.join_next().await {
        latencies.add(&client??);
    }
    let writes = latencies.count() as f64;
    Ok(Round {
        per_s: writes / plan.round.as_secs_f64(),
        latencies,
        cpu_micros_each: cpu.as_secs_f64() * 1e6 / writes.max(1.0),
    })
}

/// Writes until `end`; the latencies of what was acknowledged from `begin` on.
async fn write_until<W: Writer>(
    mut writer: W,
    prefix: String,
    begin: Instant,
    end: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    for number in 0_u64.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        writer.write(format!("{prefix}/{number}")).await?;
        let ended = Instant::now();
        if ended >= begin && ended <= end {
            latencies.record(ended - started);
        }
    }
    Ok(latencies)
}

fn judge(ours: &[Round], theirs: &[Round], report: &mut Report) {
    let all = |rounds: &[Round], figure: fn(&Round) -> f64| -> Vec<f64> {
        rounds.iter().map(figure).collect()
    };
    let (mine, other) = (
        all(ours, |round| round.per_s),
        all(theirs, |round| round.per_s),
    );
    let pairs = mine.iter().zip(&other);
    let ratios: Vec<f64> = pairs.map(|(mine, other)| mine / other).collect();
    let ratio = median(&ratios);
    report.add(Row {
        measure: "single durable writes".into(),
        figure: format!("{:.0}/s", median(&mine)),
        against: format!("etcd {:.0}/s, at least {RATIO_MIN} times", median(&other)),
        ratio: Some(ratio),
        met: Some(ratio >= RATIO_MIN),
        samples: mine,
        samples_of_peer: other,
    });
    let mut beside = |measure: &str, unit: &str, figure: fn(&Round) -> f64| {
        let (mine, other) = (all(ours, figure), all(theirs, figure));
        report.add(Row {
            measure: measure.into(),
            figure: format!("{:.1} {unit}", median(&mine)),
            against: format!("etcd {:.1} {unit}", median(&other)),
            ratio: Some(median(&mine) / median(&other)),
            met: None,
            samples: mine,
            samples_of_peer: other,
        });
    };
    beside("single write, p50", "ms", |round| {
        round.latencies.quantile_ms(0.5)
    });
    beside("single write, p99", "ms", |round| {
        round.latencies.quantile_ms(0.99)
    });
    beside("CPU of the three servers per write", "µs", |round| {
        round.cpu_micros_each
    });
}
