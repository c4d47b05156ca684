//! One record: its bytes, and whether bytes are one. Pure.
//!
//! ```text
//!  0          4        8     9    10      12      16      24       28           32
//!  +----------+--------+-----+----+-------+-------+-------+--------+------------+---------+-----+
//!  | head crc | length | ver |kind|   0   | group | index | synced |payload crc | payload | pad |
//!  +----------+--------+-----+----+-------+-------+-------+--------+------------+---------+-----+
//! ```
//!
//! Little-endian; every record starts at a multiple of 8. Checksums are CRC-32C. The head's is taken over the segment's
//! salt, the record's offset and bytes 4..32: bytes of another file or place, or a payload that somebody made to look
//! like a record, don't pass. The head has its own checksum so that a torn payload doesn't hide what the head says, and
//! so that looking for later records costs little, whatever the payloads hold.
//!
//! Bounds: a payload is at most [`PAYLOAD_BYTES_MAX`]; a longer length is damage and never allocates.

use ids::GroupId;

/// Format version of records and segments.
pub(crate) const VERSION: u8 = 1;

/// Bytes before a payload.
pub(crate) const HEAD_LEN: usize = 32;

/// The longest payload: an entry is a command of at most 1 MiB and a little around it.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;

/// What a record says. The numbers are the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A log entry at `index`.
    Entry = 1,
    /// The group's vote.
    Vote = 2,
    /// Entries from `index` on are void.
    Truncate = 3,
    /// Entries up to `index`, included, are void; the payload names the last.
    Purge = 4,
    /// The group is gone, vote and all.
    Drop = 5,
    /// In a segment's head: a group's small state; `index` is its next index.
    Checkpoint = 6,
    /// The end of a clean run: everything before was synced.
    Seal = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Entry, Vote, Truncate, Purge, Drop, Checkpoint, Seal]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A record as the rest of the crate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub kind: Kind,
    pub group: GroupId,
    pub index: u64,
    pub payload: &'a [u8],
}

/// A head whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: Kind,
    pub group: GroupId,
    pub index: u64,
    /// Bytes of the payload.
    pub len: u32,
    /// Everything before this offset was synced when the record was written.
    pub synced: u32,
    payload_crc: u32,
}

/// Why bytes aren't a record of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Fewer bytes than a record needs.
    Short,
    /// A checksum or a field is wrong.
    Damaged,
    /// The checksum is right, version or kind are unknown.
    Newer(u8),
}

/// Bytes that a record takes, padding included.
pub(crate) const fn encoded_len(payload_len: usize) -> usize {
    (HEAD_LEN + payload_len).next_multiple_of(8)
}

/// Appends a record that will stand at `offset` of the segment with this `salt`.
pub(crate) fn encode(out: &mut Vec<u8>, salt: u64, offset: u32, synced: u32, record: &Record<'_>) {
    debug_assert!(
        record.payload.len() <= PAYLOAD_BYTES_MAX && offset.is_multiple_of(8) && synced <= offset
    );
    let mut head = [0; HEAD_LEN];
    head[4..8].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
    head[8] = VERSION;
    head[9] = record.kind as u8;
    head[12..16].copy_from_slice(&record.group.0.to_le_bytes());
    head[16..24].copy_from_slice(&record.index.to_le_bytes());
    head[24..28].copy_from_slice(&synced.to_le_bytes());
    head[28..32].copy_from_slice(&crc(record.payload).to_le_bytes());
    let head_crc = head_crc(salt, offset, &head);
    head[..4].copy_from_slice(&head_crc.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(record.payload);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Whether [`decode_head`] could give a head here, by what costs no checksum.
pub(crate) fn may_be_head(bytes: &[u8], offset: u32) -> bool {
    let Some(head) = bytes.first_chunk::<HEAD_LEN>() else {
        return false;
    };
    head[8] == VERSION
        && Kind::from_byte(head[9]).is_some()
        && head[10..12] == [0, 0]
        && u32_at(head, 4) as usize <= PAYLOAD_BYTES_MAX
        && u32_at(head, 24) <= offset
}

/// Reads the head at the start of `bytes`, which stand at `offset` of the segment with this `salt`.
pub(crate) fn decode_head(bytes: &[u8], salt: u64, offset: u32) -> Result<Head, Invalid> {
    let head: &[u8; HEAD_LEN] = bytes.first_chunk().ok_or(Invalid::Short)?;
    if u32_at(head, 0) != head_crc(salt, offset, head) {
        return Err(Invalid::Damaged);
    }
    if head[8] != VERSION {
        return Err(Invalid::Newer(head[8]));
    }
    let kind = Kind::from_byte(head[9]).ok_or(Invalid::Newer(head[8]))?;
    let index = u64::from_le_bytes([
        head[16], head[17], head[18], head[19], head[20], head[21], head[22], head[23],
    ]);
    let decoded = Head {
        kind,
        group: GroupId(u32_at(head, 12)),
        index,
        len: u32_at(head, 4),
        synced: u32_at(head, 24),
        payload_crc: u32_at(head, 28),
    };
    if decoded.len as usize > PAYLOAD_BYTES_MAX || decoded.synced > offset || head[10..12] != [0, 0]
    {
        return Err(Invalid::Damaged);
    }
    Ok(decoded)
}

/// Reads the record at the start of `bytes`; they may go on after it.
pub(crate) fn decode(bytes: &[u8], salt: u64, offset: u32) -> Result<Record<'_>, Invalid> {
    let head = decode_head(bytes, salt, offset)?;
    let payload = bytes
        .get(HEAD_LEN..HEAD_LEN + head.len as usize)
        .ok_or(Invalid::Short)?;
    let end = encoded_len(payload.len());
    let pad = bytes
        .get(HEAD_LEN + payload.len()..end)
        .ok_or(Invalid::Short)?;
    if crc(payload) != head.payload_crc || pad.iter().any(|byte| *byte != 0) {
        return Err(Invalid::Damaged);
    }
    Ok(Record {
        kind: head.kind,
        group: head.group,
        index: head.index,
        payload,
    })
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

fn head_crc(salt: u64, offset: u32, head: &[u8; HEAD_LEN]) -> u32 {
    let mut covered = [0; 12 + HEAD_LEN - 4];
    covered[..8].copy_from_slice(&salt.to_le_bytes());
    covered[8..12].copy_from_slice(&offset.to_le_bytes());
    covered[12..].copy_from_slice(&head[4..]);
    crc(&covered)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(offset: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let record = Record {
            kind: Kind::Entry,
            group: GroupId(7),
            index: 42,
            payload,
        };
        encode(&mut out, 99, offset, offset / 2, &record);
        out
    }

    #[test]
    fn a_known_answer_for_the_checksum() {
        assert_eq!(crc(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn a_record_survives_its_bytes(payload in prop::collection::vec(any::<u8>(), 0..100), at in 0..1000u32) {
            let offset = at * 8;
            let bytes = encoded(offset, &payload);
            prop_assert_eq!(bytes.len(), encoded_len(payload.len()));
            let record = decode(&bytes, 99, offset).unwrap();
            prop_assert_eq!(record, Record { kind: Kind::Entry, group: GroupId(7), index: 42, payload: &payload });
            prop_assert_eq!(decode_head(&bytes, 99, offset).unwrap().synced, offset / 2);
        }

        #[test]
        fn a_flipped_bit_is_seen(payload in prop::collection::vec(any::<u8>(), 0..100), bit in any::<prop::sample::Index>()) {
            let mut bytes = encoded(64, &payload);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, 99, 64).is_err());
        }

        #[test]
        fn a_record_is_none_elsewhere(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = encoded(64, &payload);
            prop_assert_eq!(decode(&bytes, 99, 72), Err(Invalid::Damaged));
            prop_assert_eq!(decode(&bytes, 98, 64), Err(Invalid::Damaged));
        }

        #[test]
        fn any_bytes_decode_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 0, 0);
            prop_assert!(decode_head(&bytes, 0, 0).is_err() || may_be_head(&bytes, 0));
        }

        #[test]
        fn a_head_is_never_ruled_out(payload in prop::collection::vec(any::<u8>(), 0..100), at in 0..1000u32) {
            prop_assert!(may_be_head(&encoded(at * 8, &payload), at * 8));
        }

        #[test]
        fn zeros_and_a_wrong_field_are_ruled_out_without_a_checksum(field in prop::sample::select(vec![7usize, 8, 9, 10, 11, 27])) {
            let mut bytes = encoded(64, b"payload");
            bytes[field] = 0xFF;
            prop_assert!(!may_be_head(&bytes, 64));
            prop_assert!(!may_be_head(&[0; HEAD_LEN], 64));
        }
    }

    #[test]
    fn an_unknown_version_is_told_from_damage() {
        let mut bytes = encoded(0, b"later");
        bytes[8] = 2;
        let head: [u8; HEAD_LEN] = *bytes.first_chunk().unwrap();
        bytes[..4].copy_from_slice(&head_crc(99, 0, &head).to_le_bytes());
        assert_eq!(decode(&bytes, 99, 0), Err(Invalid::Newer(2)));
    }
}
