//! The object pillar's driver: block store, block service between nodes, gateway and background jobs.
//!
//! ```text
//! door ─▶ gateway ─┬─▶ metadata: placement groups (`raft_machine::Groups`)
//!                  └─▶ bytes: `service::BlockPeers` ─▶ `volume::BlockStore`, here or on other nodes
//! jobs ─────────────▶ the same two
//! ```
//! - [`gateway`]: the object store as doors see it;
//! - [`service`]: blocks between nodes;
//! - [`jobs`]: background reconcilers;
//! - [`volume`]: the blocks on this node's disk;
//! - [`placement`]: what this crate asks of its surroundings;
//! - [`metrics`] counts.
//!
//! It knows neither the registry nor identity: the binary answers [`placement`]'s traits from them.

pub mod gateway;
pub mod jobs;
pub mod metrics;
pub mod placement;
pub mod service;
pub mod volume;
