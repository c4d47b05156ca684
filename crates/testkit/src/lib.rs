//! What the tests of the house stand on: simulated machines and networks, and suites for the traits of the ground.
//!
//! - [`sim`]: disk, platform and network in memory, deterministic from a seed;
//! - [`suites`]: what every implementation of a trait must pass, the real and the simulated alike;
//! - [`tls_site`]: certificates and addresses for real transports on this machine.
//!
//! Nothing here is part of the product.

pub mod sim;
pub mod suites;
pub mod tls_site;
