//! Blocks between nodes: what a node does with block requests of its peers, and how it asks them.
//!
//! - [`server`]: the handler of [`transport::Service::BLOCKS`];
//! - [`client`]: one way to any node's blocks, this node's own included.
//!
//! Small blocks travel in calls, larger ones on bulk streams, so that they never stand in front of small calls. The
//! receiver of a block verifies it: a server before it stores and acknowledges, a reader before it uses it.

pub mod client;
pub mod server;
mod wire;

pub use client::{BlockPeers, CopyError};
pub use server::BlockService;
