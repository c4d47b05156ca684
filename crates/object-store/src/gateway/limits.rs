//! Bounds on what a gateway does at one time, and its memory of slow nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ids::NodeId;
use object_core::api::{ObjectError, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::metrics::ObjectMetrics;

const BUDGET_UNIT: usize = 1024;
/// How long a node that was slow or away is not waited for.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// Places for requests and bytes; who finds none within a bound is told to come again.
pub struct Limits {
    requests: Arc<Semaphore>,
    write_bytes: Arc<Semaphore>,
    read_bytes: Arc<Semaphore>,
    late_bytes: Arc<Semaphore>,
    write_units: usize,
    read_units: usize,
    late_units: usize,
    wait: Duration,
    metrics: Arc<ObjectMetrics>,
}

impl Limits {
    /// At most `requests` at a time, and that many bytes of blocks in memory for writes and for reads each; half as many
    /// for copies that nobody waits for.
    pub fn new(requests: usize, bytes: usize, wait: Duration, metrics: Arc<ObjectMetrics>) -> Self {
        let units = (bytes / BUDGET_UNIT).max(1);
        let late_units = (units / 2).max(1);
        Limits {
            requests: Arc::new(Semaphore::new(requests)),
            write_bytes: Arc::new(Semaphore::new(units)),
            read_bytes: Arc::new(Semaphore::new(units)),
            late_bytes: Arc::new(Semaphore::new(late_units)),
            write_units: units,
            read_units: units,
            late_units,
            wait,
            metrics,
        }
    }

    /// A place for a request, held as long as it lasts.
    pub async fn request(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = self.requests.clone().try_acquire_owned() {
            return Ok(permit);
        }
        self.take(&self.requests, 1, self.wait, "too many requests at a time")
            .await
    }

    /// Memory for `bytes` of a body that is being written.
    pub async fn write_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(BUDGET_UNIT).clamp(1, self.write_units) as u32;
        self.take(
            &self.write_bytes,
            units,
            self.wait * 10,
            "too many bytes are being written",
        )
        .await
    }

    /// Memory for `bytes` that are being read. Those who come first get it first; what was kept for long gives way.
    pub async fn read_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        self.take(
            &self.read_bytes,
            self.units_to_read(bytes),
            self.wait * 30,
            "too many bytes are being read",
        )
        .await
    }

    /// Memory for `bytes` that are being read, if there is some now.
    pub fn read_room_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = self.units_to_read(bytes);
        self.read_bytes.clone().try_acquire_many_owned(units).ok()
    }

    /// Memory for `bytes` that nobody asks for yet: only where half of it all stays free.
    pub fn ahead_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let left = self.read_bytes.available_permits();
        let kept_free = self.read_units / 2;
        if left < kept_free + self.units_to_read(bytes) as usize {
            return None;
        }
        self.read_room_now(bytes)
    }

    /// Whether half of the memory for reads is free.
    pub fn is_ample(&self) -> bool {
        self.read_bytes.available_permits() >= self.read_units / 2
    }

    /// Whether no memory for reads is left, as long as somebody waits for some.
    pub fn is_short_of_read_room(&self) -> bool {
        self.read_bytes.available_permits() == 0
    }

    fn units_to_read(&self, bytes: usize) -> u32 {
        bytes.div_ceil(BUDGET_UNIT).clamp(1, self.read_units) as u32
    }

    /// Memory for `bytes` of a block whose last copies are on their way after its write was answered, if there is some
    /// now. It is not that of the writes, which a node that hangs would use up.
    pub fn late_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(BUDGET_UNIT).clamp(1, self.late_units) as u32;
        self.late_bytes.clone().try_acquire_many_owned(units).ok()
    }

    async fn take(
        &self,
        from: &Arc<Semaphore>,
        units: u32,
        wait: Duration,
        why: &str,
    ) -> Result<OwnedSemaphorePermit> {
        match timeout(wait, from.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                self.metrics.requests_refused_busy_total.add(1);
                Err(ObjectError::Unavailable(why.into()))
            }
        }
    }
}

/// Nodes that were slow or away a short while ago: they are still sent their copies, but not waited for.
#[derive(Debug, Default)]
pub struct SlowNodes {
    until: Mutex<BTreeMap<NodeId, Instant>>,
}

impl SlowNodes {
    /// Remembers a node as slow.
    pub fn note(&self, node: NodeId) {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, Instant::now() + SLOW_FOR);
    }

    /// The node did something in time.
    pub fn forget(&self, node: NodeId) {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&node);
    }

    /// Whether the node was slow a short while ago.
    pub fn is_slow(&self, node: NodeId) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        match until.get(&node) {
            Some(end) if *end > Instant::now() => true,
            Some(_) => {
                until.remove(&node);
                false
            }
            None => false,
        }
    }
}

/// How long reads of remote blocks took lately.
#[derive(Debug, Default)]
pub struct ReadTimes {
    last: Mutex<(Vec<Duration>, usize)>,
}

impl ReadTimes {
    const KEPT: usize = 64;
    const FEWEST: usize = 8;
    const HEDGE_MIN: Duration = Duration::from_millis(20);

    /// Remembers one.
    pub fn note(&self, took: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (times, next) = &mut *last;
        if times.len() < Self::KEPT {
            times.push(took);
        } else {
            times[*next] = took;
        }
        *next = (*next + 1) % Self::KEPT;
    }

    /// After which time a read is worth asking a second copy: three times the median, at most `max`.
    pub fn hedge_after(&self, max: Duration) -> Duration {
        let mut times = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone();
        if times.len() < Self::FEWEST {
            return max;
        }
        times.sort_unstable();
        (times[times.len() / 2] * 3).clamp(Self::HEDGE_MIN.min(max), max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_place_is_told_to_come_again() {
        let metrics = Arc::new(ObjectMetrics::default());
        let limits = Limits::new(1, 1 << 20, Duration::from_secs(1), metrics.clone());
        let first = limits.request().await.unwrap();
        assert!(matches!(
            limits.request().await,
            Err(ObjectError::Unavailable(_))
        ));
        assert_eq!(metrics.requests_refused_busy_total.get(), 1);
        drop(first);
        drop(limits.request().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_larger_than_the_budget_gets_all_of_it() {
        let limits = Limits::new(1, 4096, Duration::from_secs(1), Arc::default());
        let all = limits.write_room(1 << 20).await.unwrap();
        assert!(limits.write_room(1).await.is_err());
        drop(all);
        drop(limits.write_room(1).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_yet_leaves_half_of_the_memory_free() {
        let limits = Limits::new(1, 8 << 10, Duration::from_secs(1), Arc::default());
        let ahead: Vec<_> = std::iter::from_fn(|| limits.ahead_room(2 << 10)).collect();
        assert_eq!(ahead.len(), 2);
        assert!(limits.is_ample());
        let asked_for = limits.read_room(2 << 10).await.unwrap();
        assert!(!limits.is_ample() && limits.ahead_room(1).is_none());
        drop((ahead, asked_for));
        assert!(limits.is_ample());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_short_while_somebody_waits() {
        let limits = Limits::new(1, 8 << 10, Duration::from_secs(1), Arc::default());
        let most = limits.read_room(6 << 10).await.unwrap();
        assert!(!limits.is_short_of_read_room());
        let mut waiting = std::pin::pin!(limits.read_room(4 << 10));
        let moment = Duration::from_millis(1);
        assert!(timeout(moment, waiting.as_mut()).await.is_err());
        assert!(limits.is_short_of_read_room() && limits.read_room_now(1).is_none());
        drop(most);
        assert!(waiting.await.is_ok());
        assert!(limits.read_room_now(8 << 10).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn slowness_is_forgotten() {
        let slow = SlowNodes::default();
        slow.note(NodeId(2));
        assert!(slow.is_slow(NodeId(2)) && !slow.is_slow(NodeId(1)));
        tokio::time::advance(SLOW_FOR).await;
        assert!(!slow.is_slow(NodeId(2)));
        slow.note(NodeId(2));
        slow.forget(NodeId(2));
        assert!(!slow.is_slow(NodeId(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn late_copies_get_memory_of_their_own_or_none() {
        let limits = Limits::new(1, 4096, Duration::from_secs(1), Arc::default());
        let late = limits.late_room(2048).unwrap();
        assert!(limits.late_room(1).is_none());
        drop(limits.write_room(4096).await.unwrap());
        drop(late);
        assert!(limits.late_room(1 << 20).is_some(), "the whole of it");
    }

    #[test]
    fn hedging_follows_the_median() {
        let times = ReadTimes::default();
        let max = Duration::from_millis(200);
        assert_eq!(times.hedge_after(max), max);
        (0..100).for_each(|_| times.note(Duration::from_millis(30)));
        assert_eq!(times.hedge_after(max), Duration::from_millis(90));
    }
}
