//! The site's small, strongly consistent store of resources.
pub mod allocator;
mod apply;
pub mod changes;
pub mod command;
mod keys;
pub mod limits;
pub mod machine;
pub mod query;
pub mod resource;
pub mod signal;
mod staged;

pub use command::*;
pub use resource::*;
