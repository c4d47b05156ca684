//! The keys of the registry's state.
//!
//! | first byte | then | value |
//! | --- | --- | --- |
//! | 1 | kind 0 name | [`crate::resource::Stored`] |
//! | 2 | revision (8 bytes), number within it (4) | [`crate::changes::Change`] |
//! | 3 | | [`crate::changes::LogState`] |
//! | 4 | kind 0 index 0 value 0 name | empty |
//! | 5 | owner's uid, kind 0 name | empty: the resource belongs to that owner |
//! | 6 | pool 0 part … | see [`crate::allocator`] |
//! | 7 | owner's uid | empty: gone, its dependants wait to be collected |
//!
//! Names, kinds and index values contain no zero byte, so the order of keys is that of their parts.

use ids::Revision;

use crate::resource::Uid;

const RESOURCE: u8 = 1;
const CHANGE: u8 = 2;
const LOG_STATE: u8 = 3;
const INDEX: u8 = 4;
const DEPENDANT: u8 = 5;
const POOL: u8 = 6;
const GARBAGE: u8 = 7;

/// Where [`crate::changes::LogState`] is.
pub const LOG_STATE_KEY: &[u8] = &[LOG_STATE];

/// Before all garbage.
pub const GARBAGE_FROM: &[u8] = &[GARBAGE];

/// After all garbage.
pub const GARBAGE_TO: &[u8] = &[GARBAGE + 1];

/// The resource, or, with the start of a name, before all resources whose names start so.
pub fn resource(kind: &str, name: &str) -> Vec<u8> {
    joined(RESOURCE, &[kind.as_bytes(), name.as_bytes()])
}

/// Kind and name, when the key is a resource's.
pub fn parse_resource(key: &[u8]) -> Option<(&str, &str)> {
    parse_pair(key.strip_prefix(&[RESOURCE])?)
}

/// One change.
pub fn change(revision: Revision, number: u32) -> Vec<u8> {
    let mut key = vec![CHANGE];
    key.extend_from_slice(&revision.0.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// After all changes.
pub const CHANGES_TO: &[u8] = &[CHANGE + 1];

/// The revision of a change's key.
pub fn parse_change(key: &[u8]) -> Option<Revision> {
    let bytes = key.strip_prefix(&[CHANGE])?.first_chunk::<8>()?;
    Some(Revision(u64::from_be_bytes(*bytes)))
}

/// An index entry, or, with the start of a name, before those whose names start so.
pub fn index(kind: &str, index: &str, value: &str, name: &str) -> Vec<u8> {
    joined(
        INDEX,
        &[
            kind.as_bytes(),
            index.as_bytes(),
            value.as_bytes(),
            name.as_bytes(),
        ],
    )
}

/// The name at the end of an index entry.
pub fn parse_index(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.rsplit(|byte| *byte == 0).next()?).ok()
}

/// Says that the resource belongs to the owner.
pub fn dependant(owner: Uid, kind: &str, name: &str) -> Vec<u8> {
    let mut key = dependants(owner);
    key.extend_from_slice(kind.as_bytes());
    key.push(0);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Before all that belongs to the owner.
pub fn dependants(owner: Uid) -> Vec<u8> {
    tagged_uid(DEPENDANT, owner)
}

/// Kind and name of a dependant.
pub fn parse_dependant(key: &[u8]) -> Option<(&str, &str)> {
    parse_pair(key.get(17..)?)
}

/// The entry of an owner that is gone.
pub fn garbage(owner: Uid) -> Vec<u8> {
    tagged_uid(GARBAGE, owner)
}

/// The owner that is gone.
pub fn parse_garbage(key: &[u8]) -> Option<Uid> {
    Some(Uid(key.strip_prefix(&[GARBAGE])?.try_into().ok()?))
}

/// A part of a pool.
pub fn pool(pool: &str, part: u8, at: &[u8]) -> Vec<u8> {
    let mut key = joined(POOL, &[pool.as_bytes(), &[part]]);
    key.extend_from_slice(at);
    key
}

/// The end of the keys that start with `prefix`.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn tagged_uid(tag: u8, uid: Uid) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&uid.0);
    key
}

fn joined(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len() + 1).sum::<usize>());
    key.push(tag);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            key.push(0);
        }
        key.extend_from_slice(part);
    }
    key
}

fn parse_pair(bytes: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(bytes).ok()?.split_once('\0')
}
