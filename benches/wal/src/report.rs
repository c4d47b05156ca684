//! Samples by contender and measure, and the table of their median and spread.

use std::fmt::Write;

/// How a figure is printed.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Count,
    Ratio,
    Micros,
    Millis,
}

impl Unit {
    fn print(self, value: f64) -> String {
        match self {
            Unit::Count => format!("{value:.0}"),
            Unit::Ratio => format!("{value:.4}"),
            Unit::Micros => format!("{value:.1} µs"),
            Unit::Millis => format!("{value:.0} ms"),
        }
    }
}

#[derive(Debug)]
struct Row {
    contender: String,
    measure: String,
    unit: Unit,
    samples: Vec<f64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn add(&mut self, contender: &str, measure: &str, unit: Unit, sample: f64) {
        let same = |row: &&mut Row| row.contender == contender && row.measure == measure;
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.samples.push(sample);
            return;
        }
        let (contender, measure) = (contender.to_string(), measure.to_string());
        self.rows.push(Row {
            contender,
            measure,
            unit,
            samples: vec![sample],
        });
    }

    pub fn table(&mut self) -> String {
        self.rows.sort_by(|a, b| a.measure.cmp(&b.measure));
        let mut out = String::from(
            "| measure | contender | median | lowest | highest |\n|---|---|---:|---:|---:|\n",
        );
        for row in &mut self.rows {
            row.samples.sort_by(f64::total_cmp);
            let print = |at: usize| row.unit.print(row.samples[at]);
            let last = row.samples.len() - 1;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                row.measure,
                row.contender,
                print(last / 2),
                print(0),
                print(last)
            );
        }
        out
    }
}
