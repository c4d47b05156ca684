//! A run as a picture: throughput, latency over time, and latency by percentile, as SVG without scripts.

use std::fmt::Write as _;

use super::{OperationReport, Report};

const WIDTH: f64 = 760.0;
const CHART_HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
const COLOURS: [&str; 5] = ["#2463a8", "#c2571a", "#3b8a3e", "#8a3b86", "#666666"];

/// One line of a chart.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Axes with lines. Both axes begin at 0.
struct Chart {
    title: String,
    /// Where the horizontal axis ends, and what is written below it.
    right: f64,
    ticks: Vec<(f64, String)>,
    series: Vec<Series>,
}

impl Report {
    /// The report as SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let charts = [self.throughput(), self.latency(), self.percentiles()];
        let height = CHART_HEIGHT * charts.len() as f64;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (index, chart) in charts.iter().enumerate() {
            chart.draw(index as f64 * CHART_HEIGHT, &mut out);
        }
        out.push_str("</svg>\n");
        out
    }

    fn throughput(&self) -> Chart {
        let points = self.timeline.iter();
        let points = points.map(|at| (at.second, at.ops_per_second)).collect();
        Chart {
            title: format!(
                "{}: operations per second, objects of {} B, {} at a time",
                self.mode, self.object_size, self.concurrency
            ),
            right: self.seconds,
            ticks: self.time_ticks(),
            series: vec![Series {
                name: "ops/s".to_owned(),
                points,
            }],
        }
    }

    fn latency(&self) -> Chart {
        let line = |name: &str, value: fn(&super::Moment) -> f64| Series {
            name: name.to_owned(),
            points: self
                .timeline
                .iter()
                .map(|at| (at.second, value(at)))
                .collect(),
        };
        Chart {
            title: "latency over time, ms".to_owned(),
            right: self.seconds,
            ticks: self.time_ticks(),
            series: vec![line("p50", |at| at.p50_ms), line("p99", |at| at.p99_ms)],
        }
    }

    fn percentiles(&self) -> Chart {
        let names = ["p50", "p90", "p99", "p99.9", "max"];
        let ticks = names.iter().enumerate();
        let line = |one: &OperationReport| {
            let values = [one.p50_ms, one.p90_ms, one.p99_ms, one.p999_ms, one.max_ms];
            let points = values.into_iter().enumerate();
            Series {
                name: one.operation.clone(),
                points: points.map(|(x, ms)| (x as f64, ms)).collect(),
            }
        };
        Chart {
            title: "latency by percentile, ms".to_owned(),
            right: (names.len() - 1) as f64,
            ticks: ticks
                .map(|(x, name)| (x as f64, (*name).to_owned()))
                .collect(),
            series: self.operations.iter().map(line).collect(),
        }
    }

    fn time_ticks(&self) -> Vec<(f64, String)> {
        let end = self.seconds;
        vec![(0.0, "0 s".to_owned()), (end, format!("{end:.0} s"))]
    }
}

impl Chart {
    fn draw(&self, top: f64, out: &mut String) {
        let (floor, ceiling) = (top + CHART_HEIGHT - BOTTOM, top + TOP);
        let most = self.most();
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / self.right.max(0.001);
        let y = |value: f64| floor - (floor - ceiling) * value / most;
        text(out, LEFT, top + 18.0, "start", &self.title);
        for part in [0.0, 0.5, 1.0] {
            let (value, right) = (most * part, WIDTH - RIGHT);
            let at = y(value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#dddddd\"/>"
            );
            text(out, LEFT - 6.0, at + 4.0, "end", &number(value));
        }
        for (value, name) in &self.ticks {
            text(out, x(*value), floor + 18.0, "middle", name);
        }
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let points = series.points.iter();
            let points = points.map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>"
            );
            let (left, height) = (WIDTH - RIGHT + 14.0, ceiling + 16.0 * index as f64);
            let _ = writeln!(
                out,
                "<rect x=\"{left}\" y=\"{height}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
            );
            text(out, left + 16.0, height + 9.0, "start", &series.name);
        }
    }

    /// The end of the vertical axis.
    fn most(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| &series.points);
        let most = values.map(|(_, value)| *value).fold(0.0, f64::max);
        if most > 0.0 { most } else { 1.0 }
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = quick_xml::escape::escape(words);
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;

    #[test]
    fn lines_lie_in_their_charts() {
        let svg = example().svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        // Half of two seconds is the middle of the axis; 6 operations are the top, 4 are two thirds.
        assert!(svg.contains("points=\"70.0,84.7 350.0,34.0\""), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 4, "{svg}");
        assert!(
            svg.contains(">p99.9</text>") && svg.contains(">6.00</text>"),
            "{svg}"
        );
    }

    #[test]
    fn a_run_without_successes_has_a_picture() {
        let mut report = example();
        report.timeline.clear();
        report.operations.clear();
        report.mode = "<&>".to_owned();
        let svg = report.svg();
        assert!(svg.contains("&lt;&amp;&gt;: operations"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
