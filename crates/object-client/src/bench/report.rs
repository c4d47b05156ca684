//! What a run measured: JSON with a version, and a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The version of [`Report`]'s JSON.
pub const REPORT_VERSION: u32 = 1;

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub output_version: u32,
    /// The mode's name.
    pub mode: String,
    /// The endpoints' addresses.
    pub endpoints: Vec<String>,
    /// Bytes per object.
    pub object_size: u64,
    /// Objects that were prepared.
    pub objects: usize,
    /// Requests at a time.
    pub concurrency: usize,
    /// Whether the bytes of all answers were compared.
    pub verified: bool,
    /// Whether the run was stopped before its time.
    pub stopped: bool,
    /// The measured time, without warm-up.
    pub seconds: f64,
    /// One entry per operation, by name.
    pub operations: Vec<OperationReport>,
    /// The measured time, piece by piece.
    pub timeline: Vec<Moment>,
}

/// One operation's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationReport {
    /// Such as `get`.
    pub operation: String,
    /// Successes.
    pub count: u64,
    /// Successes per second.
    pub ops_per_second: f64,
    /// Body bytes per second, in MiB.
    pub mib_per_second: f64,
    /// Latency: the mean, in milliseconds.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// The 90th percentile.
    pub p90_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Failures by code.
    pub errors: BTreeMap<String, u64>,
}

/// All operations in one piece of the measured time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Where it begins; it ends where the next one begins.
    pub second: f64,
    /// Successes per second.
    pub ops_per_second: f64,
    /// Body bytes per second, in MiB.
    pub mib_per_second: f64,
    /// Latency: the median, in milliseconds; 0 without successes.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// Failures.
    pub errors: u64,
}

impl Report {
    /// All failures.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let all = self.operations.iter();
        all.flat_map(|one| one.errors.values()).sum()
    }

    /// All successes.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.operations.iter().map(|one| one.count).sum()
    }

    /// The report as plain text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{}: objects of {} B, {} at a time, {:.1} s, {} endpoint(s)\n",
            self.mode,
            self.object_size,
            self.concurrency,
            self.seconds,
            self.endpoints.len()
        );
        let names = [
            "count", "ops/s", "MiB/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms",
        ];
        let _ = write!(out, "{:<12}", "operation");
        for name in names {
            let _ = write!(out, "{name:>11}");
        }
        out.push_str("  errors");
        for one in &self.operations {
            out.push('\n');
            one.write_row(&mut out);
        }
        out
    }
}

impl OperationReport {
    fn write_row(&self, out: &mut String) {
        let _ = write!(out, "{:<12}{:>11}", self.operation, self.count);
        let _ = write!(
            out,
            "{:>11.1}{:>11.2}",
            self.ops_per_second, self.mib_per_second
        );
        for ms in [
            self.p50_ms,
            self.p90_ms,
            self.p99_ms,
            self.p999_ms,
            self.max_ms,
        ] {
            let _ = write!(out, "{ms:>11.2}");
        }
        let errors = self.errors.iter().map(|(code, n)| format!("{code}={n}"));
        let errors = errors.collect::<Vec<_>>().join(" ");
        let _ = write!(out, "  {}", if errors.is_empty() { "-" } else { &errors });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn example() -> Report {
        let operation = OperationReport {
            operation: "get".to_owned(),
            count: 10,
            ops_per_second: 5.0,
            mib_per_second: 1.5,
            mean_ms: 1.0,
            p50_ms: 1.0,
            p90_ms: 2.0,
            p99_ms: 3.0,
            p999_ms: 4.0,
            max_ms: 5.0,
            errors: BTreeMap::from([("SlowDown".to_owned(), 2)]),
        };
        let moment = |second, ops_per_second, p50_ms| Moment {
            second,
            ops_per_second,
            mib_per_second: ops_per_second / 4.0,
            p50_ms,
            p99_ms: p50_ms * 2.0,
            errors: 1,
        };
        Report {
            output_version: REPORT_VERSION,
            mode: "get".to_owned(),
            endpoints: vec!["http://localhost".to_owned()],
            object_size: 1024,
            objects: 7,
            concurrency: 4,
            verified: true,
            stopped: false,
            seconds: 2.0,
            operations: vec![operation],
            timeline: vec![moment(0.0, 4.0, 1.0), moment(1.0, 6.0, 2.0)],
        }
    }

    #[test]
    fn json_comes_back() {
        let report = example();
        let json = serde_json::to_string_pretty(&report).unwrap();
        assert!(json.contains("\"output_version\": 1"), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert_eq!((report.errors(), report.successes()), (2, 10));
    }

    #[test]
    fn the_table() {
        let expected = "get: objects of 1024 B, 4 at a time, 2.0 s, 1 endpoint(s)\n\
            operation         count      ops/s      MiB/s     p50 ms     p90 ms     p99 ms   p99.9 ms     max ms  errors\n\
            get                  10        5.0       1.50       1.00       2.00       3.00       4.00       5.00  SlowDown=2";
        assert_eq!(example().table(), expected);
    }
}
