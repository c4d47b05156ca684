//! How a file is cut into parts.
//!
//! Invariants: at most [`PARTS_MAX`] parts; all but the last have the same size; together they are the file.

/// Files above this are sent in parts.
pub const MULTIPART_ABOVE: u64 = PART_SIZE;
/// The size of a part, unless the file needs larger ones.
pub const PART_SIZE: u64 = 16 << 20;
/// The parts of an object at most.
pub(super) const PARTS_MAX: u64 = 10_000;

/// The cut of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    size: u64,
    part_size: u64,
}

impl Parts {
    /// Cuts `size` bytes.
    #[must_use]
    pub fn of(size: u64) -> Self {
        let needed = size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
        Self {
            size,
            part_size: needed.max(PART_SIZE),
        }
    }

    /// The number of parts; an empty file has none.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.part_size)).expect("at most 10,000")
    }

    /// Offset and length of a part, counted from 1.
    #[must_use]
    pub fn range(&self, number: u32) -> (u64, u64) {
        let offset = u64::from(number - 1) * self.part_size;
        (offset, self.part_size.min(self.size - offset))
    }

    /// All part numbers.
    #[must_use]
    pub fn numbers(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file() {
        let sizes = [
            0,
            1,
            PART_SIZE,
            PART_SIZE + 1,
            10_000 * PART_SIZE,
            10_000 * PART_SIZE + 1,
        ];
        for size in sizes.into_iter().chain([5 << 40]) {
            let parts = Parts::of(size);
            assert!(u64::from(parts.count()) <= PARTS_MAX, "{size}");
            let mut next = 0;
            for number in parts.numbers() {
                let (offset, length) = parts.range(number);
                assert_eq!(offset, next);
                assert!(length > 0 && (length >= PART_SIZE || number == parts.count()));
                next += length;
            }
            assert_eq!(next, size);
        }
    }
}
