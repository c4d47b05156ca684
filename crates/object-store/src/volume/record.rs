//! The bytes of a volume file: its own header, and the header in front of each block.
//!
//! ```text
//! 0        4 KiB                        aligned to 4 KiB
//! ┌────────┬───────────────┬─────────┬──┬───────────────┬──
//! │ volume │ record header │ payload │  │ record header │ …
//! │ header │   + mark      │         │  │   + mark      │
//! └────────┴───────────────┴─────────┴──┴───────────────┴──
//! ```
//! Invariants:
//! - a record's header is valid only in the volume and at the offset that it was written for: its check is a keyed
//!   BLAKE3 under the volume's random key. So the bytes of an object that holds a copy of a volume are never taken for
//!   records when a scan has to look for the next header;
//! - the dead mark lies beside the header, never inside: marking a record dead can't damage the header, which a scan
//!   needs to find the next record. A torn mark leaves the record alive;
//! - `synced_below` in a header says: every record of this volume that starts below is whole and durable.

use ids::BlockId;

use crate::volume::BlockError;

/// Version of volume files.
pub const VOLUME_FORMAT: u8 = 1;
/// Records start at multiples of this; the volume header takes the first.
pub const ALIGN: u64 = 4096;
/// Bytes in front of a payload: header and dead mark.
pub const HEADER_BYTES: usize = 128;
/// Where in the record the dead mark lies.
pub const MARK_AT: u64 = MARK_START as u64;

const MARK_START: usize = 112;
const VOLUME_MAGIC: &[u8; 8] = b"SKERRYVO";
const RECORD_MAGIC: &[u8; 4] = b"SKBL";
const CHECK_AT: usize = 96;

/// The first bytes of a volume file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeHeader {
    /// The number in the file's name.
    pub number: u32,
    /// The key of the checks of its records.
    pub key: [u8; 32],
}

impl VolumeHeader {
    /// Encoded length.
    pub const LEN: usize = 64;

    /// The bytes for the start of the file.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(VOLUME_MAGIC);
        out[8] = VOLUME_FORMAT;
        out[12..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..48].copy_from_slice(&self.key);
        let check = blake3::hash(&out[..48]);
        out[48..].copy_from_slice(&check.as_bytes()[..16]);
        out
    }

    /// Reads what [`VolumeHeader::encode`] made.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, BlockError> {
        let damaged = |why: &str| BlockError::Damaged(format!("volume header: {why}"));
        if &bytes[..8] != VOLUME_MAGIC {
            return Err(damaged("it does not start as a volume does"));
        }
        if bytes[48..] != blake3::hash(&bytes[..48]).as_bytes()[..16] {
            return Err(damaged("its check does not fit"));
        }
        if bytes[8] != VOLUME_FORMAT {
            return Err(BlockError::Newer {
                found: bytes[8],
                known: VOLUME_FORMAT,
            });
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[16..48]);
        Ok(VolumeHeader {
            number: u32_at(bytes, 12),
            key,
        })
    }
}

/// Where in the file the volume's touch lies, see [`crate::volume::checkpoint`].
pub const TOUCH_AT: u64 = 64;
/// Bytes of a touch.
pub const TOUCH_BYTES: usize = 24;

/// The bytes of a touch by a delete after checkpoint `number`.
pub fn encode_touch(key: &[u8; 32], number: u64) -> [u8; TOUCH_BYTES] {
    let mut out = [0; TOUCH_BYTES];
    out[..8].copy_from_slice(&number.to_le_bytes());
    let check = blake3::keyed_hash(key, &out[..8]);
    out[8..].copy_from_slice(&check.as_bytes()[..16]);
    out
}

/// The number of a touch; 0 when the volume was never touched, the highest number when the touch is torn.
pub fn decode_touch(bytes: &[u8; TOUCH_BYTES], key: &[u8; 32]) -> u64 {
    let number = u64_at(bytes, 0);
    if bytes == &[0; TOUCH_BYTES] {
        0
    } else if bytes == &encode_touch(key, number) {
        number
    } else {
        u64::MAX
    }
}

/// What is said of a block in front of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The block.
    pub id: BlockId,
    /// Bytes of payload.
    pub len: u32,
    /// BLAKE3 of the payload.
    pub hash: [u8; 32],
    /// When the block was stored, in seconds since 1970 by this node's clock.
    pub stored_s: u32,
    /// Records that start below this offset are whole and durable.
    pub synced_below: u64,
}

impl RecordHeader {
    /// The bytes in front of the payload, with a live mark, for `offset` of the volume with `key`.
    pub fn encode(&self, key: &[u8; 32], offset: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(RECORD_MAGIC);
        out[4] = VOLUME_FORMAT;
        out[8..32].copy_from_slice(&self.id.to_bytes());
        out[32..36].copy_from_slice(&self.len.to_le_bytes());
        out[36..40].copy_from_slice(&self.stored_s.to_le_bytes());
        out[40..48].copy_from_slice(&self.synced_below.to_le_bytes());
        out[48..56].copy_from_slice(&offset.to_le_bytes());
        out[56..88].copy_from_slice(&self.hash);
        let check = blake3::keyed_hash(key, &out[..CHECK_AT]);
        out[CHECK_AT..MARK_START].copy_from_slice(&check.as_bytes()[..16]);
        out
    }

    /// The header at `offset`, and whether the record is dead; `None` when no record starts there.
    pub fn decode(bytes: &[u8; HEADER_BYTES], key: &[u8; 32], offset: u64) -> Option<(Self, bool)> {
        if &bytes[..4] != RECORD_MAGIC || bytes[4] != VOLUME_FORMAT || u64_at(bytes, 48) != offset {
            return None;
        }
        let check = blake3::keyed_hash(key, &bytes[..CHECK_AT]);
        if bytes[CHECK_AT..MARK_START] != check.as_bytes()[..16] {
            return None;
        }
        let mut id = [0; BlockId::LEN];
        id.copy_from_slice(&bytes[8..32]);
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[56..88]);
        let header = RecordHeader {
            id: BlockId::from_bytes(&id),
            len: u32_at(bytes, 32),
            hash,
            stored_s: u32_at(bytes, 36),
            synced_below: u64_at(bytes, 40),
        };
        Some((header, bytes[MARK_START..] == dead_mark(key, offset)))
    }

    /// Where the next record may start when this one starts at `offset`.
    pub fn end(&self, offset: u64) -> u64 {
        offset + record_bytes(self.len)
    }
}

/// What is written beside the header of a dead record.
pub fn dead_mark(key: &[u8; 32], offset: u64) -> [u8; 16] {
    let mut text = *b"dead....\0\0\0\0\0\0\0\0";
    text[8..].copy_from_slice(&offset.to_le_bytes());
    let mut mark = [0; 16];
    mark.copy_from_slice(&blake3::keyed_hash(key, &text).as_bytes()[..16]);
    mark
}

/// Bytes that a record with `len` bytes of payload takes in the file.
pub fn record_bytes(len: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(len)).next_multiple_of(ALIGN)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use ids::{GroupId, SegmentId};
    use proptest::prelude::*;

    use super::*;

    fn header(seed: u8) -> RecordHeader {
        RecordHeader {
            id: BlockId {
                group: GroupId(3),
                segment: SegmentId([seed; 16]),
                number: 70_000,
            },
            len: 5000,
            hash: [seed; 32],
            stored_s: 1_700_000_000,
            synced_below: 1 << 33,
        }
    }

    #[test]
    fn a_header_is_valid_only_where_it_was_written() {
        let bytes = header(1).encode(&[9; 32], 8192);
        assert_eq!(
            RecordHeader::decode(&bytes, &[9; 32], 8192),
            Some((header(1), false))
        );
        assert_eq!(RecordHeader::decode(&bytes, &[9; 32], 4096), None);
        assert_eq!(RecordHeader::decode(&bytes, &[8; 32], 8192), None);
    }

    #[test]
    fn a_torn_mark_leaves_the_record_alive() {
        let mut bytes = header(1).encode(&[9; 32], 8192);
        let mark = dead_mark(&[9; 32], 8192);
        bytes[MARK_START..MARK_START + 8].copy_from_slice(&mark[..8]);
        assert_eq!(
            RecordHeader::decode(&bytes, &[9; 32], 8192),
            Some((header(1), false))
        );
        bytes[MARK_START..].copy_from_slice(&mark);
        assert_eq!(
            RecordHeader::decode(&bytes, &[9; 32], 8192),
            Some((header(1), true))
        );
    }

    #[test]
    fn a_torn_touch_counts_as_the_newest() {
        let mut touch = encode_touch(&[9; 32], 7);
        assert_eq!(decode_touch(&touch, &[9; 32]), 7);
        assert_eq!(decode_touch(&[0; TOUCH_BYTES], &[9; 32]), 0);
        touch[0] = 6;
        assert_eq!(decode_touch(&touch, &[9; 32]), u64::MAX);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_header_is_noticed(bit in 0..CHECK_AT * 8) {
            let mut bytes = header(2).encode(&[9; 32], 8192);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordHeader::decode(&bytes, &[9; 32], 8192), None);
        }

        #[test]
        fn volume_headers_survive_their_bytes(number in any::<u32>(), key in any::<[u8; 32]>(), bit in 0..512_usize) {
            let header = VolumeHeader { number, key };
            let mut bytes = header.encode();
            prop_assert_eq!(VolumeHeader::decode(&bytes).unwrap(), header);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(VolumeHeader::decode(&bytes).is_err());
        }
    }
}
