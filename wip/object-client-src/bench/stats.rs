//! Counting: one set per worker, merged at the end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::{OperationReport, Options, REPORT_VERSION, Report};

/// What one worker saw.
#[derive(Debug, Default)]
pub(super) struct Stats {
    operations: BTreeMap<&'static str, Operation>,
    timeline: Vec<u64>,
}

#[derive(Debug)]
struct Operation {
    latency_us: Histogram<u64>,
    bytes: u64,
    errors: BTreeMap<String, u64>,
}

impl Default for Operation {
    fn default() -> Self {
        let latency_us = Histogram::new(3).expect("three digits are allowed");
        Self { latency_us, bytes: 0, errors: BTreeMap::new() }
    }
}

impl Stats {
    /// Counts a success that ended in the given second of the measured time.
    pub fn success(&mut self, name: &'static str, micros: u64, bytes: u64, second: usize) {
        let operation = self.operations.entry(name).or_default();
        // Not the saturating kind: that one cuts at the first size instead of growing.
        operation.latency_us.record(micros.max(1)).expect("the histogram grows by itself");
        operation.bytes += bytes;
        if self.timeline.len() <= second {
            self.timeline.resize(second + 1, 0);
        }
        self.timeline[second] += 1;
    }

    pub fn failure(&mut self, name: &'static str, code: &str) {
        let errors = &mut self.operations.entry(name).or_default().errors;
        *errors.entry(code.to_owned()).or_default() += 1;
    }

    pub fn merge(&mut self, other: Self) {
        for (name, theirs) in other.operations {
            let ours = self.operations.entry(name).or_default();
            ours.latency_us.add(&theirs.latency_us).expect("histograms that grow by themselves");
            ours.bytes += theirs.bytes;
            for (code, count) in theirs.errors {
                *ours.errors.entry(code).or_default() += count;
            }
        }
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), 0);
        }
        for (ours, theirs) in self.timeline.iter_mut().zip(other.timeline) {
            *ours += theirs;
        }
    }

    pub fn report(self, options: &Options, seconds: f64) -> Report {
        let operations = self.operations.into_iter().map(|(name, one)| one.report(name, seconds));
        Report {
            version: REPORT_VERSION,
            mode: options.mode.name().to_owned(),
            endpoints: options.endpoints.iter().map(|endpoint| endpoint.url.clone()).collect(),
            object_size: options.object_size as u64,
            concurrency: options.concurrency,
            seconds,
            operations: operations.collect(),
            timeline: self.timeline,
        }
    }
}

impl Operation {
    fn report(self, name: &str, seconds: f64) -> OperationReport {
        let at = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        let count = self.latency_us.len();
        OperationReport {
            operation: name.to_owned(),
            count,
            ops_per_second: count as f64 / seconds,
            mib_per_second: self.bytes as f64 / seconds / f64::from(1 << 20),
            mean_ms: self.latency_us.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.latency_us.max() as f64 / 1000.0,
            errors: self.errors,
        }
    }
}
