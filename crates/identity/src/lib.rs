//! Who may do what: users, keys, roles, certificates, join tokens.
//!
//! - [`ca`]: the site's certificate authority; it signs what nodes ask for.
//! - [`node`]: a node's key pair and certificate, and when to renew it.
//! - [`x509`]: what a certificate says: dates, node, PEM.
//! - [`seal`]: secrets encrypted under the site's key, as they lie in the registry.
//! - [`token`]: one-time tokens with which a new machine joins.
//! - [`users`]: projects, users, access keys.
//! - [`access`]: the keys that a node has cached, and how long it honours them when it is cut off.
//!
//! Invariants:
//! - times are passed in, in milliseconds since 1970 by the wall clock; randomness is passed in too, but for key pairs and
//!   signatures, which `ring` draws itself;
//! - no `Debug` output shows a secret.
//!
//! It stores nothing, sends nothing, and doesn't decide what a role allows on a given bucket: see the pillars.

pub mod access;
pub mod ca;
pub mod node;
pub mod seal;
pub mod secret;
pub mod token;
pub mod users;
pub mod x509;

pub use access::{Caller, Decision, KeyCache};
pub use ca::{CaError, IssuedChain, NodeGrant, SiteCa};
pub use node::{NodeCertificate, NodeKey};
pub use seal::{SealError, SiteKey};
pub use secret::Secret;
pub use token::{JoinRole, JoinToken, JoinTokenSpec};
pub use users::{AccessKeySpec, ProjectSpec, Role, UserSpec};
