//! Which peers were heard lately: a failure detector for pairs of nodes.
//!
//! Each node feeds what it hears from each peer and asks now and then what follows. Times are durations since the start of
//! this process, on a clock that never goes back; there is no clock in here.
//!
//! Invariants:
//! - events of a peer alternate: `Suspected` only for one that was trusted, `Alive` only for one that was suspected;
//! - a peer that was never heard is trusted until `suspect_after` has passed since it was named;
//! - a late message of a run that is known to have been replaced counts for nothing.
//!
//! A suspicion is an opinion of one node about one other: it may pick another copy or another leader, but it never changes
//! who is a member.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ids::{Incarnation, NodeId};

/// Timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How often a node that has nothing else to say sends a heartbeat to each peer.
    pub heartbeat_every: Duration,
    /// Silence after which a peer is suspected.
    pub suspect_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            heartbeat_every: Duration::from_millis(200),
            suspect_after: Duration::from_secs(3),
        }
    }
}

/// What changed about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing was heard for [`Options::suspect_after`].
    Suspected(NodeId),
    /// A suspected peer was heard again.
    Alive(NodeId),
    /// A peer runs anew: what its old run promised by lease is void. Not reported for the first run that is heard.
    Restarted(NodeId, Incarnation),
}

#[derive(Debug, Clone)]
struct Peer {
    heard_at: Duration,
    incarnation: Option<Incarnation>,
    replaced: Option<Incarnation>,
    suspected: bool,
}

/// See the module. Holds one small record per named peer.
#[derive(Debug, Clone)]
pub struct Detector {
    options: Options,
    peers: BTreeMap<NodeId, Peer>,
}

impl Detector {
    /// A detector without peers.
    pub fn new(options: Options) -> Self {
        Detector {
            options,
            peers: BTreeMap::new(),
        }
    }

    /// The timeouts.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Names the peers to watch; others are forgotten, new ones are trusted for a while.
    pub fn set_peers(&mut self, peers: &BTreeSet<NodeId>, now: Duration) {
        self.peers.retain(|node, _| peers.contains(node));
        for &node in peers {
            let new = Peer {
                heard_at: now,
                incarnation: None,
                replaced: None,
                suspected: false,
            };
            self.peers.entry(node).or_insert(new);
        }
    }

    /// Takes note that `node` was heard. Nodes that aren't watched are ignored.
    pub fn heard(&mut self, node: NodeId, incarnation: Incarnation, at: Duration) -> Vec<Event> {
        let Some(peer) = self.peers.get_mut(&node) else {
            return Vec::new();
        };
        if peer.replaced == Some(incarnation) {
            return Vec::new();
        }
        peer.heard_at = peer.heard_at.max(at);
        let mut events = Vec::new();
        match peer.incarnation.replace(incarnation) {
            Some(old) if old != incarnation => {
                peer.replaced = Some(old);
                events.push(Event::Restarted(node, incarnation));
            }
            _ => {}
        }
        if std::mem::take(&mut peer.suspected) {
            events.push(Event::Alive(node));
        }
        events
    }

    /// Suspects the peers that have been silent for too long, ascending by node.
    pub fn tick(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        for (&node, peer) in &mut self.peers {
            let silent = now.saturating_sub(peer.heard_at);
            if !peer.suspected && silent >= self.options.suspect_after {
                peer.suspected = true;
                events.push(Event::Suspected(node));
            }
        }
        events
    }

    /// When [`Detector::tick`] may next have something to say.
    pub fn next_tick(&self) -> Option<Duration> {
        let trusted = self.peers.values().filter(|peer| !peer.suspected);
        trusted
            .map(|peer| peer.heard_at + self.options.suspect_after)
            .min()
    }

    /// Whether a peer is watched and not suspected.
    pub fn is_trusted(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| !peer.suspected)
    }

    /// The peers that are suspected, ascending.
    pub fn suspected(&self) -> Vec<NodeId> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.suspected)
            .map(|(&node, _)| node)
            .collect()
    }

    /// How long a peer has been silent, if it's watched.
    pub fn silence(&self, node: NodeId, now: Duration) -> Option<Duration> {
        self.peers
            .get(&node)
            .map(|peer| now.saturating_sub(peer.heard_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);
    const RUN: Incarnation = Incarnation([1; 16]);
    const NEXT_RUN: Incarnation = Incarnation([2; 16]);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn detector() -> Detector {
        let mut detector = Detector::new(Options {
            suspect_after: ms(1000),
            ..Options::default()
        });
        detector.set_peers(&BTreeSet::from([A, B]), ms(0));
        detector
    }

    #[test]
    fn silence_is_suspected_once_and_a_word_lifts_it() {
        let mut detector = detector();
        assert_eq!(detector.heard(A, RUN, ms(500)), []);
        assert_eq!(detector.next_tick(), Some(ms(1000)));
        assert_eq!(detector.tick(ms(999)), []);
        assert_eq!(detector.tick(ms(1000)), [Event::Suspected(B)]);
        assert_eq!(detector.tick(ms(1400)), []);
        assert_eq!(
            (detector.is_trusted(A), detector.is_trusted(B)),
            (true, false)
        );
        assert_eq!(detector.heard(B, RUN, ms(1450)), [Event::Alive(B)]);
        assert_eq!(detector.tick(ms(1500)), [Event::Suspected(A)]);
        assert_eq!(detector.suspected(), [A]);
        assert_eq!(detector.silence(B, ms(1500)), Some(ms(50)));
    }

    #[test]
    fn a_new_run_is_told_and_its_predecessor_is_not_believed_again() {
        let mut detector = detector();
        detector.heard(A, RUN, ms(10));
        detector.tick(ms(1010));
        let told = detector.heard(A, NEXT_RUN, ms(1020));
        assert_eq!(told, [Event::Restarted(A, NEXT_RUN), Event::Alive(A)]);
        assert_eq!(detector.heard(A, RUN, ms(1900)), []);
        assert_eq!(detector.tick(ms(2020)), [Event::Suspected(A)]);
        assert_eq!(detector.heard(A, NEXT_RUN, ms(2021)), [Event::Alive(A)]);
    }

    #[test]
    fn strangers_are_ignored_and_late_reports_do_not_turn_time_back() {
        let mut detector = detector();
        assert_eq!(detector.heard(NodeId(9), RUN, ms(1)), []);
        assert!(!detector.is_trusted(NodeId(9)));
        detector.heard(A, RUN, ms(800));
        detector.heard(A, RUN, ms(300));
        assert_eq!(detector.tick(ms(1799)), [Event::Suspected(B)]);
        detector.set_peers(&BTreeSet::from([B, NodeId(9)]), ms(2000));
        assert_eq!(detector.suspected(), [B]);
        assert_eq!(detector.tick(ms(3000)), [Event::Suspected(NodeId(9))]);
    }
}
