//! The door on a real socket, in front of a store in memory.

mod bounds;
mod buckets;
mod client;
mod conditions;
mod fake;
mod lists;
mod objects;
mod signatures;
mod uploads;
