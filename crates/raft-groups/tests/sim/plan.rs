//! The faults of a run: drawn from the seed before it begins, carried out beside the work.
//!
//! Every plan has one moment at which the whole site loses power: what was acknowledged then lives on disks only.
//! Faults overlap as they fall, so a majority may be away for a while; each ends by itself.

use std::ops::Range;
use std::time::Duration;

use ids::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::sim::Link;
use tokio::time::{Instant, sleep_until};

use crate::node::NODES;
use crate::site::{Death, Site, usual_link};

/// A pause takes longer than the lease that a leader counts on (2,500 ms), so others may lead when it ends.
const PAUSE_MS: Range<u64> = 2_600..8_000;
/// One fault in so many milliseconds, about.
const FAULT_EVERY_MS: u64 = 4_000;

/// Something that happens at a moment.
#[derive(Debug, Clone)]
enum Act {
    End(Vec<NodeId>, Death),
    Start(NodeId),
    Spoil(NodeId, NodeId, Spoilt),
    Mend(NodeId, NodeId),
    /// For so many milliseconds.
    Pause(NodeId, u64),
}

/// What one direction between two nodes is like.
#[derive(Debug, Clone, Copy)]
enum Spoilt {
    Cut,
    Slow,
    Flaky,
}

impl Spoilt {
    fn link(self) -> Link {
        let usual = usual_link();
        match self {
            Spoilt::Cut => Link { cut: true, ..usual },
            Spoilt::Slow => Link {
                delay: Duration::from_millis(40)..Duration::from_millis(400),
                ..usual
            },
            Spoilt::Flaky => Link {
                lost: 0.1,
                twice: 0.1,
                ..usual
            },
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Plan {
    /// Milliseconds since the beginning, ascending.
    acts: Vec<(u64, Act)>,
}

impl Plan {
    /// Draws the faults of `span`.
    pub fn draw(seed: u64, span: Duration) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(32));
        let span_ms = span.as_millis() as u64;
        let mut plan = Plan::default();
        for _ in 0..(span_ms / FAULT_EVERY_MS).max(3) {
            plan.add_fault(&mut rng, span_ms);
        }
        plan.add_blackout(&mut rng, span_ms);
        // Stable: what ends in the instant in which something else begins keeps its order.
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }

    fn add_fault(&mut self, rng: &mut StdRng, span_ms: u64) {
        let from = rng.random_range(0..span_ms * 9 / 10);
        let until = from + rng.random_range(300_u64..6_000);
        let (node, other) = two_nodes(rng);
        match rng.random_range(0..12_u32) {
            0..=2 => self.add_death(node, Death::PowerCut, from, until),
            3 | 4 => self.add_death(node, Death::Kill, from, until),
            5 | 6 => self.add_isolation(node, from, until),
            7 => self.add_spoilt(node, other, Spoilt::Cut, from, until),
            8 => self.add_spoilt(node, other, Spoilt::Slow, from, until),
            9 => self.add_spoilt(node, other, Spoilt::Flaky, from, until),
            _ => {
                let pause = Act::Pause(node, rng.random_range(PAUSE_MS));
                self.acts.push((from, pause));
            }
        }
    }

    fn add_death(&mut self, node: NodeId, death: Death, from: u64, until: u64) {
        self.acts.push((from, Act::End(vec![node], death)));
        self.acts.push((until, Act::Start(node)));
    }

    fn add_isolation(&mut self, node: NodeId, from: u64, until: u64) {
        for other in NODES.into_iter().filter(|other| *other != node) {
            self.add_spoilt(node, other, Spoilt::Cut, from, until);
            self.add_spoilt(other, node, Spoilt::Cut, from, until);
        }
    }

    fn add_spoilt(&mut self, from: NodeId, to: NodeId, spoilt: Spoilt, begin: u64, end: u64) {
        self.acts.push((begin, Act::Spoil(from, to, spoilt)));
        self.acts.push((end, Act::Mend(from, to)));
    }

    fn add_blackout(&mut self, rng: &mut StdRng, span_ms: u64) {
        let at = rng.random_range(span_ms / 3..span_ms * 2 / 3);
        self.acts
            .push((at, Act::End(NODES.to_vec(), Death::PowerCut)));
        for node in NODES {
            let until = at + rng.random_range(100_u64..2_000);
            self.acts.push((until, Act::Start(node)));
        }
    }

    /// Lets everything happen to the site, from now on; returns how many faults there were.
    pub async fn carry_out(&self, site: &Site) -> Result<u64, String> {
        let (begin, mut faults) = (Instant::now(), 0);
        for (at_ms, act) in &self.acts {
            sleep_until(begin + Duration::from_millis(*at_ms)).await;
            match act {
                Act::End(nodes, death) => nodes.iter().for_each(|node| site.end(*node, *death)),
                Act::Start(node) => site.start(*node).await?,
                Act::Spoil(from, to, spoilt) => site.network.set_link(*from, *to, spoilt.link()),
                Act::Mend(from, to) => site.network.set_link(*from, *to, usual_link()),
                Act::Pause(node, for_ms) => site.pause(*node, Duration::from_millis(*for_ms)),
            }
            let fault = matches!(act, Act::End(..) | Act::Spoil(..) | Act::Pause(..));
            faults += u64::from(fault);
        }
        Ok(faults)
    }
}

fn two_nodes(rng: &mut StdRng) -> (NodeId, NodeId) {
    let one = rng.random_range(0..NODES.len());
    let other = (one + rng.random_range(1..NODES.len())) % NODES.len();
    (NODES[one], NODES[other])
}
