//! What every implementation of a trait must pass, whoever wrote it.
//!
//! A suite panics with words on the first thing that is wrong. It waits on values, never on time, so that it runs on
//! paused and on real clocks alike.

pub mod disk;
pub mod groups;
pub mod store;
pub mod transport;
