//! What happened when: the measured time, cut into at most [`MOMENTS_MAX`] pieces.
//!
//! Workers keep the piece that they are in and hand it over when time has left it.

use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Moment;

const MOMENTS_MAX: u64 = 600;

/// All pieces, shared by the workers.
pub(super) struct Timeline {
    width: Duration,
    pieces: Mutex<Vec<Piece>>,
}

/// What was seen in one piece of time.
#[derive(Debug)]
pub(super) struct Piece {
    latency_us: Histogram<u64>,
    bytes: u64,
    errors: u64,
}

impl Default for Piece {
    fn default() -> Self {
        Self {
            latency_us: Histogram::new(2).expect("two digits are allowed"),
            bytes: 0,
            errors: 0,
        }
    }
}

impl Piece {
    fn merge(&mut self, other: &Self) {
        let added = self.latency_us.add(&other.latency_us);
        added.expect("histograms that grow by themselves");
        self.bytes += other.bytes;
        self.errors += other.errors;
    }

    fn is_empty(&self) -> bool {
        self.latency_us.is_empty() && self.errors == 0
    }
}

/// One worker's view: the piece that it is in.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    index: usize,
    piece: Piece,
}

impl Recorder {
    /// Counts an operation that ended so long after the beginning; `done` is its latency and bytes.
    pub fn record(&mut self, timeline: &Timeline, at: Duration, done: Option<(u64, u64)>) {
        let index = timeline.index(at);
        if index != self.index {
            self.hand_over(timeline);
            self.index = index;
        }
        match done {
            Some((micros, bytes)) => {
                let recorded = self.piece.latency_us.record(micros.max(1));
                recorded.expect("the histogram grows by itself");
                self.piece.bytes += bytes;
            }
            None => self.piece.errors += 1,
        }
    }

    /// Gives what was counted to the timeline.
    pub fn hand_over(&mut self, timeline: &Timeline) {
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            timeline.add(self.index, &piece);
        }
    }
}

impl Timeline {
    pub fn new(duration: Duration) -> Self {
        let seconds = (duration.as_secs_f64() / MOMENTS_MAX as f64)
            .ceil()
            .max(1.0);
        Self {
            width: Duration::from_secs_f64(seconds),
            pieces: Mutex::new(Vec::new()),
        }
    }

    fn index(&self, at: Duration) -> usize {
        let index = at.as_nanos() / self.width.as_nanos();
        index.min(u128::from(MOMENTS_MAX)) as usize
    }

    fn add(&self, index: usize, piece: &Piece) {
        let mut pieces = self.pieces.lock().expect("no panic while it is held");
        if pieces.len() <= index {
            pieces.resize_with(index + 1, Piece::default);
        }
        pieces[index].merge(piece);
    }

    /// All moments up to the end of the measured time; the last one may be short.
    pub fn moments(&self, seconds: f64) -> Vec<Moment> {
        let pieces = self.pieces.lock().expect("no panic while it is held");
        let width = self.width.as_secs_f64();
        let moment = |(index, piece): (usize, &Piece)| {
            let start = index as f64 * width;
            let length = (seconds - start).clamp(0.001, width);
            let at = |quantile| piece.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
            Moment {
                second: start,
                ops_per_second: piece.latency_us.len() as f64 / length,
                mib_per_second: piece.bytes as f64 / length / f64::from(1 << 20),
                p50_ms: at(0.5),
                p99_ms: at(0.99),
                errors: piece.errors,
            }
        };
        let within = |(index, _): &(usize, &Piece)| (*index as f64) * width < seconds;
        let indexed = pieces.iter().enumerate();
        indexed.filter(within).map(moment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn operations_fall_into_their_second() {
        let timeline = Timeline::new(10 * SECOND);
        let (mut one, mut two) = (Recorder::default(), Recorder::default());
        one.record(&timeline, SECOND / 2, Some((1000, 1 << 20)));
        one.record(&timeline, 2 * SECOND + SECOND / 2, Some((3000, 1 << 20)));
        one.record(&timeline, 2 * SECOND + SECOND / 2, None);
        two.record(&timeline, SECOND / 4, Some((1000, 1 << 20)));
        one.hand_over(&timeline);
        two.hand_over(&timeline);
        let moments = timeline.moments(2.5);
        let ops: Vec<_> = moments.iter().map(|one| one.ops_per_second).collect();
        assert_eq!(ops, [2.0, 0.0, 2.0]);
        assert_eq!(moments[0].mib_per_second, 2.0);
        assert_eq!((moments[1].errors, moments[2].errors), (0, 1));
        assert!((moments[2].p99_ms - 3.0).abs() < 0.1);
        assert_eq!(timeline.moments(2.0).len(), 2);
    }

    #[test]
    fn long_runs_have_wider_moments() {
        let day = Timeline::new(86_400 * SECOND);
        assert_eq!(day.width, 144 * SECOND);
        assert_eq!(day.index(86_400 * SECOND), 600);
        assert_eq!(day.index(Duration::MAX), 600);
        assert_eq!(Timeline::new(SECOND / 2).width, SECOND);
    }
}
