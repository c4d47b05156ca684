//! What is measured, how long and how often: from the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::etcd_client::Protocol;

/// The registry on three processes, beside a cluster of etcd.
#[derive(Parser, Debug)]
pub struct Args {
    /// A folder on the disk to measure; a folder inside is made and removed.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// What to measure, with commas between.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Writes, Part::Bulk, Part::Watch])]
    pub parts: Vec<Part>,
    /// The program etcd; else that on the path, or in /usr/bin.
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// How clients speak to etcd.
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    pub etcd_protocol: Protocol,
    /// Connections that the gRPC clients of etcd share.
    #[arg(long, default_value_t = 8)]
    pub etcd_connections: usize,
    /// Rounds of single writes, each of Skerry and of etcd [5; quick: 2].
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Seconds of a round, beside its warm-up [10; quick: 2].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Clients that write single items.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Rounds of bulk writes [3; quick: 1].
    #[arg(long)]
    pub bulk_rounds: Option<usize>,
    /// Resources of a bulk write [100000; quick: 20000].
    #[arg(long)]
    pub bulk_resources: Option<usize>,
    /// Resources of one transaction.
    #[arg(long, default_value_t = 256)]
    pub bulk_ops: usize,
    /// Transactions under way at a time.
    #[arg(long, default_value_t = 8)]
    pub bulk_flight: usize,
    /// Watchers, spread over the nodes.
    #[arg(long, default_value_t = 1_000)]
    pub watchers: u32,
    /// Changes that each watcher must see [10000; quick: 1000].
    #[arg(long)]
    pub changes: Option<u32>,
    /// Changes per second.
    #[arg(long, default_value_t = 200.0)]
    pub changes_per_s: f64,
    /// Short runs, to see that all works.
    #[arg(long)]
    pub quick: bool,
    /// Also writes all figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Makes this process a node; for the benchmark itself.
    #[arg(long, hide = true)]
    pub node: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Single durable writes, beside etcd.
    Writes,
    /// Many resources in transactions.
    Bulk,
    /// Many watchers.
    Watch,
}

/// [`Args`] with their defaults.
#[derive(Debug, Clone)]
pub struct Plan {
    /// See [`Args::rounds`].
    pub rounds: usize,
    /// A round of one contender, beside its warm-up.
    pub round: Duration,
    /// Before a round counts.
    pub warm_up: Duration,
    /// See [`Args::clients`].
    pub clients: usize,
    /// See [`Args::etcd_protocol`].
    pub etcd_protocol: Protocol,
    /// See [`Args::etcd_connections`].
    pub etcd_connections: usize,
    /// See [`Args::bulk_rounds`].
    pub bulk_rounds: usize,
    /// See [`Args::bulk_resources`].
    pub bulk_resources: usize,
    /// See [`Args::bulk_ops`].
    pub bulk_ops: usize,
    /// See [`Args::bulk_flight`].
    pub bulk_flight: usize,
    /// See [`Args::watchers`].
    pub watchers: u32,
    /// See [`Args::changes`].
    pub changes: u32,
    /// See [`Args::changes_per_s`].
    pub changes_per_s: f64,
}

impl Args {
    /// What follows from the arguments.
    pub fn plan(&self) -> Plan {
        let quick = self.quick;
        let seconds = self.seconds.unwrap_or(if quick { 2.0 } else { 10.0 });
        Plan {
            rounds: self.rounds.unwrap_or(if quick { 2 } else { 5 }).max(1),
            round: Duration::from_secs_f64(seconds.max(0.1)),
            warm_up: Duration::from_millis(if quick { 300 } else { 1_000 }),
            clients: self.clients.max(1),
            etcd_protocol: self.etcd_protocol,
            etcd_connections: self.etcd_connections.max(1),
            bulk_rounds: self.bulk_rounds.unwrap_or(if quick { 1 } else { 3 }).max(1),
            bulk_resources: self
                .bulk_resources
                .unwrap_or(if quick { 20_000 } else { 100_000 }),
            bulk_ops: self.bulk_ops.clamp(1, 1_000),
            bulk_flight: self.bulk_flight.max(1),
            watchers: self.watchers.max(1),
            changes: self.changes.unwrap_or(if quick { 1_000 } else { 10_000 }),
            changes_per_s: self.changes_per_s.max(0.1),
        }
    }
}
