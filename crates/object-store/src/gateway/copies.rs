//! Writing a block to its servers, and reading it from whichever has a good copy first.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ids::{BlockId, NodeId};
use object_core::api::{ObjectError, Result};
use object_core::meta::BlockRecord;
use tokio::time::{Instant, sleep, timeout_at};

use crate::gateway::Context;
use crate::service::CopyError;

/// How many copies must be durable before a block counts as written.
pub fn write_quorum(servers: usize) -> usize {
    servers.min(2)
}

impl Context {
    /// Sends a block to all its servers at once and waits for a quorum of durable copies, then a short while for the
    /// rest; servers that did not confirm by then are recorded as missing it.
    pub async fn write_block(
        &self,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<BlockRecord> {
        let map = self.placement.current();
        let servers = map.block_servers(&id);
        let quorum = write_quorum(servers.len());
        if quorum == 0 {
            return Err(ObjectError::Unavailable(
                "the placement map names no server for blocks".into(),
            ));
        }
        let copy = |server: NodeId| {
            let data = data.clone();
            async move { (server, self.write_copy(server, id, hash, data).await) }
        };
        let mut running: FuturesUnordered<_> = servers.iter().map(|server| copy(*server)).collect();
        let mut stored = Vec::new();
        let mut failures: Vec<CopyError> = Vec::new();
        let mut laggards_until: Option<Instant> = None;
        while stored.len() + running.len() >= quorum {
            let next = match laggards_until {
                None => running.next().await,
                Some(end) => timeout_at(end, running.next()).await.unwrap_or(None),
            };
            match next {
                None => break,
                Some((server, Ok(()))) => stored.push(server),
                Some((server, Err(error))) => {
                    tracing::debug!(block = %id, %server, %error, "a copy was not written");
                    failures.push(error);
                }
            }
            if stored.len() >= quorum && laggards_until.is_none() {
                laggards_until = Some(self.laggards_until(&servers, &stored));
            }
        }
        if stored.len() < quorum {
            let why = failures
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ");
            let (had, of) = (stored.len(), servers.len());
            return Err(ObjectError::Unavailable(format!(
                "a block was stored on {had} of {of} servers, {quorum} are needed: {why}"
            )));
        }
        let missing: Vec<NodeId> = servers
            .into_iter()
            .filter(|server| !stored.contains(server))
            .collect();
        missing.iter().for_each(|server| self.slow.note(*server));
        self.metrics.blocks_written_total.add(1);
        self.metrics
            .blocks_debt_recorded_total
            .add(missing.len() as u64);
        Ok(BlockRecord {
            len: data.len() as u32,
            hash,
            epoch: map.epoch(),
            missing,
        })
    }

    fn laggards_until(&self, servers: &[NodeId], stored: &[NodeId]) -> Instant {
        let mut waited_for = servers.iter().filter(|server| !stored.contains(server));
        let all_slow = waited_for.all(|server| self.slow.is_slow(*server));
        if all_slow {
            Instant::now()
        } else {
            Instant::now() + self.options.laggard_wait
        }
    }

    async fn write_copy(
        &self,
        server: NodeId,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> std::result::Result<(), CopyError> {
        match self.peers.put(server, id, hash, data.clone()).await {
            // A connection may have gone stale; the put may be repeated.
            Err(CopyError::Unreachable(_) | CopyError::Busy(_)) => {
                sleep(self.options.copy_retry_pause).await;
                self.peers.put(server, id, hash, data).await
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

fn lost(id: BlockId, failures: &[CopyError]) -> ObjectError {
    let why = failures
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    ObjectError::Unavailable(format!("no copy of block {id} could be read: {why}"))
}
