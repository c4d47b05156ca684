//! The object store over simulated machines: block store, gateways and background jobs.

mod deletions;
mod faults;
mod objects;
mod owners;
mod peers;
mod questions;
mod readers;
mod site;
mod store;
#[path = "../../../object-core/tests/suite/objects.rs"]
mod suite;
