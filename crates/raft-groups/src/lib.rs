//! Many Raft groups on one node: openraft behind our own trait ([`raft_machine::Groups`]).
//!
//! ```text
//! propose ─▶ groups ─▶ group (openraft) ─▶ log_store ─▶ the node's one WAL      (crate raft-wal)
//!    │          │            │ committed
//!    │          │            └▶ machine ─▶ applier ─▶ the node's one database   (redb)
//!    └ leader elsewhere: message over the transport
//! ```
//! Invariants:
//! - a proposal is answered after a majority has it on disk and this node has applied it;
//! - the log keeps every entry that the database does not hold durably;
//! - a linearizable query is answered by a leader that a majority has confirmed (at most a lease ago), or by a follower up
//!   to what such a leader has applied;
//! - what a peer proposes is checked by the leader before it gets into the log, and no entry stops more than its own group;
//! - log and database of a group fit without a gap: where they don't, the node says so and does not start;
//! - a node that just started votes for nobody until a lease has passed;
//! - idle groups send nothing and have no timers (`sleep.rs`).
//!
//! No other crate knows openraft or redb. This crate knows no registry and no objects: machines and the wanted
//! placement come in as traits.

mod applier;
mod codec;
mod database;
mod failure;
#[cfg(test)]
mod formats;
mod group;
mod groups;
mod host;
mod log_store;
mod machine;
mod members;
mod message;
mod network;
#[cfg(debug_assertions)]
mod planted;
mod results;
mod route;
mod runtime;
mod service;
mod sleep;
mod status;
#[cfg(test)]
mod testing;
mod types;
mod upkeep;
mod wire;

pub use groups::{Directory, Machines, Options, RaftGroups};
#[cfg(debug_assertions)]
#[doc(hidden)]
pub use planted::Bug;
pub use results::RESULTS_KEPT;
pub use status::GroupStatus;
pub use types::seed_elections;
