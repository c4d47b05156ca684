//! What happened in a simulation, as one number and, if wanted, as text: two runs are the same when these are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A running hash over the events of a simulation; clones share it.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<Events>>);

#[derive(Debug)]
struct Events {
    began: Instant,
    hash: u64,
    count: u64,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Default for Trace {
    fn default() -> Self {
        Trace::new()
    }
}

impl Trace {
    /// A trace that keeps the hash only. Time counts from now: create it inside the simulation.
    pub fn new() -> Trace {
        Trace::with_lines(0)
    }

    /// A trace that also keeps the last `lines_max` events as text.
    pub fn with_lines(lines_max: usize) -> Trace {
        let (began, lines) = (Instant::now(), VecDeque::new());
        Trace(Arc::new(Mutex::new(Events {
            began,
            hash: FNV_OFFSET,
            count: 0,
            lines,
            lines_max,
        })))
    }

    /// Adds an event; its simulated time is added too.
    pub fn event(&self, event: impl fmt::Display) {
        let mut events = self.events();
        let line = format!("{:?} {event}", events.began.elapsed());
        events.hash = fnv(events.hash, line.as_bytes());
        events.count += 1;
        if events.lines_max > 0 {
            if events.lines.len() == events.lines_max {
                events.lines.pop_front();
            }
            events.lines.push_back(line);
        }
    }

    /// The hash over all events so far.
    pub fn hash(&self) -> u64 {
        self.events().hash
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.events().count
    }

    /// The events that were kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.events().lines.iter().cloned().collect()
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A short name for bytes in an event.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    fnv(FNV_OFFSET, bytes)
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::block_on;

    #[test]
    fn order_time_and_words_all_count() {
        let run = |words: [&'static str; 2], pause_ms| {
            block_on(async move {
                let trace = Trace::with_lines(1);
                trace.event(words[0]);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                trace.clone().event(words[1]);
                (trace.hash(), trace.count(), trace.lines())
            })
        };
        let first = run(["a", "b"], 5);
        assert_eq!(first, run(["a", "b"], 5));
        assert_eq!((first.1, first.2.clone()), (2, vec!["5ms b".to_owned()]));
        for other in [run(["b", "a"], 5), run(["a", "b"], 6), run(["a", "c"], 5)] {
            assert_ne!(first.0, other.0);
        }
    }
}
