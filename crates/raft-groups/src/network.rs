//! A replica's way to its peers, over the node's transport.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, NodeId};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use platform::Platform;
use raft_machine::{StoreError, View};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use transport::{Transport, TransportError};

use crate::machine::{Snapshot, SnapshotRows};
use crate::types::{Types, Vote};
use crate::{codec, wire};

const APPEND_LIMIT: Duration = Duration::from_secs(3);
/// Snapshots that this node sends at once: each holds a chunk in memory at both ends.
pub(crate) const SNAPSHOTS_MAX: usize = 4;
const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
const SNAPSHOT_CHUNK_ROWS: usize = 4096;
/// A chunk of a snapshot must be taken within this time.
const SNAPSHOT_CHUNK_LIMIT: Duration = Duration::from_secs(30);
/// And all of it be in force this long after its last chunk.
const SNAPSHOT_ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Makes [`Peer`]s for one group.
#[derive(Clone)]
pub(crate) struct Network {
    pub platform: Arc<dyn Platform>,
    pub transport: Arc<dyn Transport>,
    pub group: GroupId,
    /// [`SNAPSHOTS_MAX`] permits.
    pub snapshots: Arc<Semaphore>,
}

/// One peer of a group.
pub(crate) struct Peer {
    network: Network,
    node: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &()) -> Peer {
        Peer {
            network: self.clone(),
            node: NodeId(target),
        }
    }
}

fn unreachable(error: TransportError) -> RPCError<Types> {
    match error {
        TransportError::DeadlineExceeded(_) => RPCError::Network(NetworkError::new(&error)),
        error => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

fn damaged(error: StoreError) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

/// A step of a transfer that takes too long has failed.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = std::io::Result<T>>,
) -> Result<T, StreamingError<Types>> {
    let late = || {
        let words = format!("the receiver did not go on within {limit:?}");
        std::io::Error::new(std::io::ErrorKind::TimedOut, words)
    };
    let done = tokio::time::timeout(limit, step).await;
    done.unwrap_or_else(|_| Err(late()))
        .map_err(|error| StreamingError::Network(NetworkError::new(&error)))
}

impl Peer {
    async fn call(&self, body: Bytes, ttl: Duration) -> Result<Bytes, RPCError<Types>> {
        self.network
            .transport
            .call(self.node, wire::SERVICE, body, ttl)
            .await
            .map_err(unreachable)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, StreamingError<Types>> {
        let _permit = self.network.snapshots.acquire().await;
        let broken = |error: std::io::Error| StreamingError::Network(NetworkError::new(&error));
        let SnapshotRows::View {
            reading,
            generation,
        } = snapshot.snapshot
        else {
            return Err(StreamingError::Network(NetworkError::from_string(
                "this snapshot can't be sent",
            )));
        };
        let meta = &snapshot.meta;
        let state = codec::encode_state(meta.last_log_id.as_ref(), &meta.last_membership);
        let header = wire::SnapshotHeader {
            group: self.network.group,
            vote: vote.into(),
            state,
        };
        let opened = self
            .network
            .transport
            .stream(self.node, wire::SERVICE, header.encode())
            .await;
        let mut stream =
            opened.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        let mut from = Bytes::new();
        loop {
            let (reading, group) = (reading.clone(), self.network.group);
            let start = from.clone();
            let rows = self
                .network
                .platform
                .blocking(move || read_chunk(&reading.view(group, generation), &start));
            let rows = rows
                .await
                .map_err(|error| broken(std::io::Error::other(error)))?;
            let Some((last, _)) = rows.last() else { break };
            // The smallest key after the last one.
            from = [last.as_ref(), &[0]].concat().into();
            within(SNAPSHOT_CHUNK_LIMIT, wire::write_rows(&mut stream, &rows)).await?;
        }
        within(SNAPSHOT_CHUNK_LIMIT, wire::write_end(&mut stream)).await?;
        let mut answer = Vec::new();
        let mut stream = stream.take(64);
        within(SNAPSHOT_ANSWER_LIMIT, stream.read_to_end(&mut answer)).await?;
        wire::read_vote_bytes(&answer).map_err(|error| broken(std::io::Error::other(error)))
    }
}

fn read_chunk(view: &dyn View, from: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    use std::ops::ControlFlow;
    let mut rows = Vec::new();
    let mut bytes = 0;
    view.scan(from, None, &mut |key, value| {
        bytes += key.len() + value.len();
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if bytes >= SNAPSHOT_CHUNK_BYTES || rows.len() >= SNAPSHOT_CHUNK_ROWS {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotRows;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = wire::append_call(self.network.group, &request);
        let ttl = match request.entries.is_empty() {
            true => option.hard_ttl(),
            // As long as a slow disk or link takes for a full message.
            false => option.hard_ttl().max(APPEND_LIMIT),
        };
        let answer = self.call(body, ttl).await?;
        wire::read_append_answer(&answer).map_err(damaged)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self
            .call(
                wire::vote_call(wire::VOTE, self.network.group, &request),
                option.hard_ttl(),
            )
            .await?;
        wire::read_vote_answer(&answer).map_err(damaged)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = wire::vote_call(wire::PRE_VOTE, self.network.group, &request);
        let answer = self.call(body, option.hard_ttl()).await?;
        wire::read_vote_answer(&answer).map_err(damaged)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent.map(SnapshotResponse::new),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(
            wire::transfer_call(self.network.group, &request),
            option.hard_ttl(),
        )
        .await?;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_nothing_is_given_up() {
        let (mut out, into) = tokio::io::duplex(16);
        let row = (Bytes::from_static(b"key"), Bytes::from(vec![7; 100]));
        let sent = within(
            SNAPSHOT_CHUNK_LIMIT,
            wire::write_rows(&mut out, std::slice::from_ref(&row)),
        );
        let error = sent.await.unwrap_err();
        assert!(matches!(error, StreamingError::Network(_)), "{error}");
        drop(into);
    }
}
