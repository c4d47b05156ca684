//! Promise: a replica that was away for so long that the others have let go of what it lacks gets their state as a
//! snapshot, whatever happens on the way, and the others go on meanwhile.
//!
//! The state is larger than two chunks of a snapshot (512 KiB each), and the log is kept small.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, NodeId, OperationId};
use raft_machine::Groups;
use testkit::sim::{Link, Trace};
use tokio::time::{Instant, sleep};
use transport::Service;

use crate::node::{CALL_LIMIT, NODES, Node, Shape, in_words, voters};
use crate::replicas;
use crate::site::{Death, Site, usual_link};

const GROUP: GroupId = GroupId(1);
/// Who is away: a follower.
const AWAY: NodeId = NODES[2];
const ROWS: u64 = 64;
const ROW_BYTES: usize = 32 << 10;
const SMALL_BYTES: usize = 16;
const LOG_BYTES_MAX: u64 = 128 << 10;
/// The whole snapshot takes eight seconds then.
const SLOW_BYTES_PER_SECOND: u64 = 256 << 10;
/// Somewhere in the middle of it.
const HALF_WAY: Duration = Duration::from_secs(3);
/// Longer than a sender waits for its receiver (30 s).
const STANDSTILL: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens while a snapshot is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The link is cut; the next time the receiver loses power.
    CutThenCrash,
    /// The receiver stands still for longer than the sender waits.
    Standstill,
}

/// Runs the story.
pub async fn run(seed: u64, trouble: Trouble) -> Result<(), String> {
    let shape = Shape {
        ledgers: 1,
        log_bytes_max: LOG_BYTES_MAX,
        ..Shape::default()
    };
    let mut story = Story {
        site: Site::new(seed, shape, Trace::new()),
        written: 0,
    };
    story.site.found().await?;
    if voters(GROUP)[0] == AWAY {
        return Err("the story wants a follower to be away".into());
    }
    story.append(SMALL_BYTES).await?;
    let lacks_from = story.log_next(AWAY)?;
    story.site.end(AWAY, Death::PowerCut);
    for _ in 0..ROWS {
        story.append(ROW_BYTES).await?;
    }
    story.until_trimmed(lacks_from).await?;
    match trouble {
        Trouble::None => story.site.start(AWAY).await?,
        Trouble::CutThenCrash => story.cut_then_crash().await?,
        Trouble::Standstill => story.stand_still().await?,
    }
    story.site.network.heal();
    replicas::agree(&story.site).await?;
    if story.installed() == 0 {
        return Err("the replica caught up without a snapshot: the story shows nothing".into());
    }
    story.append(SMALL_BYTES).await?;
    replicas::agree(&story.site).await?;
    story.site.bury_all().await
}

struct Story {
    site: Site,
    written: u64,
}

impl Story {
    /// Appends a command by way of a node that is up all the time.
    async fn append(&mut self, bytes: usize) -> Result<(), String> {
        self.written += 1;
        let operation = OperationId(u128::from(self.written).to_be_bytes());
        let command = Bytes::from(vec![self.written as u8; bytes]);
        let node = self.site.node(NODES[0]).ok_or("node 1 is down")?;
        let proposal = node.groups.propose(GROUP, operation, command, CALL_LIMIT);
        proposal.await.map(drop).map_err(in_words)
    }

    /// The index after the last entry in a node's log.
    fn log_next(&self, id: NodeId) -> Result<u64, String> {
        let node = self.site.node(id).ok_or("the node is down")?;
        let state = node.wal.group(GROUP).ok_or("the log lacks the group")?;
        Ok(state.next)
    }

    /// Waits until both nodes that are up have let go of entries that the third lacks.
    async fn until_trimmed(&mut self, lacks_from: u64) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let nodes = self.site.nodes();
            let first = |node: &Arc<Node>| node.wal.group(GROUP).map_or(0, |state| state.first);
            let first: Vec<u64> = nodes.iter().map(first).collect();
            if first.iter().all(|first| *first > lacks_from) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(format!(
                    "the logs begin at {first:?} {PATIENCE:?} after they outgrew their bound; node {AWAY} lacks {lacks_from}"
                ));
            }
            sleep(Duration::from_millis(200)).await;
            self.append(SMALL_BYTES).await?;
        }
    }

    fn slow_down(&self) {
        for id in NODES.into_iter().filter(|id| *id != AWAY) {
            let link = Link {
                stream_bytes_per_second: SLOW_BYTES_PER_SECOND,
                ..usual_link()
            };
            self.site.network.set_link(id, AWAY, link);
        }
    }

    /// Snapshots that the replica has put into force.
    fn installed(&self) -> u32 {
        let node = self.site.node(AWAY);
        node.and_then(|node| node.groups.snapshots_installed(GROUP))
            .unwrap_or_default()
    }

    /// Waits until a snapshot is on its way, and then until it is about half there.
    async fn half_way(&self, sent_before: u64) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while self.snapshots_sent() == sent_before {
            if Instant::now() >= end {
                return Err(format!("no snapshot was sent in {PATIENCE:?}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        sleep(HALF_WAY).await;
        match self.installed() {
            0 => Ok(()),
            _ => Err("the snapshot was there too soon: the story shows nothing".into()),
        }
    }

    fn snapshots_sent(&self) -> u64 {
        self.site.network.streams(Service::RAFT)
    }

    async fn cut_then_crash(&mut self) -> Result<(), String> {
        self.slow_down();
        let sent = self.snapshots_sent();
        self.site.start(AWAY).await?;
        self.half_way(sent).await?;
        self.site.network.partition(&[AWAY], &[NODES[0], NODES[1]]);
        sleep(Duration::from_secs(1)).await;
        self.append(SMALL_BYTES).await?;

        let sent = self.snapshots_sent();
        self.site.network.heal();
        self.slow_down();
        self.half_way(sent).await?;
        self.site.end(AWAY, Death::PowerCut);
        self.append(SMALL_BYTES).await?;
        self.site.start(AWAY).await
    }

    async fn stand_still(&mut self) -> Result<(), String> {
        self.slow_down();
        let sent = self.snapshots_sent();
        self.site.start(AWAY).await?;
        self.half_way(sent).await?;
        let (sent, goes_on) = (self.snapshots_sent(), Instant::now() + STANDSTILL);
        self.site.pause(AWAY, STANDSTILL);
        while Instant::now() < goes_on {
            self.append(SMALL_BYTES).await?;
            sleep(Duration::from_secs(1)).await;
        }
        self.site.network.heal();
        let end = Instant::now() + PATIENCE;
        while self.installed() == 0 && Instant::now() < end {
            sleep(Duration::from_millis(100)).await;
        }
        match self.snapshots_sent() > sent {
            true => Ok(()),
            false => Err("the sender never gave up a receiver that stood still".into()),
        }
    }
}
