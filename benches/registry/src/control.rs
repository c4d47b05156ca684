//! What the benchmark tells the processes of the nodes, and what they answer: a line of JSON each, over standard input
//! and output. Each question gets one answer.

use ids::{NodeId, Revision};
use raft_groups::GroupStatus;
use serde::{Deserialize, Serialize};

/// To a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// Where all members listen: start.
    Start(Vec<(NodeId, String)>),
    /// Found the registry's group.
    Bootstrap,
    /// How does the registry's group stand?
    Status,
    /// Make durable in the database what was applied.
    Checkpoint,
    /// Let watchers follow all items.
    Watch {
        /// Changes up to here don't count.
        from: Revision,
        /// How many watchers.
        watchers: u32,
        /// A watcher ends when it has seen so many changes.
        changes: u32,
    },
    /// Wait until all watchers have ended.
    AwaitWatchers,
    /// Compare what the watchers saw with what was.
    Judge(Truth),
    /// Stop.
    Stop,
}

/// From a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    /// Where it listens: said once, unasked.
    Listening(String),
    /// It was done.
    Done,
    /// See [`Ask::Status`].
    Status(GroupStatus),
    /// To [`Ask::AwaitWatchers`]: when this replica saw revisions committed, by the monotonic clock.
    Commits(Vec<(Revision, u64)>),
    /// See [`Ask::Judge`].
    Verdict(Verdict),
    /// It could not be done, in words.
    Failed(String),
}

/// The changes in the order of their revisions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Truth {
    /// When each was sent, by the monotonic clock.
    pub sent_ns: Vec<u64>,
    /// When each was committed.
    pub committed_ns: Vec<u64>,
    /// Of all revisions and numbers, see [`Digest`].
    pub digest: Digest,
}

/// What came of the watchers of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// How many saw every change, in order, each once.
    pub complete: u32,
    /// What happened to the others, in words.
    pub wrong: Vec<String>,
    /// From commit to delivery, as pairs of microseconds and how often; of the complete watchers.
    pub from_commit: Vec<(u64, u64)>,
    /// From sending to delivery.
    pub from_send: Vec<(u64, u64)>,
}

/// Tells one sequence of changes from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest(u64);

impl Digest {
    /// Of the sequence with one more change.
    pub fn then(self, revision: Revision, number: u64) -> Digest {
        const PRIME: u64 = 0x0000_0100_0000_01B3;
        let with = |digest: u64, word: u64| (digest.rotate_left(25) ^ word).wrapping_mul(PRIME);
        Digest(with(with(self.0, revision.0), number))
    }
}
