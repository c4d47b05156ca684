//! Where a group's records lie: every key's bytes.
//!
//! The first byte names the table. Numbers are big-endian, ids are their 16 bytes, so that byte order is their order.
//!
//! | key | value |
//! |---|---|
//! | `o` bucket slot *key* version | head of a version: what listing and HEAD need |
//! | `i` bucket slot *key* version | bytes that live in the metadata |
//! | `m` bucket slot *key* version | pieces of a version that was uploaded in parts |
//! | `u` bucket slot *key* upload | a multipart upload |
//! | `p` upload part | a part |
//! | `j` upload part | a part's bytes, if they live in the metadata |
//! | `s` segment | state of a segment |
//! | `b` segment page | a page of its blocks |
//! | `d` segment page | how many of the page's blocks have debt, if any |
//! | `w` segment | marks pending segments |
//! | `x` segment | marks doomed segments |
//! | `f` bucket slot | whether the slot is fenced, and the newest attempt to delete the bucket that it has seen |
//! | `n` | counts |
//! | `e` epoch | how many blocks of the epoch have all copies that it gives them, if any |
//! | `h` | the newest epoch that the group has heard of |
//!
//! *key* is the object's key with each NUL written as `00 FF`, and `00 00` at its end: the order of encoded keys is the
//! order of the keys, no encoded key starts another, and those that start with some text share its encoded bytes.
//! A version sorts after newer ones of its key; the version without a name is the oldest.

use ids::{BucketId, Epoch, SegmentId, UploadId};
use raft_machine::StoreError;

use super::KeyRef;
use crate::api::VersionId;

pub(crate) const HEADS: u8 = b'o';
pub(crate) const INLINE: u8 = b'i';
pub(crate) const PIECES: u8 = b'm';
pub(crate) const UPLOADS: u8 = b'u';
pub(crate) const PARTS: u8 = b'p';
pub(crate) const PART_INLINE: u8 = b'j';
pub(crate) const SEGMENTS: u8 = b's';
pub(crate) const BLOCKS: u8 = b'b';
pub(crate) const DEBT: u8 = b'd';
pub(crate) const PENDING: u8 = b'w';
pub(crate) const DOOMED: u8 = b'x';
pub(crate) const FENCES: u8 = b'f';
pub(crate) const EPOCHS: u8 = b'e';
/// The one key of the counts.
pub(crate) const STATS: &[u8] = b"n";
/// The one key of the newest epoch.
pub(crate) const NEWEST_EPOCH: &[u8] = b"h";

/// Table, bucket and slot: what all keys of a slot's table start with.
const SLOT_LEN: usize = 1 + 16 + 2;
const VERSION_NULL: u8 = 0xFF;
const VERSION_NUMBERED: u8 = 0x01;

/// The start of a slot's keys in a table.
pub(crate) fn in_slot(table: u8, bucket: BucketId, slot: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_LEN + 64);
    out.push(table);
    out.extend_from_slice(&bucket.0);
    out.extend_from_slice(&slot.to_be_bytes());
    out
}

/// The start of the keys in a slot's table whose object key starts with `prefix`.
pub(crate) fn starting_with(table: u8, bucket: BucketId, slot: u16, prefix: &str) -> Vec<u8> {
    let mut out = in_slot(table, bucket, slot);
    push_escaped(&mut out, prefix);
    out
}

/// The start of the keys of one object key.
pub(crate) fn of_key(table: u8, bucket: BucketId, slot: u16, key: &str) -> Vec<u8> {
    let mut out = starting_with(table, bucket, slot, key);
    out.extend_from_slice(&[0, 0]);
    out
}

/// A version's key in one of the tables of versions.
pub(crate) fn version(table: u8, at: &KeyRef, version: VersionId) -> Vec<u8> {
    let mut out = of_key(table, at.bucket, at.slot, &at.key);
    match version {
        VersionId::Null => out.push(VERSION_NULL),
        VersionId::Numbered(number) => {
            out.push(VERSION_NUMBERED);
            out.extend_from_slice(&(!number).to_be_bytes());
        }
    }
    out
}

/// An upload's key.
pub(crate) fn upload(at: &KeyRef, upload: UploadId) -> Vec<u8> {
    let mut out = of_key(UPLOADS, at.bucket, at.slot, &at.key);
    out.extend_from_slice(&upload.0);
    out
}

/// A part's key in one of the tables of parts.
pub(crate) fn part(table: u8, upload: UploadId, part: u16) -> Vec<u8> {
    let mut out = by_id(table, &upload.0);
    out.extend_from_slice(&part.to_be_bytes());
    out
}

/// The key, or the start of the keys, of a segment.
pub(crate) fn segment(table: u8, segment: SegmentId) -> Vec<u8> {
    by_id(table, &segment.0)
}

/// A page's key in one of the tables of pages.
pub(crate) fn page(table: u8, segment: SegmentId, page: u32) -> Vec<u8> {
    let mut out = by_id(table, &segment.0);
    out.extend_from_slice(&page.to_be_bytes());
    out
}

/// A fence's key.
pub(crate) fn fence(bucket: BucketId, slot: u16) -> Vec<u8> {
    in_slot(FENCES, bucket, slot)
}

/// The key of an epoch's count of blocks.
pub(crate) fn epoch(epoch: Epoch) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 8);
    out.push(EPOCHS);
    out.extend_from_slice(&epoch.0.to_be_bytes());
    out
}

fn by_id(table: u8, id: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 16 + 4);
    out.push(table);
    out.extend_from_slice(id);
    out
}

/// The first key after all that start with `prefix`. Never past the tables: a table's byte is below 0xFF.
pub(crate) fn after_all(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.last() == Some(&0xFF) {
        prefix.pop();
    }
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

/// The object key and the rest (version or upload) of a key in a table by slot.
pub(crate) fn split_key(bytes: &[u8]) -> Result<(String, &[u8]), StoreError> {
    let damaged = |why: &str| StoreError::Damaged(format!("an object's key: {why}"));
    let mut rest = bytes.get(SLOT_LEN..).ok_or_else(|| damaged("too short"))?;
    let mut key = Vec::with_capacity(rest.len());
    loop {
        let nul = rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or_else(|| damaged("no end"))?;
        key.extend_from_slice(&rest[..nul]);
        let mark = rest.get(nul + 1).ok_or_else(|| damaged("no end"))?;
        rest = &rest[nul + 2..];
        match mark {
            0 => break,
            0xFF => key.push(0),
            _ => return Err(damaged("unknown escape")),
        }
    }
    let key = String::from_utf8(key).map_err(|_| damaged("not UTF-8"))?;
    Ok((key, rest))
}

/// The version at the end of a key.
pub(crate) fn version_of(rest: &[u8]) -> Result<VersionId, StoreError> {
    match rest.split_first() {
        Some((&VERSION_NULL, [])) => Ok(VersionId::Null),
        Some((&VERSION_NUMBERED, number)) => {
            let number = number
                .try_into()
                .map_err(|_| StoreError::Damaged("a version's key".into()))?;
            Ok(VersionId::Numbered(!u128::from_be_bytes(number)))
        }
        _ => Err(StoreError::Damaged("a version's key".into())),
    }
}

/// The id after the table's byte.
pub(crate) fn id_of(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    let id = bytes
        .get(1..17)
        .ok_or_else(|| StoreError::Damaged("a key without an id".into()))?;
    Ok(id.try_into().expect("sixteen bytes"))
}

/// The number after table and id: of a part.
pub(crate) fn part_of(bytes: &[u8]) -> Result<u16, StoreError> {
    let number = bytes.get(17..).and_then(|number| number.try_into().ok());
    number
        .map(u16::from_be_bytes)
        .ok_or_else(|| StoreError::Damaged("a part's key".into()))
}

/// The number after table and id: of a page.
pub(crate) fn page_of(bytes: &[u8]) -> Result<u32, StoreError> {
    let number = bytes.get(17..).and_then(|number| number.try_into().ok());
    number
        .map(u32::from_be_bytes)
        .ok_or_else(|| StoreError::Damaged("a page's key".into()))
}

/// The number after the table: of an epoch.
pub(crate) fn epoch_of(bytes: &[u8]) -> Result<Epoch, StoreError> {
    let number = bytes.get(1..).and_then(|number| number.try_into().ok());
    number
        .map(|number| Epoch(u64::from_be_bytes(number)))
        .ok_or_else(|| StoreError::Damaged("an epoch's key".into()))
}

fn push_escaped(out: &mut Vec<u8>, key: &str) {
    let mut pieces = key.as_bytes().split(|&byte| byte == 0);
    out.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.extend_from_slice(&[0, 0xFF]);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUCKET: BucketId = BucketId([3; 16]);

    fn at(key: &str) -> KeyRef {
        KeyRef {
            bucket: BUCKET,
            slot: 2,
            key: key.into(),
        }
    }

    fn awkward_key() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just('\0'),
                Just('\u{1}'),
                Just('a'),
                Just('/'),
                Just('é'),
                Just('\u{10FFFF}'),
                any::<char>()
            ],
            0..6,
        )
        .prop_map(|chars| chars.into_iter().collect())
    }

    fn any_version() -> impl Strategy<Value = VersionId> {
        prop_oneof![
            Just(VersionId::Null),
            any::<u128>().prop_map(VersionId::Numbered)
        ]
    }

    proptest! {
        #[test]
        fn keys_keep_their_order_and_come_back(a in awkward_key(), b in awkward_key(), va in any_version(), vb in any_version()) {
            let (ea, eb) = (version(HEADS, &at(&a), va), version(HEADS, &at(&b), vb));
            if a != b {
                prop_assert_eq!(a.cmp(&b), ea.cmp(&eb));
            }
            let (key, rest) = split_key(&ea).unwrap();
            prop_assert_eq!(key, a);
            prop_assert_eq!(version_of(rest).unwrap(), va);
        }

        #[test]
        fn a_prefix_covers_exactly_its_keys(key in awkward_key(), prefix in awkward_key()) {
            let encoded = version(HEADS, &at(&key), VersionId::Null);
            let from = starting_with(HEADS, BUCKET, 2, &prefix);
            let to = after_all(from.clone());
            prop_assert_eq!(key.starts_with(&prefix), from <= encoded && encoded < to);
        }
    }

    #[test]
    fn newer_versions_come_first() {
        let key = |v| version(HEADS, &at("k"), v);
        assert!(key(VersionId::Numbered(9)) < key(VersionId::Numbered(8)));
        assert!(key(VersionId::Numbered(0)) < key(VersionId::Null));
    }

    #[test]
    fn the_layout_is_pinned() {
        let mut expected = vec![b'o'];
        expected.extend([3; 16]);
        expected.extend([0, 2, b'a', 0, 0xFF, b'b', 0, 0, 0xFF]);
        assert_eq!(version(HEADS, &at("a\0b"), VersionId::Null), expected);
        let mut expected = vec![b'b'];
        expected.extend([9; 16]);
        expected.extend([0, 0, 1, 0]);
        assert_eq!(page(BLOCKS, SegmentId([9; 16]), 256), expected);
        let expected = [b'e', 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(epoch(Epoch(256)), expected);
        assert_eq!(epoch_of(&expected).unwrap(), Epoch(256));
        assert!(epoch_of(&expected[1..]).is_err());
    }
}
