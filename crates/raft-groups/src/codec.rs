//! Bytes of log entries, votes and Raft messages: our own layout, so that an upgrade of openraft changes no disk.
//!
//! Integers are little-endian. Every record starts with a format version; payloads are slices of the buffer they came in.

use bytes::{BufMut, Bytes, BytesMut};
use ids::GroupId;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::AppendEntriesRequest;
use openraft::{EntryPayload, Membership};
use raft_machine::StoreError;

use crate::types::{Command, CommittedLeader, Entry, LogId, StoredMembership, Types, Vote};

const FORMAT: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// A cursor that refuses to read past its end.
pub(crate) struct Reader(pub Bytes);

impl Reader {
    fn damaged() -> StoreError {
        StoreError::Damaged("a raft record is too short".into())
    }

    fn take(&mut self, len: usize) -> Result<Bytes, StoreError> {
        if self.0.len() < len {
            return Err(Self::damaged());
        }
        Ok(self.0.split_to(len))
    }

    fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        let bytes = self.take(8)?;
        let mut out = [0; 8];
        out.copy_from_slice(&bytes);
        Ok(u64::from_le_bytes(out))
    }

    fn version(&mut self) -> Result<(), StoreError> {
        match self.u8()? {
            FORMAT => Ok(()),
            found if found > FORMAT => Err(StoreError::Newer {
                what: "a raft record",
                found,
                known: FORMAT,
            }),
            found => Err(StoreError::Damaged(format!(
                "a raft record has format {found}"
            ))),
        }
    }

    fn log_id(&mut self) -> Result<Option<LogId>, StoreError> {
        if self.u8()? == 0 {
            return Ok(None);
        }
        let term = self.u64()?;
        let index = self.u64()?;
        Ok(Some(LogId::new(CommittedLeader::from(term), index)))
    }

    fn vote(&mut self) -> Result<Vote, StoreError> {
        let (term, node, committed) = (self.u64()?, self.u64()?, self.u8()? == 1);
        Ok(Vote {
            leader_id: LeaderId {
                term,
                voted_for: node,
            },
            committed,
        })
    }

    fn entry(&mut self) -> Result<Entry, StoreError> {
        let (term, index, kind) = (self.u64()?, self.u64()?, self.u8()?);
        let len = self.u32()? as usize;
        let payload = self.take(len)?;
        let payload = match kind {
            BLANK => EntryPayload::Blank,
            NORMAL => EntryPayload::Normal(Command(payload)),
            MEMBERSHIP => EntryPayload::Membership(decode_membership(&payload)?),
            other => {
                return Err(StoreError::Damaged(format!(
                    "a log entry is of kind {other}"
                )));
            }
        };
        Ok(<Entry as RaftEntry>::new(
            LogId::new(CommittedLeader::from(term), index),
            payload,
        ))
    }
}

fn put_log_id(out: &mut BytesMut, id: Option<&LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.leader_id.term);
            out.put_u64_le(id.index);
        }
    }
}

fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

fn put_entry(out: &mut BytesMut, entry: &Entry) {
    let id = entry.log_id();
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.index);
    let mut put = |kind: u8, payload: &[u8]| {
        out.put_u8(kind);
        out.put_u32_le(payload.len() as u32);
        out.put_slice(payload);
    };
    match &entry.payload {
        EntryPayload::Blank => put(BLANK, &[]),
        EntryPayload::Normal(command) => put(NORMAL, &command.0),
        EntryPayload::Membership(membership) => put(MEMBERSHIP, &encode_membership(membership)),
    }
}

fn encode_membership(membership: &Membership<u64, ()>) -> Vec<u8> {
    let configs: Vec<Vec<u64>> = membership
        .get_joint_config()
        .iter()
        .map(|c| c.iter().copied().collect())
        .collect();
    let nodes: Vec<u64> = membership.nodes().map(|(id, ())| *id).collect();
    raft_machine::encode(FORMAT, &(configs, nodes))
}

fn decode_membership(bytes: &[u8]) -> Result<Membership<u64, ()>, StoreError> {
    let (configs, nodes): (Vec<Vec<u64>>, Vec<u64>) =
        raft_machine::decode("a raft membership", FORMAT, bytes)?;
    let configs = configs
        .into_iter()
        .map(|c| c.into_iter().collect())
        .collect();
    let nodes: std::collections::BTreeMap<u64, ()> = nodes.into_iter().map(|id| (id, ())).collect();
    Membership::new(configs, nodes)
        .map_err(|error| StoreError::Damaged(format!("a raft membership: {error}")))
}

/// A log entry as the WAL keeps it.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    out.put_u8(FORMAT);
    put_entry(&mut out, entry);
    out.freeze()
}

/// The inverse of [`encode_entry`].
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, StoreError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    reader.entry()
}

/// A vote as the WAL keeps it.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(FORMAT);
    put_vote(&mut out, vote);
    out.freeze()
}

/// The inverse of [`encode_vote`].
pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote, StoreError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    reader.vote()
}

/// A log id as the WAL keeps it for the last purged entry.
pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(FORMAT);
    put_log_id(&mut out, Some(id));
    out.freeze()
}

/// The inverse of [`encode_log_id`].
pub(crate) fn decode_log_id(bytes: Bytes) -> Result<Option<LogId>, StoreError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    reader.log_id()
}

/// A group's applied log id and membership, as its snapshots and the database carry them.
pub(crate) fn encode_state(applied: Option<&LogId>, membership: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    put_log_id(&mut out, applied);
    put_log_id(&mut out, membership.log_id().as_ref());
    out.put_slice(&encode_membership(membership.membership()));
    out.freeze()
}

/// The inverse of [`encode_state`].
pub(crate) fn decode_state(bytes: Bytes) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let applied = reader.log_id()?;
    let membership_id = reader.log_id()?;
    let membership = decode_membership(&reader.0)?;
    Ok((applied, StoredMembership::new(membership_id, membership)))
}

/// An AppendEntries message of a group.
pub(crate) fn encode_append(group: GroupId, request: &AppendEntriesRequest<Types>) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(FORMAT);
    out.put_u32_le(group.0);
    put_vote(&mut out, &request.vote);
    put_log_id(&mut out, request.prev_log_id.as_ref());
    put_log_id(&mut out, request.leader_commit.as_ref());
    out.put_u32_le(request.entries.len() as u32);
    for entry in &request.entries {
        put_entry(&mut out, entry);
    }
    out.freeze()
}

/// The inverse of [`encode_append`].
pub(crate) fn decode_append(
    bytes: Bytes,
) -> Result<(GroupId, AppendEntriesRequest<Types>), StoreError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let group = GroupId(reader.u32()?);
    let vote = reader.vote()?;
    let prev_log_id = reader.log_id()?;
    let leader_commit = reader.log_id()?;
    let count = reader.u32()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(reader.entry()?);
    }
    Ok((
        group,
        AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeader::from(term), index)
    }

    fn entries() -> Vec<Entry> {
        let nodes: std::collections::BTreeMap<u64, ()> =
            [1, 2, 4].into_iter().map(|id| (id, ())).collect();
        let membership = Membership::new(vec![[1, 2].into(), [1, 2, 4].into()], nodes).unwrap();
        vec![
            <Entry as RaftEntry>::new(log_id(1, 7), EntryPayload::Blank),
            <Entry as RaftEntry>::new(
                log_id(1, 8),
                EntryPayload::Normal(Command(Bytes::from_static(b"abc"))),
            ),
            <Entry as RaftEntry>::new(log_id(2, 9), EntryPayload::Membership(membership)),
        ]
    }

    #[test]
    fn records_survive_their_bytes() {
        for entry in entries() {
            assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
        }
        let vote = Vote {
            leader_id: LeaderId {
                term: 3,
                voted_for: 2,
            },
            committed: true,
        };
        assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        assert_eq!(
            decode_log_id(encode_log_id(&log_id(4, 5))).unwrap(),
            Some(log_id(4, 5))
        );
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: Some(log_id(1, 6)),
            entries: entries(),
            leader_commit: None,
        };
        let (group, back) = decode_append(encode_append(GroupId(9), &request)).unwrap();
        assert_eq!(group, GroupId(9));
        assert_eq!(back.entries, request.entries);
        assert_eq!(
            (back.vote, back.prev_log_id, back.leader_commit),
            (vote, request.prev_log_id, None)
        );
    }

    #[test]
    fn version_one_on_disk_is_pinned() {
        let bytes = encode_entry(&entries()[1]);
        assert_eq!(
            &bytes[..],
            b"\x01\x01\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x01\x03\0\0\0abc"
        );
        let vote = Vote {
            leader_id: LeaderId {
                term: 3,
                voted_for: 2,
            },
            committed: true,
        };
        assert_eq!(
            &encode_vote(&vote)[..],
            b"\x01\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01"
        );
    }

    #[test]
    fn any_cut_is_refused_and_never_panics() {
        let request = AppendEntriesRequest {
            vote: Vote {
                leader_id: LeaderId {
                    term: 3,
                    voted_for: 2,
                },
                committed: true,
            },
            prev_log_id: Some(log_id(1, 6)),
            entries: entries(),
            leader_commit: Some(log_id(1, 2)),
        };
        let bytes = encode_append(GroupId(9), &request);
        for len in 0..bytes.len() {
            assert!(decode_append(bytes.slice(..len)).is_err(), "cut at {len}");
        }
    }
}
