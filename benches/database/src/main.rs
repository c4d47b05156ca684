//! redb beside fjall as the store of applied state: same contract, same load, same run.
//!
//! ```text
//! cargo xtask bench database --dir FOLDER_ON_THE_DISK_IN_QUESTION
//! ```
//!
//! The contract is that of `raft-groups`: commits of 256 puts that need not survive anything, and now and then (every
//! 32 MiB of puts) one sync that makes all commits so far durable. redb commits with `Durability::None` and syncs with
//! an empty commit that has quick repair on, as `crates/raft-groups/src/database.rs` does. fjall's batches stay in its
//! journal's buffer (`manual_journal_persist`) until it is told to sync. Both get the same cache; what else they keep in
//! memory (fjall: memtables) is as their authors chose, and shows in the resident set.
//!
//! Keys come in no order, values don't compress. Each phase runs in a process of its own, so that CPU, memory and open
//! times are that phase's. In the last phase a writer that made as many keys durable is killed with SIGKILL while it
//! writes on; then what was durable must be there, and what is there must be the first so many batches, whole. That is
//! a crash of the process, not of the machine: what the kernel was given is never lost here. All opens are with a warm
//! page cache.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

mod child;
mod fjall_store;
mod machine;
mod phases;
mod records;
mod redb_store;
mod report;
mod store;

use child::Role;
use records::PUTS_PER_BATCH;
use report::{Report, Unit};
use store::Contender;

/// Beside each other: redb and fjall.
#[derive(Parser, Debug)]
struct Args {
    /// A folder on the disk to measure; a folder inside is made and removed.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How many keys; several sizes with commas between.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000_u64, 10_000_000])]
    keys: Vec<u64>,
    /// Runs of each contender at each size.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Cache of each contender, in MiB; the default is a node's.
    #[arg(long, default_value_t = 48)]
    cache_mib: u64,
    /// Random gets of a run.
    #[arg(long, default_value_t = 200_000)]
    gets: u64,
    /// Scans of 1,000 keys of a run.
    #[arg(long, default_value_t = 2_000)]
    scans: u64,
    /// One run of 100,000 keys, with few reads.
    #[arg(long)]
    quick: bool,
    /// Also writes all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What a process of a phase does; for the benchmark itself.
    #[arg(long, hide = true, requires_all = ["store", "folder"])]
    child: Option<Role>,
    #[arg(long, hide = true)]
    store: Option<Contender>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// One contender's work in one folder.
#[derive(Debug, Clone)]
pub struct Task {
    /// Who.
    pub contender: Contender,
    /// Where.
    pub folder: PathBuf,
    /// Batches of [`PUTS_PER_BATCH`] that make up the whole.
    pub batches: u64,
    /// See [`Args::cache_mib`].
    pub cache_mib: u64,
    /// Random gets.
    pub gets: u64,
    /// Scans of 1,000 keys.
    pub scans: u64,
}

impl Args {
    fn task(&self, contender: Contender, folder: PathBuf, keys: u64) -> Task {
        Task {
            contender,
            folder,
            batches: keys.div_ceil(PUTS_PER_BATCH).max(2),
            cache_mib: self.cache_mib,
            gets: self.gets,
            scans: self.scans,
        }
    }

    fn shortened(mut self) -> Args {
        if self.quick {
            self.keys = vec![100_000];
            self.runs = 1;
            self.gets = self.gets.min(20_000);
            self.scans = self.scans.min(200);
        }
        self
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(role), Some(store), Some(folder)) = (args.child, args.store, &args.folder) {
        let keys = args.keys.first().copied().context("how many keys?")?;
        return child::run(role, &args.task(store, folder.clone(), keys));
    }
    bench(&args.shortened())
}

fn bench(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir_in(&args.dir).context("cannot make a folder to measure in")?;
    let mut report = Report::default();
    for &keys in &args.keys {
        for run in 0..args.runs {
            let sync = machine::sync_micros(folder.path())?;
            report.add(
                keys,
                None,
                "disk: append 4 KiB + fdatasync",
                Unit::Micros,
                sync,
            );
            for contender in in_turn(run) {
                eprintln!("{keys} keys, run {}: {}", run + 1, contender.name());
                let task = args.task(contender, folder.path().join(contender.name()), keys);
                phases::run(&task, keys, run, &mut report)?;
            }
        }
    }
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()?).context("the figures can't be written")?;
    }
    Ok(())
}

fn in_turn(run: usize) -> Vec<Contender> {
    let mut contenders = Contender::value_variants().to_vec();
    let len = contenders.len();
    contenders.rotate_left(run % len);
    contenders
}
