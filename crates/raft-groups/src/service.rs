//! Serves the peers of this node's groups: Raft's messages, snapshots, forwarded proposals and queries.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::NodeId;
use openraft::storage::SnapshotMeta;
use raft_machine::StoreError;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::time::{Instant, sleep_until, timeout};
use transport::{BulkStream, Handler, Refusal, Service};

use crate::group::Group;
use crate::groups::RaftGroups;
use crate::machine::{Snapshot, SnapshotRows};
use crate::types::Vote;
use crate::{codec, message, wire};

const FILL_BYTES: usize = 512 << 10;
/// The next [`FILL_BYTES`] of a snapshot must be here within this time.
const FILL_LIMIT: Duration = Duration::from_secs(30);

/// Registers the handlers; they end with `groups`.
pub(crate) fn serve(groups: &Arc<RaftGroups>) {
    groups
        .transport
        .serve(wire::SERVICE, Arc::new(RaftHandler(Arc::downgrade(groups))));
    groups.transport.serve(
        Service::GROUPS,
        Arc::new(GroupsHandler(Arc::downgrade(groups))),
    );
}

fn refuse(error: impl std::fmt::Display) -> Refusal {
    Refusal(error.to_string())
}

struct GroupsHandler(Weak<RaftGroups>);

#[async_trait]
impl Handler for GroupsHandler {
    async fn call(&self, _: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        let groups = self.0.upgrade().ok_or_else(|| refuse("the node stops"))?;
        let ask = message::decode_ask(&body).map_err(refuse)?;
        Ok(message::encode(&groups.answer(ask).await))
    }
}

struct RaftHandler(Weak<RaftGroups>);

impl RaftHandler {
    /// The group, if this node hosts it. Any server of the site may speak in it: a replica that was away may know only
    /// members of long ago, and would refuse those that it needs.
    fn group(&self, id: ids::GroupId) -> Result<Arc<Group>, Refusal> {
        let groups = self.0.upgrade().ok_or_else(|| refuse("the node stops"))?;
        groups
            .find(id)
            .ok_or_else(|| refuse(format!("group {id} is not here")))
    }

    async fn vote(&self, kind: u8, body: &[u8]) -> Result<Bytes, Refusal> {
        let (id, request) = wire::read_vote_call(body).map_err(refuse)?;
        let group = self.group(id)?;
        self.may_vote(request.leadership_transfer).await?;
        let response = match kind {
            wire::PRE_VOTE => group.raft.pre_vote(request).await,
            _ => group.raft.vote(request).await,
        };
        group.wake();
        Ok(wire::vote_answer(&response.map_err(refuse)?))
    }

    /// A node that just started may have confirmed a leader in its last run: it must not help to replace it before that
    /// leader's lease has run out. A candidate that comes a little too early is kept waiting: refused, it would try again
    /// only after another election timeout. It waits for an answer as long as such a timeout is at least.
    async fn may_vote(&self, transfer: bool) -> Result<(), Refusal> {
        let (lease_end, patience) = {
            let groups = self.0.upgrade().ok_or_else(|| refuse("the node stops"))?;
            let options = &groups.options;
            (options.no_votes_before(), options.election * 3 / 4)
        };
        let rest = lease_end.saturating_duration_since(Instant::now());
        if transfer || rest.is_zero() {
            return Ok(());
        }
        if rest >= patience {
            return Err(refuse(
                "started a moment ago: no votes before a lease has passed",
            ));
        }
        sleep_until(lease_end).await;
        Ok(())
    }

    async fn receive_snapshot(
        &self,
        header: &[u8],
        stream: &mut BulkStream,
    ) -> Result<Vote, Refusal> {
        let header = wire::SnapshotHeader::decode(header).map_err(refuse)?;
        let group = self.group(header.group)?;
        let applier = self
            .0
            .upgrade()
            .ok_or_else(|| refuse("the node stops"))?
            .applier
            .clone();
        let (last_log_id, last_membership) = codec::decode_state(header.state).map_err(refuse)?;
        let one_at_a_time = group.receiving.clone().lock_owned().await;
        group.wake();
        let host = group.host.clone();
        let generation = host.applied().generation + 1;
        applier.remove_stale(host.clone()).await.map_err(refuse)?;
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        loop {
            let read = timeout(FILL_LIMIT, wire::read_rows(&mut reader, FILL_BYTES)).await;
            let read = read.map_err(|_| refuse("the sender fell silent"))?;
            let (rows, more) = read.map_err(refuse)?;
            applier
                .fill(host.clone(), generation, rows)
                .await
                .map_err(refuse)?;
            if !more {
                break;
            }
        }
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: SnapshotRows::Received { generation },
        };
        // A task of its own: when this stream breaks, nobody may fill the generation anew before it is in force or refused.
        let installing = tokio::spawn(async move {
            let _guard = one_at_a_time;
            group
                .raft
                .install_full_snapshot(header.vote.into(), snapshot)
                .await
        });
        let response = installing.await.map_err(refuse)?.map_err(refuse)?;
        Ok(response.vote)
    }
}

#[async_trait]
impl Handler for RaftHandler {
    async fn call(&self, _: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        let Some(&kind) = body.first() else {
            return Err(refuse("an empty message"));
        };
        let body = body.slice(1..);
        match kind {
            wire::APPEND => {
                let (id, request) = codec::decode_append(body).map_err(refuse)?;
                let group = self.group(id)?;
                let response = group.raft.append_entries(request).await;
                // Not before: its clock has heard nothing since it fell asleep, and would have it stand for election.
                group.wake();
                let response = response.map_err(refuse)?;
                Ok(wire::append_answer(&response))
            }
            wire::VOTE | wire::PRE_VOTE => self.vote(kind, &body).await,
            wire::TRANSFER => {
                let (id, request) = wire::read_transfer_call(&body).map_err(refuse)?;
                let group = self.group(id)?;
                group.wake();
                group
                    .raft
                    .handle_transfer_leader(request)
                    .await
                    .map_err(refuse)?
                    .map_err(refuse)?;
                Ok(Bytes::new())
            }
            other => Err(refuse(StoreError::Damaged(format!(
                "a raft message of kind {other}"
            )))),
        }
    }

    async fn stream(&self, from: NodeId, header: Bytes, mut stream: BulkStream) {
        match self.receive_snapshot(&header, &mut stream).await {
            Ok(vote) => {
                let answered = stream.write_all(&wire::vote_bytes(vote)).await;
                if answered.is_ok() {
                    let _ = stream.shutdown().await;
                }
            }
            Err(error) => tracing::warn!(node = %from, %error, "a snapshot was not taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use testkit::sim::{SimDisk, block_on};

    use super::*;
    use crate::testing;

    #[test]
    fn a_vote_that_comes_a_little_early_waits_for_the_end_of_the_lease() {
        block_on(async {
            let groups = testing::start(SimDisk::new()).await.unwrap();
            let handler = RaftHandler(Arc::downgrade(&groups));
            let lease_end = groups.options.alone_since + groups.options.lease();
            assert!(handler.may_vote(false).await.is_err());
            assert!(Instant::now() < lease_end, "a refusal does not wait");
            assert!(handler.may_vote(true).await.is_ok());
            assert!(Instant::now() < lease_end, "a transfer does not wait");
            sleep_until(lease_end - Duration::from_secs(1)).await;
            assert!(handler.may_vote(false).await.is_ok());
            assert!(Instant::now() >= lease_end);
        });
    }
}
