//! Servers, epochs and the liveness of peers: who stores what, who is heard, and what a group must do next.
//!
//! - [`EpochMap`]: which servers hold each placement group, each block and the registry; one map per epoch.
//! - [`diff()`]: what moves between two maps.
//! - [`plan`]: the next step from the members that a Raft group has to the members that it should have.
//! - [`liveness`]: which peers were heard lately.
//! - [`kinds`]: what the registry stores about servers and the site.
//!
//! Invariants:
//! - everything here is a function of its input: no clock, no randomness, no I/O, no floating point;
//! - equal input gives equal placements on every machine and in every version of the program ([`map::ALGORITHM`]).
//!
//! It doesn't decide who is a member: only the registry does. It moves nothing: see `raft-groups` and `object-store`.

pub mod diff;
mod groups;
pub mod kinds;
pub mod liveness;
pub mod map;
pub mod plan;
mod rendezvous;

pub use diff::{PlacementDiff, diff};
pub use kinds::{ServerSpec, ServerStatus, SiteSpec};
pub use map::{EpochMap, MapError, PlacedServer};
