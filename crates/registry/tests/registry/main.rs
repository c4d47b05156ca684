//! The registry from outside: its state machine against a model, its client on groups in memory.

mod bulk;
mod cache;
mod client;
mod formats;
mod garbage;
mod model;
mod support;
mod transactions;
mod watch;
