//! The machine of the moment: CPU that this process used, what a sync costs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// User and kernel time of all threads so far.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The median time of an fdatasync after 4 KiB were added to a file.
pub fn sync_micros(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("sync-cost");
    let file = File::create(&path)?;
    let mut micros = Vec::new();
    for at in 0..200 {
        file.write_all_at(&[7; 4096], at * 4096)?;
        let started = Instant::now();
        file.sync_data()?;
        micros.push(started.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    micros.sort_by(f64::total_cmp);
    Ok(micros[micros.len() / 2])
}
