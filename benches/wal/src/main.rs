//! Our write-ahead log beside TiKV's raft-engine: same durability, same load, same run.
//!
//! ```text
//! cargo run --release --manifest-path benches/wal/Cargo.toml -- --dir FOLDER_ON_THE_DISK_IN_QUESTION
//! ```
//!
//! Appends: 64 writers, each with its own group, each waits until its entry is synced before it sends the next. Ours is
//! driven by tasks on a tokio runtime, raft-engine (whose calls block) by threads: each as its authors mean it.
//! Recovery: logs with the same entries, opened with a warm page cache. Damage: one byte of an early synced entry is
//! changed, then the log is opened again. The contenders alternate; the table shows median, lowest and highest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

mod machine;
mod ours;
mod raft_engine_log;
mod report;

use report::{Report, Unit};

/// Beside each other: raft-wal and raft-engine.
#[derive(Parser, Debug)]
struct Args {
    /// A folder on the disk to measure; a folder inside is made and removed.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs of each contender.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each append run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Writers, one group each.
    #[arg(long, default_value_t = 64)]
    writers: u32,
    /// Records of the log that is recovered.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
}

/// What a run of appends gave.
#[derive(Debug, Clone, Copy)]
struct Appends {
    appends: u64,
    syncs: u64,
}

/// A log under test, always in a fresh or given folder.
trait Contender {
    fn name(&self) -> &'static str;
    /// `writers` append entries of `len` bytes until `until`, each synced.
    fn append(
        &self,
        dir: &Path,
        writers: u32,
        len: usize,
        until: Instant,
    ) -> anyhow::Result<Appends>;
    /// Writes `records` entries of `len` bytes over `groups` groups.
    fn fill(&self, dir: &Path, groups: u32, records: u64, len: usize) -> anyhow::Result<()>;
    /// Opens the log in `dir` and says how many entries it holds.
    fn open(&self, dir: &Path) -> anyhow::Result<u64>;
}

const ENTRY_LENS: [usize; 2] = [256, 4096];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir_in(&args.dir).context("cannot make a folder to measure in")?;
    let contenders: [&dyn Contender; 2] = [&ours::Ours, &raft_engine_log::RaftEngine];
    let mut report = Report::default();
    for run in 0..args.runs {
        report.add(
            "disk",
            "append 4 KiB + fdatasync",
            Unit::Micros,
            machine::sync_micros(folder.path())?,
        );
        for len in ENTRY_LENS {
            for contender in in_turn(&contenders, run) {
                let dir = folder.path().join("append");
                measure_appends(contender, &dir, &args, len, &mut report)?;
                std::fs::remove_dir_all(&dir)?;
            }
        }
    }
    measure_recovery(&contenders, folder.path(), &args, &mut report)?;
    print!("{}", report.table());
    for contender in contenders {
        println!(
            "{:12} one spoiled byte: {}",
            contender.name(),
            spoil(contender, &folder.path().join("spoil"))?
        );
    }
    Ok(())
}

fn in_turn<'a>(contenders: &[&'a dyn Contender; 2], run: usize) -> [&'a dyn Contender; 2] {
    let [a, b] = *contenders;
    if run.is_multiple_of(2) {
        [a, b]
    } else {
        [b, a]
    }
}

fn measure_appends(
    contender: &dyn Contender,
    dir: &Path,
    args: &Args,
    len: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cpu = machine::cpu_time();
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(args.seconds);
    let Appends { appends, syncs } = contender.append(dir, args.writers, len, until)?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = machine::cpu_time() - cpu;
    let mut add = |what: &str, unit, value| {
        report.add(contender.name(), &format!("{len} B: {what}"), unit, value)
    };
    add("appends/s", Unit::Count, appends as f64 / seconds);
    add("syncs/s", Unit::Count, syncs as f64 / seconds);
    add(
        "syncs per append",
        Unit::Ratio,
        syncs as f64 / appends as f64,
    );
    add(
        "CPU per append",
        Unit::Micros,
        cpu.as_secs_f64() * 1e6 / appends as f64,
    );
    Ok(())
}

fn measure_recovery(
    contenders: &[&dyn Contender; 2],
    folder: &Path,
    args: &Args,
    report: &mut Report,
) -> anyhow::Result<()> {
    let dir_of = |contender: &dyn Contender| folder.join(contender.name());
    for contender in contenders {
        contender.fill(&dir_of(*contender), args.writers, args.records, 256)?;
    }
    for run in 0..args.runs {
        for contender in in_turn(contenders, run) {
            let cpu = machine::cpu_time();
            let started = Instant::now();
            let found = contender.open(&dir_of(contender))?;
            let seconds = started.elapsed().as_secs_f64();
            anyhow::ensure!(
                found == args.records,
                "{} lost entries: it holds {found}",
                contender.name()
            );
            let what = format!("recover {} x 256 B", args.records);
            report.add(contender.name(), &what, Unit::Millis, seconds * 1e3);
            let cpu = machine::cpu_time() - cpu;
            report.add(
                contender.name(),
                &format!("{what}: CPU"),
                Unit::Millis,
                cpu.as_secs_f64() * 1e3,
            );
        }
    }
    Ok(())
}

/// Writes entries, changes one byte early in the last file, opens again: what happens?
fn spoil(contender: &dyn Contender, dir: &Path) -> anyhow::Result<String> {
    const RECORDS: u64 = 6400;
    contender.fill(dir, 64, RECORDS, 256)?;
    let files = walk(dir)?;
    let file = files
        .iter()
        .max_by_key(|path| path.metadata().map(|meta| meta.len()).unwrap_or(0));
    let file = file.context("the log has no file")?;
    let mut bytes = std::fs::read(file)?;
    let at = 100_000;
    bytes[at] ^= 1;
    std::fs::write(file, bytes)?;
    let told = match contender.open(dir) {
        Ok(found) => format!("opened with {found} of {RECORDS} synced entries"),
        Err(error) => format!("refused: {error:#}"),
    };
    std::fs::remove_dir_all(dir)?;
    Ok(told)
}

fn walk(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// An entry that doesn't compress, whose first eight bytes are its index.
fn entry(index: u64, len: usize) -> Vec<u8> {
    let mut state = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = index.to_le_bytes().to_vec();
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
