//! The object store over simulated machines: block store, gateways and background jobs.

mod faults;
mod objects;
mod site;
mod store;
