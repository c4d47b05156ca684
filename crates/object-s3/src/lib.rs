//! The S3 door: S3's protocol in front of [`object_core::api::Objects`].
//!
//! A request passes, in this order:
//! 1. `serve`: a bounded number of connections (`arrivals`), TLS, header and idle limits;
//! 2. `gate`: request ids and what is logged (`trace`), a bounded number of requests, refusals that need no key, body guards;
//! 3. s3s: signature and routing; `access`: who asks, and whether everything that matters was signed;
//! 4. `tidy`: requests that s3s would read more narrowly than S3 does;
//! 5. `service`: one translation per operation, into the words of `Objects` and back.
//!
//! Invariants:
//! - no rule about objects lives here: names, conditions, bounds and ownership are judged behind `Objects`;
//! - a header that would change the meaning of a request and isn't supported is refused, never ignored;
//! - bodies are streamed; XML bodies and signed chunks are held in memory, each up to a bound and all together up to
//!   [`DoorOptions::held_bytes_max`];
//! - keys pass through unchanged.
//!
//! It doesn't do: POST forms, signature version 2, bucket policies, ACLs other than private, tags, versioning.

mod access;
mod arrivals;
mod body;
mod checksums;
mod chunks;
mod door;
mod errors;
mod gate;
mod guard;
mod headers;
mod host;
mod options;
mod serve;
mod service;
mod tidy;
mod trace;

pub use arrivals::{Arrival, Arrivals, Place};
pub use door::S3Door;
pub use gate::request_id;
pub use options::{DoorObserver, DoorOptions, KeyDirectory, KeyEntry, TlsSource};
