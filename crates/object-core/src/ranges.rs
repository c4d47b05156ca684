//! Which bytes, pieces and blocks a range covers.
//!
//! Blocks rely on an invariant of segments: all blocks of one have the same length, only the last may be shorter. So the
//! length of a segment's first block tells where every block begins; no list has to be read from its start.

use std::ops::Range;

use crate::api::{ByteRange, ObjectError, Result};
use crate::meta::{PieceContent, Stored, StoredSegment};

/// What one piece contributes to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceSpan<'a> {
    /// The piece.
    pub piece: &'a StoredSegment,
    /// First byte within the piece.
    pub offset: u64,
    /// How many; at least one.
    pub len: u64,
}

/// What one block contributes to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSpan {
    /// The block's number in its segment.
    pub number: u32,
    /// First byte within the block.
    pub offset: u32,
    /// How many; at least one.
    pub len: u32,
}

/// The bytes that are asked for, of an object of `size` bytes that is stored so.
pub fn resolve(range: ByteRange, size: u64, stored: &Stored) -> Result<Range<u64>> {
    match range {
        ByteRange::Between { first, last } => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if first < end {
                Ok(first..end)
            } else {
                Err(ObjectError::InvalidRange { size })
            }
        }
        ByteRange::Suffix(len) if len > 0 && size > 0 => Ok(size.saturating_sub(len)..size),
        ByteRange::Suffix(_) => Err(ObjectError::InvalidRange { size }),
        ByteRange::Part(part) => {
            of_part(part, size, stored).ok_or(ObjectError::InvalidRange { size })
        }
    }
}

/// The bytes of a part; an object that was not uploaded in parts is its own part 1.
fn of_part(part: u16, size: u64, stored: &Stored) -> Option<Range<u64>> {
    let pieces = match stored {
        Stored::Segments(pieces) if pieces.iter().all(|piece| piece.part > 0) => pieces,
        _ => return (part == 1).then_some(0..size),
    };
    let mut start = 0;
    for piece in pieces {
        if piece.part == part {
            return Some(start..start + piece.size);
        }
        start += piece.size;
    }
    None
}

/// The pieces that a range covers, in order.
pub fn pieces_in(
    pieces: &[StoredSegment],
    range: Range<u64>,
) -> impl Iterator<Item = PieceSpan<'_>> {
    let mut start = 0;
    let spans = pieces.iter().map(move |piece| {
        let end = start + piece.size;
        let covered = range.start.max(start)..range.end.min(end);
        let span = PieceSpan {
            piece,
            offset: covered.start.saturating_sub(start),
            len: covered.end.saturating_sub(covered.start),
        };
        start = end;
        span
    });
    spans.filter(|span| span.len > 0)
}

/// The number of the block that holds a byte of a segment.
pub fn block_at(block_len: u32, offset: u64) -> u32 {
    (offset / u64::from(block_len.max(1))) as u32
}

/// The blocks that a range of a segment covers, in order; the range ends within the segment, `block_len` is the length of
/// its first block.
pub fn blocks_in(block_len: u32, range: Range<u64>) -> impl Iterator<Item = BlockSpan> {
    let block_len = u64::from(block_len.max(1));
    let numbers = match range.is_empty() {
        true => 0..0,
        false => range.start / block_len..range.end.div_ceil(block_len),
    };
    numbers.map(move |number| {
        let start = number * block_len;
        let covered = range.start.max(start)..range.end.min(start + block_len);
        BlockSpan {
            number: number as u32,
            offset: (covered.start - start) as u32,
            len: (covered.end - covered.start) as u32,
        }
    })
}

/// The bytes of a range that live in the metadata, if the piece's do.
pub fn inline_bytes<'a>(span: &PieceSpan<'a>) -> Option<&'a [u8]> {
    match &span.piece.content {
        PieceContent::Inline(bytes) => {
            bytes.get(span.offset as usize..(span.offset + span.len) as usize)
        }
        PieceContent::Blocks(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use ids::SegmentId;
    use proptest::prelude::*;

    use super::*;

    fn pieces(sizes: &[u64]) -> Vec<StoredSegment> {
        let piece = |(at, &size): (usize, &u64)| StoredSegment {
            part: at as u16 * 2 + 1,
            size,
            content: PieceContent::Blocks(SegmentId([at as u8; 16])),
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    fn between(first: u64, last: Option<u64>, size: u64) -> Result<Range<u64>> {
        resolve(
            ByteRange::Between { first, last },
            size,
            &Stored::Inline(Vec::new()),
        )
    }

    fn suffix(len: u64, size: u64) -> Result<Range<u64>> {
        resolve(ByteRange::Suffix(len), size, &Stored::Inline(Vec::new()))
    }

    #[test]
    fn ranges_are_clamped_to_the_object_or_refused() {
        let outside = |size| Err(ObjectError::InvalidRange { size });
        assert_eq!(between(0, Some(0), 10), Ok(0..1));
        assert_eq!(between(3, None, 10), Ok(3..10));
        assert_eq!(between(3, Some(u64::MAX), 10), Ok(3..10));
        assert_eq!(between(9, Some(9), 10), Ok(9..10));
        assert_eq!(between(10, None, 10), outside(10));
        assert_eq!(between(5, Some(4), 10), outside(10));
        assert_eq!(between(0, None, 0), outside(0));
        assert_eq!(suffix(3, 10), Ok(7..10));
        assert_eq!(suffix(30, 10), Ok(0..10));
        assert_eq!(suffix(0, 10), outside(10));
        assert_eq!(suffix(1, 0), outside(0));
    }

    #[test]
    fn a_part_is_found_by_its_number() {
        let stored = Stored::Segments(pieces(&[5, 7, 2]));
        let part = |part| resolve(ByteRange::Part(part), 14, &stored);
        assert_eq!(part(1), Ok(0..5));
        assert_eq!(part(3), Ok(5..12));
        assert_eq!(part(5), Ok(12..14));
        assert_eq!(part(2), Err(ObjectError::InvalidRange { size: 14 }));
        let simple = Stored::Inline(vec![1; 4]);
        assert_eq!(resolve(ByteRange::Part(1), 4, &simple), Ok(0..4));
        assert_eq!(
            resolve(ByteRange::Part(1), 0, &Stored::Inline(Vec::new())),
            Ok(0..0)
        );
        assert!(resolve(ByteRange::Part(2), 4, &simple).is_err());
    }

    #[test]
    fn the_bytes_of_an_inline_piece_are_cut() {
        let piece = StoredSegment {
            part: 1,
            size: 4,
            content: PieceContent::Inline(vec![1, 2, 3, 4]),
        };
        let span = PieceSpan {
            piece: &piece,
            offset: 1,
            len: 2,
        };
        assert_eq!(inline_bytes(&span), Some([2, 3].as_slice()));
    }

    proptest! {
        #[test]
        fn pieces_cover_a_range_byte_by_byte(sizes in proptest::collection::vec(0_u64..6, 0..6), a in 0_u64..40, b in 0_u64..40) {
            let pieces = pieces(&sizes);
            let size = sizes.iter().sum::<u64>();
            let range = a.min(b).min(size)..a.max(b).min(size);
            let all: Vec<(u16, u64)> =
                pieces.iter().flat_map(|piece| (0..piece.size).map(move |offset| (piece.part, offset))).collect();
            let covered: Vec<(u16, u64)> = pieces_in(&pieces, range.clone())
                .flat_map(|span| (span.offset..span.offset + span.len).map(move |offset| (span.piece.part, offset)))
                .collect();
            prop_assert_eq!(&covered, &all[range.start as usize..range.end as usize]);
        }

        #[test]
        fn blocks_cover_a_range_byte_by_byte(block_len in 1_u32..7, size in 0_u64..40, a in 0_u64..40, b in 0_u64..40) {
            let range = a.min(b).min(size)..a.max(b).min(size);
            let covered: Vec<u64> = blocks_in(block_len, range.clone())
                .flat_map(|span| {
                    let start = u64::from(span.number) * u64::from(block_len) + u64::from(span.offset);
                    start..start + u64::from(span.len)
                })
                .collect();
            prop_assert_eq!(covered, range.clone().collect::<Vec<_>>());
            for span in blocks_in(block_len, range) {
                prop_assert!(span.len > 0 && span.offset + span.len <= block_len);
                let first = u64::from(span.number) * u64::from(block_len) + u64::from(span.offset);
                prop_assert_eq!(block_at(block_len, first), span.number);
            }
        }
    }
}
