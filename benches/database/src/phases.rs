//! One run of one contender: fill, read, kill, inspect; each in a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::{Role, Told};
use crate::records::{PUTS_PER_BATCH, scrambled};
use crate::report::{Report, Unit};
use crate::{Task, machine};

/// The victim lives for a chance time up to this after the sync that sealed its fate.
const REPRIEVE_MS_MAX: u64 = 60;

/// Runs all phases of `task` and removes what they left.
pub fn run(task: &Task, keys: u64, run: usize, report: &mut Report) -> Result<()> {
    remove(task)?;
    note(role(task, Role::Fill)?, task, keys, report);
    let mib = machine::allocated_mib(&task.folder)?;
    report.add(
        keys,
        Some(task.contender),
        "files after a clean close",
        Unit::Mib,
        mib,
    );
    note(role(task, Role::Read)?, task, keys, report);
    remove(task)?;
    let durable = kill(task, run)?;
    let told = role(task, Role::Inspect)?;
    judge(task, durable, &told)?;
    note(told, task, keys, report);
    remove(task)
}

fn remove(task: &Task) -> Result<()> {
    if task.folder.exists() {
        std::fs::remove_dir_all(&task.folder)?;
    }
    Ok(())
}

fn start(task: &Task, role: Role) -> Result<(Child, BufReader<ChildStdout>)> {
    let keys = task.batches * PUTS_PER_BATCH;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", role.name()])
        .args(["--store", task.contender.name()])
        .arg("--folder")
        .arg(&task.folder)
        .args(["--keys", &keys.to_string()])
        .args(["--cache-mib", &task.cache_mib.to_string()])
        .args(["--gets", &task.gets.to_string()])
        .args(["--scans", &task.scans.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("a process has no output")?;
    Ok((child, BufReader::new(out)))
}

fn role(task: &Task, role: Role) -> Result<Vec<Told>> {
    let (mut child, out) = start(task, role)?;
    let mut told = Vec::new();
    for line in out.lines() {
        told.push(serde_json::from_str(&line?)?);
    }
    let status = child.wait()?;
    let name = task.contender.name();
    ensure!(
        status.success(),
        "{name}: {} ended with {status}",
        role.name()
    );
    Ok(told)
}

/// Kills a writer in the middle of its work when the task's batches are durable; says how many were.
fn kill(task: &Task, run: usize) -> Result<u64> {
    let (mut child, out) = start(task, Role::Victim)?;
    let (mut durable, mut killed) = (0, false);
    for line in out.lines() {
        // The last line may be half a line.
        let Ok(Told::Durable { batches }) = serde_json::from_str(&line?) else {
            continue;
        };
        durable = batches;
        if !killed && durable >= task.batches {
            let reprieve_ms = scrambled(run as u64) % REPRIEVE_MS_MAX;
            std::thread::sleep(Duration::from_millis(reprieve_ms));
            child.kill()?;
            killed = true;
        }
    }
    let status = child.wait()?;
    ensure!(
        killed && status.code().is_none(),
        "{}: the writer ended before it was killed: {status}",
        task.contender.name()
    );
    Ok(durable)
}

/// What was durable must be there, and what is there must be a beginning of what was written.
fn judge(task: &Task, durable: u64, told: &[Told]) -> Result<()> {
    let name = task.contender.name();
    let found = told.iter().find_map(|told| match told {
        Told::Found {
            records,
            damaged,
            is_prefix,
        } => Some((*records, *damaged, *is_prefix)),
        _ => None,
    });
    let (records, damaged, is_prefix) = found.context("nobody said what was found")?;
    ensure!(
        damaged == 0,
        "{name}: {damaged} rows are damaged after kill -9"
    );
    ensure!(
        is_prefix,
        "{name}: {records} records after kill -9 are not the first so many whole batches"
    );
    let batches = records / PUTS_PER_BATCH;
    ensure!(
        batches >= durable,
        "{name}: {durable} batches were durable, {batches} are there after kill -9"
    );
    eprintln!(
        "  {name}: killed with {durable} batches durable; {batches} are there, whole and in order"
    );
    Ok(())
}

fn note(told: Vec<Told>, task: &Task, keys: u64, report: &mut Report) {
    for told in told {
        if let Told::Figure {
            measure,
            unit,
            value,
        } = told
        {
            report.add(keys, Some(task.contender), &measure, unit, value);
        }
    }
}
