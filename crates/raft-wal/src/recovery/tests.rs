//! Recovery of the last segment, over bytes: every cut, every lost page, every flipped bit.

use proptest::prelude::*;

use super::*;
use crate::record::{Record, encode};
use crate::segment::encode_head;

const SALT: u64 = 0x1234_5678_9abc_def0;
const PAGE: usize = 64;

/// A segment, where its records end, and where its batches begin; the last of these is the segment's end.
#[derive(Debug, Clone)]
struct Fixture {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    batches: Vec<usize>,
}

impl Fixture {
    fn new(batches: &[Vec<usize>]) -> Self {
        let mut bytes = encode_head(1, SALT, 0, &BTreeMap::new());
        let mut fixture = Fixture {
            bytes: Vec::new(),
            ends: Vec::new(),
            batches: vec![bytes.len()],
        };
        let mut index = 0;
        for batch in batches {
            let synced = bytes.len();
            for len in batch {
                let payload = vec![index as u8; *len];
                let record = Record {
                    kind: Kind::Entry,
                    group: GroupId(1),
                    index,
                    payload: &payload,
                };
                let offset = bytes.len() as u32;
                encode(&mut bytes, SALT, offset, synced as u32, &record);
                fixture.ends.push(bytes.len());
                index += 1;
            }
            fixture.batches.push(bytes.len());
        }
        fixture.bytes = bytes;
        fixture
    }

    /// Records that end at or before `offset`.
    fn records_to(&self, offset: usize) -> u64 {
        self.ends.iter().filter(|end| **end <= offset).count() as u64
    }

    fn last_batch(&self) -> usize {
        self.batches[self.batches.len() - 2]
    }
}

fn recover(bytes: &[u8]) -> Result<(u64, u64), WalError> {
    let mut recovery = Recovery::default();
    let segment = SegmentBytes {
        number: 1,
        path: "wal/test",
        bytes,
        sealed_len: None,
    };
    let end = recovery.segment(segment)?.end;
    Ok((recovery.finish("wal/test")?.records, end))
}

fn fixtures() -> impl Strategy<Value = Fixture> {
    let batch = prop::collection::vec(0..300usize, 1..6);
    prop::collection::vec(batch, 1..6).prop_map(|batches| Fixture::new(&batches))
}

proptest! {
    #[test]
    fn any_cut_gives_the_records_before_it(fixture in fixtures(), cut in any::<prop::sample::Index>()) {
        let head = fixture.batches[0];
        let cut = head + cut.index(fixture.bytes.len() - head + 1);
        let (records, end) = recover(&fixture.bytes[..cut]).unwrap();
        prop_assert_eq!(records, fixture.records_to(cut));
        prop_assert!(end as usize <= cut);
    }

    #[test]
    fn lost_pages_of_the_unsynced_batch_are_a_torn_tail(
        fixture in fixtures(),
        lost in prop::collection::vec(any::<bool>(), 64),
    ) {
        let from = fixture.last_batch();
        let mut bytes = fixture.bytes.clone();
        for (at, byte) in bytes.iter_mut().enumerate().skip(from) {
            if lost[at / PAGE % lost.len()] {
                *byte = 0;
            }
        }
        let (records, end) = recover(&bytes).unwrap();
        prop_assert!(records >= fixture.records_to(from) && end as usize >= from);
        prop_assert_eq!(records, fixture.records_to(end as usize));
    }

    #[test]
    fn a_flipped_bit_before_the_last_batch_is_damage(fixture in fixtures(), bit in any::<prop::sample::Index>()) {
        let bit = bit.index(fixture.last_batch() * 8);
        let mut bytes = fixture.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = recover(&bytes);
        prop_assert!(matches!(result, Err(WalError::Damaged { .. })), "{:?}", result);
    }

    #[test]
    fn a_spoiled_stretch_before_the_last_batch_is_damage(
        fixture in fixtures(),
        at in any::<prop::sample::Index>(),
        len in 1..200usize,
    ) {
        let until = fixture.last_batch();
        let at = at.index(until);
        let mut bytes = fixture.bytes.clone();
        bytes[at..until.min(at + len)].fill(0xA5);
        prop_assume!(bytes != fixture.bytes);
        let result = recover(&bytes);
        prop_assert!(matches!(result, Err(WalError::Damaged { .. })), "{:?}", result);
    }

    #[test]
    fn any_bytes_are_recovered_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(recover(&bytes).is_err());
        let mut behind_head = encode_head(1, SALT, 0, &BTreeMap::new());
        behind_head.extend_from_slice(&bytes);
        prop_assert_eq!(recover(&behind_head).unwrap().0, 0);
    }
}

#[test]
fn an_entry_that_contains_records_is_no_witness() {
    let mut inner = Vec::new();
    let record = Record {
        kind: Kind::Entry,
        group: GroupId(1),
        index: 9,
        payload: b"forged",
    };
    // The forger knows everything but the salt: the record would stand 32 bytes into the entry.
    let (offset, inside) = (64, 64 + 32);
    encode(&mut inner, 0, inside, inside, &record);
    let mut bytes = encode_head(1, SALT, 0, &BTreeMap::new());
    let outer = Record {
        kind: Kind::Entry,
        group: GroupId(1),
        index: 0,
        payload: &inner,
    };
    encode(&mut bytes, SALT, offset, offset, &outer);
    bytes[offset as usize] ^= 1;
    assert_eq!(recover(&bytes).unwrap(), (0, offset.into()));
}

#[test]
fn records_of_an_earlier_life_of_the_file_count_for_nothing() {
    let old = Fixture::new(&[vec![10, 20], vec![30], vec![40]]);
    let mut bytes = encode_head(1, SALT + 1, 0, &BTreeMap::new());
    let head_len = bytes.len();
    bytes.extend_from_slice(&old.bytes[head_len..]);
    assert_eq!(recover(&bytes).unwrap(), (0, head_len as u64));
}

#[test]
fn a_gap_in_a_group_is_damage() {
    let mut bytes = encode_head(1, SALT, 0, &BTreeMap::new());
    for index in [0, 1, 3] {
        let offset = bytes.len() as u32;
        let record = Record {
            kind: Kind::Entry,
            group: GroupId(1),
            index,
            payload: b"x",
        };
        encode(&mut bytes, SALT, offset, offset, &record);
    }
    let error = recover(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("group 1's log goes on at 2, the call names index 3"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_must_agree_with_the_records_before() {
    let fixture = Fixture::new(&[vec![1, 2, 3]]);
    let mut recovery = Recovery::default();
    let sealed_len = Some(fixture.bytes.len() as u64);
    let first = SegmentBytes {
        number: 1,
        path: "wal/1",
        bytes: &fixture.bytes,
        sealed_len,
    };
    recovery.segment(first).unwrap();
    let states = BTreeMap::from([(
        GroupId(1),
        GroupState {
            next: 4,
            ..GroupState::default()
        },
    )]);
    let bytes = encode_head(2, SALT, fixture.bytes.len() as u64, &states);
    let second = SegmentBytes {
        number: 2,
        path: "wal/2",
        bytes: &bytes,
        sealed_len: None,
    };
    let error = recovery.segment(second).unwrap_err().to_string();
    assert!(
        error.contains("checkpoint of group 1 contradicts"),
        "{error}"
    );
}
