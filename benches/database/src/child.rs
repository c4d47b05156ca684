//! A process of one phase: it does the work and says on its standard output, a line of JSON each, what came of it.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::records::{PUTS_PER_BATCH, RECORD_BYTES, Record, batch, key, scrambled};
use crate::report::Unit;
use crate::store::Store;
use crate::{Task, machine};

/// Puts of so many bytes and all commits are made durable.
const PERSIST_BYTES: u64 = 32 << 20;
/// Gets that share a view, as those of a query do.
const GETS_PER_VIEW: u64 = 16;
const SCAN_ROWS: u64 = 1_000;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Writes all batches and closes in good order.
    Fill,
    /// Opens, gets and scans.
    Read,
    /// Writes batches without end, and says each time what is durable: to be killed.
    Victim,
    /// Opens what a killed writer left and says what is there.
    Inspect,
}

impl Role {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Fill => "fill",
            Role::Read => "read",
            Role::Victim => "victim",
            Role::Inspect => "inspect",
        }
    }
}

/// What a process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// A measurement.
    Figure {
        /// Of what.
        measure: String,
        /// In which unit.
        unit: Unit,
        /// How much.
        value: f64,
    },
    /// So many batches are durable now.
    Durable {
        /// The first so many.
        batches: u64,
    },
    /// What lies in the store.
    Found {
        /// Records.
        records: u64,
        /// Rows that are no record.
        damaged: u64,
        /// Whether the records are the first so many batches, whole.
        is_prefix: bool,
    },
}

/// Plays a role.
pub fn run(role: Role, task: &Task) -> Result<()> {
    match role {
        Role::Fill => fill(task),
        Role::Read => read(task),
        Role::Victim => victim(task),
        Role::Inspect => inspect(task),
    }
}

fn open(task: &Task) -> Result<Box<dyn Store>> {
    task.contender.open(&task.folder, task.cache_mib << 20)
}

fn tell(told: &Told) -> Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

fn figure(measure: &str, unit: Unit, value: f64) -> Result<()> {
    let measure = measure.to_string();
    tell(&Told::Figure {
        measure,
        unit,
        value,
    })
}

/// A writer with the times that its calls took.
struct Writing<'s, D> {
    store: &'s dyn Store,
    on_durable: D,
    applies: Vec<Duration>,
    persists: Vec<Duration>,
}

impl<'s, D: FnMut(u64) -> Result<()>> Writing<'s, D> {
    fn new(on_durable: D, store: &'s dyn Store) -> Self {
        Writing {
            store,
            on_durable,
            applies: Vec::new(),
            persists: Vec::new(),
        }
    }

    fn apply(&mut self, records: &[Record]) -> Result<()> {
        let started = Instant::now();
        self.store.apply(records)?;
        self.applies.push(started.elapsed());
        Ok(())
    }

    fn persist(&mut self, batches: u64) -> Result<()> {
        let started = Instant::now();
        self.store.persist()?;
        self.persists.push(started.elapsed());
        (self.on_durable)(batches)
    }
}

fn write<D: FnMut(u64) -> Result<()>>(batches: u64, writing: &mut Writing<'_, D>) -> Result<()> {
    let mut dirty_bytes = 0;
    for number in 0..batches {
        writing.apply(&batch(number))?;
        dirty_bytes += PUTS_PER_BATCH * RECORD_BYTES;
        if dirty_bytes >= PERSIST_BYTES || number + 1 == batches {
            writing.persist(number + 1)?;
            dirty_bytes = 0;
        }
    }
    Ok(())
}

fn fill(task: &Task) -> Result<()> {
    let store = open(task)?;
    let mut writing = Writing::new(|_| Ok(()), &*store);
    let cpu = machine::cpu_time();
    write(task.batches, &mut writing)?;
    let cpu = machine::cpu_time() - cpu;
    let Writing {
        applies, persists, ..
    } = writing;
    let seconds = seconds(&applies) + seconds(&persists);
    let puts = task.batches * PUTS_PER_BATCH;
    figure("write: puts/s", Unit::Count, puts as f64 / seconds)?;
    let (median, late, most) = spread(applies)?;
    figure("write: commit of 256, p50", Unit::Micros, median)?;
    figure("write: commit of 256, p99", Unit::Micros, late)?;
    figure("write: commit of 256, longest", Unit::Micros, most)?;
    let (median, _, most) = spread(persists)?;
    figure("write: sync every 32 MiB, p50", Unit::Micros, median)?;
    figure("write: sync every 32 MiB, longest", Unit::Micros, most)?;
    figure("write: CPU", Unit::Seconds, cpu.as_secs_f64())?;
    figure("write: resident", Unit::Mib, machine::resident_mib()?)?;
    figure(
        "write: resident at most",
        Unit::Mib,
        machine::resident_mib_max()?,
    )?;
    let started = Instant::now();
    store.close()?;
    figure("close", Unit::Millis, millis(started))?;
    // Not every kernel tells.
    if let Ok(mib) = machine::written_mib() {
        figure("write: given to the disk", Unit::Mib, mib)?;
    }
    Ok(())
}

/// Ends when it is killed, or when nobody reads what it says.
fn victim(task: &Task) -> Result<()> {
    let store = open(task)?;
    let tell_durable = |batches| tell(&Told::Durable { batches });
    write(u64::MAX, &mut Writing::new(tell_durable, &*store))
}

fn read(task: &Task) -> Result<()> {
    let started = Instant::now();
    let store = open(task)?;
    figure("open after a clean close", Unit::Millis, millis(started))?;
    get_many(task, &*store)?;
    scan_many(task, &*store)?;
    figure("read: resident", Unit::Mib, machine::resident_mib()?)?;
    store.close()
}

fn get_many(task: &Task, store: &dyn Store) -> Result<()> {
    let records = task.batches * PUTS_PER_BATCH;
    let cpu = machine::cpu_time();
    let mut times = Vec::new();
    for first in (0..task.gets).step_by(GETS_PER_VIEW as usize) {
        let started = Instant::now();
        let view = store.view()?;
        for get in first..(first + GETS_PER_VIEW).min(task.gets) {
            let number = scrambled(!get) % records;
            let value = view.get(&key(number))?;
            let value = value.with_context(|| format!("record {number} is lost"))?;
            ensure!(
                value.first_chunk() == Some(&number.to_le_bytes()),
                "record {number} has another's value"
            );
        }
        times.push(started.elapsed());
    }
    let cpu = machine::cpu_time() - cpu;
    let gets = task.gets as f64;
    figure("get: per second", Unit::Count, gets / seconds(&times))?;
    let (median, late, _) = spread(times)?;
    figure("get: a view and 16 gets, p50", Unit::Micros, median)?;
    figure("get: a view and 16 gets, p99", Unit::Micros, late)?;
    figure(
        "get: CPU each",
        Unit::Micros,
        cpu.as_secs_f64() * 1e6 / gets,
    )
}

fn scan_many(task: &Task, store: &dyn Store) -> Result<()> {
    let records = task.batches * PUTS_PER_BATCH;
    let cpu = machine::cpu_time();
    let (mut times, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for scan in 0..task.scans {
        let from = key(scrambled(scan) % records);
        let started = Instant::now();
        let view = store.view()?;
        rows += view.scan(&from, SCAN_ROWS, &mut |key, value| {
            bytes += key.len() + value.len();
        })?;
        times.push(started.elapsed());
    }
    let cpu = machine::cpu_time() - cpu;
    ensure!(
        bytes as u64 == rows * RECORD_BYTES,
        "scans gave rows of another length"
    );
    figure(
        "scan of 1,000: rows/s",
        Unit::Count,
        rows as f64 / seconds(&times),
    )?;
    let (median, late, _) = spread(times)?;
    figure("scan of 1,000: p50", Unit::Micros, median)?;
    figure("scan of 1,000: p99", Unit::Micros, late)?;
    let cpu = cpu.as_secs_f64() * 1e6 / task.scans.max(1) as f64;
    figure("scan of 1,000: CPU each", Unit::Micros, cpu)
}

fn inspect(task: &Task) -> Result<()> {
    let started = Instant::now();
    let store = open(task)?;
    figure("open after kill -9", Unit::Millis, millis(started))?;
    let (mut records, mut damaged, mut highest) = (0, 0, None);
    store.view()?.scan(
        &[],
        u64::MAX,
        &mut |key, value| match Record::recognise(key, value) {
            Some(number) => {
                records += 1;
                highest = highest.max(Some(number));
            }
            None => damaged += 1,
        },
    )?;
    // Keys are distinct, so that many records with numbers below that are all of them.
    let is_prefix = highest.map_or(0, |highest| highest + 1) == records
        && records % PUTS_PER_BATCH == 0
        && damaged == 0;
    tell(&Told::Found {
        records,
        damaged,
        is_prefix,
    })?;
    store.close()
}

fn seconds(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64()
}

fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// Median, 99th percentile and longest, in microseconds.
fn spread(mut times: Vec<Duration>) -> Result<(f64, f64, f64)> {
    times.sort();
    let last = times.len().checked_sub(1).context("nothing was measured")?;
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    Ok((micros(last / 2), micros(last * 99 / 100), micros(last)))
}
