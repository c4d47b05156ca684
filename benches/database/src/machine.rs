//! The machine of the moment: what this process used, what a folder takes, what a sync costs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

const MIB: f64 = (1 << 20) as f64;

/// User and kernel time of all threads so far.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The resident set now, in MiB.
pub fn resident_mib() -> Result<f64> {
    Ok(number_after("/proc/self/status", "VmRSS:")? * 1024.0 / MIB)
}

/// The largest resident set so far, in MiB.
pub fn resident_mib_max() -> Result<f64> {
    Ok(number_after("/proc/self/status", "VmHWM:")? * 1024.0 / MIB)
}

/// What this process let be written to disks so far, in MiB.
pub fn written_mib() -> Result<f64> {
    Ok(number_after("/proc/self/io", "write_bytes:")? / MIB)
}

fn number_after(path: &str, label: &str) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let rest = text.lines().find_map(|line| line.strip_prefix(label));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no `{label}` with a number"))
}

/// What the files below a folder take on the disk, in MiB.
pub fn allocated_mib(dir: &Path) -> Result<f64> {
    let mut mib = 0.0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        mib += match path.is_dir() {
            true => allocated_mib(&path)?,
            false => path.metadata()?.blocks() as f64 * 512.0 / MIB,
        };
    }
    Ok(mib)
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
