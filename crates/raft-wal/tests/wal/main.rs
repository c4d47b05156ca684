//! The log as its callers see it: order, durability, crashes, damage, collection, fencing.

mod collection;
mod crash;
mod disk;
mod driver;
mod fence;
mod model;
