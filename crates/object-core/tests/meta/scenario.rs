//! A group in memory, and short ways to say what to ask of it.

use ids::{BucketId, Epoch, NodeId, SegmentId, UploadId, UserId};
use object_core::api::{Conditions, ContentHeaders, ETag};
use object_core::digest::{etag_of_md5, md5_of};
use object_core::meta::machine::MetaMachine;
use object_core::meta::{
    Answer, BlockRecord, Command, Content, KeyRef, META_FORMAT, MetaStats, NewObject, Outcome,
    Query, Stored,
};
use raft_machine::memory::MemoryStore;
use raft_machine::{Machine, decode, encode};

pub const BUCKET: BucketId = BucketId([0xB0; 16]);
pub const USER: UserId = UserId([0x05; 16]);

/// One placement group.
#[derive(Default)]
pub struct Group {
    pub store: MemoryStore,
    index: u64,
}

impl Group {
    pub fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let command = encode(META_FORMAT, command);
        let outcome = MetaMachine::new()
            .apply(&mut self.store, self.index, &command)
            .unwrap();
        decode("outcome", META_FORMAT, &outcome).unwrap()
    }

    pub fn ask(&self, query: &Query) -> Answer {
        let answer = MetaMachine::new()
            .query(&self.store, &encode(META_FORMAT, query))
            .unwrap();
        decode("answer", META_FORMAT, &answer).unwrap()
    }

    pub fn stats(&self) -> MetaStats {
        match self.ask(&Query::Stats) {
            Answer::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn doomed(&self) -> Vec<SegmentId> {
        match self.ask(&Query::Doomed { max: 100 }) {
            Answer::Doomed(segments) => segments,
            other => panic!("{other:?}"),
        }
    }

    pub fn stored(&self, at: &KeyRef) -> Option<Stored> {
        match self.ask(&Query::Head {
            at: at.clone(),
            version: None,
            with_content: true,
        }) {
            Answer::Head(found) => found.map(|(_, stored)| stored),
            Answer::Fenced => None,
            other => panic!("{other:?}"),
        }
    }

    /// The newest epoch that the group has heard of, and how many whole blocks it has of each.
    pub fn epochs(&self) -> (Option<Epoch>, Vec<(Epoch, u64)>) {
        match self.ask(&Query::Epochs) {
            Answer::Epochs { newest, whole } => (newest, whole),
            other => panic!("{other:?}"),
        }
    }

    /// A segment of one block of this length, begun and not committed.
    pub fn pending(&mut self, at: &KeyRef, id: u8, len: u32) -> Content {
        let begin = Command::BeginSegment {
            at: at.clone(),
            segment: segment(id),
            started_ms: 1,
        };
        assert_eq!(self.apply(&begin), Outcome::Done);
        Content::Segment {
            segment: segment(id),
            tail: vec![block(len, 0)],
        }
    }
}

pub fn at(slot: u16, key: &str) -> KeyRef {
    KeyRef {
        bucket: BUCKET,
        slot,
        key: key.into(),
    }
}

pub fn segment(id: u8) -> SegmentId {
    SegmentId([id; 16])
}

pub fn upload(id: u8) -> UploadId {
    UploadId([id; 16])
}

/// A block of this length that this many servers lack.
pub fn block(len: u32, missing: u64) -> BlockRecord {
    BlockRecord {
        len,
        hash: [len as u8; 32],
        epoch: Epoch(7),
        missing: (1..=missing).map(NodeId).collect(),
    }
}

/// An entity tag that `n` names.
pub fn etag(n: u64) -> ETag {
    etag_of_md5(&md5_of(&n.to_be_bytes()))
}

pub fn object(size: u64) -> NewObject {
    NewObject {
        size,
        etag: etag(size),
        modified_ms: 1_000 + size,
        headers: ContentHeaders::default(),
        checksum: None,
        owner: USER,
    }
}

pub fn put(at: &KeyRef, size: u64, content: Content) -> Command {
    Command::PutObject {
        at: at.clone(),
        conditions: Conditions::default(),
        object: object(size),
        content,
    }
}

pub fn put_inline(at: &KeyRef, bytes: &[u8]) -> Command {
    put(at, bytes.len() as u64, Content::Inline(bytes.to_vec()))
}

pub fn delete(at: &KeyRef) -> Command {
    Command::DeleteObject {
        at: at.clone(),
        version: None,
        conditions: Conditions::default(),
    }
}
