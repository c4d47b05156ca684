//! What a completed upload is called: entity tag and checksum of an object that is made of parts.

use crate::api::{Checksum, ChecksumKind, ChecksumScope};
use crate::digest::{checksum_of, combined_crc, md5_of};

/// MD5 of the parts' MD5s, one after another.
pub(crate) fn md5_of_parts<'a>(parts: impl Iterator<Item = &'a [u8; 16]>) -> [u8; 16] {
    let all: Vec<u8> = parts.flatten().copied().collect();
    md5_of(&all)
}

/// Whether objects can have such a checksum: that of all bytes follows from the parts' only for CRCs.
pub(crate) fn is_possible(kind: ChecksumKind, scope: ChecksumScope) -> bool {
    match scope {
        ChecksumScope::Composite => kind != ChecksumKind::Crc64Nvme,
        ChecksumScope::FullObject => !matches!(kind, ChecksumKind::Sha1 | ChecksumKind::Sha256),
    }
}

/// The checksum of an object from its parts' values and sizes; `None` where a value has the wrong length.
pub(crate) fn checksum_of_parts(
    kind: ChecksumKind,
    scope: ChecksumScope,
    parts: &[(&[u8], u64)],
) -> Option<Checksum> {
    let value = match scope {
        ChecksumScope::Composite => {
            let all: Vec<u8> = parts
                .iter()
                .flat_map(|(value, _)| value.iter().copied())
                .collect();
            checksum_of(kind, &all)
        }
        ChecksumScope::FullObject => {
            let mut values = parts.iter().copied();
            let (first, _) = values.next()?;
            values.try_fold(first.to_vec(), |sum, (value, size)| {
                combined_crc(kind, &sum, value, size)
            })?
        }
    };
    Some(Checksum { kind, scope, value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_crc_of_all_bytes_follows_from_the_parts(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6),
        ) {
            for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c, ChecksumKind::Crc64Nvme] {
                let values: Vec<Vec<u8>> = parts.iter().map(|part| checksum_of(kind, part)).collect();
                let listed: Vec<(&[u8], u64)> =
                    values.iter().zip(&parts).map(|(value, part)| (value.as_slice(), part.len() as u64)).collect();
                let sum = checksum_of_parts(kind, ChecksumScope::FullObject, &listed).unwrap();
                prop_assert_eq!(sum.value, checksum_of(kind, &parts.concat()));
            }
        }
    }

    #[test]
    fn a_composite_is_the_hash_of_the_values() {
        let values = [
            checksum_of(ChecksumKind::Sha256, b"one"),
            checksum_of(ChecksumKind::Sha256, b"two"),
        ];
        let listed = [(values[0].as_slice(), 3), (values[1].as_slice(), 3)];
        let sum =
            checksum_of_parts(ChecksumKind::Sha256, ChecksumScope::Composite, &listed).unwrap();
        assert_eq!(
            sum.value,
            checksum_of(ChecksumKind::Sha256, &values.concat())
        );
    }

    #[test]
    fn a_damaged_part_checksum_gives_none() {
        let listed = [([1, 2, 3, 4].as_slice(), 5), ([1, 2].as_slice(), 5)];
        assert_eq!(
            checksum_of_parts(ChecksumKind::Crc32, ChecksumScope::FullObject, &listed),
            None
        );
    }
}
