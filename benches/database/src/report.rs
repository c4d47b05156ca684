//! Samples by size, measure and contender, and the table of their medians and spread.

use std::fmt::Write;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::store::Contender;

/// How a figure is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A rate or a number.
    Count,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
    /// Mebibytes.
    Mib,
}

impl Unit {
    fn print(self, value: f64) -> String {
        match self {
            Unit::Count => format!("{value:.0}"),
            Unit::Micros => format!("{value:.1} µs"),
            Unit::Millis => format!("{value:.1} ms"),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Mib => format!("{value:.0} MiB"),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    keys: u64,
    measure: String,
    /// None: the machine's.
    contender: Option<Contender>,
    unit: Unit,
    samples: Vec<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        self.samples[(self.samples.len() - 1) / 2]
    }

    fn print(&self) -> String {
        let print = |value| self.unit.print(value);
        match self.samples[..] {
            [only] => print(only),
            [lowest, .., highest] => format!(
                "{} ({} to {})",
                print(self.median()),
                print(lowest),
                print(highest)
            ),
            [] => String::new(),
        }
    }
}

/// See the module.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a sample; the samples of a row stay sorted.
    pub fn add(
        &mut self,
        keys: u64,
        contender: Option<Contender>,
        measure: &str,
        unit: Unit,
        sample: f64,
    ) {
        let same = |row: &&mut Row| {
            row.keys == keys && row.contender == contender && row.measure == measure
        };
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.samples.push(sample);
            row.samples.sort_by(f64::total_cmp);
            return;
        }
        self.rows.push(Row {
            keys,
            measure: measure.to_string(),
            contender,
            unit,
            samples: vec![sample],
        });
    }

    fn find(&self, keys: u64, measure: &str, contender: Option<Contender>) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.keys == keys && row.measure == measure && row.contender == contender)
    }

    /// Medians, with lowest and highest in brackets; the last column is fjall's median over redb's.
    pub fn table(&self) -> String {
        let mut out = String::from("| keys | measure |");
        for contender in Contender::value_variants() {
            let _ = write!(out, " {} |", contender.name());
        }
        out.push_str(" fjall / redb |\n|---:|---|---:|---:|---:|\n");
        for (keys, measure) in self.measures() {
            let _ = write!(out, "| {keys} | {measure} |");
            if let Some(row) = self.find(keys, measure, None) {
                let _ = writeln!(out, " {} | | |", row.print());
                continue;
            }
            for contender in Contender::value_variants() {
                let row = self.find(keys, measure, Some(*contender));
                let _ = write!(out, " {} |", row.map(Row::print).unwrap_or_default());
            }
            let median = |contender| self.find(keys, measure, Some(contender)).map(Row::median);
            let ratio = match (median(Contender::Fjall), median(Contender::Redb)) {
                (Some(fjall), Some(redb)) if redb > 0.0 => format!("{:.2}", fjall / redb),
                _ => String::new(),
            };
            let _ = writeln!(out, " {ratio} |");
        }
        out
    }

    /// Sizes and measures in the order in which they first came.
    fn measures(&self) -> Vec<(u64, &str)> {
        let mut measures: Vec<(u64, &str)> = Vec::new();
        for row in &self.rows {
            let measure = (row.keys, row.measure.as_str());
            if !measures.contains(&measure) {
                measures.push(measure);
            }
        }
        measures
    }

    /// All samples.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
