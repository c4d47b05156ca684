//! The metadata state machine against plain models, over a store in memory.

mod commands;
mod cost;
mod deletions;
mod encoding;
mod epochs;
mod listing;
mod model;
mod scenario;
mod sizes;
mod uploads;
