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

/// What a counter says, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// The sum so far.
    pub value: u64,
}

macro_rules! counters {
    ($($(#[doc = $help:literal])* $name:ident),* $(,)?) => {
        /// Counters; see [`ObjectMetrics::snapshot`].
        #[derive(Debug, Default)]
        pub struct ObjectMetrics {
            $($(#[doc = $help])* pub $name: Counter,)*
        }

        impl ObjectMetrics {
            /// What each counter says.
            pub fn snapshot(&self) -> Vec<Counted> {
                vec![$(Counted {
                    name: stringify!($name),
                    help: concat!($($help),*).trim(),
                    value: self.$name.get(),
                },)*]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_says_what_it_counts() {
        let metrics = ObjectMetrics::default();
        metrics.objects_put_total.add(2);
        let counted = metrics.snapshot();
        let put = Counted {
            name: "objects_put_total",
            help: "Objects and parts written.",
            value: 2,
        };
        assert!(counted.contains(&put), "{counted:?}");
        for counter in counted {
            assert!(counter.name.ends_with("_total"), "{counter:?}");
            assert!(counter.help.ends_with('.'), "{counter:?}");
        }
    }
}
