//! What replicas of a group say to each other, and how a snapshot travels.
//!
//! Messages go as calls of [`Service::RAFT`]: one byte says which, the rest is [`crate::codec`]'s (appends) or postcard's.
//! Snapshots go as a stream of rows: `key length u32, value length u32, key, value`, ended by a key length of `u32::MAX`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ids::GroupId;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use raft_machine::StoreError;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use transport::Service;

use crate::types::{CommittedLeader, LogId, Types, Vote};

pub(crate) const SERVICE: Service = Service::RAFT;
const FORMAT: u8 = 1;
const END_OF_ROWS: u32 = u32::MAX;
/// The longest key or value of a snapshot's row.
const ROW_BYTES_MAX: u32 = 16 << 20;

/// The first byte of a call.
pub(crate) const APPEND: u8 = 1;
pub(crate) const VOTE: u8 = 2;
pub(crate) const PRE_VOTE: u8 = 3;
pub(crate) const TRANSFER: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteWire {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<Vote> for VoteWire {
    fn from(vote: Vote) -> Self {
        VoteWire {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<VoteWire> for Vote {
    fn from(wire: VoteWire) -> Self {
        Vote {
            leader_id: LeaderId {
                term: wire.term,
                voted_for: wire.node,
            },
            committed: wire.committed,
        }
    }
}

type LogIdWire = Option<(u64, u64)>;

fn to_wire(id: Option<&LogId>) -> LogIdWire {
    id.map(|id| (id.leader_id.term, id.index))
}

fn from_wire(id: LogIdWire) -> Option<LogId> {
    id.map(|(term, index)| LogId::new(CommittedLeader::from(term), index))
}

#[derive(Serialize, Deserialize)]
struct VoteMessage {
    group: GroupId,
    vote: VoteWire,
    last: LogIdWire,
    transfer: bool,
}

#[derive(Serialize, Deserialize)]
struct VoteAnswer {
    vote: VoteWire,
    granted: bool,
    last: LogIdWire,
}

#[derive(Serialize, Deserialize)]
enum AppendAnswer {
    Success,
    Partial(LogIdWire),
    Conflict,
    HigherVote(VoteWire),
}

#[derive(Serialize, Deserialize)]
struct TransferMessage {
    group: GroupId,
    vote: VoteWire,
    to: u64,
    last: LogIdWire,
}

fn call(kind: u8, message: &impl Serialize) -> Bytes {
    let mut out = vec![kind];
    out.extend(raft_machine::encode(FORMAT, message));
    out.into()
}

pub(crate) fn append_call(
    group: GroupId,
    request: &openraft::raft::AppendEntriesRequest<Types>,
) -> Bytes {
    let body = crate::codec::encode_append(group, request);
    let mut out = BytesMut::with_capacity(1 + body.len());
    out.put_u8(APPEND);
    out.put_slice(&body);
    out.freeze()
}

pub(crate) fn append_answer(response: &AppendEntriesResponse<Types>) -> Bytes {
    let answer = match response {
        AppendEntriesResponse::Success => AppendAnswer::Success,
        AppendEntriesResponse::PartialSuccess(id) => AppendAnswer::Partial(to_wire(id.as_ref())),
        AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote((*vote).into()),
    };
    raft_machine::encode(FORMAT, &answer).into()
}

pub(crate) fn read_append_answer(body: &[u8]) -> Result<AppendEntriesResponse<Types>, StoreError> {
    Ok(
        match raft_machine::decode("an append answer", FORMAT, body)? {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::Partial(id) => AppendEntriesResponse::PartialSuccess(from_wire(id)),
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        },
    )
}

pub(crate) fn vote_call(kind: u8, group: GroupId, request: &VoteRequest<Types>) -> Bytes {
    let message = VoteMessage {
        group,
        vote: request.vote.into(),
        last: to_wire(request.last_log_id.as_ref()),
        transfer: request.leadership_transfer,
    };
    call(kind, &message)
}

pub(crate) fn read_vote_call(body: &[u8]) -> Result<(GroupId, VoteRequest<Types>), StoreError> {
    let message: VoteMessage = raft_machine::decode("a vote request", FORMAT, body)?;
    let mut request = VoteRequest::new(message.vote.into(), from_wire(message.last));
    request.leadership_transfer = message.transfer;
    Ok((message.group, request))
}

pub(crate) fn vote_answer(response: &VoteResponse<Types>) -> Bytes {
    let answer = VoteAnswer {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last: to_wire(response.last_log_id.as_ref()),
    };
    raft_machine::encode(FORMAT, &answer).into()
}

pub(crate) fn read_vote_answer(body: &[u8]) -> Result<VoteResponse<Types>, StoreError> {
    let answer: VoteAnswer = raft_machine::decode("a vote answer", FORMAT, body)?;
    Ok(VoteResponse::new(
        Vote::from(answer.vote),
        from_wire(answer.last),
        answer.granted,
    ))
}

pub(crate) fn transfer_call(group: GroupId, request: &TransferLeaderRequest<Types>) -> Bytes {
    let message = TransferMessage {
        group,
        vote: (*request.from_leader()).into(),
        to: *request.to_node_id(),
        last: to_wire(request.last_log_id()),
    };
    call(TRANSFER, &message)
}

pub(crate) fn read_transfer_call(
    body: &[u8],
) -> Result<(GroupId, TransferLeaderRequest<Types>), StoreError> {
    let message: TransferMessage = raft_machine::decode("a leader transfer", FORMAT, body)?;
    let request =
        TransferLeaderRequest::new(message.vote.into(), message.to, from_wire(message.last));
    Ok((message.group, request))
}

/// What opens a snapshot's stream.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub group: GroupId,
    pub vote: VoteWire,
    /// See [`crate::codec::encode_state`].
    pub state: Bytes,
}

impl SnapshotHeader {
    pub fn encode(&self) -> Bytes {
        raft_machine::encode(FORMAT, self).into()
    }

    pub fn decode(body: &[u8]) -> Result<Self, StoreError> {
        raft_machine::decode("a snapshot header", FORMAT, body)
    }
}

pub(crate) fn vote_bytes(vote: Vote) -> Bytes {
    raft_machine::encode(FORMAT, &VoteWire::from(vote)).into()
}

pub(crate) fn read_vote_bytes(body: &[u8]) -> Result<Vote, StoreError> {
    raft_machine::decode::<VoteWire>("a vote", FORMAT, body).map(Vote::from)
}

/// Writes rows, ended or not.
pub(crate) async fn write_rows(
    stream: &mut (impl AsyncWrite + Unpin),
    rows: &[(Bytes, Bytes)],
) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    for (key, value) in rows {
        out.put_u32(key.len() as u32);
        out.put_u32(value.len() as u32);
        out.put_slice(key);
        out.put_slice(value);
    }
    stream.write_all(&out).await
}

/// Says that all rows were written.
pub(crate) async fn write_end(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_u32(END_OF_ROWS).await?;
    stream.flush().await
}

/// What a row takes in memory besides its bytes, about: rows without any must come to an end too.
const ROW_OVERHEAD: usize = 64;

/// Reads rows until they take `bytes_min` of memory, and whether more may follow.
pub(crate) async fn read_rows(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_min: usize,
) -> std::io::Result<(Vec<(Bytes, Bytes)>, bool)> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    while bytes < bytes_min {
        let Some((key, value)) = read_row(stream).await? else {
            return Ok((rows, false));
        };
        bytes += ROW_OVERHEAD + key.len() + value.len();
        rows.push((key, value));
    }
    Ok((rows, true))
}

/// Reads the next row; `None` at the end that the sender wrote.
async fn read_row(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<Option<(Bytes, Bytes)>> {
    let too_long = || std::io::Error::other("a snapshot's row is too long");
    let key_len = stream.read_u32().await?;
    if key_len == END_OF_ROWS {
        return Ok(None);
    }
    let value_len = stream.read_u32().await?;
    if key_len > ROW_BYTES_MAX || value_len > ROW_BYTES_MAX {
        return Err(too_long());
    }
    let mut row = BytesMut::zeroed(key_len as usize + value_len as usize);
    stream.read_exact(&mut row).await?;
    let mut row = row.freeze();
    let key = row.copy_to_bytes(key_len as usize);
    Ok(Some((key, row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_come_in_pieces_up_to_their_end() {
        let row = |key: &'static str| (Bytes::from_static(key.as_bytes()), Bytes::from(vec![7; 9]));
        let rows: Vec<(Bytes, Bytes)> = ["a", "b", "c"].map(row).into();
        let (mut out, mut into) = tokio::io::duplex(1 << 10);
        write_rows(&mut out, &rows).await.unwrap();
        write_end(&mut out).await.unwrap();
        let two = 2 * (ROW_OVERHEAD + 10);
        let (first, more) = read_rows(&mut into, two).await.unwrap();
        assert_eq!((&first[..], more), (&rows[..2], true));
        let (second, more) = read_rows(&mut into, two).await.unwrap();
        assert_eq!((&second[..], more), (&rows[2..], false));
        drop(out);
        assert!(read_rows(&mut into, two).await.is_err());
    }

    #[tokio::test]
    async fn rows_without_bytes_fill_a_batch_too() {
        let rows = vec![(Bytes::new(), Bytes::new()); 100];
        let (mut out, mut into) = tokio::io::duplex(1 << 10);
        write_rows(&mut out, &rows).await.unwrap();
        let (read, more) = read_rows(&mut into, 640).await.unwrap();
        assert_eq!((read.len(), more), (10, true));
    }
}
