//! Objects without I/O: vocabulary, rules, placement, and the metadata state machine of a placement group.
//!
//! - [`api`]: what a door may ask of the object store, and the refusals it can get.
//! - [`conditions`], [`names`], [`ranges`], [`digest`]: the rules of requests, as functions.
//! - [`slots`]: which group keeps a key.
//! - [`meta`]: the commands and queries of a placement group, and the machine that carries them out.
//!
//! This crate opens no file and no socket, reads no clock, and knows neither S3's XML nor HTTP.

pub mod api;
pub mod conditions;
pub mod digest;
pub mod meta;
pub mod names;
pub mod ranges;
pub mod slots;
