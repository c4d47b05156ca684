//! Objects without I/O: vocabulary, rules, placement, and the metadata state machine of a placement group.
//!
//! - [`api`]: what a door may ask of the object store, and the refusals it can get.
//!
//! This crate opens no file and no socket, reads no clock, and knows neither S3's XML nor HTTP.

pub mod api;
pub mod meta;
pub mod slots;
