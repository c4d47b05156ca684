//! Bugs that a simulation plants, to show that its checks find them. Release builds have none of this.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A node that was just started votes at once, though a leader may count on the lease that its last run gave.
    VotesAtOnce,
    /// A leader counts on its lease for three times as long as the others keep to it.
    LongLease,
}
