//! The simulated site: three machines with their disks, the network between them, and what can happen to them.
//!
//! A run that ends by a power cut or a kill loses disk and network at one instant; its tasks are wound up afterwards and
//! can't do anything any more that matters.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ids::NodeId;
use platform::Platform;
use rand::SeedableRng;
use rand::rngs::StdRng;
use testkit::sim::{Link, SimDisk, SimNetwork, SimPlatform, SimPlatformConfig, Trace};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::disk::{Stall, Tap, TappedPlatform};
use crate::journal::lock;
use crate::node::{NODES, Node, Shape, in_words};
use crate::replicas;

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(20);
/// How long three new nodes may take to become a site.
const FOUND_MAX: Duration = Duration::from_secs(60);
/// Timers go by whole milliseconds: shorter times would all become one.
const DISK_LATENCY: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(4);
const NETWORK_DELAY: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(6);

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// What was not synced is lost, or torn.
    PowerCut,
    /// Only the process is gone.
    Kill,
}

/// See the module.
pub struct Site {
    seed: u64,
    shape: Shape,
    trace: Trace,
    /// The network.
    pub network: SimNetwork,
    places: Mutex<BTreeMap<NodeId, Place>>,
    chance: Mutex<StdRng>,
    disks_lie: Arc<AtomicBool>,
    burials: Mutex<Vec<JoinHandle<()>>>,
}

/// One machine.
#[derive(Default)]
struct Place {
    disk: SimDisk,
    runs: u64,
    node: Option<Arc<Node>>,
    /// Of the present run.
    stall: Stall,
}

/// What links are like without faults.
pub fn usual_link() -> Link {
    Link {
        delay: NETWORK_DELAY,
        ..Link::default()
    }
}

impl Site {
    /// Three machines with empty disks; nothing runs.
    pub fn new(seed: u64, shape: Shape, trace: Trace) -> Site {
        let network = SimNetwork::new(seed, trace.clone());
        network.set_usual_link(usual_link());
        let places = NODES.map(|node| (node, Place::default()));
        Site {
            seed,
            shape,
            trace,
            network,
            places: Mutex::new(places.into()),
            chance: Mutex::new(StdRng::seed_from_u64(!seed)),
            disks_lie: Arc::default(),
            burials: Mutex::default(),
        }
    }

    /// Starts all nodes, founds every group on the first and waits until all nodes are members of all groups.
    pub async fn found(&self) -> Result<(), String> {
        self.start_all().await?;
        let nodes = self.nodes();
        for group in self.shape.groups() {
            nodes[0].groups.bootstrap(group).await.map_err(in_words)?;
        }
        let end = Instant::now() + FOUND_MAX;
        while let Err(why) = replicas::at_rest(&nodes) {
            if Instant::now() >= end {
                return Err(format!("the site was not founded in {FOUND_MAX:?}: {why}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// From now on the logs' disks confirm syncs that they don't carry out.
    pub fn let_disks_lie(&self) {
        self.disks_lie.store(true, Ordering::Relaxed);
    }

    /// The nodes that are up, in the order of their numbers.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let places = lock(&self.places);
        places
            .values()
            .filter_map(|place| place.node.clone())
            .collect()
    }

    /// A node, if it is up.
    pub fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        lock(&self.places).get(&id)?.node.clone()
    }

    /// Starts a node; fine when it is up.
    pub async fn start(&self, id: NodeId) -> Result<(), String> {
        let Some((disk, stall, run)) = self.next_run(id) else {
            return Ok(());
        };
        self.trace.event(format_args!("node {id} begins run {run}"));
        let platform = self.platform(id, run, disk, stall);
        let transport = self.network.bring_up(id);
        // A task of its own: a panic in there is the node's, not the simulation's.
        let booting = tokio::spawn(Node::boot(id, self.shape.clone(), platform, transport));
        let node = match timeout(START_MAX, booting).await {
            Ok(Ok(Ok(node))) => Arc::new(node),
            Ok(Ok(Err(why))) => return Err(format!("node {id} did not start: {why}")),
            Ok(Err(panic)) => return Err(format!("node {id} did not start: {panic}")),
            Err(_) => return Err(format!("node {id} did not start in {START_MAX:?}")),
        };
        if let Some(place) = lock(&self.places).get_mut(&id) {
            place.node = Some(node);
        }
        Ok(())
    }

    /// Starts every node that is down.
    pub async fn start_all(&self) -> Result<(), String> {
        for id in NODES {
            self.start(id).await?;
        }
        Ok(())
    }

    fn next_run(&self, id: NodeId) -> Option<(SimDisk, Stall, u64)> {
        let mut places = lock(&self.places);
        let place = places.get_mut(&id).filter(|place| place.node.is_none())?;
        place.runs += 1;
        place.stall = Stall::default();
        Some((place.disk.clone(), place.stall.clone(), place.runs))
    }

    /// The machine for a run; chance is another one in each.
    fn platform(&self, id: NodeId, run: u64, disk: SimDisk, stall: Stall) -> Arc<dyn Platform> {
        let config = SimPlatformConfig {
            seed: self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (id.0 << 32) ^ run,
            latency: DISK_LATENCY,
            ..SimPlatformConfig::default()
        };
        let tap = Tap {
            node: id,
            trace: self.trace.clone(),
            lies: self.disks_lie.clone(),
        };
        let platform = SimPlatform::new(disk, config);
        Arc::new(TappedPlatform::new(platform, stall, tap))
    }

    /// Ends the present run of a node; fine when it is down.
    pub fn end(&self, id: NodeId, death: Death) {
        let Some(node) = self.lose(id, death) else {
            return;
        };
        self.network.take_down(id);
        node.take_away();
        let burial = tokio::spawn(async move { node.bury().await });
        lock(&self.burials).push(burial);
    }

    /// Lets a node stand still for so long: its messages and its blocking work wait. Its timers and its memory don't, so what
    /// it answers by itself it still answers. Fine when it is down.
    pub fn pause(&self, id: NodeId, span: Duration) {
        let places = lock(&self.places);
        let Some(place) = places.get(&id).filter(|place| place.node.is_some()) else {
            return;
        };
        let until = Instant::now() + span;
        place.stall.hold(until);
        self.network.hold(id, until);
    }

    /// Takes the disk from the run, at once.
    fn lose(&self, id: NodeId, death: Death) -> Option<Arc<Node>> {
        let mut places = lock(&self.places);
        let place = places.get_mut(&id)?;
        let node = place.node.take()?;
        self.trace.event(format_args!("{death:?} of node {id}"));
        place.disk = match death {
            Death::PowerCut => place.disk.crash(&mut lock(&self.chance)),
            Death::Kill => place.disk.restart(),
        };
        Some(node)
    }

    /// Makes all links whole and starts what is down.
    pub async fn heal(&self) -> Result<(), String> {
        self.network.heal();
        self.start_all().await
    }

    /// Waits for the tasks of ended runs.
    pub async fn bury_all(&self) -> Result<(), String> {
        let burials = std::mem::take(&mut *lock(&self.burials));
        for burial in burials {
            burial.await.map_err(in_words)?;
        }
        Ok(())
    }
}
