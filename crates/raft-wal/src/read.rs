//! Reading entries back from the segment files, each checksum checked again.

use std::ops::Range;

use bytes::Bytes;
use ids::GroupId;

use crate::WalError;
use crate::core::{Core, Piece, Segment};
use crate::index::Place;
use crate::record::{self, Kind};
use crate::recovery::damaged;

/// Records at most this far apart are read with one call.
const GAP_MAX: u64 = 16 << 10;
/// The most that one call reads, unless a single record is longer.
const RUN_MAX: u64 = 4 << 20;

/// Stored entries that one read of a file brings.
pub(crate) struct Run {
    segment: Segment,
    range: Range<u64>,
    group: GroupId,
    /// Index in the log, offset in the file.
    records: Vec<(u64, u32)>,
}

/// Groups the stored ones among `pieces` into runs. None when a segment is unknown, which no caller can bring about.
pub(crate) fn runs(core: &Core, group: GroupId, pieces: &[(u64, Piece)]) -> Option<Vec<Run>> {
    let mut runs: Vec<(u64, Run)> = Vec::new();
    for (index, piece) in pieces {
        let Piece::Stored(Place {
            segment,
            offset,
            len,
        }) = piece
        else {
            continue;
        };
        let start = u64::from(*offset);
        let end = start + record::encoded_len(*len as usize) as u64;
        if let Some((number, run)) = runs.last_mut()
            && *number == *segment
            && start.saturating_sub(run.range.end) <= GAP_MAX
            && end - run.range.start <= RUN_MAX
        {
            run.range.end = end;
            run.records.push((*index, *offset));
            continue;
        }
        let file = core.segments.get(segment)?.clone();
        runs.push((
            *segment,
            Run {
                segment: file,
                range: start..end,
                group,
                records: vec![(*index, *offset)],
            },
        ));
    }
    Some(runs.into_iter().map(|(_, run)| run).collect())
}

impl Run {
    /// Reads and checks the entries.
    pub(crate) fn read(&self) -> Result<Vec<(u64, Bytes)>, WalError> {
        let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
        let file = &self.segment.file;
        file.read_at(self.range.start, &mut bytes)
            .map_err(WalError::io("read an entry"))?;
        self.records
            .iter()
            .map(|(index, offset)| Ok((*index, self.entry(&bytes, *index, *offset)?)))
            .collect()
    }

    fn entry(&self, bytes: &[u8], index: u64, offset: u32) -> Result<Bytes, WalError> {
        let at = (u64::from(offset) - self.range.start) as usize;
        match record::decode(&bytes[at..], self.segment.salt, offset) {
            Ok(record)
                if (record.kind, record.group, record.index)
                    == (Kind::Entry, self.group, index) =>
            {
                Ok(Bytes::copy_from_slice(record.payload))
            }
            _ => {
                let what = format!(
                    "entry {index} of group {} is not what was written",
                    self.group
                );
                Err(damaged(&self.segment.path, offset.into(), what))
            }
        }
    }
}
