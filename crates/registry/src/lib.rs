//! The site's small, strongly consistent store of resources, replicated by Raft over the servers.
//!
//! The core is a pure state machine ([`RegistryMachine`]): transactions with one increasing revision
//! each, a bounded change log, finalizers and owners, indexes, and pools of numbers that are handed
//! out inside apply. The driver is a thin typed client ([`Registry`]) with lists, watches that share
//! one reader per node, and a [`Cache`] for data paths.
//!
//! ```text
//! Registry ── Link ──► Groups (raft-groups, or LocalGroups in tests) ──► RegistryMachine
//!    │                                                                     │ applied
//!    └─ Watch, Cache ◄── Hub (one reader, a lane for each kind) ◄── ChangeSignal
//! ```
//!
//! It does not know any kind of resource, any document format, users or rights: those are the
//! callers'. It does no I/O but through [`raft_machine::Groups`].

pub mod allocator;
mod apply;
pub mod cache;
pub mod changes;
pub mod client;
pub mod command;
pub mod draft;
pub mod error;
mod hub;
mod keys;
pub mod limits;
mod link;
pub mod machine;
pub mod query;
pub mod resource;
pub mod signal;
mod staged;
pub mod transaction;
pub mod watch;

pub use cache::{Cache, CacheOptions};
pub use changes::History;
pub use client::{BulkReport, DeleteOptions, Deletion, ListOptions, Page, RawPage, Registry};
pub use command::*;
pub use draft::New;
pub use error::RegistryError;
pub use ids::Revision;
pub use link::IdSource;
pub use machine::{RegistryMachine, RegistryOptions};
pub use query::Requirement;
pub use raft_machine::Freshness;
pub use resource::*;
pub use signal::ChangeSignal;
pub use transaction::TransactionBuilder;
pub use watch::{Event, RawEvent, RawWatch, Watch, WatchEvent};
