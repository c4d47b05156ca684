//! What every client has: a way to a node that is up, its own chance, and numbers for what it proposes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::journal::Journal;
use crate::node::Node;
use crate::site::Site;

/// Numbers that one client may use up.
const TAGS_MAX: u64 = 1_000_000;

/// See the module.
pub struct Client {
    site: Arc<Site>,
    journal: Arc<Journal>,
    number: u64,
    tags: u64,
    rng: StdRng,
}

impl Client {
    /// Client `number` (from 1) of a run.
    pub fn new(site: &Arc<Site>, journal: &Arc<Journal>, seed: u64, number: u64) -> Client {
        let seed = seed.wrapping_mul(TAGS_MAX).wrapping_add(number);
        Client {
            site: site.clone(),
            journal: journal.clone(),
            number,
            tags: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A number that no other proposal of the run has.
    pub fn tag(&mut self) -> u64 {
        self.tags += 1;
        self.number * TAGS_MAX + self.tags
    }

    /// A number from the range.
    pub fn pick(&mut self, range: Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    /// Rests for so many milliseconds and finds a node that is up; none when the work is over.
    pub async fn next_node(&mut self, pause_ms: Range<u64>) -> Option<Arc<Node>> {
        while self.journal.is_open() {
            let pause = Duration::from_millis(self.pick(pause_ms.clone()));
            sleep(pause).await;
            let nodes = self.site.nodes();
            if !nodes.is_empty() && self.journal.is_open() {
                let chosen = self.rng.random_range(0..nodes.len());
                return nodes.into_iter().nth(chosen);
            }
        }
        None
    }
}
