//! Promise: a linearizable read shows every write that was acknowledged before it began, also while a leader does not
//! know yet that it leads no more.
//!
//! Each node has a writer and a reader of one ledger that ask this node only, so that a leader that was left behind is
//! asked all the time. [`Squeeze`]s leave it behind in the ways in which a lease could turn out too long. A lease is
//! 2.5 s; without a word of the leader the others elect after two to two and a half seconds more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, NodeId, OperationId};
use raft_machine::{Freshness, Groups};
use testkit::sim::Trace;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::journal::{Journal, lock};
use crate::machine::{LENGTH, number};
use crate::node::{NODES, Node, Shape, voters};
use crate::replicas;
use crate::site::{Death, Site};

const GROUP: GroupId = GroupId(1);
/// A short wait, so that a node that reaches nobody is asked again soon.
const ANSWER_MAX: Duration = Duration::from_millis(300);
const PACE_MS: std::ops::Range<u64> = 20..80;
/// Long enough for the others to elect.
const AWAY: Duration = Duration::from_secs(7);
/// For so long a follower hears nothing of its leader, in milliseconds: it stands for election about a second later.
const DEAF_MS: std::ops::Range<u64> = 3_400..3_900;
/// How long the preferred leader may take to lead again.
const GRACE: Duration = Duration::from_secs(30);

/// A way to leave a leader behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squeeze {
    /// It reaches nobody.
    CutOff,
    /// It stands still, then goes on.
    Pause,
    /// One follower hears nothing of it for a while. Then it reaches nobody, and in that moment the other follower, whose
    /// word the lease rests on, is killed and started again: it has forgotten its word.
    ForgetfulVoter,
}

/// What is known of the ledger.
struct Watched {
    journal: Arc<Journal>,
    /// Somebody knows that it is this long.
    length: Mutex<u64>,
    writing: AtomicBool,
    /// Reads that were answered.
    reads: Mutex<u64>,
}

/// What a run has shown.
pub struct Report {
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that lacked something.
    pub stale: Vec<String>,
}

/// Squeezes the leader in each of these ways, one after the other.
pub async fn run(seed: u64, shape: Shape, squeezes: &[Squeeze]) -> Result<Report, String> {
    let trace = Trace::new();
    let journal = Arc::new(Journal::new(trace.clone()));
    let site = Arc::new(Site::new(
        seed,
        Shape {
            ledgers: 1,
            ..shape
        },
        trace,
    ));
    site.found().await?;
    let watched = Arc::new(Watched {
        journal: journal.clone(),
        length: Mutex::default(),
        writing: AtomicBool::new(true),
        reads: Mutex::default(),
    });
    let mut clients = JoinSet::new();
    for id in NODES {
        let client = |number| Client::new(&site, &journal, seed, number);
        let (writer, reader) = (client(id.0), client(id.0 + NODES.len() as u64));
        clients.spawn(watched.clone().write(site.clone(), id, writer));
        clients.spawn(watched.clone().read(site.clone(), id, reader));
    }
    let mut chance = Client::new(&site, &journal, seed, 2 * NODES.len() as u64 + 1);
    for squeeze in squeezes {
        until_preferred_leads(&site).await?;
        watched.squeeze(&site, *squeeze, &mut chance).await?;
    }
    until_preferred_leads(&site).await?;
    journal.close();
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| format!("a client failed: {error}"))?;
    }
    replicas::agree(&site).await?;
    site.bury_all().await?;
    let reads = *lock(&watched.reads);
    Ok(Report {
        reads,
        writes: journal.acknowledged_total(),
        stale: journal.all_wrong(),
    })
}

impl Watched {
    async fn write(self: Arc<Self>, site: Arc<Site>, id: NodeId, mut client: Client) {
        while self.journal.is_open() {
            sleep(Duration::from_millis(client.pick(PACE_MS))).await;
            let Some(node) = site.node(id) else { continue };
            if !self.writing.load(Ordering::Relaxed) {
                continue;
            }
            let tag = client.tag();
            let operation = OperationId(u128::from(tag).to_be_bytes());
            let command = Bytes::copy_from_slice(&tag.to_be_bytes());
            let proposal = node.groups.propose(GROUP, operation, command, ANSWER_MAX);
            let Some(Ok(place)) = node.meanwhile(proposal).await else {
                continue;
            };
            match number(&place) {
                Some(place) => {
                    self.journal
                        .acknowledged(format_args!("tag {tag} by node {id}: place {place}"));
                    self.is_long(place + 1);
                }
                None => self
                    .journal
                    .wrong(format_args!("tag {tag}: the place is {place:?}")),
            }
        }
    }

    async fn read(self: Arc<Self>, site: Arc<Site>, id: NodeId, mut client: Client) {
        while self.journal.is_open() {
            sleep(Duration::from_millis(client.pick(PACE_MS))).await;
            if let Some(node) = site.node(id) {
                node.meanwhile(self.read_once(&node)).await;
            }
        }
    }

    async fn read_once(&self, node: &Node) {
        let due = *lock(&self.length);
        let query = node
            .groups
            .query(GROUP, LENGTH.into(), Freshness::Linearizable, ANSWER_MAX);
        let Ok(answer) = query.await else { return };
        let length = number(&answer).unwrap_or_default();
        *lock(&self.reads) += 1;
        if length < due {
            self.journal.wrong(format_args!(
                "node {} read length {length}, but it was {due} before the read began",
                node.id
            ));
        }
        self.is_long(length);
    }

    fn is_long(&self, length: u64) {
        let mut known = lock(&self.length);
        *known = length.max(*known);
    }

    async fn squeeze(
        &self,
        site: &Site,
        squeeze: Squeeze,
        chance: &mut Client,
    ) -> Result<(), String> {
        self.journal.note(format_args!("{squeeze:?}"));
        let leader = voters(GROUP)[0];
        let mut others = voters(GROUP)[1..].to_vec();
        others.rotate_left(chance.pick(0..2) as usize);
        match squeeze {
            Squeeze::CutOff => {
                site.network.partition(&[leader], &others);
                sleep(AWAY).await;
            }
            Squeeze::Pause => {
                site.pause(leader, AWAY);
                sleep(AWAY).await;
            }
            Squeeze::ForgetfulVoter => {
                let (deaf, forgetful) = (others[0], others[1]);
                // No writes until then: a follower that lacks entries would not be elected.
                self.writing.store(false, Ordering::Relaxed);
                sleep(2 * ANSWER_MAX).await;
                site.network.cut(leader, deaf);
                sleep(Duration::from_millis(chance.pick(DEAF_MS))).await;
                site.network.cut(leader, forgetful);
                site.end(forgetful, Death::Kill);
                site.start(forgetful).await?;
                self.writing.store(true, Ordering::Relaxed);
                sleep(AWAY).await;
            }
        }
        site.network.heal();
        Ok(())
    }
}

async fn until_preferred_leads(site: &Site) -> Result<(), String> {
    let end = Instant::now() + GRACE;
    let preferred = voters(GROUP)[0];
    let leads_to_all = || {
        let nodes = site.nodes();
        let known = nodes.iter().flat_map(|node| node.groups.status());
        let known =
            known.filter(|status| status.group == GROUP && status.leader == Some(preferred));
        known.count() == NODES.len()
    };
    while !leads_to_all() {
        if Instant::now() >= end {
            return Err(format!(
                "node {preferred} does not lead group {GROUP} again {GRACE:?} after the faults"
            ));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
