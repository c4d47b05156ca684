//! Writing a block to its servers, and reading it from whichever has a good copy first.
//!
//! Copies are written in a task of their own. Until a quorum is durable it stops when its caller leaves; then it answers,
//! and sees the copies through that nobody waits for: each tries at most twice, each try ends by a deadline, and together
//! they have a bound of memory. What had not confirmed by the answer is debt even if it comes: repair finds the copy
//! there.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ids::{BlockId, NodeId};
use object_core::api::{ObjectError, Result};
use object_core::meta::BlockRecord;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::gateway::Context;
use crate::service::CopyError;

/// How many copies must be durable before a block counts as written.
pub fn write_quorum(servers: usize) -> usize {
    servers.min(2)
}

/// A block on its way to its servers.
struct NewBlock {
    id: BlockId,
    hash: [u8; 32],
    data: Bytes,
}

/// What became of a block's copies so far.
#[derive(Default)]
struct Tally {
    stored: Vec<NodeId>,
    failures: Vec<CopyError>,
}

impl Context {
    /// Sends a block to all its servers at once and waits for a quorum of durable copies, then a short while for the
    /// rest; servers that did not confirm by then are recorded as missing it.
    pub async fn write_block(
        self: &Arc<Self>,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<BlockRecord> {
        let map = self.placement.current();
        let servers = map.block_servers(&id);
        if servers.is_empty() {
            return Err(ObjectError::Unavailable(
                "the placement map names no server for blocks".into(),
            ));
        }
        let len = data.len() as u32;
        let (answer, written) = oneshot::channel();
        let block = NewBlock { id, hash, data };
        tokio::spawn(self.clone().write_copies(block, servers, answer));
        let missing = written
            .await
            .map_err(|_| ObjectError::Internal("the writing of a block broke off".into()))??;
        self.metrics.blocks_written_total.add(1);
        self.metrics
            .blocks_debt_recorded_total
            .add(missing.len() as u64);
        Ok(BlockRecord {
            len,
            hash,
            epoch: map.epoch(),
            missing,
        })
    }

    /// Writes the copies; answers with the servers that lack theirs.
    async fn write_copies(
        self: Arc<Self>,
        block: NewBlock,
        servers: Vec<NodeId>,
        mut answer: oneshot::Sender<Result<Vec<NodeId>>>,
    ) {
        let (context, block) = (&*self, &block);
        let copy =
            |server: NodeId| async move { (server, context.write_copy(server, block).await) };
        let mut running: FuturesUnordered<_> = servers.iter().map(|server| copy(*server)).collect();
        let quorum = write_quorum(servers.len());
        let mut tally = Tally::default();
        while tally.stored.len() < quorum && tally.stored.len() + running.len() >= quorum {
            let next = tokio::select! {
                biased;
                // Nobody is left who would name the block.
                () = answer.closed() => return,
                next = running.next() => next,
            };
            let Some((server, result)) = next else { break };
            context.note_copy(block.id, server, result, &mut tally);
        }
        if tally.stored.len() < quorum {
            let _ = answer.send(Err(tally.too_few(servers.len(), quorum)));
            return;
        }
        let in_time = Instant::now() + context.options.laggard_wait;
        let wait_until = context.wait_until(&servers, &tally.stored, in_time);
        while let Ok(Some((server, result))) = timeout_at(wait_until, running.next()).await {
            context.note_copy(block.id, server, result, &mut tally);
        }
        let missing: Vec<NodeId> = servers
            .iter()
            .filter(|server| !tally.stored.contains(server))
            .copied()
            .collect();
        if Instant::now() >= in_time {
            missing.iter().for_each(|server| context.slow.note(*server));
        }
        let _ = answer.send(Ok(missing));
        if running.is_empty() {
            return;
        }
        let Some(_room) = context.limits.late_room(block.data.len()) else {
            tracing::debug!(block = %block.id, "no memory is left for late copies: repair makes this one");
            return;
        };
        while let Some((server, result)) = running.next().await {
            context.note_copy(block.id, server, result, &mut tally);
            if Instant::now() >= in_time {
                context.slow.note(server);
            }
        }
    }

    /// How long the copies beyond the quorum are waited for: not at all, where only slow nodes are left.
    fn wait_until(&self, servers: &[NodeId], stored: &[NodeId], in_time: Instant) -> Instant {
        let mut waited_for = servers.iter().filter(|server| !stored.contains(server));
        if waited_for.all(|server| self.slow.is_slow(*server)) {
            Instant::now()
        } else {
            in_time
        }
    }

    /// Remembers how a copy ended: who failed is slow, who did its work is not any more.
    fn note_copy(
        &self,
        id: BlockId,
        server: NodeId,
        result: std::result::Result<(), CopyError>,
        tally: &mut Tally,
    ) {
        match result {
            Ok(()) => {
                self.slow.forget(server);
                tally.stored.push(server);
            }
            Err(error) => {
                tracing::debug!(block = %id, %server, %error, "a copy was not written");
                self.slow.note(server);
                tally.failures.push(error);
            }
        }
    }

    async fn write_copy(
        &self,
        server: NodeId,
        block: &NewBlock,
    ) -> std::result::Result<(), CopyError> {
        let put = || {
            self.peers
                .put(server, block.id, block.hash, block.data.clone())
        };
        match put().await {
            // A connection may have gone stale; the put may be repeated.
            Err(CopyError::Unreachable(_) | CopyError::Busy(_)) => {
                sleep(self.options.copy_retry_pause).await;
                put().await
            }
            result => result,
        }
    }

    /// Reads a block from its copies: this node's own first, then the others; the next one is asked when a copy fails or
    /// takes too long. The bytes are verified.
    pub async fn read_block(&self, id: BlockId, record: &BlockRecord) -> Result<Bytes> {
        let mut left = self.holders(&id, record).into_iter();
        let mut running = FuturesUnordered::new();
        let mut failures: Vec<CopyError> = Vec::new();
        let ask = |server: NodeId| async move {
            let began = Instant::now();
            let result = self.peers.get(server, id, record.len, record.hash).await;
            if result.is_ok() && server != self.peers.me() {
                self.read_times.note(began.elapsed());
            }
            result
        };
        running.extend(left.next().map(ask));
        loop {
            if running.is_empty() {
                return Err(lost(id, &failures));
            }
            let hedge = sleep(self.read_times.hedge_after(self.options.hedge_after));
            tokio::select! {
                biased;
                Some(result) = running.next() => match result {
                    Ok(data) => {
                        self.metrics.blocks_read_total.add(1);
                        return Ok(data);
                    }
                    Err(error) => {
                        self.note_failed_copy(id, &error);
                        failures.push(error);
                        running.extend(left.next().map(ask));
                    }
                },
                () = hedge, if left.len() > 0 => {
                    self.metrics.blocks_read_hedged_total.add(1);
                    running.extend(left.next().map(ask));
                }
            }
        }
    }

    /// The servers that may have a copy, the likeliest and nearest first.
    pub fn holders(&self, id: &BlockId, record: &BlockRecord) -> Vec<NodeId> {
        let then = self
            .placement
            .at(record.epoch)
            .map(|map| map.block_servers(id))
            .unwrap_or_default();
        let mut holders: Vec<NodeId> = then;
        for server in self.placement.current().block_servers(id) {
            if !holders.contains(&server) {
                holders.push(server);
            }
        }
        holders.sort_by_key(|server| {
            (
                record.missing.contains(server),
                self.slow.is_slow(*server),
                *server != self.peers.me(),
            )
        });
        holders
    }

    fn note_failed_copy(&self, id: BlockId, error: &CopyError) {
        self.metrics.blocks_read_failed_copies_total.add(1);
        match error {
            CopyError::Corrupt(node) | CopyError::Conflict(node) => {
                self.metrics.blocks_read_corrupt_copies_total.add(1);
                tracing::error!(block = %id, %node, %error, "a copy is damaged; another one is read");
            }
            _ => tracing::debug!(block = %id, %error, "a copy was not read"),
        }
    }
}

impl Tally {
    fn too_few(&self, servers: usize, quorum: usize) -> ObjectError {
        let had = self.stored.len();
        let why = in_words(&self.failures);
        ObjectError::Unavailable(format!(
            "a block was stored on {had} of {servers} servers, {quorum} are needed: {why}"
        ))
    }
}

fn lost(id: BlockId, failures: &[CopyError]) -> ObjectError {
    let why = in_words(failures);
    ObjectError::Unavailable(format!("no copy of block {id} could be read: {why}"))
}

fn in_words(failures: &[CopyError]) -> String {
    let words: Vec<String> = failures.iter().map(ToString::to_string).collect();
    words.join("; ")
}
