//! The machine of the moment: its clock, CPU that processes used, what a sync costs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// User and kernel time of these processes so far.
pub fn cpu_of(processes: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        ticks += cpu_ticks(&stat).with_context(|| format!("can't read `{stat}`"))?;
    }
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(seconds))
}

/// The 14th and 15th field; the second is a name in brackets that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

/// The median time of an fdatasync after 4 KiB were added to a file.
pub fn sync_micros(dir: &Path) -> Result<f64> {
    let path = dir.join("sync-cost");
    let file = File::create(&path)?;
    let mut micros = Vec::new();
    for at in 0..200 {
        file.write_all_at(&[7; 4096], at * 4096)?;
        let started = Instant::now();
        file.sync_data()?;
        micros.push(started.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    micros.sort_by(f64::total_cmp);
    Ok(micros[micros.len() / 2])
}
