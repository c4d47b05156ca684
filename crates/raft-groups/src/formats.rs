//! What version 1 looks like on disk and on the wire, byte by byte, and that everything survives its bytes.
//!
//! Postcard names neither fields nor variants: one that moves is read as another one, without an error. When a golden
//! here fails, old data and other nodes can't be read any more: make a new format version instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::ControlFlow;

use bytes::Bytes;
use futures::executor::block_on;
use ids::{GroupId, NodeId, OperationId};
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, Membership};
use proptest::prelude::*;
use raft_machine::memory::MemoryStore;
use raft_machine::{Freshness, GroupError, StoreError, View};

use crate::database::GroupRecord;
use crate::message::{self, Ask, Idle, Told};
use crate::results::Results;
use crate::testing::log_id;
use crate::types::{Command, Entry, LogId, StoredMembership, Types, Vote};
use crate::{codec, wire};

const GROUP: GroupId = GroupId(7);

/// Bytes as text, `golden` may be broken into lines.
fn pinned(bytes: &[u8], golden: &str) {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden: Vec<&str> = golden.split_whitespace().collect();
    assert_eq!(hex.join(" "), golden.join(" "));
}

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId {
            term,
            voted_for: node,
        },
        committed,
    }
}

fn membership(configs: Vec<BTreeSet<u64>>) -> Membership<u64, ()> {
    let nodes: BTreeMap<u64, ()> = configs.iter().flatten().map(|id| (*id, ())).collect();
    Membership::new(configs, nodes).unwrap()
}

fn normal(id: LogId, command: &[u8]) -> Entry {
    let command = Command(Bytes::copy_from_slice(command));
    <Entry as RaftEntry>::new(id, EntryPayload::Normal(command))
}

// === On disk ===

#[test]
fn entries_votes_and_marks_in_the_log() {
    let blank = <Entry as RaftEntry>::new(log_id(1, 300), EntryPayload::Blank);
    pinned(
        &codec::encode_entry(&blank),
        "01 01 00 00 00 00 00 00 00 2c 01 00 00 00 00 00 00 00 00 00 00 00",
    );
    pinned(
        &codec::encode_entry(&normal(log_id(1, 8), b"abc")),
        "01 01 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00 01 03 00 00 00 61 62 63",
    );
    let members = membership(vec![[1, 2].into(), [1, 2, 4].into()]);
    let members = <Entry as RaftEntry>::new(log_id(2, 9), EntryPayload::Membership(members));
    pinned(
        &codec::encode_entry(&members),
        "01 02 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00 02 0d 00 00 00
         01 02 02 01 02 03 01 02 04 03 01 02 04",
    );
    pinned(
        &codec::encode_vote(&vote(3, 2, true)),
        "01 03 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 01",
    );
    pinned(
        &codec::encode_log_id(&log_id(4, 5)),
        "01 01 04 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00",
    );
}

#[test]
fn a_groups_record_in_the_database() {
    let members = StoredMembership::new(Some(log_id(1, 0)), membership(vec![[1, 2, 3].into()]));
    pinned(
        &codec::encode_state(Some(&log_id(1, 300)), &members),
        "01 01 01 00 00 00 00 00 00 00 2c 01 00 00 00 00 00 00
         01 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         01 01 03 01 02 03 03 01 02 03",
    );
    let record = GroupRecord {
        generation: 5,
        state: Bytes::from_static(b"st"),
    };
    pinned(&record.encode(), "05 00 00 00 73 74");
    assert_eq!(GroupRecord::decode(&record.encode()).unwrap(), record);
}

#[test]
fn a_kept_result() {
    let mut store = MemoryStore::default();
    let mut results = Results::default();
    results
        .put(&mut store, 300, OperationId([2; 16]), b"ok")
        .unwrap();
    let mut rows = Vec::new();
    store
        .scan(&[], None, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let [(key, value)] = &rows[..] else {
        panic!("one result is one row, not {rows:?}");
    };
    pinned(key, "ff 72 00 00 00 00 00 00 01 2c");
    pinned(
        value,
        "02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 6f 6b",
    );
}

// === On the wire ===

/// Messages without equality are compared as text.
fn ask(ask: &Ask, golden: &str) {
    pinned(&message::encode(ask), golden);
    let read = message::decode_ask(&message::encode(ask)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{ask:?}"));
}

fn told(told: &Told, golden: &str) {
    pinned(&message::encode(told), golden);
    let read = message::decode_told(&message::encode(told)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{told:?}"));
}

#[test]
fn questions_about_groups() {
    let propose = Ask::Propose {
        group: GROUP,
        operation: OperationId([2; 16]),
        command: Bytes::from_static(b"abc"),
    };
    ask(
        &propose,
        "01 00 07 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 02 03 61 62 63",
    );
    for (freshness, golden) in [
        (Freshness::Linearizable, "01 01 07 01 71 00"),
        (Freshness::Local, "01 01 07 01 71 01"),
    ] {
        let query = Ask::Query {
            group: GROUP,
            query: Bytes::from_static(b"q"),
            freshness,
        };
        ask(&query, golden);
    }
    let group = GroupId(300);
    ask(&Ask::ReadIndex { group }, "01 02 ac 02");
    let idle = Idle {
        group: GROUP,
        term: 3,
        leader: 2,
        last_index: 300,
    };
    ask(&Ask::Sleep(vec![idle]), "01 03 01 07 03 02 ac 02");
}

#[test]
fn answers_about_groups() {
    told(
        &Told::Bytes(Bytes::from_static(b"abc")),
        "01 00 03 61 62 63",
    );
    told(&Told::Index(300), "01 01 ac 02");
    told(&Told::Asleep(vec![true, false]), "01 02 02 01 00");
    told(&Told::NotLeader(None), "01 03 00");
    told(&Told::NotLeader(Some(NodeId(2))), "01 03 01 02");
    told(&Told::NoQuorum("no".into()), "01 04 02 6e 6f");
    told(&Told::NotHosted, "01 05");
    let unavailable = GroupError::Unavailable {
        group: GROUP,
        why: "w".into(),
    };
    told(&Told::Failed(unavailable), "01 06 00 07 01 77");
    let too_large = GroupError::TooLarge { len: 300, max: 5 };
    told(&Told::Failed(too_large), "01 06 01 ac 02 05");
    told(
        &Told::Failed(GroupError::Store("s".into())),
        "01 06 02 01 73",
    );
    told(
        &Told::Failed(GroupError::NotAdmitted("n".into())),
        "01 06 03 01 6e",
    );
}

#[test]
fn votes_between_replicas() {
    let mut request = VoteRequest::<Types>::new(vote(3, 2, false), Some(log_id(1, 300)));
    request.leadership_transfer = true;
    for (kind, first) in [(wire::VOTE, "02"), (wire::PRE_VOTE, "03")] {
        pinned(
            &wire::vote_call(kind, GROUP, &request),
            &format!("{first} 01 07 03 02 00 01 01 ac 02 01"),
        );
    }
    let response = VoteResponse::<Types>::new(vote(3, 2, true), None, true);
    pinned(&wire::vote_answer(&response), "01 03 02 01 01 00");
    let transfer = TransferLeaderRequest::<Types>::new(vote(3, 2, true), 5, Some(log_id(1, 300)));
    pinned(
        &wire::transfer_call(GROUP, &transfer),
        "04 01 07 03 02 01 05 01 01 ac 02",
    );
    pinned(&wire::vote_bytes(vote(3, 2, true)), "01 03 02 01");
}

#[test]
fn appends_between_replicas() {
    let request = AppendEntriesRequest::<Types> {
        vote: vote(3, 2, true),
        prev_log_id: Some(log_id(1, 7)),
        entries: vec![normal(log_id(1, 8), b"abc")],
        leader_commit: None,
    };
    pinned(
        &wire::append_call(GROUP, &request),
        "01 01 07 00 00 00
         03 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 01
         01 01 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00
         00
         01 00 00 00
         01 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00 01 03 00 00 00 61 62 63",
    );
    for (response, golden) in [
        (AppendEntriesResponse::<Types>::Success, "01 00"),
        (
            AppendEntriesResponse::PartialSuccess(Some(log_id(1, 300))),
            "01 01 01 01 ac 02",
        ),
        (AppendEntriesResponse::PartialSuccess(None), "01 01 00"),
        (AppendEntriesResponse::Conflict, "01 02"),
        (
            AppendEntriesResponse::HigherVote(vote(3, 2, true)),
            "01 03 03 02 01",
        ),
    ] {
        let bytes = wire::append_answer(&response);
        pinned(&bytes, golden);
        assert_eq!(wire::read_append_answer(&bytes).unwrap(), response);
    }
}

#[test]
fn a_snapshot_on_its_way() {
    let header = wire::SnapshotHeader {
        group: GROUP,
        vote: vote(3, 2, true).into(),
        state: Bytes::from_static(b"st"),
    };
    pinned(&header.encode(), "01 07 03 02 01 02 73 74");
    let mut out: Vec<u8> = Vec::new();
    let row = (Bytes::from_static(b"k"), Bytes::from_static(b"vv"));
    block_on(wire::write_rows(&mut out, &[row])).unwrap();
    block_on(wire::write_end(&mut out)).unwrap();
    pinned(&out, "00 00 00 01 00 00 00 02 6b 76 76 ff ff ff ff");
}

// === Whatever they hold ===

fn some_bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..len_max)
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(term, node, committed)| vote(term, node, committed))
}

fn log_ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| log_id(term, index))
}

fn some_log_ids() -> impl Strategy<Value = Option<LogId>> {
    prop::option::of(log_ids())
}

fn memberships() -> impl Strategy<Value = Membership<u64, ()>> {
    let config = prop::collection::btree_set(any::<u64>(), 1..5);
    prop::collection::vec(config, 1..3).prop_map(membership)
}

fn entries() -> impl Strategy<Value = Entry> {
    (log_ids(), 0..3_u8, some_bytes(50), memberships()).prop_map(|(id, kind, command, members)| {
        match kind {
            0 => <Entry as RaftEntry>::new(id, EntryPayload::Blank),
            1 => normal(id, &command),
            _ => <Entry as RaftEntry>::new(id, EntryPayload::Membership(members)),
        }
    })
}

/// The body of a call, without the byte that says which.
fn body(call: &Bytes) -> Bytes {
    call.slice(1..)
}

/// Refused in words, or read as something.
fn answered<T: Debug>(outcome: Result<T, StoreError>) {
    if let Err(error) = outcome {
        assert!(!error.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_lies_on_disk_survives_its_bytes(
        entry in entries(), vote in votes(), id in log_ids(), applied in some_log_ids(),
        since in some_log_ids(), members in memberships(),
    ) {
        prop_assert_eq!(codec::decode_entry(codec::encode_entry(&entry)).unwrap(), entry);
        prop_assert_eq!(codec::decode_vote(codec::encode_vote(&vote)).unwrap(), vote);
        prop_assert_eq!(codec::decode_log_id(codec::encode_log_id(&id)).unwrap(), Some(id));
        let stored = StoredMembership::new(since, members);
        let state = codec::encode_state(applied.as_ref(), &stored);
        prop_assert_eq!(codec::decode_state(state).unwrap(), (applied, stored));
    }

    #[test]
    fn appends_survive_their_bytes(
        group in any::<u32>(), vote in votes(), prev_log_id in some_log_ids(),
        leader_commit in some_log_ids(), entries in prop::collection::vec(entries(), 0..5),
    ) {
        let request = AppendEntriesRequest::<Types> { vote, prev_log_id, entries, leader_commit };
        let call = wire::append_call(GroupId(group), &request);
        let (to, read) = codec::decode_append(body(&call)).unwrap();
        prop_assert_eq!(to, GroupId(group));
        prop_assert_eq!(read.entries, request.entries);
        prop_assert_eq!(
            (read.vote, read.prev_log_id, read.leader_commit),
            (vote, prev_log_id, leader_commit)
        );
        for len in 0..call.len() - 1 {
            prop_assert!(codec::decode_append(body(&call).slice(..len)).is_err(), "cut at {}", len);
        }
    }

    #[test]
    fn votes_survive_their_bytes(
        group in any::<u32>(), vote in votes(), last in some_log_ids(), yes in any::<bool>(),
        to in any::<u64>(),
    ) {
        let group = GroupId(group);
        let mut request = VoteRequest::<Types>::new(vote, last);
        request.leadership_transfer = yes;
        let call = wire::vote_call(wire::VOTE, group, &request);
        prop_assert_eq!(wire::read_vote_call(&body(&call)).unwrap(), (group, request));
        let response = VoteResponse::<Types>::new(vote, last, yes);
        let answer = wire::vote_answer(&response);
        prop_assert_eq!(wire::read_vote_answer(&answer).unwrap(), response);
        let transfer = TransferLeaderRequest::<Types>::new(vote, to, last);
        let call = wire::transfer_call(group, &transfer);
        prop_assert_eq!(wire::read_transfer_call(&body(&call)).unwrap(), (group, transfer));
        prop_assert_eq!(wire::read_vote_bytes(&wire::vote_bytes(vote)).unwrap(), vote);
    }

    #[test]
    fn rows_survive_their_bytes(
        rows in prop::collection::vec((some_bytes(20), some_bytes(50)), 0..10),
        at_once in 1..100_usize,
    ) {
        let rows: Vec<(Bytes, Bytes)> =
            rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let mut out: Vec<u8> = Vec::new();
        block_on(wire::write_rows(&mut out, &rows)).unwrap();
        block_on(wire::write_end(&mut out)).unwrap();
        let (mut from, mut read) = (&out[..], Vec::new());
        loop {
            let (some, more) = block_on(wire::read_rows(&mut from, at_once)).unwrap();
            read.extend(some);
            if !more {
                break;
            }
        }
        prop_assert_eq!(read, rows);
        prop_assert!(from.is_empty());
    }

    /// A peer may send anything.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in some_bytes(120), version in 0..3_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let shared = Bytes::copy_from_slice(&bytes);
        answered(codec::decode_append(shared.clone()).map(|_| ()));
        answered(codec::decode_entry(shared.clone()));
        answered(codec::decode_vote(shared.clone()));
        answered(codec::decode_log_id(shared.clone()));
        answered(codec::decode_state(shared));
        answered(message::decode_ask(&bytes));
        answered(message::decode_told(&bytes));
        answered(wire::read_vote_call(&bytes));
        answered(wire::read_vote_answer(&bytes));
        answered(wire::read_append_answer(&bytes));
        answered(wire::read_transfer_call(&bytes));
        answered(wire::read_vote_bytes(&bytes));
        answered(wire::SnapshotHeader::decode(&bytes).map(|_| ()));
        answered(GroupRecord::decode(&bytes));
    }
}
