//! The registry's built-in kinds of this program.

use identity::{AccessKeySpec, JoinTokenSpec, UserSpec};
use ids::{BucketId, UserId};
use membership::EpochMap;
use membership::kinds::{ServerSpec, ServerStatus, SiteSpec};
use registry::Kind;
use serde::{Deserialize, Serialize};

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Kind for $name {
            const API_VERSION: &'static str = "skerry/v1";
            const KIND: &'static str = $kind;
            const FORMAT: u8 = 1;
            type Spec = $spec;
            type Status = $status;
        }
    };
}

kind! {
    /// The site itself; one resource, named [`SITE`].
    Site, "Site", SiteSpec, ()
}
kind! {
    /// The certificate authority of the site; one resource, named [`SITE`].
    Authority, "Authority", AuthoritySpec, ()
}
kind! {
    /// A server, named by its node number.
    Server, "Server", ServerSpec, ServerStatus
}
kind! {
    /// A placement map, named by its epoch (20 digits).
    Placement, "Placement", EpochMap, ()
}
kind! {
    /// A user, named by its name.
    User, "User", NamedUser, ()
}
kind! {
    /// An access key, named by itself.
    AccessKey, "AccessKey", AccessKeySpec, ()
}
kind! {
    /// A join token that was not used yet, named by its id.
    Token, "JoinToken", JoinTokenSpec, ()
}
kind! {
    /// A bucket, named by its name.
    Bucket, "Bucket", BucketSpec, ()
}

/// The name of resources of which a site has one.
pub const SITE: &str = "site";
/// The pool that node numbers come from.
pub const NODES_POOL: &str = "nodes";

/// The name of an epoch's resource.
pub fn epoch_name(epoch: ids::Epoch) -> String {
    format!("{:020}", epoch.0)
}

/// The authority's certificate, and its key sealed under the site's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, sealed.
    pub sealed_key: Vec<u8>,
}

/// What the authority's key is sealed for.
pub const AUTHORITY_SEAL: &str = "site-authority";

/// A user with its id: names may be given again, ids never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedUser {
    /// The id that ownership and rights name.
    pub id: UserId,
    /// The rest.
    pub user: UserSpec,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSpec {
    /// The id that its keys and blocks carry.
    pub id: BucketId,
    /// Its owner.
    pub owner: UserId,
    /// The owner's name when it was made.
    pub owner_name: String,
    /// Key slots, a power of two.
    pub key_slots: u16,
    /// By the gateway's clock.
    pub created_ms: u64,
    /// Its deletion has begun.
    pub deleting: bool,
}
