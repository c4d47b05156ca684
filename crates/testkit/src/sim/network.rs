//! A network in memory between simulated nodes: delays, losses, cuts, and nodes that go and come back.
//!
//! Each directed pair of nodes has a [`Link`]. A call crosses one link with its request and the other with its answer;
//! what is lost leaves the caller waiting until its deadline, as a dead route does. A stream needs both links whole and
//! breaks with either.
//!
//! Invariants:
//! - all chance comes from one seeded generator, drawn in the order of events;
//! - what runs for a node's incarnation (handlers, streams) ends when the node is taken down, and its transports then
//!   only fail;
//! - a node's calls of itself cross no link.

mod calls;
mod nodes;
mod streams;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{BulkStream, CALL_BYTES_MAX, Handler, Service, Transport, TransportError};

use super::Trace;
use super::platform::draw;
use nodes::Node;

/// One direction between two nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// How long a message takes; drawn for each, so messages overtake each other. The paused clock counts whole
    /// milliseconds: finer delays round up.
    pub delay: Range<Duration>,
    /// Share of messages that get lost.
    pub lost: f64,
    /// Share of calls that are carried out twice.
    pub twice: f64,
    /// Whether nothing passes.
    pub cut: bool,
    /// What a stream gets through in a second.
    pub stream_bytes_per_second: u64,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            delay: Duration::from_millis(1)..Duration::from_millis(6),
            lost: 0.0,
            twice: 0.0,
            cut: false,
            stream_bytes_per_second: 100 << 20,
        }
    }
}

/// A simulated network; clones are the same network.
#[derive(Debug, Clone)]
pub struct SimNetwork(Arc<Net>);

#[derive(Debug)]
struct Net {
    state: Mutex<State>,
    trace: Trace,
    /// Counts the changes of links and nodes, so that streams notice.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    usual: Link,
    links: BTreeMap<(NodeId, NodeId), Link>,
    nodes: BTreeMap<NodeId, Node>,
    /// Until when nothing leaves or reaches a node.
    held: BTreeMap<NodeId, Instant>,
    /// See [`SimNetwork::calls`] and [`SimNetwork::streams`].
    calls: BTreeMap<Service, u64>,
    streams: BTreeMap<Service, u64>,
}

impl SimNetwork {
    /// A network without nodes; what happens on it is told to `trace`.
    pub fn new(seed: u64, trace: Trace) -> SimNetwork {
        let rng = StdRng::seed_from_u64(seed);
        let (links, nodes) = (BTreeMap::new(), BTreeMap::new());
        let state = Mutex::new(State {
            rng,
            usual: Link::default(),
            links,
            nodes,
            held: BTreeMap::new(),
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
        });
        SimNetwork(Arc::new(Net {
            state,
            trace,
            changes: watch::Sender::new(0),
        }))
    }

    /// The transport of a node's present run; a node that is not known yet comes up. While a node is down, its
    /// transports only fail.
    pub fn transport_of(&self, node: NodeId) -> Arc<dyn Transport> {
        let run = self.0.state().nodes.entry(node).or_default().run();
        Arc::new(SimTransport {
            net: self.0.clone(),
            node,
            run,
        })
    }

    /// Ends the node's run: its handlers and streams stop, its transports fail, calls of it are refused by nobody.
    pub fn take_down(&self, node: NodeId) {
        let stopped = {
            let mut state = self.0.state();
            state.held.remove(&node);
            state.nodes.entry(node).or_default().go_down()
        };
        // What a handler drops may call the network: not under its lock.
        drop(stopped);
        self.0.trace.event(format_args!("node {node} down"));
        self.0.changed();
    }

    /// Begins another run of a node, without handlers; ends the present one if there is one.
    pub fn bring_up(&self, node: NodeId) -> Arc<dyn Transport> {
        self.take_down(node);
        self.0.state().nodes.entry(node).or_default().come_up();
        self.0.trace.event(format_args!("node {node} up"));
        self.transport_of(node)
    }

    /// What links are like that were not set themselves.
    pub fn set_usual_link(&self, link: Link) {
        self.0.state().usual = link;
        self.0.changed();
    }

    /// Sets one direction.
    pub fn set_link(&self, from: NodeId, to: NodeId, link: Link) {
        self.0
            .trace
            .event(format_args!("link {from}>{to} {link:?}"));
        self.0.state().links.insert((from, to), link);
        self.0.changed();
    }

    /// What one direction is like now.
    pub fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.0.state().link(from, to).clone()
    }

    /// Lets nothing pass from one node to another; the way back stays.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.set_link(
            from,
            to,
            Link {
                cut: true,
                ..self.link(from, to)
            },
        );
    }

    /// Lets nothing pass between two nodes.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts every pair with one node here and the other there.
    pub fn partition(&self, here: &[NodeId], there: &[NodeId]) {
        for one in here {
            for other in there {
                self.cut(*one, *other);
            }
        }
    }

    /// Makes messages of one direction take so long.
    pub fn slow_down(&self, from: NodeId, to: NodeId, delay: Range<Duration>) {
        self.set_link(
            from,
            to,
            Link {
                delay,
                ..self.link(from, to)
            },
        );
    }

    /// Lets nothing leave or reach a node before `until`, or before its run ends; what is sent meanwhile comes late. What
    /// the node does by itself goes on.
    pub fn hold(&self, node: NodeId, until: Instant) {
        let span = until.saturating_duration_since(Instant::now());
        self.0
            .trace
            .event(format_args!("node {node} held {span:?}"));
        self.0.state().held.insert(node, until);
    }

    /// How many calls of a service were sent from node to node so far, those that got lost included.
    pub fn calls(&self, service: Service) -> u64 {
        let state = self.0.state();
        state.calls.get(&service).copied().unwrap_or_default()
    }

    /// How many streams of a service were asked for between nodes so far.
    pub fn streams(&self, service: Service) -> u64 {
        let state = self.0.state();
        state.streams.get(&service).copied().unwrap_or_default()
    }

    /// Makes every link a usual one again. Nodes that are down stay down, those that are held stay held.
    pub fn heal(&self) {
        self.0.trace.event("heal");
        self.0.state().links.clear();
        self.0.changed();
    }
}

/// What becomes of one message.
enum Fate {
    Lost,
    Arrives {
        after: Duration,
        again_after: Option<Duration>,
    },
}

impl Net {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl State {
    fn link(&self, from: NodeId, to: NodeId) -> &Link {
        self.links.get(&(from, to)).unwrap_or(&self.usual)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.link(from, to).cut
    }

    /// Draws what becomes of a message that is sent now.
    fn fate(&mut self, from: NodeId, to: NodeId) -> Fate {
        let link = self.link(from, to).clone();
        // Always the same number of draws, so that a changed chance does not shift all later ones.
        let (lost, twice) = (
            self.rng.random::<f64>() < link.lost,
            self.rng.random::<f64>() < link.twice,
        );
        let (after, again) = (
            draw(&mut self.rng, &link.delay),
            draw(&mut self.rng, &link.delay),
        );
        if link.cut || lost {
            return Fate::Lost;
        }
        let after = self.held_for(from, to) + after;
        Fate::Arrives {
            after,
            again_after: twice.then_some(after + again),
        }
    }

    /// How long what is sent now must wait for a node that is held.
    fn held_for(&self, from: NodeId, to: NodeId) -> Duration {
        let now = Instant::now();
        let ends = [from, to]
            .into_iter()
            .filter_map(|node| self.held.get(&node));
        let waits = ends.map(|until| until.saturating_duration_since(now));
        waits.max().unwrap_or_default()
    }

    fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node).filter(|node| node.is_up())
    }

    /// Whether this is the node's present run.
    fn runs(&self, node: NodeId, run: u64) -> bool {
        self.node(node).is_some_and(|node| node.run() == run)
    }
}

/// [`Transport`] of one run of a node.
#[derive(Debug, Clone)]
struct SimTransport {
    net: Arc<Net>,
    node: NodeId,
    run: u64,
}

impl SimTransport {
    fn check_run(&self, to: NodeId) -> Result<(), TransportError> {
        if self.net.state().runs(self.node, self.run) {
            return Ok(());
        }
        Err(unreachable(to, "this run of the calling node is over"))
    }
}

#[async_trait]
impl Transport for SimTransport {
    async fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        if body.len() > CALL_BYTES_MAX {
            return Err(TransportError::TooLarge(body.len()));
        }
        self.check_run(to)?;
        let until = Instant::now() + deadline;
        match to == self.node {
            true => calls::call_self(self, service, body, until).await,
            false => calls::call(self, to, service, body, until).await,
        }
    }

    async fn stream(
        &self,
        to: NodeId,
        service: Service,
        header: Bytes,
    ) -> Result<BulkStream, TransportError> {
        self.check_run(to)?;
        match to == self.node {
            true => streams::open_to_self(self, service, header),
            false => streams::open(self, to, service, header).await,
        }
    }

    fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        let mut state = self.net.state();
        if state.runs(self.node, self.run)
            && let Some(node) = state.nodes.get_mut(&self.node)
        {
            node.serve(service, handler);
        }
    }
}

fn unreachable(node: NodeId, why: &str) -> TransportError {
    TransportError::Unreachable {
        node,
        why: why.to_owned(),
    }
}

fn refused(node: NodeId, service: Service) -> TransportError {
    TransportError::Refused {
        node,
        why: format!("service {} is not offered", service.0),
    }
}

#[cfg(test)]
mod tests;
