//! Key slots: a bucket's keys are spread over a power of two of slots, each slot over the site's placement groups.

use ids::{BucketId, GroupId};

/// Key slots of a bucket unless its creator says otherwise.
pub const KEY_SLOTS_DEFAULT: u16 = 8;

/// The slot of a key in a bucket of `slots` slots (a power of two).
pub fn slot_of_key(bucket: BucketId, key: &str, slots: u16) -> u16 {
    debug_assert!(slots.is_power_of_two());
    (hash(&bucket, key.as_bytes()) & u64::from(slots - 1)) as u16
}

/// The placement group of a bucket's slot, of `groups` groups numbered from 1. Neighbouring slots get neighbouring groups,
/// so that one bucket's slots are spread as evenly as they can be.
pub fn group_of_slot(bucket: BucketId, slot: u16, groups: u32) -> GroupId {
    let first = hash(&bucket, b"") % u64::from(groups);
    GroupId(1 + ((first + u64::from(slot)) % u64::from(groups)) as u32)
}

fn hash(bucket: &BucketId, key: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bucket.0);
    hasher.update(key);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_all_slots_and_slots_over_different_groups() {
        let bucket = BucketId([7; 16]);
        let mut seen = [0_u32; 8];
        for n in 0..8000 {
            seen[usize::from(slot_of_key(bucket, &format!("key-{n}"), 8))] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
        let mut groups: Vec<_> = (0..8).map(|slot| group_of_slot(bucket, slot, 16)).collect();
        groups.sort();
        groups.dedup();
        assert_eq!(groups.len(), 8);
        assert!(groups.iter().all(|group| (1..=16).contains(&group.0)));
    }
}
