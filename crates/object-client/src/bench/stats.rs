//! Counting: one set per worker, merged at the end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::OperationReport;

/// What one worker saw.
#[derive(Debug, Default)]
pub(super) struct Stats {
    operations: BTreeMap<&'static str, Operation>,
}

#[derive(Debug)]
struct Operation {
    latency_us: Histogram<u64>,
    bytes: u64,
    errors: BTreeMap<String, u64>,
}

impl Default for Operation {
    fn default() -> Self {
        Self {
            latency_us: Histogram::new(3).expect("three digits are allowed"),
            bytes: 0,
            errors: BTreeMap::new(),
        }
    }
}

impl Stats {
    pub fn success(&mut self, name: &'static str, micros: u64, bytes: u64) {
        let operation = self.operations.entry(name).or_default();
        // Not the saturating kind: that one cuts at the first size instead of growing.
        let recorded = operation.latency_us.record(micros.max(1));
        recorded.expect("the histogram grows by itself");
        operation.bytes += bytes;
    }

    pub fn failure(&mut self, name: &'static str, code: &str) {
        let errors = &mut self.operations.entry(name).or_default().errors;
        *errors.entry(code.to_owned()).or_default() += 1;
    }

    pub fn merge(&mut self, other: Self) {
        for (name, theirs) in other.operations {
            let ours = self.operations.entry(name).or_default();
            let added = ours.latency_us.add(&theirs.latency_us);
            added.expect("histograms that grow by themselves");
            ours.bytes += theirs.bytes;
            for (code, count) in theirs.errors {
                *ours.errors.entry(code).or_default() += count;
            }
        }
    }

    /// One report per operation, by name.
    pub fn reports(self, seconds: f64) -> Vec<OperationReport> {
        let operations = self.operations.into_iter();
        operations
            .map(|(name, one)| one.report(name, seconds))
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let (mut one, mut two) = (Stats::default(), Stats::default());
        for millis in 1..=1000 {
            let stats = if millis % 2 == 0 { &mut one } else { &mut two };
            stats.success("get", millis * 1000, 1 << 20);
        }
        two.success("put", 0, 0);
        two.failure("get", "SlowDown");
        one.failure("get", "SlowDown");
        one.merge(two);
        let reports = one.reports(10.0);
        assert_eq!(reports.len(), 2);
        let get = &reports[0];
        assert_eq!((get.operation.as_str(), get.count), ("get", 1000));
        assert_eq!((get.ops_per_second, get.mib_per_second), (100.0, 100.0));
        let near = |is: f64, should: f64| (is - should).abs() <= should / 100.0;
        assert!(near(get.p50_ms, 500.0) && near(get.p90_ms, 900.0));
        assert!(near(get.p99_ms, 990.0) && near(get.p999_ms, 999.0));
        assert!(near(get.max_ms, 1000.0) && near(get.mean_ms, 500.5));
        assert_eq!(get.errors["SlowDown"], 2);
        assert_eq!(reports[1].operation, "put");
    }
}
