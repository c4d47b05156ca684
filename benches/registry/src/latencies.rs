//! How long things took: a histogram of microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// A minute: what takes longer counts as that.
const MICROS_MAX: u64 = 60_000_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Nothing was measured yet.
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("good bounds"))
    }

    /// From pairs of microseconds and how often.
    pub fn from_pairs(pairs: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::new();
        for (micros, count) in pairs {
            latencies.0.saturating_record_n(*micros, *count);
        }
        latencies
    }

    /// The inverse of [`Latencies::from_pairs`], to three digits.
    pub fn pairs(&self) -> Vec<(u64, u64)> {
        let recorded = self.0.iter_recorded();
        recorded
            .map(|value| (value.value_iterated_to(), value.count_at_value()))
            .collect()
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// All of `other` too.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// How many were measured.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}
