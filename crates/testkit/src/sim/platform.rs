//! A machine whose disk, clock, chance and slowness are simulated.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use platform::{BlockingWork, Disk, Platform, WallMs};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::Instant;

use super::SimDisk;

/// How a [`SimPlatform`] behaves.
#[derive(Debug, Clone)]
pub struct SimPlatformConfig {
    /// Decides latencies and random bytes.
    pub seed: u64,
    /// What the wall clock shows at the start.
    pub wall: WallMs,
    /// How long blocking work takes; it is drawn anew for each.
    pub latency: Range<Duration>,
}

impl Default for SimPlatformConfig {
    fn default() -> Self {
        let latency = Duration::from_micros(50)..Duration::from_millis(2);
        SimPlatformConfig {
            seed: 0,
            wall: WallMs(1_750_000_000_000),
            latency,
        }
    }
}

/// [`Platform`] for one run of a simulated machine; tokio's clock is its monotonic time.
pub struct SimPlatform {
    disk: SimDisk,
    began: Instant,
    wall_at_start: WallMs,
    wall_offset_ms: AtomicI64,
    chance: Mutex<Chance>,
}

struct Chance {
    rng: StdRng,
    latency: Range<Duration>,
}

impl fmt::Debug for SimPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPlatform")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl SimPlatform {
    /// A machine that starts now, on `disk`.
    pub fn new(disk: SimDisk, config: SimPlatformConfig) -> Arc<SimPlatform> {
        let SimPlatformConfig {
            seed,
            wall,
            latency,
        } = config;
        Arc::new(SimPlatform {
            disk,
            began: Instant::now(),
            wall_at_start: wall,
            wall_offset_ms: AtomicI64::new(0),
            chance: Mutex::new(Chance {
                rng: StdRng::seed_from_u64(seed),
                latency,
            }),
        })
    }

    /// The disk, to break it.
    pub fn sim_disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Moves the wall clock, back or forth; monotonic time does not notice.
    pub fn jump_wall(&self, by_ms: i64) {
        self.wall_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Makes blocking work slower or faster from now on.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.chance().latency = latency;
    }

    fn draw_latency(&self) -> Duration {
        let Chance { rng, latency } = &mut *self.chance();
        draw(rng, latency)
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A duration from the range; its start when the range is empty.
pub(super) fn draw(rng: &mut StdRng, range: &Range<Duration>) -> Duration {
    if range.is_empty() {
        return range.start;
    }
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(nanos(range.start)..nanos(range.end)))
}

#[async_trait]
impl Platform for SimPlatform {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn wall_ms(&self) -> WallMs {
        let since = self.began.elapsed().as_millis() as u64;
        let shown = self.wall_at_start.0 + since;
        WallMs(shown.saturating_add_signed(self.wall_offset_ms.load(Ordering::Relaxed)))
    }

    fn fill_random(&self, out: &mut [u8]) {
        self.chance().rng.fill_bytes(out);
    }

    async fn run_blocking(&self, work: BlockingWork) {
        let latency = self.draw_latency();
        // A task of its own: the work is done even if the caller leaves. After a crash its disk only fails.
        let done = tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            work();
        });
        let _ = done.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::block_on;

    fn machine(seed: u64) -> Arc<SimPlatform> {
        SimPlatform::new(
            SimDisk::new(),
            SimPlatformConfig {
                seed,
                ..Default::default()
            },
        )
    }

    #[test]
    fn blocking_work_takes_its_time_and_ends_without_its_caller() {
        block_on(async {
            let platform: Arc<dyn Platform> = machine(1);
            let began = Instant::now();
            assert_eq!(platform.blocking(|| 7).await, 7);
            assert!(began.elapsed() >= Duration::from_micros(50));

            let (sender, receiver) = tokio::sync::oneshot::channel();
            let leaving = platform.blocking(move || sender.send(()));
            assert!(futures::FutureExt::now_or_never(leaving).is_none());
            receiver.await.expect("the work was done");
        });
    }

    #[test]
    fn the_wall_clock_walks_with_time_and_jumps_alone() {
        block_on(async {
            let (platform, began) = (machine(1), Instant::now());
            let first = platform.wall_ms().0;
            tokio::time::sleep(Duration::from_secs(3)).await;
            platform.jump_wall(-10_000);
            assert_eq!(platform.wall_ms().0, first + 3_000 - 10_000);
            assert_eq!(began.elapsed().as_secs(), 3);
        });
    }

    #[test]
    fn chance_comes_from_the_seed() {
        let bytes = |seed| {
            block_on(async move {
                let mut bytes = [0; 16];
                machine(seed).fill_random(&mut bytes);
                bytes
            })
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
