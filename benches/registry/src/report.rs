//! The figures beside their bars.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Of what.
    pub measure: String,
    /// The median.
    pub figure: String,
    /// The peer's figure, the bar, or both.
    pub against: String,
    /// Ours over the peer's; else over the bar.
    pub ratio: Option<f64>,
    /// Whether the bar is met, where there is one.
    pub met: Option<bool>,
    /// One of each round.
    pub samples: Vec<f64>,
    /// The peer's.
    pub samples_of_peer: Vec<f64>,
}

/// See the module.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    notes: Vec<String>,
    sync_micros: Vec<f64>,
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds what a reader must know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds what a sync costs at the moment.
    pub fn add_sync(&mut self, micros: f64) {
        self.sync_micros.push(micros);
    }

    /// Notes, then the table.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for note in &self.notes {
            let _ = writeln!(out, "- {note}");
        }
        out.push_str(
            "\n| measure | figure | peer or bar | ratio | met |\n|---|---:|---:|---:|---|\n",
        );
        for row in &self.rows {
            let ratio = row
                .ratio
                .map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let met = match row.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {ratio} | {met} |",
                row.measure, row.figure, row.against
            );
        }
        let sync = median(&self.sync_micros);
        let _ = writeln!(
            out,
            "| disk: append 4 KiB + fdatasync, p50 | {sync:.1} µs | | | |"
        );
        out
    }

    /// Everything.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// The middle one; the lower of two. NaN of none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or(f64::NAN)
}
