//! What is written: records whose keys come in no order, each made from its number and recognised by it.

/// Puts of one commit.
pub const PUTS_PER_BATCH: u64 = 256;
/// Bytes of a record's key and value.
pub const RECORD_BYTES: u64 = (KEY_LEN + VALUE_LEN) as u64;

const KEY_LEN: usize = 24;
const VALUE_LEN: usize = 200;
/// Group and generation, as in front of every key of `raft-groups`.
const PREFIX: u64 = 1 << 32;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Prefix, a scramble of the number, the number.
    pub key: [u8; KEY_LEN],
    /// The number, then bytes that don't compress.
    pub value: [u8; VALUE_LEN],
}

impl Record {
    /// Record `number`.
    pub fn new(number: u64) -> Record {
        let mut value = [0; VALUE_LEN];
        let mut state = scrambled(number) | 1;
        for chunk in value.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        value[..8].copy_from_slice(&number.to_le_bytes());
        Record {
            key: key(number),
            value,
        }
    }

    /// The number of the record with this key and value; none when they belong to no record.
    pub fn recognise(key: &[u8], value: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(*value.first_chunk()?);
        let record = Record::new(number);
        (record.key == key && record.value == value).then_some(number)
    }
}

/// The key of record `number`.
pub fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..8].copy_from_slice(&PREFIX.to_be_bytes());
    key[8..16].copy_from_slice(&scrambled(number).to_be_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The records of batch `number`, from 0.
pub fn batch(number: u64) -> Vec<Record> {
    let first = number * PUTS_PER_BATCH;
    (first..first + PUTS_PER_BATCH).map(Record::new).collect()
}

/// Another number for each number, in no order (the last steps of splitmix64).
pub fn scrambled(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
