//! From the bytes of the segments to the index: what counts, what is a torn tail, what is damage. Pure.
//!
//! ```text
//!  last segment   |head|--- batch 1, synced ---|--- batch 2, synced ---|-- batch 3, no sync --|
//!                                                   ^p
//!  a record of batch 3 says `synced` = end of batch 2 > p: what was at p had been durable → damage
//!
//!  last segment   |head|--- batch 1, synced ---|--- batch 2, no sync: pages may be missing ---|
//!                                                   ^p
//!  nobody says that p was synced → a crash during the write: cut at p
//! ```
//!
//! Rules:
//! - any segment but the last was synced to its end before the next was made: each byte of its records must be right;
//! - in the last, the head was synced before the segment got its name; behind it the picture above decides;
//! - the checkpoint in the head of the oldest segment is the state to begin with; that of each later one must say what
//!   the records before it say;
//! - a batch is one write and one sync, and the next is written after that sync: so an unsynced record never says that
//!   an earlier one of its own batch was synced.
//!
//! What can't be told: the last synced batch spoiled with nothing after it looks like a torn tail. A clean close adds a
//! seal that says "all synced", so that even this is seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::GroupId;

use crate::WalError;
use crate::index::{Index, Place};
use crate::record::{self, HEAD_LEN, Invalid, Kind, VERSION};
use crate::segment::{HEADER_LEN, Header, InvalidHeader};
use crate::state::GroupState;

/// Records are addressed by 32 bits.
pub(crate) const SEGMENT_LEN_MAX: u64 = u32::MAX as u64;

/// Takes in segments from the oldest to the newest.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    index: Index,
    previous: Option<u64>,
    records: u64,
}

/// What a segment turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub header: Header,
    /// Where its records end. Bytes behind are a torn tail.
    pub end: u64,
}

/// The result of all segments.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub index: Index,
    pub records: u64,
}

/// One segment's bytes and the names to use for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentBytes<'a> {
    pub number: u64,
    pub path: &'a str,
    pub bytes: &'a [u8],
    /// Where the next segment says that this one ends; none for the last.
    pub sealed_len: Option<u64>,
}

impl Recovery {
    /// Takes in the next segment.
    pub(crate) fn segment(&mut self, segment: SegmentBytes<'_>) -> Result<Scanned, WalError> {
        let header = segment.header()?;
        if let Some(previous) = self.previous
            && previous + 1 != segment.number
        {
            return Err(segment.damaged(
                0,
                format!(
                    "the segment before it, number {}, is missing",
                    segment.number - 1
                ),
            ));
        }
        let bytes = match segment.sealed_len {
            Some(len) => usize::try_from(len)
                .ok()
                .and_then(|len| segment.bytes.get(..len))
                .ok_or_else(|| {
                    segment.damaged(
                        segment.bytes.len() as u64,
                        format!("the file should have {len} bytes"),
                    )
                })?,
            None => segment.bytes,
        };
        let segment = SegmentBytes { bytes, ..segment };
        let records_from = self.head(&segment, &header)?;
        let end = self.records(&segment, &header, records_from)?;
        self.previous = Some(segment.number);
        Ok(Scanned { header, end })
    }

    /// The index, once all segments were taken in.
    pub(crate) fn finish(self, oldest_path: &str) -> Result<Recovered, WalError> {
        if let Some((group, index)) = self.index.missing() {
            let what =
                format!("the segment before it, with entry {index} of group {group}, is missing");
            return Err(damaged(oldest_path, 0, what));
        }
        Ok(Recovered {
            index: self.index,
            records: self.records,
        })
    }

    /// The checkpoint: begins the state, or confirms it. Returns where the records begin.
    fn head(&mut self, segment: &SegmentBytes<'_>, header: &Header) -> Result<usize, WalError> {
        let damaged_head = || segment.damaged(HEADER_LEN as u64, "the head is cut".into());
        let head_len = usize::try_from(header.head_len).map_err(|_| damaged_head())?;
        let head = segment.bytes.get(..head_len).ok_or_else(damaged_head)?;
        let mut checkpoint = Index::default();
        let mut at = HEADER_LEN;
        while at < head.len() {
            let record = match record::decode(&head[at..], header.salt, at as u32) {
                Ok(record) if record.kind == Kind::Checkpoint => record,
                Err(Invalid::Newer(version)) => return Err(segment.newer(version)),
                _ => {
                    return Err(segment.damaged(
                        at as u64,
                        "a checkpoint record is not what was written".into(),
                    ));
                }
            };
            let place = Place {
                segment: segment.number,
                offset: at as u32,
                len: record.payload.len() as u32,
            };
            checkpoint
                .apply(&record, place)
                .map_err(|what| segment.damaged(at as u64, what))?;
            at += record::encoded_len(record.payload.len());
        }
        if self.previous.is_none() {
            self.index = checkpoint;
        } else if let Some(group) = first_difference(&self.index.states(), &checkpoint.states()) {
            let what = format!("its checkpoint of group {group} contradicts the segments before");
            return Err(segment.damaged(HEADER_LEN as u64, what));
        }
        Ok(at)
    }

    /// The records behind the head. Returns where they end.
    fn records(
        &mut self,
        segment: &SegmentBytes<'_>,
        header: &Header,
        from: usize,
    ) -> Result<u64, WalError> {
        let mut at = from;
        while at < segment.bytes.len() {
            let record = match record::decode(&segment.bytes[at..], header.salt, at as u32) {
                Ok(record) if record.kind != Kind::Checkpoint => record,
                Err(Invalid::Newer(version)) => return Err(segment.newer(version)),
                _ => {
                    segment.allow_cut(header.salt, at)?;
                    break;
                }
            };
            let place = Place {
                segment: segment.number,
                offset: at as u32,
                len: record.payload.len() as u32,
            };
            self.index
                .apply(&record, place)
                .map_err(|what| segment.damaged(at as u64, what))?;
            self.records += 1;
            at += record::encoded_len(record.payload.len());
        }
        Ok(at as u64)
    }
}

impl SegmentBytes<'_> {
    /// The header, checked against the name.
    pub(crate) fn header(&self) -> Result<Header, WalError> {
        if self.bytes.len() as u64 > SEGMENT_LEN_MAX {
            return Err(self.damaged(SEGMENT_LEN_MAX, "no segment is that long".into()));
        }
        match Header::decode(self.bytes) {
            Ok(header) if header.number == self.number => Ok(header),
            Ok(header) => Err(self.damaged(
                0,
                format!("the file is segment {} by its header", header.number),
            )),
            Err(InvalidHeader::Damaged) => {
                Err(self.damaged(0, "the header is not what was written".into()))
            }
            Err(InvalidHeader::Newer(version)) => Err(self.newer_u32(version)),
        }
    }

    /// Whether the records may end at `at`, where no valid one stands.
    fn allow_cut(&self, salt: u64, at: usize) -> Result<(), WalError> {
        if self.sealed_len.is_some() {
            return Err(self.damaged(
                at as u64,
                "a record is not what was written, and segments follow".into(),
            ));
        }
        match witness(self.bytes, salt, at) {
            None => Ok(()),
            Some(later) => {
                let what = format!(
                    "a record is not what was written; the one at {later} says that it was durable"
                );
                Err(self.damaged(at as u64, what))
            }
        }
    }

    fn damaged(&self, offset: u64, what: String) -> WalError {
        damaged(self.path, offset, what)
    }

    fn newer(&self, version: u8) -> WalError {
        self.newer_u32(version.into())
    }

    fn newer_u32(&self, found: u32) -> WalError {
        WalError::Newer {
            segment: self.path.into(),
            found,
            known: VERSION.into(),
        }
    }
}

pub(crate) fn damaged(path: &str, offset: u64, what: String) -> WalError {
    WalError::Damaged {
        segment: path.into(),
        offset,
        what: Arc::from(what),
    }
}

/// A record behind `at` that says that `at` was synced. Most places are no record, and that shows without a checksum.
fn witness(bytes: &[u8], salt: u64, at: usize) -> Option<usize> {
    let says_so = |later: &usize| {
        let (head, offset) = (&bytes[*later..], *later as u32);
        record::may_be_head(head, offset)
            && record::decode_head(head, salt, offset).is_ok_and(|head| head.synced as usize > at)
    };
    (at.next_multiple_of(8)..bytes.len().saturating_sub(HEAD_LEN - 1))
        .step_by(8)
        .find(says_so)
}

fn first_difference(
    a: &BTreeMap<GroupId, GroupState>,
    b: &BTreeMap<GroupId, GroupState>,
) -> Option<GroupId> {
    a.keys()
        .chain(b.keys())
        .find(|group| a.get(group) != b.get(group))
        .copied()
}

#[cfg(test)]
mod tests;
