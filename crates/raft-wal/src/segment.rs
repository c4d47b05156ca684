//! Segment files: their names, the header, and how a new one comes to be.
//!
//! ```text
//!  0     8         12   16       24     32         40             48  60    64        head_len
//!  +-----+---------+----+--------+------+----------+--------------+---+-----+-------------+---------
//!  |magic| version | 0  | number | salt | head_len | previous_len | 0 | crc | checkpoints | records …
//!  +-----+---------+----+--------+------+----------+--------------+---+-----+-------------+---------
//! ```
//!
//! Invariants:
//! - a file with a segment's name has a whole, synced head: it is written under another name, synced, renamed, and its
//!   folder is synced before the first record is added;
//! - `previous_len` is where the records of the segment before end: that one was synced to there;
//! - numbers have no gap; the oldest segments go first, each removal durable before the next;
//! - behind the last record of a segment that was made of a spare file stand bytes of another time; the salt voids them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::GroupId;
use platform::{Disk, File};

use crate::WalError;
use crate::record::{self, Kind, Record, VERSION};
use crate::state::{GroupState, encode_checkpoint};

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"SkerryWl";
const SUFFIX: &str = ".seg";
/// The suffix of a segment that isn't one yet.
const SUFFIX_NEW: &str = ".seg.new";
/// The suffix of a segment that is one no longer and waits to become another.
const SUFFIX_SPARE: &str = ".seg.spare";

/// The path of a segment below the data folder.
pub(crate) fn path(dir: &str, number: u64) -> String {
    format!("{dir}/wal-{number:016x}{SUFFIX}")
}

/// What a name in the log's folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// A segment.
    Segment(u64),
    /// The beginning of a segment that was never used.
    Unfinished,
    /// A file to make a segment of.
    Spare,
    /// Not ours.
    Other,
}

impl Name {
    pub(crate) fn of(name: &str) -> Name {
        let number = |suffix| {
            let digits: &str = name.strip_prefix("wal-")?.strip_suffix(suffix)?;
            (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
        };
        match (number(SUFFIX), number(SUFFIX_NEW), number(SUFFIX_SPARE)) {
            (Some(number), _, _) => Name::Segment(number),
            (_, Some(_), _) => Name::Unfinished,
            (_, _, Some(_)) => Name::Spare,
            _ => Name::Other,
        }
    }
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub number: u64,
    /// Random; part of each record's checksum.
    pub salt: u64,
    /// Where the checkpoint ends and the records begin.
    pub head_len: u64,
    /// Where the previous segment ends.
    pub previous_len: u64,
}

/// Why bytes are no header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InvalidHeader {
    /// Short, or a checksum or field is wrong.
    Damaged,
    /// Of a later version.
    Newer(u32),
}

impl Header {
    /// The header's bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&u32::from(VERSION).to_le_bytes());
        for (at, field) in [
            (16, self.number),
            (24, self.salt),
            (32, self.head_len),
            (40, self.previous_len),
        ] {
            out[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let crc = record::crc(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The inverse of [`Header::encode`]. The checksum stays where it is in all versions.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, InvalidHeader> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(InvalidHeader::Damaged)?;
        if bytes[..8] != MAGIC || record::u32_at(bytes, 60) != record::crc(&bytes[..60]) {
            return Err(InvalidHeader::Damaged);
        }
        let version = record::u32_at(bytes, 8);
        if version != u32::from(VERSION) {
            return Err(InvalidHeader::Newer(version));
        }
        let field = |at| {
            u64::from(record::u32_at(bytes, at)) | u64::from(record::u32_at(bytes, at + 4)) << 32
        };
        Ok(Header {
            number: field(16),
            salt: field(24),
            head_len: field(32),
            previous_len: field(40),
        })
    }
}

/// The head of a new segment: header and checkpoint.
pub(crate) fn encode_head(
    number: u64,
    salt: u64,
    previous_len: u64,
    states: &BTreeMap<GroupId, GroupState>,
) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN];
    for (group, state) in states {
        let payload = encode_checkpoint(state);
        let record = Record {
            kind: Kind::Checkpoint,
            group: *group,
            index: state.next,
            payload: &payload,
        };
        let offset = out.len() as u32;
        record::encode(&mut out, salt, offset, 0, &record);
    }
    let header = Header {
        number,
        salt,
        head_len: out.len() as u64,
        previous_len,
    };
    out[..HEADER_LEN].copy_from_slice(&header.encode());
    out
}

/// The file of a former segment. Writing over bytes that a file has already is cheaper to sync than making it longer;
/// what is left of the old records has another salt and counts for nothing.
#[derive(Debug)]
pub(crate) struct Spare {
    pub path: String,
    pub file: Arc<dyn File>,
}

/// Makes a segment with this head, durable in content and name, of a spare file if there is one.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &str,
    number: u64,
    head: &[u8],
    spare: Option<Spare>,
) -> Result<Arc<dyn File>, WalError> {
    let path = path(dir, number);
    let (path_new, file) = match spare {
        Some(spare) => (spare.path, spare.file),
        None => {
            let path_new = format!("{dir}/wal-{number:016x}{SUFFIX_NEW}");
            let file = disk
                .create(&path_new)
                .map_err(WalError::io("create a segment"))?;
            (path_new, file)
        }
    };
    file.write_at(0, head)
        .map_err(WalError::io("write a segment's head"))?;
    file.sync().map_err(WalError::io("sync a segment's head"))?;
    disk.rename(&path_new, &path)
        .map_err(WalError::io("name a segment"))?;
    disk.sync_dir(dir)
        .map_err(WalError::io("sync the log's folder"))?;
    Ok(file)
}

/// Removes a segment for good.
pub(crate) fn remove(disk: &dyn Disk, dir: &str, number: u64) -> Result<(), WalError> {
    disk.remove(&path(dir, number))
        .map_err(WalError::io("remove a segment"))?;
    disk.sync_dir(dir)
        .map_err(WalError::io("sync the log's folder"))
}

/// Takes a segment out of the log and keeps its file. Nobody else may hold the file: it will be written over.
pub(crate) fn retire(
    disk: &dyn Disk,
    dir: &str,
    number: u64,
    file: Arc<dyn File>,
) -> Result<Spare, WalError> {
    let spare = format!("{dir}/wal-{number:016x}{SUFFIX_SPARE}");
    disk.rename(&path(dir, number), &spare)
        .map_err(WalError::io("put a segment aside"))?;
    disk.sync_dir(dir)
        .map_err(WalError::io("sync the log's folder"))?;
    Ok(Spare { path: spare, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_and_come_back() {
        assert!(path("wal", 9) < path("wal", 10) && path("wal", 255) < path("wal", 256));
        assert_eq!(Name::of("wal-00000000000000ff.seg"), Name::Segment(255));
        assert_eq!(Name::of("wal-00000000000000ff.seg.new"), Name::Unfinished);
        assert_eq!(Name::of("wal-00000000000000ff.seg.spare"), Name::Spare);
        for other in ["wal-ff.seg", "x", "wal-00000000000000fg.seg"] {
            assert_eq!(Name::of(other), Name::Other);
        }
    }

    #[test]
    fn a_header_survives_its_bytes_and_no_flip_does() {
        let header = Header {
            number: 3,
            salt: u64::MAX - 5,
            head_len: 64,
            previous_len: 1 << 40,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), Err(InvalidHeader::Damaged));
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = Header {
            number: 3,
            salt: 0,
            head_len: 64,
            previous_len: 0,
        }
        .encode();
        bytes[8] = 9;
        let crc = record::crc(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(InvalidHeader::Newer(9)));
    }
}
