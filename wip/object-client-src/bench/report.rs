//! What a run measured: JSON with a version, a table, a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The version of [`Report`]'s JSON.
pub const REPORT_VERSION: u32 = 1;

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The mode's name.
    pub mode: String,
    /// The endpoints' addresses.
    pub endpoints: Vec<String>,
    /// Bytes per object.
    pub object_size: u64,
    /// Requests at a time.
    pub concurrency: usize,
    /// The measured time, without warm-up.
    pub seconds: f64,
    /// One entry per operation, by name.
    pub operations: Vec<OperationReport>,
    /// Successful operations in each second.
    pub timeline: Vec<u64>,
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

impl Report {
    /// The report as JSON.
    ///
    /// # Errors
    /// Never for reports of this crate.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// All failures.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.operations.iter().flat_map(|one| one.errors.values()).sum()
    }

    /// The report as plain text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{}: {} B objects, {} at a time, {:.1} s, {} endpoint(s)\n",
            self.mode,
            self.object_size,
            self.concurrency,
            self.seconds,
            self.endpoints.len()
        );
        let names = ["count", "ops/s", "MiB/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];
        let _ = write!(out, "{:<12}", "operation");
        for name in names {
            let _ = write!(out, "{name:>11}");
        }
        out.push_str("  errors\n");
        for one in &self.operations {
            let _ = write!(out, "{:<12}{:>11}", one.operation, one.count);
            let _ = write!(out, "{:>11.1}{:>11.2}", one.ops_per_second, one.mib_per_second);
            for ms in [one.p50_ms, one.p90_ms, one.p99_ms, one.p999_ms, one.max_ms] {
                let _ = write!(out, "{ms:>11.2}");
            }
            let errors: Vec<_> = one.errors.iter().map(|(c, n)| format!("{c}={n}")).collect();
            let errors = if errors.is_empty() { "-".to_owned() } else { errors.join(" ") };
            let _ = writeln!(out, "  {errors}");
        }
        out
    }

    /// A plot of operations per second over time, as SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let (width, height, left, top) = (720.0, 260.0, 60.0, 30.0);
        let most = self.timeline.iter().copied().max().unwrap_or(0).max(1) as f64;
        let step = (width - left - 10.0) / self.timeline.len().saturating_sub(1).max(1) as f64;
        let mut points = String::new();
        for (second, ops) in self.timeline.iter().enumerate() {
            let x = left + second as f64 * step;
            let y = height - 30.0 - (height - 30.0 - top) * *ops as f64 / most;
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
             <text x=\"{left}\" y=\"18\">{}: operations per second</text>\
             <text x=\"4\" y=\"{}\">{most}</text><text x=\"4\" y=\"{}\">0</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} s</text>\
             <polyline fill=\"none\" stroke=\"#2463a8\" stroke-width=\"2\" points=\"{}\"/></svg>\n",
            self.mode,
            top + 4.0,
            height - 26.0,
            width - 10.0,
            height - 8.0,
            self.timeline.len(),
            points.trim_end()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
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
        let report = Report {
            version: REPORT_VERSION,
            mode: "get".to_owned(),
            endpoints: vec!["http://localhost".to_owned()],
            object_size: 1024,
            concurrency: 4,
            seconds: 2.0,
            operations: vec![operation],
            timeline: vec![4, 6],
        };
        let back: Report = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(back, report);
        assert_eq!(report.errors(), 2);
        assert!(report.table().contains("SlowDown=2"), "{}", report.table());
        assert!(report.svg().contains("<polyline"));
    }
}
