//! Holds background work down to so many bytes a second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a rate, without saving up unused time.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: u64,
    next: Instant,
}

impl Pace {
    /// At most `bytes_per_s` from now on.
    pub fn new(bytes_per_s: u64) -> Self {
        Pace {
            bytes_per_s: bytes_per_s.max(1),
            next: Instant::now(),
        }
    }

    /// Waits until `bytes` may pass.
    pub async fn pass(&mut self, bytes: u64) {
        let now = Instant::now();
        let due = self.next.max(now);
        let takes = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_s);
        self.next = due + takes;
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate() {
        let mut pace = Pace::new(1000);
        let began = Instant::now();
        for _ in 0..5 {
            pace.pass(500).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }
}
