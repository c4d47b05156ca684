//! Counters of the object pillar on this node.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters; see [`ObjectMetrics::snapshot`].
        #[derive(Debug, Default)]
        pub struct ObjectMetrics {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl ObjectMetrics {
            /// Name and value of each counter.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Objects and parts written.
    objects_put_total,
    /// Bytes of bodies that were written.
    objects_put_bytes_total,
    /// Objects whose reading began.
    objects_get_total,
    /// Bytes that were given to readers.
    objects_get_bytes_total,
    /// HEAD requests that were answered.
    objects_head_total,
    /// Objects deleted.
    objects_delete_total,
    /// List pages.
    objects_list_total,
    /// Blocks written with a quorum of copies.
    blocks_written_total,
    /// Copies that were not confirmed in time and became debt.
    blocks_debt_recorded_total,
    /// Blocks read.
    blocks_read_total,
    /// Reads that asked a second copy because the first was slow.
    blocks_read_hedged_total,
    /// Copies that could not be read, so that another was used.
    blocks_read_failed_copies_total,
    /// Copies whose bytes did not fit their hash.
    blocks_read_corrupt_copies_total,
    /// Proposals and queries that were sent again because a group was unavailable.
    group_retries_total,
    /// Requests that were refused because the node had too much to do.
    requests_refused_busy_total,
    /// Writes that failed and gave their segment up.
    segments_given_up_total,
    /// Doomed segments whose blocks were removed everywhere.
    segments_collected_total,
    /// Copies made to pay debt or to follow a new epoch.
    blocks_repaired_total,
    /// Their bytes.
    blocks_repaired_bytes_total,
    /// Blocks without an owner that were removed.
    blocks_orphaned_removed_total,
}
